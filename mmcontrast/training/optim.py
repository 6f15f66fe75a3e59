"""AdamW with decay where it belongs, and the learning-rate schedule."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal

import torch
from torch import nn
from torch.optim import AdamW
from torch.optim.lr_scheduler import LambdaLR


def parameter_groups(
    model: nn.Module, weight_decay: float, as_stored: Callable[[nn.Parameter], nn.Parameter] | None = None
) -> list[dict[str, object]]:
    """Two groups: matrices with decay; vectors (biases, norms, logit_scale, logit_bias) and embeddings without.

    Parameters with fewer than two dimensions do not decay; nor do position and class embeddings, which are named
    so in every library and whose decay would pull positions together. `as_stored` tells what stands for a parameter.
    """
    decayed: list[nn.Parameter] = []
    kept: list[nn.Parameter] = []
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            small = parameter.ndim < 2 or "pos_embed" in name or "positional" in name or "position_emb" in name
            stored = parameter if as_stored is None else as_stored(parameter)
            (kept if small else decayed).append(stored)
    groups = [{"params": decayed, "weight_decay": weight_decay}, {"params": kept, "weight_decay": 0.0}]
    return [group for group in groups if group["params"]]


def adamw(
    model: nn.Module,
    *,
    learning_rate: float,
    weight_decay: float,
    betas: tuple[float, float],
    as_stored: Callable[[nn.Parameter], nn.Parameter] | None = None,
) -> AdamW:
    """AdamW (Loshchilov & Hutter 2019) over `parameter_groups`, in its fused form: one kernel for all tensors."""
    groups = parameter_groups(model, weight_decay, as_stored)
    return AdamW(groups, lr=learning_rate, betas=betas, eps=1e-6, fused=True)


@torch.no_grad()
def lay_out_state(optimizer: torch.optim.Optimizer) -> None:
    """Give loaded moments the memory layout of their parameters: fused kernels pair them byte by byte.

    Kernels with their colours last in memory are contiguous where they are sharded.
    """
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            for name, value in optimizer.state.get(parameter, {}).items():
                if value.shape == parameter.shape and value.stride() != parameter.stride():
                    optimizer.state[parameter][name] = torch.empty_like(parameter, dtype=value.dtype).copy_(value)


def lr_factor(step: int, *, warmup_steps: int, total_steps: int, schedule: Literal["cosine", "constant"]) -> float:
    """Share of the peak learning rate at `step` (0-based): linear warm-up, then half a cosine down to 0."""
    if step < warmup_steps:
        return (step + 1) / warmup_steps
    if schedule == "constant":
        return 1.0
    progress = (step - warmup_steps) / max(1, total_steps - warmup_steps)
    return 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))


def scheduler(
    optimizer: torch.optim.Optimizer,
    *,
    warmup_steps: int,
    total_steps: int,
    schedule: Literal["cosine", "constant"],
) -> LambdaLR:
    """`lr_factor` as a torch scheduler; call `step()` once an optimiser step."""
    return LambdaLR(
        optimizer,
        lambda step: lr_factor(step, warmup_steps=warmup_steps, total_steps=total_steps, schedule=schedule),
    )
