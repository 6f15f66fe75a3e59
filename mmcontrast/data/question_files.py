"""Files of questions on pictures: which caption is the right one (SugarCrepe), which caption is whose (Winoground)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from mmcontrast.data.columns import Columns
from mmcontrast.data.map_source import RowSource, collect
from mmcontrast.data.pictures import FilePictures
from mmcontrast.data.rows import RawRow
from mmcontrast.errors import DataError

_SUGAR_CREPE = ("filename", "caption", "negative_caption")
_WINOGROUND = ("image_0", "image_1", "caption_0", "caption_1")
_ENDINGS = ("", ".png", ".jpg", ".jpeg", ".webp")
_HEAD = 1 << 14


def open_questions(path: str | Path) -> RowSource | None:
    """The rows of a JSON file in SugarCrepe's or Winoground's format; None for any other file.

    SugarCrepe: an object (or list) of {"filename", "caption", "negative_caption"} becomes a picture with two
    captions, the right one first. Winoground: {"image_0", "image_1", "caption_0", "caption_1"}, in a list or one a
    line, becomes two pictures with their own caption, and one group. Names of pictures start at the file's folder, or
    at "images" in it; their ending may be left out.

    Raises:
        DataError: an entry lacks a field or holds an empty caption, or no picture is there.
    """
    file = Path(path)
    if file.suffix.lower() not in (".json", ".jsonl") or not file.is_file() or not _looks_like_questions(file):
        return None
    records = _records(file)
    first = records[0] if records and isinstance(records[0], dict) else {}
    for fields, expand in ((_SUGAR_CREPE, _sugar_crepe), (_WINOGROUND, _winoground)):
        if all(name in first for name in fields):
            for number, record in enumerate(records):
                _check(file, number, record, fields)
            columns, rows = expand(file, records)
            return collect(str(path), rows, FilePictures(file.parent, [row.image for row in rows]), columns)
    return None


def _looks_like_questions(file: Path) -> bool:
    """By its beginning: a large table of something else should not be read for nothing."""
    try:
        with file.open(encoding="utf-8-sig", errors="replace") as opened:
            head = opened.read(_HEAD)
    except OSError:
        return False
    return any(f'"{name}"' in head for name in (_SUGAR_CREPE[-1], _WINOGROUND[-1]))


def _records(file: Path) -> list[Any]:
    try:
        text = file.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError):
        return []  # whoever opens it next says why
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        try:
            return [json.loads(line) for line in text.splitlines() if line.strip()]
        except (ValueError, RecursionError):
            return []
    if isinstance(found, dict) and not any(name in found for name in (*_SUGAR_CREPE, *_WINOGROUND)):
        return list(found.values())
    return found if isinstance(found, list) else [found]


def _check(file: Path, number: int, record: Any, fields: tuple[str, ...]) -> None:
    for name in fields:
        value = record.get(name) if isinstance(record, dict) else None
        if not isinstance(value, str) or not value.strip():
            raise DataError(f"{file}: entry {number}: {name} is missing or empty")


def _sugar_crepe(file: Path, records: list[Any]) -> tuple[Columns, list[RawRow]]:
    rows = [
        RawRow(
            str(file), number, _find(file.parent, record["filename"]), [record["caption"], record["negative_caption"]]
        )
        for number, record in enumerate(records)
    ]
    return Columns("filename", ("caption", "negative_caption")), rows


def _winoground(file: Path, records: list[Any]) -> tuple[Columns, list[RawRow]]:
    rows = []
    for number, record in enumerate(records):
        for side in (0, 1):
            image = _find(file.parent, record[f"image_{side}"])
            rows.append(RawRow(str(file), 2 * number + side, image, [record[f"caption_{side}"]], group=str(number)))
    return Columns("image", ("caption",), None, "group"), rows


def _find(folder: Path, name: str) -> str:
    for inner in ("", "images/"):
        for ending in _ENDINGS:
            if (folder / f"{inner}{name}{ending}").is_file():
                return f"{inner}{name}{ending}"
    return name
