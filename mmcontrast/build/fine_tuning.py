"""A new run from a trained model."""

from __future__ import annotations

from dataclasses import replace

from mmcontrast.config import Config
from mmcontrast.models import DualEncoder, build_dual_encoder


def starting_model(config: Config) -> DualEncoder:
    """The model of `model.init_from`, with the config's say on which towers are locked, and on patch dropout.

    It is built anew, since a locked tower and an offset of the logits (which the sigmoid loss needs, and a model
    trained without it lacks) are part of what it is made of, and saved with it.
    """
    assert config.model.init_from is not None
    start = DualEncoder.from_pretrained(config.model.init_from)
    spec = replace(
        start.spec,
        image=replace(
            start.spec.image, locked=config.model.image.locked, patch_dropout=config.model.image.patch_dropout
        ),
        text=replace(start.spec.text, locked=config.model.text.locked),
        logit_bias=config.model.logit_bias if start.logit_bias is None else start.spec.logit_bias,
    )
    model = build_dual_encoder(spec, start.tokenizer, seed=config.training.seed)
    model.load_state_dict(model.state_dict() | start.state_dict())
    model.preprocess = start.preprocess
    model.templates, model.extra = start.templates, dict(start.extra)
    return model
