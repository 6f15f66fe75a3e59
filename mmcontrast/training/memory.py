"""What to do about a device whose memory is full, said in one line."""

from __future__ import annotations

import torch

from mmcontrast.errors import TrainingError

_ON_CPU = ("can't allocate memory", "not enough memory")


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error of torch (or Python) says that there is no memory left, on a GPU or on the host."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in _ON_CPU)


def reworded(error: BaseException, advice: str) -> BaseException:
    """A TrainingError with advice in place of an error that says that memory is full; any other error as it is."""
    return TrainingError(f"out of memory: {advice}") if is_out_of_memory(error) else error


def smaller_chunks(pairs: int, micro_batch_size: int | None) -> str:
    """Advice for a training step.

    Args:
        pairs: of a batch of this rank.
        micro_batch_size: of them at a time, None for all.
    """
    at_once = pairs if micro_batch_size is None else min(pairs, micro_batch_size)
    if at_once > 1:
        return (
            f"a step took {at_once} pairs of this device's {pairs} at a time; set training.micro_batch_size to "
            f"{max(1, at_once // 2)} (the same gradient in less memory), or training.gradient_checkpointing"
        )
    return "one pair at a time is too much already; set training.gradient_checkpointing, or take smaller towers"
