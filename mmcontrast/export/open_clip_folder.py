"""The config of an open_clip export: its name and place, and where it says that the tokenizer is."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

CONFIG, WEIGHTS = "open_clip_config.json", "open_clip_model.safetensors"
THIS_FOLDER = "."
"""For a tokenizer: of a local folder open_clip only asks whether there is a name. This one is in no repository."""


def write_config(folder: Path, values: dict[str, Any]) -> None:
    """Write open_clip_config.json: {model_cfg, preprocess_cfg}."""
    (folder / CONFIG).write_bytes(_bytes(values))


def point_tokenizer_at(folder: Path, repo_id: str) -> bool:
    """Make an export ready for a push; loading it from its folder stays as it is.

    Args:
        folder: an export.
        repo_id: where its files will be, ORGANISATION/NAME.

    Returns:
        Whether there was something to change.
    """
    path = folder / CONFIG
    if not path.is_file():
        return False
    before = path.read_bytes()
    path.write_bytes(after := pointed_at(before, repo_id))
    return after != before


def pointed_at(config: bytes, repo_id: str) -> bytes:
    """The config for `hf-hub:repo_id`, where the tokenizer is loaded by its name and not from where the config lies."""
    values = json.loads(config)
    text = values.get("model_cfg", {}).get("text_cfg", {})
    if not text.get("hf_tokenizer_name"):
        return config
    text["hf_tokenizer_name"] = repo_id
    return _bytes(values)


def _bytes(values: dict[str, Any]) -> bytes:
    return (json.dumps(values, indent=2) + "\n").encode()
