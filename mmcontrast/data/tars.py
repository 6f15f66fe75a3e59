"""WebDataset tars, read in place: `key.jpg` + `key.txt` / `key.json` / `key.cls`, as img2dataset writes them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any, BinaryIO

import numpy as np

from mmcontrast.data.columns import Columns, Wanted, choose_columns, drop_coarse_group
from mmcontrast.data.map_source import RowSource, collect
from mmcontrast.data.opening import open_file, read_errors
from mmcontrast.data.pictures import IMAGE_SUFFIXES
from mmcontrast.data.rows import RawRow
from mmcontrast.data.tar_index import Member, Sample, tar_samples
from mmcontrast.data.web_dataset import CLASSNAMES, LABEL_VECTOR, classes_in, kind_of, read_beside
from mmcontrast.errors import DataError

_SAMPLE = 200
_EXTENSIONS = frozenset(suffix[1:] for suffix in IMAGE_SUFFIXES)


def _image_extension(sample: Sample, wanted: str) -> str | None:
    if wanted in sample.members:
        return wanted
    return next((name for name in sample.members if name.rpartition(".")[2] in _EXTENSIONS), None)


def _read(tar: BinaryIO, member: Member) -> bytes:
    tar.seek(member.offset)
    return tar.read(member.size)


def tar_columns(file: str, wanted: Wanted, name: str) -> Columns:
    """Columns in use: extensions of members, and fields of the .json members."""
    found: dict[str, None] = {}
    groups: list[Any] = []
    with read_errors(file), open_file(file) as tar:
        samples = list(islice(tar_samples(tar, file), _SAMPLE))
        if not any(sample.members for sample in samples):
            raise DataError(f"{name}: there is no whole file in {file}: it is empty or cut off")
        for sample in samples:
            image = _image_extension(sample, wanted.image or "")
            found |= dict.fromkeys(key for key in sample.members if key == image or key not in _EXTENSIONS)
            found |= dict.fromkeys(_json(tar, sample))
        columns = choose_columns([key for key in found if key != "json"], _tar_wanted(wanted, found, file), name)
        if columns.group:
            groups = [_json(tar, sample).get(columns.group) for sample in samples]
    return drop_coarse_group(columns, groups)


def _tar_wanted(wanted: Wanted, found: dict[str, None], file: str) -> Wanted:
    """Guess in the order of WebDataset: members before the fields that img2dataset adds (`url`, `key`, ...)."""
    image = wanted.image or next((key for key in found if key.rpartition(".")[2] in _EXTENSIONS), None)
    captions = wanted.captions
    if captions is None and "txt" in found:
        captions = ("txt",)
    elif captions is None and LABEL_VECTOR in found and kind_of(file) == "multilabel":
        captions = (LABEL_VECTOR,)
    label = "cls" if wanted.label is None and "cls" in found else wanted.label
    return Wanted(image, captions, label, wanted.group)


def _json(tar: BinaryIO, sample: Sample) -> dict[str, Any]:
    if "json" not in sample.members or sample.cut:
        return {}
    try:
        value = json.loads(_read(tar, sample.members["json"]))
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def tar_rows(file: str, columns: Columns, *, pictures: bool) -> Iterator[RawRow]:
    """Rows of a tar; `image` is the picture's Member, or its bytes if `pictures`."""
    cells = [*columns.captions, columns.label, columns.group]
    names = _names_of_vectors(file) if LABEL_VECTOR in columns.captions else []
    with read_errors(file), open_file(file) as tar:
        for row, sample in enumerate(tar_samples(tar, file)):
            extension = _image_extension(sample, columns.image)
            raw = RawRow(file, row, None, [])
            if sample.cut:
                raw.problem = f"the tar is cut off at member {sample.key}: rows after it are missing"
            elif extension is None:
                raw.problem = f"no picture of key {sample.key}: only {', '.join(sample.members)}"
            else:
                fields = _json(tar, sample) if any(cell and cell not in sample.members for cell in cells) else {}
                raw.captions = [
                    None if column == LABEL_VECTOR else _cell(tar, sample, fields, column)
                    for column in columns.captions
                ]
                raw.label = _cell(tar, sample, fields, columns.label)
                raw.group = _cell(tar, sample, fields, columns.group)
                member = sample.members[extension]
                raw.image = _read(tar, member) if pictures else member
                raw.problem = None if member.size else f"empty picture of key {sample.key}"
                if names and raw.problem is None:
                    raw.problem = _add_classes(raw, columns, tar, sample, names)
            yield raw


def _names_of_vectors(file: str) -> list[str]:
    names = read_beside(file, CLASSNAMES)
    if not names:
        raise DataError(f"{file}: its .{LABEL_VECTOR} labels need a {CLASSNAMES} in the folder above")
    return names


def _add_classes(raw: RawRow, columns: Columns, tar: BinaryIO, sample: Sample, names: Sequence[str]) -> str | None:
    """The classes of a label vector as captions; returns what is wrong with it."""
    if LABEL_VECTOR not in sample.members:
        return f"no .{LABEL_VECTOR} of key {sample.key}"
    try:
        classes = classes_in(_read(tar, sample.members[LABEL_VECTOR]), names)
    except ValueError as error:
        return f"{error} (key {sample.key})"
    raw.captions[columns.captions.index(LABEL_VECTOR)] = classes
    return None


def _cell(tar: BinaryIO, sample: Sample, fields: dict[str, Any], column: str | None) -> Any:
    if column is None:
        return None
    if column not in sample.members:
        return fields.get(column)
    text = _read(tar, sample.members[column]).decode("utf-8", "replace").strip()
    # One caption a line, as CLIP_benchmark has it.
    return text.splitlines() if column == "txt" else text


class TarPictures:
    """Pictures within tars, by the place of their bytes."""

    def __init__(self, files: Sequence[str]) -> None:
        self._files = list(files)
        self._places = np.zeros((0, 3), dtype=np.int64)  # number of the file, offset, size

    def index(self, raw_rows: Sequence[RawRow]) -> None:
        """Take over the places of the pictures from the rows."""
        number_of = {file: number for number, file in enumerate(self._files)}
        empty = Member("", 0, 0)
        members = [(number_of[raw.file], raw.image or empty) for raw in raw_rows]
        self._places = np.array([(n, m.offset, m.size) for n, m in members], dtype=np.int64).reshape(-1, 3)

    def get(self, position: int) -> bytes:
        """The bytes of the picture."""
        number, offset, size = self._places[position].tolist()
        with open_file(self._files[number]) as tar:
            tar.seek(offset)  # opened anew each time: forked workers would share a file's position
            return tar.read(size)

    def problem(self, position: int) -> str | None:
        """Nothing that the rows do not say already."""
        return None


def tar_source(files: Sequence[str], wanted: Wanted, rows: int | None, name: str) -> RowSource:
    """Map-style source of WebDataset tars; nothing is unpacked."""
    columns = tar_columns(files[0], wanted, name)
    raw_rows = list(islice((raw for file in files for raw in tar_rows(file, columns, pictures=False)), rows))
    pictures = TarPictures(files)
    pictures.index(raw_rows)
    # A picture of none of the classes is one for which all of them are wrong.
    bare = columns.captions == (LABEL_VECTOR,)
    names = tar_class_names(files[0], columns)
    return collect(name, raw_rows, pictures, columns, label_names=names, captions_optional=bare)


def tar_class_names(file: str, columns: Columns) -> list[str] | None:
    """Class names from a classnames.txt beside the tars or above them (the layout of CLIP_benchmark)."""
    return None if columns.label is None else read_beside(file, CLASSNAMES) or None
