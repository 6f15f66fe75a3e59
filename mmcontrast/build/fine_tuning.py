"""A new run from a trained model."""

from __future__ import annotations

from dataclasses import replace

from mmcontrast.config import Config
from mmcontrast.models import DualEncoder, LoraSpec, build_dual_encoder
from mmcontrast.models.lora import add_adapters


def starting_model(config: Config) -> DualEncoder:
    """The model of `model.init_from`, with the config's say on locked towers, adapters and patch dropout.

    It is built anew, since a locked tower and an offset of the logits (which the sigmoid loss needs, and a model
    trained without it lacks) are part of what it is made of, and saved with it.
    """
    assert config.model.init_from is not None
    image, text = config.model.image, config.model.text
    start = DualEncoder.from_pretrained(config.model.init_from)
    spec = replace(
        start.spec,
        image=replace(start.spec.image, locked=image.locked, patch_dropout=image.patch_dropout),
        text=replace(start.spec.text, locked=text.locked),
        logit_bias=config.model.logit_bias if start.logit_bias is None else start.spec.logit_bias,
    )
    model = build_dual_encoder(spec, start.tokenizer, seed=config.training.seed)
    model.load_state_dict(model.state_dict() | start.state_dict())
    lora = [None if tower.lora is None else LoraSpec(**tower.lora.model_dump()) for tower in (image, text)]
    model.spec = replace(
        model.spec, image=replace(model.spec.image, lora=lora[0]), text=replace(model.spec.text, lora=lora[1])
    )
    add_adapters(model, seed=config.training.seed)  # now that the weights are there that they start from
    model.preprocess = start.preprocess
    model.templates, model.extra = start.templates, dict(start.extra)
    return model
