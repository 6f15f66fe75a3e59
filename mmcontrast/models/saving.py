"""The model folder: model.safetensors, config.json, tokenizer/; and the way to models of other libraries."""

from __future__ import annotations

import json
import shutil
import uuid
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import load_model as load_weights

from mmcontrast.errors import ModelError
from mmcontrast.models.build import build_dual_encoder
from mmcontrast.models.dual_encoder import DualEncoder
from mmcontrast.models.finding import CONFIG, TOKENIZER, WEIGHTS, find_model, refuse_missing_weights
from mmcontrast.models.lora import without_adapters
from mmcontrast.models.spec import ModelSpec
from mmcontrast.models.tokenizers import Tokenizer, load_tokenizer, save_tokenizer
from mmcontrast.models.towers import one_line
from mmcontrast.models.weights_file import write_weights
from mmcontrast.preprocess import ImagePreprocess

FORMAT_VERSION = 1


def save_model(model: DualEncoder, folder: Path) -> None:
    """Write the folder beside its place, then move it there: readers see the old model or the new one.

    Files of others in the folder (a model card, say) are kept. Adapters are merged into the weights.
    """
    folder = folder.expanduser().absolute()
    _refuse_foreign(folder)
    model = without_adapters(model)
    folder.parent.mkdir(parents=True, exist_ok=True)
    token = uuid.uuid4().hex[:8]
    new, old = (folder.with_name(f".{folder.name}.{token}.{state}") for state in ("new", "old"))
    try:
        new.mkdir()
        _write(model, new)
        if folder.exists():
            _copy_others(folder, new)
            folder.rename(old)
        new.rename(folder)
    except BaseException:
        if old.exists() and not folder.exists():
            old.rename(folder)
        raise
    finally:
        for leftover in (new, old):
            shutil.rmtree(leftover, ignore_errors=True)


def load_model(name: str | Path, revision: str | None = None) -> DualEncoder:
    """A model of ours or of another library, by folder or name, as `find_model` takes them; in evaluation mode."""
    found = find_model(name, revision)
    if found.kind == "mmcontrast":
        assert found.folder is not None
        return _load_own(found.folder)
    from mmcontrast.models.importing import import_model  # what our own models do not need

    return import_model(found)


def _load_own(folder: Path) -> DualEncoder:
    """Build what config.json describes, without downloading any pretrained weights, and fill in the weights."""
    config = _read_config(folder)
    weights = folder / WEIGHTS
    if not weights.is_file():
        raise refuse_missing_weights(folder, WEIGHTS)
    try:
        spec = ModelSpec.from_dict(config["spec"])
        preprocess = ImagePreprocess.from_dict(config["preprocess"])
        templates, extra = config.get("templates"), dict(config.get("extra") or {})
        if not (templates is None or (isinstance(templates, list) and all(isinstance(x, str) for x in templates))):
            raise TypeError("templates is no list of texts")
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise ModelError(f"{folder / CONFIG} is damaged: {type(error).__name__}: {one_line(error)}") from None
    tokenizer = load_tokenizer(folder / TOKENIZER)
    model = _build(spec, tokenizer, folder / CONFIG)
    _fill(model, weights)
    model.preprocess = preprocess
    model.templates = templates
    model.extra = extra
    return model.eval()


def _build(spec: ModelSpec, tokenizer: Tokenizer, file: Path) -> DualEncoder:
    """The libraries of the towers raise all kinds of errors at a config that nobody of us wrote."""
    try:
        return build_dual_encoder(spec, tokenizer, seed=0)
    except ModelError:
        raise
    except Exception as error:
        raise ModelError(f"{file} describes no model that can be built: {one_line(error)}") from error


def _write(model: DualEncoder, folder: Path) -> None:
    write_weights(model, folder / WEIGHTS)
    tokenizer = model.tokenizer
    names = ("kind", "vocab_size", "context_length", "pad_id", "eos_id")
    config = {
        "format_version": FORMAT_VERSION,
        "spec": model.spec.to_dict(),
        "preprocess": model.preprocess.to_dict(),
        "tokenizer": {name: getattr(tokenizer, name) for name in names},
        "templates": model.templates,
        "extra": model.extra,
    }
    (folder / CONFIG).write_text(json.dumps(config, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    save_tokenizer(tokenizer, folder / TOKENIZER)


def _refuse_foreign(folder: Path) -> None:
    if not folder.exists():
        return
    if not folder.is_dir():
        raise ModelError(f"{folder} is a file; a model needs a folder")
    if any(folder.iterdir()) and not _is_ours(folder):
        raise ModelError(f"{folder} holds other files than a model; choose a new or empty folder")


def _is_ours(folder: Path) -> bool:
    try:
        return "format_version" in json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    except (OSError, ValueError, TypeError, RecursionError):
        return False


def _copy_others(folder: Path, new: Path) -> None:
    for path in folder.iterdir():
        if path.name in (WEIGHTS, CONFIG, TOKENIZER):
            continue
        if path.is_dir():
            shutil.copytree(path, new / path.name, symlinks=True)
        else:
            shutil.copy2(path, new / path.name, follow_symlinks=False)


def _read_config(folder: Path) -> dict[str, Any]:
    try:
        config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ModelError(f"{folder} has no {CONFIG}") from None
    except (OSError, ValueError, RecursionError) as error:
        raise ModelError(f"{folder / CONFIG} cannot be read: {one_line(error)}") from None
    version = config.get("format_version") if isinstance(config, dict) else None
    if not isinstance(version, int):
        raise ModelError(f"{folder} is not a model of mmcontrast: its {CONFIG} has no format_version")
    if version > FORMAT_VERSION:
        raise ModelError(f"{folder} was written by a newer mmcontrast (format {version}): upgrade to load it")
    return dict(config)


def _fill(model: DualEncoder, path: Path) -> None:
    """Load the weights; every name and shape must agree."""
    try:
        with safe_open(path, framework="pt") as file:
            slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118
            shapes = {name: tuple(part.get_shape()) for name, part in slices.items()}
            kinds = {name: str(part.get_dtype()) for name, part in slices.items()}
        own = {name: tuple(value.shape) for name, value in model.state_dict().items()}
        floats = {name for name, value in model.state_dict().items() if value.is_floating_point()}
        # Anything else would be converted without a word.
        if odd := [name for name in kinds if name in floats and not kinds[name].startswith(("F", "BF"))]:
            raise ModelError(f"{path}: {odd[0]} holds {kinds[odd[0]]} where the model has floating-point numbers")
        if wrong := [name for name in shapes if name in own and own[name] != shapes[name]]:
            name = wrong[0]
            raise ModelError(f"{path}: {name} is {shapes[name]}, but the model's is {own[name]}")
        missing, unexpected = load_weights(model, str(path), strict=False)
    except (SafetensorError, RuntimeError, ValueError, OSError) as error:
        raise ModelError(f"{path} is damaged: {one_line(error)}") from None
    if missing or unexpected:
        what = "lacks" if missing else "has unknown weights"
        names = ", ".join(sorted(missing or unexpected)[:3])
        raise ModelError(f"{path} {what} {names}: config.json describes another model")
