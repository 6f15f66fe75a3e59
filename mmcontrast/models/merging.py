"""Averages of models' weights: WiSE-FT (Wortsman et al. 2022, "Robust fine-tuning of zero-shot models") and soups."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from mmcontrast.errors import ModelError
from mmcontrast.models.dual_encoder import DualEncoder
from mmcontrast.models.fingerprint import tokenizer_digest

# Of the description, what says how a model was trained and not what its weights mean.
_TRAINING_ONLY = {
    "logit_scale", "logit_scale_learnable",
    *(f"{tower}.{field}" for tower in ("image", "text") for field in ("locked", "dropout", "patch_dropout", "lora")),
}  # fmt: skip


def merge_states(states: Sequence[Mapping[str, Tensor]], weights: Sequence[float]) -> dict[str, Tensor]:
    """The weighted mean of each tensor, added up in float64: theta = sum_i w_i theta_i.

    With two states and the weights (1 - alpha, alpha) this is WiSE-FT's equation 1; with equal weights it is the
    uniform soup of Wortsman et al. (2022, "Model soups"). Whole numbers (batch norm's `num_batches_tracked`, position
    ids) are those of the first state, whose types all tensors have.

    Args:
        states: of models of the same architecture.
        weights: one for each, not negative, adding up to 1. A state of weight 0 takes no part, whatever is in it.

    Raises:
        ModelError: the names or shapes differ, or the weights are no shares.
    """
    _check_weights(weights, len(states))
    first = states[0]
    for number, other in enumerate(states[1:], start=2):
        _check_same_tensors(first, other, number)
    taking_part = [(state, weight) for state, weight in zip(states, weights, strict=True) if weight]
    merged: dict[str, Tensor] = {}
    for name, value in first.items():
        if not value.is_floating_point():
            merged[name] = value.clone()
            continue
        total = torch.zeros(value.shape, dtype=torch.float64, device=value.device)
        for state, weight in taking_part:
            total += weight * state[name].to(total)
        merged[name] = total.to(value.dtype)
    return merged


def merge_models(models: Sequence[DualEncoder], weights: Sequence[float], names: Sequence[str]) -> DualEncoder:
    """A new model, in evaluation mode, with the weighted mean of the others' weights; all else is the first one's.

    The logarithm of the scale is averaged, so that scales are averaged geometrically, and so are the running
    statistics of batch norm, which are then only close to those that the data would give.

    Args:
        models: of the same architecture, tokenizer and preprocessing; they are not changed.
        weights: as for `merge_states`.
        names: of the models, for errors and for `extra["merged_from"]`.

    Raises:
        ModelError: they are not alike, or the weights are no shares.
    """
    check_mergeable(models, names)
    merged = copy.deepcopy(models[0]).eval()
    merged.load_state_dict(merge_states([model.state_dict() for model in models], weights))
    origin = [{"model": name, "weight": weight} for name, weight in zip(names, weights, strict=True)]
    merged.extra = {**models[0].extra, "merged_from": origin}
    return merged


def check_mergeable(models: Sequence[DualEncoder], names: Sequence[str]) -> None:
    """Raise ModelError, which names the first difference, unless all models can be averaged."""
    if len(models) < 2:
        raise ModelError("merging takes two models at least")
    first = models[0]
    for model, name in zip(models[1:], names[1:], strict=True):
        both = f"{names[0]} and {name} cannot be merged"
        for part, one, other in (
            ("model", first.spec.to_dict(), model.spec.to_dict()),
            ("preprocess", first.preprocess.to_dict(), model.preprocess.to_dict()),
        ):
            if found := _first_difference(one, other):
                field, mine, theirs = found
                raise ModelError(f"{both}: {part}.{field} is {mine!r} in the first and {theirs!r} in the second")
        if tokenizer_digest(first.tokenizer) != tokenizer_digest(model.tokenizer):
            raise ModelError(f"{both}: their tokenizers differ, so that the same rows of weights mean other words")
        _check_same_tensors(first.state_dict(), model.state_dict(), 2)


def has_batch_norm(model: nn.Module) -> bool:
    """Whether running statistics are averaged with the weights."""
    return any(isinstance(module, _BatchNorm) for module in model.modules())


def shares(weights: Sequence[float]) -> list[float]:
    """Positive weights as shares of their sum."""
    if not all(weight >= 0 for weight in weights) or not sum(weights) > 0:
        raise ModelError(f"weights {', '.join(f'{w:g}' for w in weights)}: none may be negative, and one must count")
    return [weight / sum(weights) for weight in weights]


def _check_weights(weights: Sequence[float], count: int) -> None:
    if len(weights) != count:
        raise ModelError(f"{len(weights)} weights for {count} models: give one for each")
    if not all(0 <= weight <= 1 for weight in weights) or abs(sum(weights) - 1) > 1e-9:  # NaN is refused too
        raise ModelError(f"weights {', '.join(f'{w:g}' for w in weights)} must lie in [0, 1] and add up to 1")


def _check_same_tensors(first: Mapping[str, Tensor], other: Mapping[str, Tensor], number: int) -> None:
    if missing := next((name for name in [*first, *other] if name not in first or name not in other), None):
        where = "first" if missing in first else f"{number}."
        raise ModelError(f"the models cannot be merged: only the {where} has {missing}")
    for name, value in first.items():
        if other[name].shape != value.shape:
            shapes = f"{tuple(value.shape)} in the first and {tuple(other[name].shape)} in the {number}."
            raise ModelError(f"the models cannot be merged: {name} is {shapes}")


def _first_difference(one: Any, other: Any, at: str = "") -> tuple[str, Any, Any] | None:
    if at in _TRAINING_ONLY:
        return None
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        for key in [*one, *(key for key in other if key not in one)]:
            place = f"{at}.{key}" if at else str(key)
            if found := _first_difference(one.get(key), other.get(key), place):
                return found
        return None
    return None if one == other else (at, one, other)
