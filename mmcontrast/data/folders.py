"""A folder of pictures with a captions file, or with a text file beside each picture."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path

from mmcontrast.data.columns import Columns, Wanted, choose_columns
from mmcontrast.data.map_source import RowSource, collect, no_rows
from mmcontrast.data.pictures import IMAGE_SUFFIXES, FilePictures, picture_name
from mmcontrast.data.rows import RawRow
from mmcontrast.data.text_tables import text_columns, text_rows, text_source
from mmcontrast.errors import DataError

TEXT_KINDS = {".csv": "csv", ".tsv": "tsv", ".jsonl": "jsonl", ".ndjson": "jsonl", ".json": "jsonl", ".txt": "csv"}
_NAMES = ("captions", "metadata", "caption", "annotations", "results", "labels")
_PICTURE_FOLDERS = ("", "images", "Images", "image", "imgs", "img", "pictures", "photos", "data")


def captions_file(folder: Path) -> Path | None:
    """The file of captions in a folder: captions.*, metadata.*, ..., or the only table there is.

    Raises:
        DataError: several tables, and none has such a name.
    """
    stems = _picture_stems(folder)
    tables = [
        path
        for path in sorted(folder.iterdir())
        if path.suffix.lower() in TEXT_KINDS and path.is_file() and path.stem not in stems
    ]
    for name in _NAMES:
        for path in tables:
            if path.stem.lower() == name:
                return path
    # A README.txt is no table, and neither is the dataset_info.json of other tools.
    tables = [path for path in tables if path.suffix.lower() not in (".txt", ".json")]
    if len(tables) > 1:
        names = ", ".join(path.name for path in tables)
        raise DataError(f"{folder}: several tables ({names}): give the path of one, or call it captions.csv")
    return tables[0] if tables else None


def _picture_stems(folder: Path) -> set[str]:
    return {path.stem for path in folder.iterdir() if path.suffix.lower() in IMAGE_SUFFIXES}


def picture_root(table: Path, wanted: Wanted) -> Path:
    """Folder that the names in a captions file are relative to: its own, or `images` and the like in it."""
    kind = TEXT_KINDS[table.suffix.lower()]
    columns, _ = text_columns(str(table), kind, wanted)
    sample = islice(text_rows(str(table), kind, columns), 20)
    names = [name for raw in sample if (name := picture_name(raw.image)) is not None]
    roots = [table.parent / folder for folder in _PICTURE_FOLDERS]
    # Not is_file, which raises at names that are too long.
    return max(roots, key=lambda root: sum(os.path.isfile(root / name) for name in names))


def has_pictures(folder: Path) -> bool:
    """True if there is a picture in the folder or below."""
    return next(walk_pictures(folder), None) is not None


def walk_pictures(folder: Path, unreadable: Callable[[OSError], object] | None = None) -> Iterator[str]:
    """Names of all pictures in a folder and below, relative to it, in sorted order.

    `unreadable` is told of folders below that cannot be listed; they are passed over.
    """
    for parent, folders, files in os.walk(folder, onerror=unreadable):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(files):
            if not name.startswith(".") and os.path.splitext(name)[1].lower() in IMAGE_SUFFIXES:
                yield os.path.relpath(os.path.join(parent, name), folder)


def folder_source(folder: Path, wanted: Wanted, rows: int | None, name: str) -> RowSource:
    """Map-style source of a folder of pictures.

    The captions come from a captions file if there is one; otherwise from the text file beside each picture, one
    caption a line. In the latter case the name of a picture's subfolder is its label, where there are several.
    """
    table = captions_file(folder)
    if table is not None:
        kind = TEXT_KINDS[table.suffix.lower()]
        return text_source([str(table)], kind, wanted, rows, name, picture_root(table, wanted))
    names = list(islice(walk_pictures(folder), rows))
    if not names:
        raise no_rows(name, [])
    columns = _sidecar_columns(folder, names, wanted, name)
    return collect(name, _sidecar_rows(folder, names, columns), FilePictures(folder, names), columns)


def _sidecar_columns(folder: Path, names: list[str], wanted: Wanted, where: str) -> Columns:
    found = ["file"]
    if any((folder / name).with_suffix(".txt").is_file() for name in names):
        found.append("txt")
    if len({os.path.dirname(name) for name in names}) > 1:
        found.append("label")
    note = " (no captions.csv or other captions file, no .txt beside a picture)" if "txt" not in found else ""
    columns = choose_columns(found, wanted, where, note)
    return Columns("file", columns.captions, columns.label, None, columns.guessed)


def _sidecar_rows(folder: Path, names: list[str], columns: Columns) -> Iterator[RawRow]:
    for row, name in enumerate(names):
        label = os.path.basename(os.path.dirname(name)) if columns.label else None
        raw = RawRow(os.path.join(folder, name), row, None, [], label)
        if columns.captions:
            path = (folder / name).with_suffix(".txt")
            try:
                raw.captions = [path.read_text(encoding="utf-8-sig").splitlines()]
            except OSError:
                raw.problem = f"missing captions file: {path}"
            except UnicodeDecodeError:
                raw.problem = f"not UTF-8 text: {path}"
        yield raw
