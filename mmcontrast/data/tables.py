"""Parquet files: their rows as they stand, and map-style sources of them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from mmcontrast.data.arrow import arrow_errors
from mmcontrast.data.columns import Columns, Wanted, choose_columns, drop_coarse_group, prefer_label_text
from mmcontrast.data.map_source import RowSource, collect, no_rows
from mmcontrast.data.opening import is_remote, open_file
from mmcontrast.data.pictures import ArrowPictures, parquet_column
from mmcontrast.data.rows import RawRow, without_surrogates

SAMPLE_ROWS = 2000


def class_names(schema_metadata: dict[bytes, bytes] | None, label: str | None) -> list[str] | None:
    """Names of a ClassLabel column, which `datasets` keeps in the metadata of the schema."""
    try:
        info = json.loads((schema_metadata or {})[b"huggingface"])
        names = info["info"]["features"][label].get("names")
    except (KeyError, ValueError, TypeError, AttributeError, RecursionError):
        return None
    texts = isinstance(names, list) and all(isinstance(name, str) for name in names)
    return [without_surrogates(name) for name in names] if texts and names else None


PROBLEM = "\0problem"
"""Key under which a reader of records says why a record is unusable."""


def raw_row(record: dict[str, Any], columns: Columns, file: str, row: int) -> RawRow:
    """Pick the columns in use out of a record."""
    problem = record.get(PROBLEM)
    return RawRow(
        file,
        row,
        record.get(columns.image),
        [record.get(column) for column in columns.captions],
        record.get(columns.label) if columns.label else None,
        record.get(columns.group) if columns.group else None,
        problem if isinstance(problem, str) else None,
    )


@contextmanager
def open_parquet(file: str) -> Iterator[pq.ParquetFile]:
    """A Parquet file: memory-mapped, or behind a URL."""
    source: Any = open_file(file) if is_remote(file) else file
    try:
        with arrow_errors(file):
            parquet = pq.ParquetFile(source, memory_map=source is file, pre_buffer=source is not file)
        with parquet:
            yield parquet
    finally:
        if source is not file:
            source.close()


def parquet_columns(files: Sequence[str], wanted: Wanted, name: str) -> tuple[Columns, list[str] | None]:
    """Columns in use and class names; every file must have the columns."""
    with open_parquet(files[0]) as first, arrow_errors(files[0]):
        schema = first.schema_arrow
        columns = choose_columns(schema.names, wanted, name)
        columns = prefer_label_text(columns, schema.names, class_names(schema.metadata, columns.label) is not None)
        if columns.group:
            batch = next(first.iter_batches(batch_size=SAMPLE_ROWS, columns=[columns.group]), None)
            columns = drop_coarse_group(columns, batch.column(0).to_pylist() if batch is not None else [])
    for file in files[1:]:
        with open_parquet(file) as other, arrow_errors(file):
            choose_columns(other.schema_arrow.names, as_wanted(columns), file)
    return columns, class_names(schema.metadata, columns.label)


def as_wanted(columns: Columns) -> Wanted:
    """Ask for exactly these columns."""
    return Wanted(columns.image, columns.captions, columns.label or "", columns.group or "")


def parquet_rows(file: str, columns: Columns, *, pictures: bool, row_group: int | None = None) -> Iterator[RawRow]:
    """Rows of a Parquet file, or of one of its row groups; without the pictures unless asked for."""
    names = [*columns.captions, columns.label, columns.group, columns.image if pictures else None]
    with open_parquet(file) as parquet, arrow_errors(file):
        meta = parquet.metadata
        groups = range(meta.num_row_groups) if row_group is None else [row_group]
        row = sum(meta.row_group(number).num_rows for number in range(row_group or 0))
        used = list(dict.fromkeys(name for name in names if name))
        for batch in parquet.iter_batches(batch_size=256 if pictures else 8192, row_groups=groups, columns=used):
            for record in batch.to_pylist():
                yield raw_row(record, columns, file, row)
                row += 1


def parquet_source(files: Sequence[str], wanted: Wanted, rows: int | None, name: str) -> RowSource:
    """Map-style source of Parquet files."""
    columns, names = parquet_columns(files, wanted, name)
    sizes = [0]
    for file in files:
        with open_parquet(file) as parquet, arrow_errors(file):
            sizes.append(sizes[-1] + parquet.metadata.num_rows)
            kind = parquet.schema_arrow.field(columns.image).type
    if not sizes[-1]:
        raise no_rows(name, [])
    # Names of pictures are texts, and rows that share one are merged: they are read with the texts.
    named = pa.types.is_string(kind) or pa.types.is_large_string(kind)
    raw_rows = chain.from_iterable(parquet_rows(file, columns, pictures=named) for file in files)
    roots = [(start, Path(file).parent) for start, file in zip(sizes, files, strict=False)]
    pictures = ArrowPictures(partial(parquet_column, list(files), columns.image, rows), roots)
    return collect(name, raw_rows, pictures, columns, label_names=names, limit=rows)
