"""Configs of transformers towers: from a folder, the Hub, or fields given by hand."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Literal

import transformers
from transformers.image_processing_base import ImageProcessingMixin

from mmcontrast.errors import ModelError
from mmcontrast.models.spec import ImageTowerSpec, TextTowerSpec
from mmcontrast.models.towers import Vocabulary, one_line
from mmcontrast.preprocess import ImagePreprocess

Part = Literal["vision", "text"]
Spec = ImageTowerSpec | TextTowerSpec

log = logging.getLogger(__name__)

# Keys of ours beside the library's config fields.
_OURS = ("pooling", "own_projection")
_BILINEAR = 2  # Pillow's number, as preprocessor_config.json has it


def read_config(spec: Spec, part: Part) -> tuple[Any, str | None]:
    """The model's config with the fields of `spec.kwargs` set, and the pooling asked for.

    With pretrained weights it is the whole config (of both CLIP towers, say), else that of the part.

    Raises:
        ModelError: nothing named, nothing there, an unknown type or field.
    """
    where = "model.image" if part == "vision" else "model.text"
    wanted = {k: v for k, v in spec.kwargs.items() if k not in _OURS}
    pooling = spec.kwargs.get("pooling")
    if model_type := wanted.pop("model_type", None):
        config = _config_from_type(model_type, wanted, where)
        return getattr(config, f"{part}_config", config), pooling
    source = source_of(spec)
    if not source:
        raise ModelError(f"{where}: give name (folder or Hub name) or kwargs.model_type (such as bert or vit)")
    try:
        config = transformers.AutoConfig.from_pretrained(source, trust_remote_code=False)
    except Exception as error:  # network, missing file, unknown type
        raise ModelError(f"{where}.name: no transformers config in {source!r}: {one_line(error)}") from error
    own = getattr(config, f"{part}_config", config)
    _refuse_unknown(wanted, own.to_dict(), own, where)
    for key, value in wanted.items():
        setattr(own, key, value)
    return config if spec.pretrained else own, pooling


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """Only errors of the library's own logging, and no progress bars."""
    level, bars = transformers.logging.get_verbosity(), transformers.logging.is_progress_bar_enabled()
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    try:
        yield
    finally:
        transformers.logging.set_verbosity(level)
        if bars:
            transformers.logging.enable_progress_bar()


def source_of(spec: Spec) -> str | None:
    """Folder or Hub name of config and weights."""
    return spec.pretrained if isinstance(spec.pretrained, str) else spec.name


def _config_from_type(model_type: str, wanted: dict[str, Any], where: str) -> Any:
    if model_type not in transformers.CONFIG_MAPPING:
        near = get_close_matches(model_type, list(transformers.CONFIG_MAPPING.keys()), n=3)
        raise ModelError(f"{where}.kwargs.model_type: transformers has no {model_type!r}; near: {', '.join(near)}")
    cls = transformers.CONFIG_MAPPING[model_type]
    try:
        with quiet_transformers():  # SigLIP's own defaults contradict each other
            if "transformers_version" not in wanted:  # written by hand, not by the library
                _refuse_unknown(wanted, cls().to_dict(), cls, where)
            return cls.from_dict(wanted)
    except ModelError:
        raise
    except Exception as error:  # strict field types of the library
        raise ModelError(f"{where}.kwargs: not a {model_type} config: {one_line(error)}") from error


def _refuse_unknown(wanted: dict[str, Any], known: dict[str, Any], config: Any, where: str) -> None:
    # The library takes any field without a word, so that a misspelt one would do nothing.
    names = set(known) | set(getattr(config, "attribute_map", {}))
    if unknown := sorted(set(wanted) - names):
        near = [match for key in unknown for match in get_close_matches(key, names, n=1)]
        hint = f"; did you mean {', '.join(near)}" if near else ""
        raise ModelError(f"{where}.kwargs: the config has no field {', '.join(unknown)}{hint}")


def fit_to_vocabulary(config: Any, spec: TextTowerSpec, vocabulary: Vocabulary) -> None:
    """Sizes and special ids of a model from scratch, unless kwargs set them."""
    values: dict[str, Any] = {
        "vocab_size": vocabulary.vocab_size,
        "pad_token_id": vocabulary.pad_id,
        "eos_token_id": vocabulary.eos_id,
        "bos_token_id": vocabulary.bos_id,
    }
    if getattr(config, "max_position_embeddings", None) is not None:
        exact = config.model_type.startswith(("clip", "siglip"))
        # RoBERTa's kin count positions from behind the padding id.
        spare = 0 if exact else vocabulary.pad_id + 1
        values["max_position_embeddings"] = spec.context_length + spare
    for key, value in values.items():
        if key not in spec.kwargs and hasattr(config, key):
            setattr(config, key, value)


def text_pooling(model_type: str, asked: str | None) -> str:
    """How a text tower of this type becomes one vector.

    Raises:
        ModelError: `asked` is nothing that the type can do.
    """
    if model_type.startswith("siglip"):
        choices = ["pooler"]
    elif model_type == "clip_text_model":
        choices = ["eos", "mean"]  # its pooler is the same, but searched by id: see `pool_tokens`
    else:
        choices = ["mean", "cls", "eos", "pooler"]
    if asked is not None and asked not in choices:
        raise ModelError(f"model.text.kwargs.pooling is {asked!r}; {model_type} takes {', '.join(choices)}")
    return asked or choices[0]


def read_preprocess(spec: ImageTowerSpec) -> ImagePreprocess:
    """Of the checkpoint's image processor; the CLIP mean and standard deviation from scratch."""
    source = source_of(spec)
    if not spec.pretrained or source is None:
        return ImagePreprocess(spec.image_size)
    try:
        values, _ = ImageProcessingMixin.get_image_processor_dict(source)
    except Exception:  # no such file in the folder or repository
        log.warning("%s has no preprocessor_config.json: pictures are normalised as for CLIP", Path(source).name)
        return ImagePreprocess(spec.image_size)
    default = ImagePreprocess(spec.image_size)
    shortest = "shortest_edge" in (values.get("size") or {}) or bool(values.get("do_center_crop"))
    return ImagePreprocess(
        image_size=spec.image_size,
        mean=tuple(values.get("image_mean") or default.mean),
        std=tuple(values.get("image_std") or default.std),
        resize="shortest" if shortest else "squash",
        interpolation="bilinear" if values.get("resample") == _BILINEAR else "bicubic",
    )
