"""CLIP models of sentence-transformers: a transformers model in a module folder, and settings around it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mmcontrast.errors import ModelError
from mmcontrast.models.finding import CONFIG, module_folders, read_json
from mmcontrast.models.importing import Parts
from mmcontrast.models.importing_transformers import read_model

_SETTINGS = ("sentence_bert_config.json", "config_sentence_transformers.json")
_METHODS = {"text": "get_text_features", "image": "get_image_features"}
# Settings that leave the features as they are, or say what is so anyway.
_HARMLESS = {"transformer_task", "module_output_name", "unpad_inputs", "max_seq_length", "modality_config"}


def read_modules(folder: Path) -> Parts:
    """The CLIP-like model of modules.json.

    Raises:
        ModelError: further modules than a normalisation, or settings that change features; else as `read_model`.
    """
    modules = module_folders(folder)
    names = [kind.rpartition(".")[2] for kind, _ in modules]
    foreign = [kind for kind, _ in modules if not kind.startswith("sentence_transformers.")]
    if foreign or names[0] not in ("CLIPModel", "Transformer") or any(name != "Normalize" for name in names[1:]):
        raise ModelError(f"{folder}: modules {', '.join(names)} are not supported; a CLIP model and Normalize are")
    place = modules[0][1]
    settings = _optional(place / _SETTINGS[0])
    prompts = _optional(folder / _SETTINGS[1])
    for key in ("default_prompt_name", "truncate_dim"):
        if prompts.get(key) is not None:
            raise ModelError(f"{folder / _SETTINGS[1]}: {key} changes the features and is not supported")
    for modality, method in _METHODS.items():
        if names[0] == "Transformer" or "modality_config" in settings:
            entry = (settings.get("modality_config") or {}).get(modality) or {}
            if entry.get("method") != method or entry.get("method_output_name") != "pooler_output":
                raise ModelError(f"{place}: {modality} features are not made by {method}, which is not supported")
    text = _text_settings(settings, place)
    if read_json(place / CONFIG).get("model_type") == "siglip" and text.get("padding") != "max_length":
        raise ModelError(
            f"{place}: sentence-transformers pads captions to the longest, SigLIP was trained with all filled up; "
            "set processing_kwargs.text.padding to max_length"
        )
    return read_model(place, context_length=text.get("max_length") or settings.get("max_seq_length"))


def _text_settings(settings: dict[str, Any], place: Path) -> dict[str, Any]:
    """`processing_kwargs` of captions; other settings that change features are refused."""
    processing = dict(settings.get("processing_kwargs") or {})
    text = dict(processing.pop("text", None) or {})
    changed = [key for key, value in settings.items() if value and key not in {*_HARMLESS, "processing_kwargs"}]
    if set(settings.get("processor_kwargs") or {}) <= {"backend"}:  # of the pictures' resize; ours is Pillow's
        changed = [key for key in changed if key != "processor_kwargs"]
    changed += [f"processing_kwargs.{key}" for key, value in processing.items() if value]
    changed += [f"processing_kwargs.text.{key}" for key in text if key not in ("padding", "truncation", "max_length")]
    if changed:
        raise ModelError(f"{place / _SETTINGS[0]}: {', '.join(changed)} may change the features and is not supported")
    return text


def _optional(path: Path) -> dict[str, Any]:
    return dict(read_json(path)) if path.is_file() else {}
