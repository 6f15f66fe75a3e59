"""Checks of what callers hand to a dual encoder; each failure is one clear line."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TypeVar

import torch
from torch import Tensor

from mmcontrast.errors import ModelError

T = TypeVar("T")


def check_images(image: Tensor, size: int) -> None:
    """Raise ModelError unless `image` is (n, 3, size, size), uint8 or floats."""
    if image.ndim != 4 or image.shape[1:] != (3, size, size) or not len(image):
        raise ModelError(f"images are {tuple(image.shape)}; the model takes (n, 3, {size}, {size})")
    if image.dtype != torch.uint8 and not image.is_floating_point():
        raise ModelError(f"images are {image.dtype}; the model takes uint8, or normalised floats")


def check_ids(input_ids: Tensor, context_length: int, vocab_size: int) -> None:
    """Raise ModelError unless `input_ids` are (n, t) integers that the text tower knows."""
    if input_ids.ndim != 2 or not input_ids.numel():
        raise ModelError(f"token ids are {tuple(input_ids.shape)}; the model takes (n, t)")
    if input_ids.dtype not in (torch.int64, torch.int32):
        raise ModelError(f"token ids are {input_ids.dtype}; the model takes int64")
    if input_ids.shape[1] > context_length:
        raise ModelError(f"captions have {input_ids.shape[1]} tokens; the text tower takes {context_length} at most")
    if input_ids.device.type != "cpu":
        return  # a look at the values would make every training step wait for the accelerator
    low, high = int(input_ids.min()), int(input_ids.max())
    if low < 0 or high >= vocab_size:
        raise ModelError(f"token ids lie in [{low}, {high}]; the text tower knows 0 to {vocab_size - 1}")


def chunks(items: list[T], size: int, what: str) -> Iterator[list[T]]:
    """`items` in lists of `size`; ModelError when there is nothing."""
    if not items:
        raise ModelError(f"there is no {what} to encode: the list is empty")
    if size < 1:
        raise ModelError(f"batch_size is {size}; it must be positive")
    for start in range(0, len(items), size):
        yield items[start : start + size]
