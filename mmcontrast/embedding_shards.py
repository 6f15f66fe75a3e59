"""The shards of a folder of features: each is there whole, or not at all."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, Literal, Self

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from mmcontrast.embedding_rows import Entry, Place
from mmcontrast.errors import DataError
from mmcontrast.types import BadRow

Format = Literal["npy", "parquet"]
Floats = NDArray[np.floating[Any]]
MANIFEST, SHARDS, SUMMARY, BAD_ROWS = "manifest.json", "shards.jsonl", "embed.json", "bad_rows.jsonl"
FORMAT_VERSION = 1
_NAME = re.compile(r"(images|texts|image_features|text_features|rows)-[0-9]{5,19}\.(parquet|npy|jsonl)")
_MOST = 2**40  # of features or bytes in a shard: sums of many still fit into 64 bits


@dataclass(frozen=True)
class Shard:
    """A complete shard; one line of shards.jsonl.

    Attributes:
        number: from 0.
        images, texts: features in it.
        place: behind its last row.
        files: name and bytes of each of its files.
        bad_rows: rows of it that could not be used.
    """

    number: int
    images: int
    texts: int
    place: Place
    files: dict[str, int]
    bad_rows: list[BadRow] = field(default_factory=list)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """The inverse of `dataclasses.asdict`, from JSON.

        Raises:
            ValueError, KeyError, TypeError, AttributeError: a field is missing, unknown, or none that it can be.
        """
        bad_rows = [BadRow(**row) for row in values["bad_rows"]]
        shard = cls(**{**values, "place": Place(**values["place"]), "bad_rows": bad_rows})
        numbers = [shard.number, shard.images, shard.texts, shard.place.unit, shard.place.offset, shard.place.rows]
        numbers += shard.files.values()
        if not all(type(number) is int and 0 <= number < _MOST for number in numbers):
            raise ValueError("a number that can be none")
        if not all(_NAME.fullmatch(name) for name in shard.files):
            raise ValueError("a file that is none of ours")
        return shard


@dataclass(frozen=True)
class ShardContent:
    """What is written as one shard.

    Attributes:
        images: (n, d) features of its pictures.
        texts: (m, d) features of their captions.
        entries: n, of the pictures.
        first_image, first_text: positions of the first ones in the whole folder.
    """

    images: Floats
    texts: Floats
    entries: Sequence[Entry]
    first_image: int
    first_text: int

    def rows(self) -> list[dict[str, Any]]:
        """One record for each picture; `texts` is the span of its captions' positions."""
        rows, start = [], self.first_text
        for entry in self.entries:
            stop = start + len(entry.captions)
            rows.append({**entry._asdict(), "texts": [start, stop]})
            start = stop
        return rows


def shard_files(number: int, format: Format) -> dict[str, str]:
    """Names of the files of a shard; those that would hold nothing are not written."""
    if format == "parquet":
        return {"images": f"images-{number:05}.parquet", "texts": f"texts-{number:05}.parquet"}
    return {
        "images": f"image_features-{number:05}.npy",
        "texts": f"text_features-{number:05}.npy",
        "rows": f"rows-{number:05}.jsonl",
    }


def write_shard(folder: Path, number: int, format: Format, content: ShardContent) -> dict[str, int]:
    """Write the files of a shard, flushed to disk; returns name and size of each."""
    names = shard_files(number, format)
    writers: dict[str, Callable[[BinaryIO], object]] = {}
    if format == "parquet":
        if len(content.images):
            writers[names["images"]] = lambda file: _write_table(_images_table(content), file)
        if len(content.texts):
            writers[names["texts"]] = lambda file: _write_table(_texts_table(content), file)
    else:
        if len(content.images):
            writers[names["images"]] = lambda file: np.save(file, content.images, allow_pickle=False)
            writers[names["rows"]] = lambda file: file.writelines(map(json_line, content.rows()))
        if len(content.texts):
            writers[names["texts"]] = lambda file: np.save(file, content.texts, allow_pickle=False)
    for name, write in writers.items():
        write_whole(folder / name, write)
    return {name: (folder / name).stat().st_size for name in writers}


def _images_table(content: ShardContent) -> pa.Table:
    rows = content.rows()
    types = {
        "row": pa.int64(),
        "file": pa.string(),
        "label": pa.int64(),
        "group": pa.string(),
        "captions": pa.list_(pa.string()),
        "texts": pa.list_(pa.int64()),
    }
    columns = {name: pa.array([row[name] for row in rows], type=kind) for name, kind in types.items()}
    return pa.table({**columns, "feature": _vectors(content.images)})


def _texts_table(content: ShardContent) -> pa.Table:
    captions = [caption for entry in content.entries for caption in entry.captions]
    images = np.repeat(np.arange(len(content.entries)), [len(entry.captions) for entry in content.entries])
    return pa.table(
        {"image": content.first_image + images, "caption": captions, "feature": _vectors(content.texts)},
    )


def _vectors(features: Floats) -> pa.Array:
    return pa.FixedSizeListArray.from_arrays(pa.array(features.reshape(-1)), features.shape[1])


def _write_table(table: pa.Table, file: BinaryIO) -> None:
    repeated = ["file", "group", "caption", "captions.list.element"]  # a dictionary of features outgrows them
    pq.write_table(table, file, use_dictionary=repeated, compression="zstd", row_group_size=8192)


def json_line(value: Mapping[str, Any]) -> bytes:
    """One line of a .jsonl file."""
    # A name that is no valid text leaves halves of characters, which are escaped as JSON has it.
    return json.dumps(value, ensure_ascii=False).encode("utf-8", "backslashreplace") + b"\n"


def read_shards(folder: Path) -> list[Shard]:
    """The complete shards in shards.jsonl; a line that a dying process left unfinished does not count."""
    path = folder / SHARDS
    if not path.exists():
        return []
    lines = [line for line in path.read_bytes().split(b"\n")[:-1] if line]
    try:
        return [Shard.from_dict(json.loads(line)) for line in lines]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise DataError(f"{path} is damaged ({type(error).__name__}): remove {folder} and embed again") from None


def whole_shards(folder: Path) -> list[Shard]:
    """The shards up to the first one whose files are not as they were written; shards.jsonl is cut to them."""
    found = read_shards(folder)
    whole = next((number for number, shard in enumerate(found) if damaged_file(folder, shard)), len(found))
    write_whole(folder / SHARDS, lambda file: file.writelines(json_line(asdict(shard)) for shard in found[:whole]))
    return found[:whole]


def damaged_file(folder: Path, shard: Shard) -> str | None:
    """A file of the shard that is missing or of another size."""
    for name, size in shard.files.items():
        path = folder / name
        if not path.is_file() or path.stat().st_size != size:
            return name
    return None


def append_shard(folder: Path, shard: Shard) -> None:
    """Make a shard valid: its line comes after its files are on the disk."""
    _sync_folder(folder)
    with (folder / SHARDS).open("ab") as file:
        file.write(json_line(asdict(shard)))
        file.flush()
        os.fsync(file.fileno())


def write_lines(path: Path, values: Iterable[Mapping[str, Any]]) -> None:
    """A .jsonl file, whole or not at all."""
    write_whole(path, lambda file: file.writelines(map(json_line, values)))


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """A .json file, whole or not at all."""
    text = json.dumps(value, indent=2, ensure_ascii=False) + "\n"
    write_whole(path, lambda file: file.write(text.encode()))


def write_whole(path: Path, write: Callable[[BinaryIO], object]) -> None:
    """Write a file beside its place, flush it to disk, then move it there."""
    aside = path.with_name(f".{path.name}.part")
    try:
        with aside.open("wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(aside, path)
    finally:
        aside.unlink(missing_ok=True)


def _sync_folder(folder: Path) -> None:
    if hasattr(os, "O_DIRECTORY"):
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
