"""Which code computes the tiled losses: torch, or kernels of our own in Triton. The choice is made here."""

from __future__ import annotations

import importlib.util
import os
from typing import Literal

import torch
from torch import Tensor

LossKernel = Literal["torch", "triton"]
OLDEST = (8, 0)
"""Compute capability that bfloat16 and parts of float32 on tensor cores need."""


def kernel_problem(kernel: LossKernel, device: torch.device) -> str | None:
    """Why a kernel cannot run on a device, in one line, or None."""
    if kernel == "torch":
        return None
    if importlib.util.find_spec("triton") is None:
        return "triton needs the package triton, which is not installed (pip install triton, on Linux); or take torch"
    # The interpreter is for tests: thousands of times slower.
    if device.type != "cuda" and os.environ.get("TRITON_INTERPRET") != "1":
        return f"triton needs a GPU, and this is {device.type}; take torch"
    if device.type == "cuda" and torch.version.hip is None and torch.cuda.get_device_capability(device) < OLDEST:
        return "triton needs a GPU of compute capability 8.0 (A100, RTX 30) or later; take torch"
    return None


def takes_triton(kernel: LossKernel, *features: Tensor) -> bool:
    """Whether features go through Triton: where that is asked for, and they are no float64, which it cannot multiply.

    Raises:
        ValueError: it is asked for and cannot run here.
    """
    if problem := kernel_problem(kernel, features[0].device):
        raise ValueError(f"kernel {problem}")
    return kernel == "triton" and not any(x.dtype == torch.float64 for x in features)
