"""Where a model lies, and in whose format: folders, names of the Hub, and names of open_clip."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from huggingface_hub import list_repo_files, snapshot_download

from mmcontrast.errors import ModelError
from mmcontrast.models.towers import one_line

Kind = Literal["mmcontrast", "open_clip", "sentence_transformers", "transformers"]
WEIGHTS, CONFIG, TOKENIZER = "model.safetensors", "config.json", "tokenizer"
OPEN_CLIP_CONFIG, MODULES, OURS = "open_clip_config.json", "modules.json", "mmcontrast"
SHARDS = f"{WEIGHTS}.index.json"
OPEN_CLIP_WEIGHTS = ("open_clip_model.safetensors", "open_clip_pytorch_model.safetensors")
_PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
_SMALL = ["*.json", "*.txt", "*.model"]  # configs and vocabularies
_WANTED: dict[Kind, dict[str, list[str]]] = {
    "open_clip": {"allow_patterns": [*_SMALL, *OPEN_CLIP_WEIGHTS], "ignore_patterns": ["*/*"]},
    "transformers": {"allow_patterns": [*_SMALL, WEIGHTS, "model-*.safetensors"], "ignore_patterns": ["*/*"]},
}


@dataclass(frozen=True)
class Found:
    """A model that may be loaded.

    Attributes:
        kind: whose format it is in.
        folder: where it lies; None for a name of open_clip ("open_clip:ViT-B-32/laion2b_s34b_b79k").
        name: as it was asked for.
    """

    kind: Kind
    folder: Path | None
    name: str


def find_model(name: str | Path, revision: str | None = None) -> Found:
    """The folder of a model, downloaded if need be, without any pickle.

    Args:
        name: a folder; a name of the Hub ("ORG/NAME"); "local-dir:FOLDER" or "hf-hub:ORG/NAME", which open_clip reads
            as its own; or "open_clip:ARCHITECTURE/TAG".
        revision: of the Hub.

    Raises:
        ModelError: there is no such folder, nor such a repository within reach.
    """
    text = str(name)
    prefix, _, place = text.partition(":")
    if prefix == "open_clip":
        return Found("open_clip", None, text)
    if prefix == "local-dir":
        if not Path(place).expanduser().is_dir():
            raise ModelError(f"{text}: {place} is not a folder")
        return Found("open_clip", Path(place).expanduser(), text)
    if prefix == "hf-hub":
        return Found("open_clip", _download(place, revision, **_WANTED["open_clip"]), text)
    folder = Path(name).expanduser()
    if folder.is_dir():
        return _best(folder, text)
    if folder.is_absolute() or text.startswith((".", "~")) or len(folder.parts) > 2 or folder.exists():
        raise ModelError(f"{name} is not a folder")
    return _from_hub(text, revision)


def refuse_missing_weights(folder: Path, weights: str) -> ModelError:
    """The error for a folder without these weights; names the pickle that lies in their place."""
    pickles = sorted(path.name for path in folder.iterdir() if path.suffix in _PICKLES)
    also = f" ({pickles[0]} is a pickle, which could run code: it is not loaded)" if pickles else ""
    return ModelError(f"{folder} has no {weights}{also}")


def read_json(path: Path) -> Any:
    """What a JSON file of a model holds.

    Raises:
        ModelError: it is missing, or no JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ModelError(f"{path.parent} has no {path.name}") from None
    except (OSError, ValueError, RecursionError) as error:
        raise ModelError(f"{path} cannot be read: {one_line(error)}") from None


def module_folders(folder: Path) -> list[tuple[str, Path]]:
    """Type and folder of each module of a sentence-transformers model, in order."""
    try:
        modules = [(str(entry["type"]), Path(entry["path"])) for entry in read_json(folder / MODULES)]
    except (KeyError, TypeError) as error:
        raise ModelError(f"{folder / MODULES} is damaged: {type(error).__name__}: {error}") from None
    if not modules or any(place.is_absolute() or ".." in place.parts for _, place in modules):
        raise ModelError(f"{folder / MODULES} names no module, or one outside of the folder")
    return [(kind, folder / place) for kind, place in modules]


def _kinds(folder: Path) -> list[Kind]:
    """Formats that a folder claims to have, the most complete first; our own where there is none."""
    config = _mapping(folder / CONFIG)
    kinds: list[Kind] = []
    if "format_version" in config or (folder / OURS / CONFIG).is_file():
        kinds.append("mmcontrast")
    if (folder / OPEN_CLIP_CONFIG).is_file():
        kinds.append("open_clip")
    if (folder / MODULES).is_file():
        kinds.append("sentence_transformers")
    elif "model_type" in config:
        kinds.append("transformers")
    return kinds or ["mmcontrast"]


def _mapping(path: Path) -> dict[str, Any]:
    try:
        values = read_json(path)
    except ModelError:
        return {}  # told by who reads it in earnest
    return values if isinstance(values, dict) else {}


def _found(kind: Kind, folder: Path, name: str) -> Found:
    nested = kind == "mmcontrast" and "format_version" not in _mapping(folder / CONFIG)
    return Found(kind, folder / OURS if nested and (folder / OURS / CONFIG).is_file() else folder, name)


def _has_weights(found: Found) -> bool:
    assert found.folder is not None
    if found.kind == "open_clip":
        return any((found.folder / name).is_file() for name in OPEN_CLIP_WEIGHTS)
    if found.kind == "mmcontrast":
        return (found.folder / WEIGHTS).is_file()
    folder = module_folders(found.folder)[0][1] if found.kind == "sentence_transformers" else found.folder
    return (folder / WEIGHTS).is_file() or (folder / SHARDS).is_file()


def _best(folder: Path, name: str) -> Found:
    """The first format with weights that may be loaded; else the first, whose loader says what is missing."""
    found = [_found(kind, folder, name) for kind in _kinds(folder)]
    return next((one for one in found if _has_weights(one)), found[0])


def _from_hub(name: str, revision: str | None) -> Found:
    """Small files first, which tell the format; then the weights of that format only, of the same commit."""
    tell = [CONFIG, OPEN_CLIP_CONFIG, MODULES, f"{OURS}/{CONFIG}"]
    try:
        folder = _download(name, revision, allow_patterns=tell)
    except ModelError:
        refuse_bare_architecture(name)
        raise
    commit = folder.name if re.fullmatch("[0-9a-f]{40}", folder.name) else revision
    for kind in _kinds(folder):
        _download(name, commit, **_patterns(kind, folder))
        if _has_weights(_found(kind, folder, name)):
            return _found(kind, folder, name)
    pickles = _pickles_on_hub(name, commit)
    also = f" ({pickles[0]} is a pickle, which could run code: it is not loaded)" if pickles else ""
    raise ModelError(
        f"{name} has no model that can be loaded: {' and '.join(_kinds(folder))} without safetensors{also}"
    )


def refuse_bare_architecture(name: str) -> None:
    """Raise ModelError for a name of open_clip's own list, which says how a model is built but not what it learnt."""
    import open_clip  # late: only where a name leads nowhere

    architecture, _, tag = name.rpartition("/") if name not in open_clip.list_models() else (name, "", "")
    if architecture in open_clip.list_models():
        tags = open_clip.list_pretrained_tags_by_model(architecture)
        raise ModelError(
            f"{name}: weights of {architecture} are named as open_clip:{architecture}/{tag if tag in tags else 'TAG'} "
            f"(tags: {', '.join(tags) or 'none'}); without a tag they would be random"
        )


def _patterns(kind: Kind, folder: Path) -> dict[str, list[str]]:
    if kind == "mmcontrast":
        if "format_version" in _mapping(folder / CONFIG):
            return {"allow_patterns": [WEIGHTS, CONFIG, f"{TOKENIZER}/*"]}
        return {"allow_patterns": [f"{OURS}/{part}" for part in (WEIGHTS, CONFIG, f"{TOKENIZER}/*")]}
    if kind == "sentence_transformers":
        places = [path.relative_to(folder).as_posix() for _, path in module_folders(folder)]
        parts = [*_SMALL, WEIGHTS, "model-*.safetensors"]
        allowed = [*_SMALL, *(f"{place}/{part}" for place in places for part in parts)]
        return {"allow_patterns": [*allowed, *(parts if "." in places else [])], "ignore_patterns": ["onnx/*"]}
    return _WANTED[kind]


def _download(
    name: str, revision: str | None, allow_patterns: list[str], ignore_patterns: list[str] | None = None
) -> Path:
    try:
        return Path(
            snapshot_download(name, revision=revision, allow_patterns=allow_patterns, ignore_patterns=ignore_patterns)
        )
    except Exception as error:  # network, no such repository or revision, no access
        raise ModelError(f"{name} is neither a folder here nor to be had from the Hub: {one_line(error)}") from error


def _pickles_on_hub(name: str, revision: str | None) -> list[str]:
    try:
        return sorted(file for file in list_repo_files(name, revision=revision) if file.endswith(_PICKLES))
    except Exception:  # only the error message is poorer
        return []
