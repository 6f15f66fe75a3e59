"""The file that says of a folder, or of a repository, that it is an export, and of which model."""

from __future__ import annotations

import json
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from mmcontrast.errors import ModelError

MARKER = "mmcontrast_export.json"
"""Written last into each export; a folder without it, and not empty, is somebody else's."""


def mark(folder: Path, formats: Sequence[str], model: str) -> None:
    """Say in the folder that it is an export, of which formats and of which model (its digest)."""
    values = {"mmcontrast": _version(), "formats": list(formats), "model": model}
    (folder / MARKER).write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")


def is_export(folder: Path) -> bool:
    """Whether a finished export lies there."""
    return (folder / MARKER).is_file()


def read_marker(folder: Path) -> dict[str, Any]:
    """What an export says of itself.

    Raises:
        ModelError: `folder` is no finished export, or was written by a version that did not note the model.
    """
    try:
        marker = parse_marker((folder / MARKER).read_bytes())
    except OSError:
        raise ModelError(f"{folder} is not an export: it has no {MARKER}; write one with mmcontrast export") from None
    if marker is None:
        raise ModelError(f"{folder / MARKER} does not say which model this is: export it again")
    return marker


def parse_marker(text: bytes) -> dict[str, Any] | None:
    """The marker, or None where it is damaged or somebody else's."""
    try:
        marker = json.loads(text)
    except ValueError:
        return None
    return marker if isinstance(marker, dict) and isinstance(marker.get("model"), str) else None


def pushed_marker(marker: bytes, files: Sequence[str], card: str | None) -> bytes:
    """The marker with what the next push must know: what this one wrote, and git's name of its README.md."""
    values = {key: value for key, value in json.loads(marker).items() if key not in ("files", "card")}
    values["files"] = sorted(files)
    if card is not None:
        values["card"] = card
    return (json.dumps(values, indent=2) + "\n").encode()


def _version() -> str:
    try:
        return version("mmcontrast")
    except PackageNotFoundError:  # a checkout that is not installed
        return "0+unknown"
