"""Low-rank adapters (LoRA, Hu et al. 2022) on the linear layers of a tower, by peft."""

from __future__ import annotations

import copy
import re
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace
from importlib import import_module
from typing import Any

import torch
from torch import Tensor, nn

from mmcontrast.errors import ModelError
from mmcontrast.models.dual_encoder import DualEncoder
from mmcontrast.models.spec import LoraSpec
from mmcontrast.models.split_attention import SplitAttention

# Of features of length 1, in fp32; the sums of merged weights are rounded otherwise.
_TOLERANCE = 1e-3


def add_adapters(model: DualEncoder, *, seed: int | None = None) -> None:
    """Put adapters on the towers whose spec has `lora`, in place; their own weights are frozen.

    W x becomes W x + (alpha / rank) B A x (equation 3 of the paper) with a random A and B = 0, so that at first the
    features are as before. In towers of open_clip each self-attention is replaced by a `SplitAttention`, whose linear
    layers are called `in_proj` and `out_proj`.

    Args:
        model: with the weights to start from.
        seed: of the A's; the caller's random state is then left alone.

    Raises:
        ModelError: peft is not installed, a target matches nothing or a layer that the tower does not call, or an
            adapter gets no gradient.
    """
    with ExitStack() as stack:
        if seed is not None:
            stack.enter_context(torch.random.fork_rng(devices=[]))
            torch.manual_seed(seed)
        for where, tower, lora, example in _towers(model):
            _add(tower, lora, where, example)
    model.train(model.training)


def has_adapters(model: DualEncoder) -> bool:
    """Whether a tower has adapters."""
    return any(True for _ in _towers(model))


def without_adapters(model: DualEncoder) -> DualEncoder:
    """The model itself, or, if it has adapters, a copy whose plain weights have them added in: W + alpha / r B A.

    Raises:
        ModelError: the copy does not compute the same.
    """
    if not has_adapters(model):
        return model
    merged = copy.deepcopy(model)
    for where, tower, _, example in _towers(merged):
        before = _output(tower, example)
        _merge(tower)
        after = _output(tower, example)
        difference = (before - after).abs().max() / before.norm(dim=1).max()
        if not difference <= _TOLERANCE:  # NaN is refused too
            raise ModelError(f"{where}: the tower with its adapters merged differs by {difference:.1e}: a bug, tell us")
    spec = merged.spec
    merged.spec = replace(spec, image=replace(spec.image, lora=None), text=replace(spec.text, lora=None))
    return merged


def _towers(model: DualEncoder) -> Iterator[tuple[str, nn.Module, LoraSpec, tuple[Tensor, ...]]]:
    """Name, tower, adapters and an example of its input, of each tower that has some."""
    if model.spec.image.lora is not None:
        side = model.spec.image.image_size
        yield "model.image.lora", model.image_encoder, model.spec.image.lora, (torch.zeros(1, 3, side, side),)
    if model.spec.text.lora is not None:
        ids = torch.zeros(1, 2, dtype=torch.long), torch.ones(1, 2, dtype=torch.long)
        yield "model.text.lora", model.text_encoder, model.spec.text.lora, ids


def _add(tower: nn.Module, lora: LoraSpec, where: str, example: tuple[Tensor, ...]) -> None:
    peft = _peft(where)
    tower.requires_grad_(False)
    _split_attention(tower, example)
    targets = _usable(tower, example)
    if lora.targets is not None:
        targets = _matching(tower, targets, lora.targets, where)
    if not targets:
        raise ModelError(f"{where}: this tower has no linear layers for adapters; train it whole, or lock it")
    config = peft.LoraConfig(
        r=lora.rank,
        lora_alpha=lora.scale_numerator,
        lora_dropout=lora.dropout,
        target_modules="|".join(map(re.escape, targets)),  # one expression: in a list, peft also matches endings
        bias="none",
    )
    peft.inject_adapter_in_model(config, tower)
    _check_gradients(tower, example, where)


def _matching(tower: nn.Module, usable: Sequence[str], wanted: Sequence[str], where: str) -> list[str]:
    """The linear layers that the user's words mean: their names, ends of them, or modules that they are in."""
    modules = dict(tower.named_modules())
    chosen: dict[str, None] = {}
    for word in wanted:
        named = [name for name in modules if name == word or name.endswith(f".{word}")]
        hits = [name for name in usable if any(name == module or name.startswith(f"{module}.") for module in named)]
        if not named:
            ends = ", ".join(dict.fromkeys(".".join(name.split(".")[-2:]) for name in usable))
            raise ModelError(f"{where}.targets: no module is called {word!r}; linear layers here: {ends or 'none'}")
        if not hits:
            kind = type(modules[named[0]]).__name__
            raise ModelError(
                f"{where}.targets: {named[0]} ({kind}) has no linear layer that the tower calls, so that adapters "
                "there would do nothing; leave it out"
            )
        chosen |= dict.fromkeys(hits)
    return list(chosen)


def _split_attention(tower: nn.Module, example: tuple[Tensor, ...]) -> None:
    """Replace torch's attention wherever the tower attends to itself by it."""
    found: dict[nn.Module, bool] = {}

    def look(module: nn.Module, given: tuple[Any, ...], named: dict[str, Any]) -> None:
        plain = (
            len(given) == 3 and named.keys() <= {"need_weights", "attn_mask"} and not named.get("need_weights", True)
        )
        found[module] = found.get(module, True) and plain and given[0] is given[1] is given[2]

    hooks = [
        module.register_forward_pre_hook(look, with_kwargs=True)
        for module in tower.modules()
        if SplitAttention.fits(module)
    ]
    _output(tower, example)
    for hook in hooks:
        hook.remove()
    for name, module in list(tower.named_modules()):
        if found.get(module) and isinstance(module, nn.MultiheadAttention):
            _replace(tower, name, SplitAttention(module))


def _usable(tower: nn.Module, example: tuple[Tensor, ...]) -> list[str]:
    """The linear layers that are called and that the output depends on.

    Some libraries only read the weights of layers, so that an adapter would not run; and some run layers (the poolers
    of BERT and its kin) whose output nobody takes.
    """
    layers = {name: module for name, module in tower.named_modules() if type(module) is nn.Linear}
    called: set[nn.Module] = set()
    hooks = [module.register_forward_pre_hook(lambda module, _: called.add(module)) for module in layers.values()]
    for module in layers.values():
        module.weight.requires_grad_(True)
    gradients = _gradients(tower, example, [module.weight for module in layers.values()])
    for hook in hooks:
        hook.remove()
    for module in layers.values():
        module.weight.requires_grad_(False)
    named = zip(layers.items(), gradients, strict=True)
    return [name for (name, module), gradient in named if module in called and gradient is not None]


def _check_gradients(tower: nn.Module, example: tuple[Tensor, ...], where: str) -> None:
    adapters = {name: value for name, value in tower.named_parameters() if value.requires_grad}
    gradients = _gradients(tower, example, list(adapters.values()))
    lost = [name for name, gradient in zip(adapters, gradients, strict=True) if gradient is None]
    if lost:
        layer = lost[0].partition(".lora_")[0]
        raise ModelError(f"{where}: the adapter on {layer} gets no gradient; name other targets")


def _gradients(tower: nn.Module, example: tuple[Tensor, ...], parameters: Sequence[Tensor]) -> Sequence[Tensor | None]:
    """Of the output's sum; None where it does not depend on a parameter."""
    modes = [(module, module.training) for module in tower.modules()]
    tower.eval()
    with torch.inference_mode(False), torch.enable_grad():
        total = tower(*example).sum()
        known = total.requires_grad and len(parameters) > 0
        gradients = torch.autograd.grad(total, parameters, allow_unused=True) if known else [None] * len(parameters)
    for module, training in modes:
        module.training = training
    return gradients


def _merge(tower: nn.Module) -> None:
    layer = import_module("peft.tuners.tuners_utils").BaseTunerLayer
    for name, module in list(tower.named_modules()):
        if isinstance(module, layer):
            adapted: Any = module
            adapted.merge(safe_merge=True)
            _replace(tower, name, adapted.get_base_layer())
    for name, module in list(tower.named_modules()):
        if isinstance(module, SplitAttention):
            _replace(tower, name, module.joined())


def _replace(tower: nn.Module, name: str, module: nn.Module) -> None:
    parent, _, own = name.rpartition(".")
    setattr(tower.get_submodule(parent), own, module)


@torch.no_grad()
def _output(tower: nn.Module, example: tuple[Tensor, ...]) -> Tensor:
    """(1, width) in training's code path, which is not that of torch's fused inference, but without its randomness."""
    modes = [(module, module.training) for module in tower.modules()]
    tower.eval()
    device = next(tower.parameters()).device
    fused = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        output: Tensor = tower(*(part.to(device) for part in example))
    finally:
        torch.backends.mha.set_fastpath_enabled(fused)
        for module, training in modes:
            module.training = training
    return output


def _peft(where: str) -> Any:
    try:
        return import_module("peft")
    except ImportError:
        raise ModelError(f"{where} needs peft: pip install 'mmcontrast[peft]'") from None
