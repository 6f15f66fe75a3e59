"""Image and text towers of transformers, by local folder, Hub name, or `model_type` with config fields."""

from __future__ import annotations

import inspect
from dataclasses import replace
from typing import Any

import torch
import transformers
from torch import Tensor, nn
from transformers.models.auto.modeling_auto import MODEL_FOR_TEXT_ENCODING_MAPPING_NAMES

from mmcontrast.errors import ModelError
from mmcontrast.models.projection import plain_projection, projection_widths
from mmcontrast.models.spec import ImageTowerSpec, TextTowerSpec
from mmcontrast.models.towers import (
    BuiltImageTower,
    BuiltTextTower,
    ImageTower,
    Pooling,
    TextTower,
    Vocabulary,
    fill_to_length,
    one_line,
    pool_tokens,
    probe_image,
    probe_text,
)
from mmcontrast.models.transformers_config import (
    Part,
    Spec,
    fit_to_vocabulary,
    quiet_transformers,
    read_config,
    read_preprocess,
    source_of,
    text_pooling,
)

# Models that the Auto classes do not know by their own config.
_CLASSES = {"siglip_text_model": "SiglipTextModel", "siglip2_text_model": "Siglip2TextModel"}
# These put a tanh layer, trained for another task or not at all, before the pooled output.
_CLS_BY_DEFAULT = {"vit", "deit"}


class TransformersImageTower(ImageTower):
    """A vision model of transformers, pooled to one vector."""

    def __init__(self, model: nn.Module, pooling: str, resize_positions: bool, projection: nn.Module | None) -> None:
        super().__init__()
        self.model = model
        self.own_projection = projection
        self.pooling = pooling
        # Towers built for another size interpolate their position embeddings to the one that is asked for.
        self.arguments = {"interpolate_pos_encoding": True} if resize_positions else {}

    def forward(self, pixels: Tensor) -> Tensor:
        """(b, 3, h, w) normalised -> (b, width)."""
        output = self.model(pixel_values=pixels, **self.arguments)
        if self.pooling == "pooler":
            pooled: Tensor = output.pooler_output.flatten(1)  # convolutional nets leave 1 x 1 maps
        elif output.last_hidden_state.ndim == 4:
            pooled = output.last_hidden_state.mean(dim=(2, 3))
        else:
            pooled = output.last_hidden_state[:, 0] if self.pooling == "cls" else output.last_hidden_state.mean(dim=1)
        return pooled if self.own_projection is None else self.own_projection(pooled)

    def set_gradient_checkpointing(self, enable: bool) -> bool:
        """Most models can."""
        return _switch_checkpointing(self.model, enable)


class TransformersTextTower(TextTower):
    """A text model of transformers, pooled by the attention mask."""

    def __init__(
        self, model: nn.Module, pooling: str, limit: int, fill: tuple[int, int] | None, projection: nn.Module | None
    ) -> None:
        super().__init__()
        self.model = model
        self.own_projection = projection
        self.pooling = pooling
        self.fill = fill
        self.shorter_is_cheaper = fill is None
        self.context_length = limit
        config: Any = model.config
        self.vocab_size = int(config.vocab_size)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """(b, t), (b, t) -> (b, width)."""
        if self.fill:  # SigLIP was trained to read its padding, and pools at the last position
            output = self.model(input_ids=fill_to_length(input_ids, attention_mask, *self.fill))
        else:
            output = self.model(input_ids=input_ids, attention_mask=attention_mask)
        if self.pooling == "pooler":
            pooled: Tensor = output.pooler_output
        else:
            how: Pooling = self.pooling  # type: ignore[assignment]
            pooled = pool_tokens(output.last_hidden_state, attention_mask, how)
        return pooled if self.own_projection is None else self.own_projection(pooled)

    def set_gradient_checkpointing(self, enable: bool) -> bool:
        """Most models can."""
        return _switch_checkpointing(self.model, enable)


def build_image_tower(spec: ImageTowerSpec) -> BuiltImageTower:
    """The vision model that `spec` names, or the vision part of a CLIP-like model.

    Raises:
        ModelError: unknown type or field, weights that are missing or do not fit, no such folder or repository.
    """
    config, pooling = read_config(spec, "vision")
    if not spec.pretrained and hasattr(config, "image_size") and "image_size" not in spec.kwargs:
        config.image_size = spec.image_size
    model, projection, missing = _model(spec, config, "vision")
    pooling = pooling or ("cls" if model.config.model_type in _CLS_BY_DEFAULT else "pooler")
    if pooling not in ("pooler", "cls", "mean"):
        raise ModelError(f"model.image.kwargs.pooling is {pooling!r}; choose pooler, cls or mean")
    own_size = getattr(model.config, "image_size", spec.image_size)
    resize = own_size != spec.image_size and _interpolates(model)
    tower = TransformersImageTower(model, pooling, resize, projection)
    width = probe_image(tower, spec.image_size)
    _refuse_missing(spec, tower, missing)
    resolved = replace(spec, name=None, pretrained=False, kwargs=_resolved_kwargs(model, pooling, projection))
    return BuiltImageTower(tower, width, resolved, read_preprocess(spec))


def build_text_tower(spec: TextTowerSpec, vocabulary: Vocabulary) -> BuiltTextTower:
    """The text model that `spec` names, or the text part of a CLIP-like model, or the encoder of T5 and the like.

    Raises:
        ModelError: as for the image tower; or more context than the model has positions for.
    """
    config, pooling = read_config(spec, "text")
    if not spec.pretrained:
        fit_to_vocabulary(config, spec, vocabulary)
    model_type = getattr(config, "text_config", config).model_type
    pooling = text_pooling(model_type, pooling)
    model, projection, missing = _model(spec, config, "text")
    limit = _context_limit(model, spec, vocabulary)
    fill = (int(model.config.max_position_embeddings), vocabulary.pad_id) if model_type.startswith("siglip") else None
    tower = TransformersTextTower(model, pooling, limit, fill, projection)
    width = probe_text(tower)
    _refuse_missing(spec, tower, missing)
    resolved = replace(spec, name=None, pretrained=False, kwargs=_resolved_kwargs(model, pooling, projection))
    return BuiltTextTower(tower, width, resolved)


def _model(spec: Spec, config: Any, part: Part) -> tuple[Any, nn.Module | None, list[str]]:
    """The tower's model, its own projection if it is to be kept, and the names of weights that were not loaded."""
    where = "model.image" if part == "vision" else "model.text"
    try:
        if spec.pretrained:
            whole, missing = _load(spec, config)
        else:
            cls = _model_class(config)
            whole, missing = cls.from_config(config) if hasattr(cls, "from_config") else cls(config), []
    except ModelError:
        raise
    except Exception as error:  # network, missing files, shape errors
        place = source_of(spec) or config.model_type
        raise ModelError(f"{where}: transformers cannot build {place}: {one_line(error)}") from error
    model = getattr(whole, f"{part}_model", whole)
    if part == "text" and getattr(model.config, "is_encoder_decoder", False):
        model = model.get_encoder()
    if spec.projection != "none":
        return model, None, missing
    own = getattr(whole, "visual_projection" if part == "vision" else "text_projection", None)
    if shape := spec.kwargs.get("own_projection"):
        own = plain_projection(shape)
    return model, own, missing


def _load(spec: Spec, config: Any) -> tuple[Any, list[str]]:
    source = source_of(spec)
    if source is None:
        raise ModelError("pretrained transformers weights need a name: a folder or a Hub name")
    with quiet_transformers():  # heads that we drop are reported otherwise
        model, info = _model_class(config).from_pretrained(
            source, config=config, dtype=torch.float32, output_loading_info=True, trust_remote_code=False
        )
    return model, list(info["missing_keys"])


def _model_class(config: Any) -> Any:
    if config.model_type in _CLASSES:
        return getattr(transformers, _CLASSES[config.model_type])
    if config.model_type in MODEL_FOR_TEXT_ENCODING_MAPPING_NAMES:
        return transformers.AutoModelForTextEncoding
    return transformers.AutoModel


def _refuse_missing(spec: Spec, tower: Any, missing: list[str]) -> None:
    """Weights that the output depends on must have come from the checkpoint."""
    used = {name for name, parameter in tower.model.named_parameters() if parameter.requires_grad}
    if tower.own_projection is not None:
        used |= {"visual_projection.weight", "text_projection.weight"}
    lost = [key for key in missing if key in used or key.partition(".")[2] in used]
    if lost:
        raise ModelError(f"{source_of(spec)} has no weights for {', '.join(lost[:3])}{' ...' if len(lost) > 3 else ''}")


def _resolved_kwargs(model: Any, pooling: str, projection: Any) -> dict[str, Any]:
    kwargs: dict[str, Any] = {"pooling": pooling}
    if projection is not None:
        kwargs["own_projection"] = projection_widths(projection)
    config = {k: v for k, v in model.config.to_dict().items() if k != "_name_or_path"}
    return {**config, "model_type": model.config.model_type, **kwargs}


def _context_limit(model: Any, spec: TextTowerSpec, vocabulary: Vocabulary) -> int:
    """The tokens that the tower takes at once, checked against its position embeddings."""
    positions = getattr(model.config, "max_position_embeddings", None)
    padding_idx = getattr(getattr(model, "embeddings", None), "padding_idx", None)
    if padding_idx is not None:
        if padding_idx != vocabulary.pad_id:
            raise ModelError(
                f"the text tower pads with id {padding_idx}, the tokenizer with {vocabulary.pad_id}: "
                "take the tokenizer that belongs to the tower"
            )
        positions -= padding_idx + 1
    if positions is not None and spec.context_length > positions:
        raise ModelError(
            f"model.text.context_length is {spec.context_length}, but the text tower has {positions} positions"
        )
    return spec.context_length


def _interpolates(model: Any) -> bool:
    return "interpolate_pos_encoding" in inspect.signature(type(model).forward).parameters


def _switch_checkpointing(model: Any, enable: bool) -> bool:
    word = "enable" if enable else "disable"
    # transformers 5.23 gave the method a new name and deprecates the old one.
    switch = getattr(model, f"activation_checkpointing_{word}", None) or getattr(
        model, f"gradient_checkpointing_{word}", None
    )
    if switch is None or not getattr(model, "supports_gradient_checkpointing", False):
        return False
    try:
        # The only argument, in both spellings.
        switch(*([{"use_reentrant": False}] if enable else []))
    except ValueError:  # the class claims support that its layers lack
        return False
    return True
