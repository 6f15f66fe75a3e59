"""The towers' weights, gradients and optimiser states split over the ranks (FSDP2), whole only while they are used.

Heads, scale and bias are small and stay whole on every rank, as do batch-norm statistics. The optimiser sees this
rank's shares as plain tensors, so it runs as it does without sharding, and what is saved has the form of an unsharded
run's: another number of ranks, or none of this at all, can go on from it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from torch.optim import Optimizer

from mmcontrast import distributed
from mmcontrast.models import DualEncoder, build_dual_encoder


def shard(model: DualEncoder) -> None:
    """Split both towers over all ranks, in place; a layer's weights are gathered when it runs, then given up again.

    Every rank gets the first one's values.
    """
    for value in chain(model.parameters(), model.buffers()):
        value.data = value.data.contiguous()  # FSDP2 takes no kernels with their colours last in memory
        distributed.broadcast(value.data)
    mesh = init_device_mesh(model.device.type, (distributed.world_size(),))
    for tower in (model.image_encoder, model.text_encoder):
        for layer in _layers(tower):
            fully_shard(layer, mesh=mesh)
        # Given up after the forward pass too: what an evaluation gathered would be stale after the next step.
        fully_shard(tower, mesh=mesh, reshard_after_forward=True)
    # Ranks gather together, so all have to take the same number of passes, whatever the lengths of their captions.
    model.text_encoder.shorter_is_cheaper = False


class Shards:
    """This rank's shares of a sharded model, and what all ranks have to do together for them.

    Args:
        model: after `shard`.
    """

    def __init__(self, model: DualEncoder) -> None:
        learning = [parameter for parameter in model.parameters() if parameter.requires_grad]
        self._own: dict[nn.Parameter, nn.Parameter] = {
            p: nn.Parameter(_share(p.detach())) for p in learning if isinstance(p, DTensor)
        }
        self._whole = [p for p in learning if not isinstance(p, DTensor)]
        self._statistics = [value for value in model.buffers() if value.is_floating_point()]

    def as_stored(self, parameter: nn.Parameter) -> nn.Parameter:
        """What the optimiser takes for a parameter of the model: this rank's share, on the same memory."""
        return self._own.get(parameter, parameter)

    @torch.no_grad()
    def gather_gradients(self) -> Tensor:
        """After the backward pass: hand the shares their gradients, and average the others' over the ranks.

        Returns:
            Length of the whole gradient, a scalar, the same on all ranks.
        """
        for parameter, own in self._own.items():
            own.grad = None if parameter.grad is None else _share(parameter.grad)
        averaged = [p.grad for p in self._whole if p.grad is not None]
        _together(averaged, lambda flat: distributed.all_reduce(flat, "sum").div_(distributed.world_size()))
        squares = torch.zeros((), device=self._device)
        for own in self._own.values():
            if own.grad is not None:
                squares += own.grad.float().square().sum()
        distributed.all_reduce(squares, "sum")
        for gradient in averaged:
            squares += gradient.float().square().sum()
        return squares.sqrt()

    @torch.no_grad()
    def clip(self, norm: Tensor, longest: float) -> None:
        """Shorten a gradient of length `norm` to `longest`, as `torch.nn.utils.clip_grad_norm_` does."""
        factor = (longest / (norm + 1e-6)).clamp(max=1.0)
        for parameter in chain(self._own.values(), self._whole):
            if parameter.grad is not None:
                parameter.grad.mul_(factor)

    def end_step(self) -> None:
        """Drop the gradients, and give all ranks the first one's batch-norm statistics, as DDP does."""
        for parameter in self._own:
            parameter.grad = None
        _together(self._statistics, distributed.broadcast)

    def whole_optimizer(self, optimizer: Optimizer) -> dict[str, Any]:
        """The optimiser's state as of an unsharded run, on the CPU; all ranks together, the first one gets it."""
        state = optimizer.state_dict()
        whole: dict[int, dict[str, Any]] = {}
        for number, parameter in enumerate(self._in_order(optimizer)):
            if number in state["state"]:
                entries = state["state"][number]
                whole[number] = {name: _kept(_whole(value, like=parameter)) for name, value in entries.items()}
        return {"state": whole, "param_groups": state["param_groups"]}

    def load_optimizer(self, optimizer: Optimizer, state: Mapping[str, Any]) -> None:
        """The inverse of `whole_optimizer`, from the same state on all ranks."""
        own = {
            number: {name: _part(value, like=parameter) for name, value in state["state"][number].items()}
            for number, parameter in enumerate(self._in_order(optimizer))
            if number in state["state"]
        }
        optimizer.load_state_dict({"state": own, "param_groups": state["param_groups"]})

    def _in_order(self, optimizer: Optimizer) -> Iterator[nn.Parameter]:
        """The model's parameters as the optimiser numbers them."""
        of_share = {own: parameter for parameter, own in self._own.items()}
        for group in optimizer.param_groups:
            yield from (of_share.get(parameter, parameter) for parameter in group["params"])

    @property
    def _device(self) -> torch.device:
        return next(chain(self._own.values(), self._whole)).device


def whole_state(model: nn.Module) -> dict[str, Tensor]:
    """Weights and buffers as of an unsharded model; all ranks together.

    Of a sharded model they are on the CPU, and the first rank gets them, the others nothing.
    """
    state: dict[str, Tensor] = model.state_dict()
    if not any(isinstance(value, DTensor) for value in state.values()):
        return state
    whole = {name: _kept(value.full_tensor() if isinstance(value, DTensor) else value) for name, value in state.items()}
    return {name: value for name, value in whole.items() if value is not None}


@torch.no_grad()
def load_whole_state(model: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Fill a model, sharded or not, from an unsharded state that every rank has."""
    own = model.state_dict()
    if not any(isinstance(value, DTensor) for value in own.values()):
        model.load_state_dict(state)
        return
    if own.keys() != state.keys():
        raise KeyError(f"weights of another model: {', '.join(sorted(own.keys() ^ state.keys()))}")
    for name, value in own.items():
        _share(value).copy_(_part(state[name], like=value))


def unsharded(model: DualEncoder, weights: Mapping[str, Tensor]) -> DualEncoder:
    """A whole model with these weights, on the CPU, where `model` is sharded; else `model` itself."""
    if not any(isinstance(parameter, DTensor) for parameter in model.parameters()):
        return model
    whole = build_dual_encoder(model.spec, model.tokenizer, seed=0)
    whole.load_state_dict(weights)
    whole.preprocess, whole.templates, whole.extra = model.preprocess, model.templates, dict(model.extra)
    return whole.train(model.training)


def shares(model: nn.Module) -> dict[str, Tensor]:
    """`state_dict`, of what this rank has of it."""
    return {name: _share(value) for name, value in model.state_dict().items()}


def _layers(tower: nn.Module) -> Iterator[nn.Module]:
    """The members of a tower's outermost lists of layers: blocks of a transformer, stages of a convolutional net."""
    for child in tower.children():
        members = [member for member in child.children() if any(True for _ in member.parameters())]
        if isinstance(child, nn.ModuleList | nn.Sequential) and len(members) > 1:
            yield from members
        else:
            yield from _layers(child)


def _share(value: Tensor) -> Tensor:
    return value.to_local() if isinstance(value, DTensor) else value


def _whole(value: Any, like: Tensor) -> Any:
    """A share of something that is split as `like` is, whole; what is not split stays."""
    if not (isinstance(like, DTensor) and isinstance(value, Tensor) and value.shape == _share(like.detach()).shape):
        return value
    mesh: DeviceMesh = like.device_mesh
    return DTensor.from_local(
        value, mesh, like.placements, run_check=False, shape=like.shape, stride=like.stride()
    ).full_tensor()


def _part(value: Any, like: Tensor) -> Any:
    """This rank's share of something whole that is to be split as `like` is."""
    if not (isinstance(like, DTensor) and isinstance(value, Tensor) and value.shape == like.shape):
        return value
    parts = value.chunk(distributed.world_size())
    rank = distributed.rank()
    return (parts[rank] if rank < len(parts) else value[:0]).clone()


def _kept(value: Any) -> Any:
    """On the CPU of the first rank, None on others: they take part, but have no use for it."""
    if not isinstance(value, Tensor):
        return value
    return value.detach().cpu().clone() if distributed.rank() == 0 else None


def _together(tensors: list[Tensor], collective: Any) -> None:
    """One collective for many tensors of one type, in place."""
    if tensors:
        flat = collective(torch.cat([tensor.reshape(-1) for tensor in tensors]))
        parts = flat.split([tensor.numel() for tensor in tensors])
        for tensor, part in zip(tensors, parts, strict=True):
            tensor.copy_(part.view_as(tensor))
