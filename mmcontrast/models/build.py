"""From a description to a dual encoder, with every check that can be made before training."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import replace

import torch
from torch import nn

from mmcontrast.errors import ModelError
from mmcontrast.models.dual_encoder import DualEncoder
from mmcontrast.models.lora import add_adapters
from mmcontrast.models.projection import build_projection
from mmcontrast.models.spec import ImageTowerSpec, ModelSpec, TextTowerSpec
from mmcontrast.models.tokenizers import Tokenizer
from mmcontrast.models.towers import BuiltImageTower, BuiltTextTower, ImageTower

# Checkpoints round their vocabulary up to a multiple of 64 or 128 at most.
_MAX_SPARE_IDS = 1024


def build_dual_encoder(spec: ModelSpec, tokenizer: Tokenizer, *, seed: int | None = None) -> DualEncoder:
    """Build towers (with their pretrained weights, if asked for), heads and scale.

    Args:
        spec: what to build. The model's own `spec` is the same one resolved: it builds the same architecture
            again offline, without names of the Hub and without pretrained weights.
        tokenizer: gives the text tower its vocabulary.
        seed: of the new weights; the caller's random state is then left alone. None draws from that state.

    Raises:
        ModelError: a name, field or size is wrong, or weights are missing.
    """
    if tokenizer.context_length > spec.text.context_length:
        raise ModelError(
            f"the tokenizer gives up to {tokenizer.context_length} tokens, the text tower takes "
            f"{spec.text.context_length} (model.text.context_length)"
        )
    with ExitStack() as stack:
        if seed is not None:
            stack.enter_context(torch.random.fork_rng(devices=[]))
            torch.manual_seed(seed)
        image = _image_tower(spec.image, spec.embed_dim)
        _channels_last(image.module)
        _patch_dropout(image.module, spec.image)
        text = _text_tower(spec.text, spec.embed_dim, tokenizer)
        heads = [
            build_projection(tower.spec.projection, tower.width, spec.embed_dim, tower.spec.dropout, name)
            for name, tower in (("image", image), ("text", text))
        ]
    _check_vocabulary(text.module.vocab_size, tokenizer, pretrained=bool(spec.text.pretrained))
    model = DualEncoder(
        spec=replace(spec, image=image.spec, text=text.spec),
        image_encoder=image.module,
        text_encoder=text.module,
        image_projection=heads[0],
        text_projection=heads[1],
        preprocess=image.preprocess,
        tokenizer=tokenizer,
    )
    add_adapters(model, seed=seed)
    model.extra["built_from"] = {"image": _origin(spec.image), "text": _origin(spec.text)}
    return model


# The libraries are imported where they are needed: a model of one should not wait for the others.


def _image_tower(spec: ImageTowerSpec, embed_dim: int) -> BuiltImageTower:
    if spec.library == "timm":
        from mmcontrast.models import towers_timm

        return towers_timm.build_image_tower(spec)
    if spec.library == "open_clip":
        from mmcontrast.models import towers_open_clip

        return towers_open_clip.build_image_tower(spec, embed_dim)
    from mmcontrast.models import towers_transformers

    return towers_transformers.build_image_tower(spec)


def _patch_dropout(tower: ImageTower, spec: ImageTowerSpec) -> None:
    if spec.patch_dropout and not tower.set_patch_dropout(spec.patch_dropout):
        raise ModelError(
            f"model.image.patch_dropout: {spec.name or 'this tower'} of {spec.library} cannot leave out patches; take "
            "a vision transformer of open_clip or timm, or set it to 0"
        )


def _channels_last(tower: nn.Module) -> None:
    """Colours innermost: small convolutional nets train a fifth faster on CPUs, and no net is slower for it."""
    for parameter in tower.parameters():
        if parameter.ndim == 4:
            parameter.data = parameter.data.contiguous(memory_format=torch.channels_last)


def _text_tower(spec: TextTowerSpec, embed_dim: int, tokenizer: Tokenizer) -> BuiltTextTower:
    if spec.library == "open_clip":
        from mmcontrast.models import towers_open_clip

        return towers_open_clip.build_text_tower(spec, embed_dim, tokenizer)
    if spec.library == "bag_of_words":
        from mmcontrast.models import towers_bag_of_words

        return towers_bag_of_words.build_text_tower(spec, tokenizer)
    from mmcontrast.models import towers_transformers

    return towers_transformers.build_text_tower(spec, tokenizer)


def _check_vocabulary(tower: int, tokenizer: Tokenizer, pretrained: bool) -> None:
    if tokenizer.vocab_size > tower:
        raise ModelError(
            f"the tokenizer has {tokenizer.vocab_size} ids, the text tower only {tower}: take the tokenizer that "
            "belongs to the tower"
        )
    if pretrained and tower - tokenizer.vocab_size > _MAX_SPARE_IDS:
        raise ModelError(
            f"the pretrained text tower knows {tower} ids, the tokenizer {tokenizer.vocab_size}: its weights mean "
            "other words; take the tokenizer that belongs to the tower"
        )


def _origin(spec: ImageTowerSpec | TextTowerSpec) -> dict[str, object]:
    return {"library": spec.library, "name": spec.name, "pretrained": spec.pretrained}
