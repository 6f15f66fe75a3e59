"""Vision and text transformers of timm and transformers, under the names of open_clip's own classes.

They are the same nets (norm before each part, learned positions); what open_clip builds from the result is compared
with the tower by the caller, so that nothing here has to recognise every option of the other libraries.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from mmcontrast.export.open_clip_parts import Head, Part, cannot

State = Mapping[str, Tensor]
OPEN_CLIP_EPS = 1e-5


@dataclass(frozen=True)
class Blocks:
    """How a library names the parts of its blocks.

    Attributes:
        prefix: before the number of a block.
        queries_keys_values: one layer for all three, or three.
        names: of the other layers, to open_clip's.
        scales: of a layer's output, if it has any.
    """

    prefix: str
    queries_keys_values: tuple[str, ...]
    names: Mapping[str, str]
    scales: Mapping[str, str]


_QKV = ("q_proj", "k_proj", "v_proj")
TIMM = Blocks(
    "blocks.",
    ("attn.qkv",),
    {"norm1": "ln_1", "attn.proj": "attn.out_proj", "norm2": "ln_2", "mlp.fc1": "mlp.c_fc", "mlp.fc2": "mlp.c_proj"},
    {"ls1.gamma": "ls_1.gamma", "ls2.gamma": "ls_2.gamma"},
)
HF_CLIP = Blocks(
    "encoder.layers.",
    tuple(f"self_attn.{name}" for name in _QKV),
    {
        "layer_norm1": "ln_1",
        "self_attn.out_proj": "attn.out_proj",
        "layer_norm2": "ln_2",
        "mlp.fc1": "mlp.c_fc",
        "mlp.fc2": "mlp.c_proj",
    },
    {},
)
HF_VIT = Blocks(
    "layers.",
    tuple(f"attention.{name}" for name in _QKV),
    {
        "layernorm_before": "ln_1",
        "attention.o_proj": "attn.out_proj",
        "layernorm_after": "ln_2",
        "mlp.fc1": "mlp.c_fc",
        "mlp.fc2": "mlp.c_proj",
    },
    {},
)
HF_DINOV2 = Blocks(
    "encoder.layer.",
    tuple(f"attention.{name}" for name in _QKV),
    {
        "norm1": "ln_1",
        "attention.o_proj": "attn.out_proj",
        "norm2": "ln_2",
        "mlp.fc1": "mlp.c_fc",
        "mlp.fc2": "mlp.c_proj",
    },
    {"layer_scale1.lambda1": "ls_1.gamma", "layer_scale2.lambda1": "ls_2.gamma"},
)


@dataclass(frozen=True)
class Activation:
    """Of the feed-forward nets, in open_clip's words."""

    quick_gelu: bool
    act_kwargs: dict[str, Any] | None = None

    @classmethod
    def of(cls, name: str, where: str) -> Activation:
        """From transformers' name of it.

        Raises:
            ModelError: it is none of the kinds of GELU.
        """
        if name == "quick_gelu":
            return cls(True)
        if name == "gelu":
            return cls(False)
        if name in ("gelu_pytorch_tanh", "gelu_new", "gelu_tanh"):
            return cls(False, {"approximate": "tanh"})
        raise cannot(f"{where} with the activation {name}")


def blocks(state: State, source: Blocks, where: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The blocks under open_clip's names, and layers, width and mlp_ratio (ls_init_value, too) of a config.

    Raises:
        ModelError: a layer is missing: the blocks are of another kind.
    """
    numbers = sorted({int(m[1]) for name in state if (m := re.match(rf"{re.escape(source.prefix)}(\d+)\.", name))})
    renamed: dict[str, Tensor] = {}
    try:
        for number in numbers:
            old, new = f"{source.prefix}{number}.", f"transformer.resblocks.{number}."
            parts = [f"{old}{name}" for name in source.queries_keys_values]
            weight = torch.cat([state[f"{part}.weight"] for part in parts])
            no_bias = weight.new_zeros(len(weight) // len(parts))
            renamed[f"{new}attn.in_proj_weight"] = weight
            renamed[f"{new}attn.in_proj_bias"] = torch.cat([state.get(f"{part}.bias", no_bias) for part in parts])
            for theirs, name in source.names.items():
                renamed |= {f"{new}{name}.{kind}": state[f"{old}{theirs}.{kind}"] for kind in ("weight", "bias")}
            for theirs, name in source.scales.items():
                if f"{old}{theirs}" in state:
                    renamed[f"{new}{name}"] = state[f"{old}{theirs}"]
        hidden, width = renamed["transformer.resblocks.0.mlp.c_fc.weight"].shape
    except KeyError as error:
        raise cannot(f"{where}: its blocks have no {str(error).strip(chr(39))}") from None
    ratio = hidden / width
    config: dict[str, Any] = {
        "layers": len(numbers),
        "width": width,
        "mlp_ratio": ratio if int(width * ratio) == hidden else (hidden + 0.5) / width,  # open_clip cuts the product
    }
    if "transformer.resblocks.0.ls_1.gamma" in renamed:
        config["ls_init_value"] = 1.0  # only says that there are some
    return renamed, config


def norm(state: State, theirs: str, ours: str) -> dict[str, Tensor]:
    """A layer norm under open_clip's name."""
    return {f"{ours}.{kind}": state[f"{theirs}.{kind}"] for kind in ("weight", "bias")}


def options(eps: float, activation: Activation) -> dict[str, Any]:
    """norm_kwargs and act_kwargs, where they differ from open_clip's defaults."""
    return {
        **({} if eps == OPEN_CLIP_EPS else {"norm_kwargs": {"eps": eps}}),
        **({} if activation.act_kwargs is None else {"act_kwargs": activation.act_kwargs}),
    }


def vision_transformer(
    state: State,
    source: Blocks,
    *,
    token: Tensor,
    patches: str,
    positions: Tensor,
    norms: Mapping[str, str],
    heads: int,
    eps: float,
    activation: Activation,
    head: Head,
    where: str,
    image_size: int,
) -> Part:
    """A ViT with a class token as open_clip's `VisionTransformer`; how it is pooled is the caller's to set.

    Args:
        state: of the tower.
        source: names of its blocks.
        token: its class token, of any shape.
        patches: name of the convolution.
        positions: (n + 1, width), for the class token and each patch; or (n, width) where the token has none.
        norms: theirs to ours, of "ln_pre" (if there is one) and "ln_post".
        heads: of the attention.
        eps: of all norms.
        activation: of the feed-forward nets.
        head: onto the shared space.
        where: for errors.
        image_size: side of the input.
    """
    weights, config = blocks(state, source, where)
    conv = state[f"{patches}.weight"]
    width, side = conv.shape[0], conv.shape[-1]
    if len(positions) == (image_size // side) ** 2:
        positions = torch.cat([positions.new_zeros(1, width), positions])
    if (bias := state.get(f"{patches}.bias")) is not None:  # open_clip's has none; the positions can carry it
        positions = positions + torch.cat([bias.new_zeros(1, width), bias.expand(len(positions) - 1, width)])
    if head.bias is not None:
        raise cannot(f"{where} with a bias on its embedding")
    weights |= {"class_embedding": token.flatten(), "conv1.weight": conv, "positional_embedding": positions}
    for theirs, ours in norms.items():
        weights |= norm(state, theirs, ours)
    weights["proj"] = torch.eye(width) if head.weight is None else head.weight.T
    config |= {
        "patch_size": side,
        "image_size": image_size,
        "head_width": width // heads,
        "no_ln_pre": "ln_pre" not in norms.values(),
        **options(eps, activation),
    }
    return Part(config, weights, activation.quick_gelu)


def text_projection(head: Head) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """A head as weights and config of open_clip's `TextTransformer`."""
    if head.weight is None:
        return {}, {"proj_type": "none"}
    if head.bias is None:
        return {"text_projection": head.weight.T}, {"proj_type": "linear", "proj_bias": False}
    layer = {"text_projection.weight": head.weight, "text_projection.bias": head.bias}
    return layer, {"proj_type": "linear", "proj_bias": True}


def gelu_of(module: nn.Module, where: str) -> Activation:
    """The activation that a module is."""
    name = type(module).__name__.lower()
    if "quick" in name:
        return Activation(True)
    if getattr(module, "approximate", "none") == "tanh" or "tanh" in name:
        return Activation.of("gelu_pytorch_tanh", where)
    return Activation.of("gelu" if name.startswith("gelu") else name, where)
