"""The only caller of collectives: gathering along the batch, with and without gradient."""

from __future__ import annotations

from typing import Any, Literal

import torch
import torch.distributed as dist
from torch import Tensor


def rank() -> int:
    """Number of this process; 0 when there is only one."""
    return dist.get_rank() if dist.is_available() and dist.is_initialized() else 0


def world_size() -> int:
    """Number of processes."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


class _Gather(torch.autograd.Function):
    # all_reduce + slice, not reduce_scatter: gloo has no reduce_scatter.

    @staticmethod
    def forward(ctx: Any, local: Tensor) -> Tensor:
        return all_gather(local)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        gradient = gradient.contiguous()
        dist.all_reduce(gradient)
        return gradient.chunk(world_size())[rank()]


def all_gather_with_grad(local: Tensor) -> Tensor:
    """Concatenate the (b, ...) tensors of all ranks, in rank order, and send gradients back to their owners.

    Every rank's loss contributes to every row: the gradient of a local row is the sum over ranks. With a loss
    that is a mean over local rows and DDP's mean over ranks, parameters get the gradient of the global batch.
    """
    return local if world_size() == 1 else _Gather.apply(local)


def all_gather(local: Tensor) -> Tensor:
    """Concatenate the (b, ...) tensors of all ranks, in rank order; no gradient. Same b on every rank."""
    if world_size() == 1:
        return local
    parts = [torch.empty_like(local) for _ in range(world_size())]
    dist.all_gather(parts, local.contiguous())
    return torch.cat(parts)


def all_gather_padded(local: Tensor, fill: int) -> Tensor:
    """Like `all_gather` for (b, c) tensors whose c differs between ranks; short rows end in `fill`."""
    if world_size() == 1:
        return local
    width = torch.tensor(local.shape[1], device=local.device)
    dist.all_reduce(width, dist.ReduceOp.MAX)
    return all_gather(torch.nn.functional.pad(local, (0, int(width) - local.shape[1]), value=fill))


def broadcast(tensor: Tensor, source: int = 0) -> Tensor:
    """Overwrite `tensor`, contiguous and of one shape and type on all ranks, with that of rank `source`; return it."""
    if world_size() > 1:
        dist.broadcast(tensor, source)
    return tensor


def all_reduce(tensor: Tensor, how: Literal["sum", "max"]) -> Tensor:
    """Sum or maximum over the ranks, in place and returned; no gradient. Contiguous, of one shape on all ranks."""
    if world_size() > 1:
        dist.all_reduce(tensor, dist.ReduceOp.SUM if how == "sum" else dist.ReduceOp.MAX)
    return tensor


def any_rank(flag: bool, device: torch.device) -> bool:
    """Whether `flag` is set on any rank: ranks must stop together or they wait for each other forever."""
    return any_rank_of([flag], device)[0]


def any_rank_of(flags: list[bool], device: torch.device) -> list[bool]:
    """`any_rank` of several flags at once."""
    if world_size() == 1:
        return flags
    values = torch.tensor([float(flag) for flag in flags], device=device)
    dist.all_reduce(values, dist.ReduceOp.MAX)
    return [value > 0 for value in values.tolist()]


def barrier() -> None:
    """Wait until every rank is here."""
    if world_size() > 1:
        dist.barrier()


def gather_lists(local: list[Any]) -> list[Any]:
    """Concatenate small lists of plain Python objects of all ranks, in rank order."""
    if world_size() == 1:
        return local
    parts: list[list[Any]] = [[] for _ in range(world_size())]
    dist.all_gather_object(parts, local)
    return [item for part in parts for item in part]
