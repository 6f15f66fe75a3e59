"""One function that opens any of the formats as a stream."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from mmcontrast.data import hub
from mmcontrast.data.arrow import arrow_errors
from mmcontrast.data.columns import Columns, Wanted
from mmcontrast.data.rows import RawRow
from mmcontrast.data.sources import locate, make_wanted, open_source
from mmcontrast.data.stream import PairStream, Unit, clean_rows, stream_of
from mmcontrast.data.tables import open_parquet, parquet_columns, parquet_rows, raw_row
from mmcontrast.data.tars import tar_class_names, tar_columns, tar_rows
from mmcontrast.data.text_tables import text_columns, text_rows


def open_stream(
    path: str | Path,
    *,
    format: str | None = None,
    split: str | None = None,
    rows: int | None = None,
    image_column: str | None = None,
    caption_columns: str | Sequence[str] | None = None,
    label_column: str | None = None,
    group_column: str | None = None,
    captions_optional: bool = False,
    seed: int = 0,
) -> PairStream:
    """Open image-caption pairs to be read in order, holding neither texts nor pictures in memory.

    The arguments are those of `open_source`. Two things differ for lack of a first look at the data: classes given
    as texts without a list of their names are left out, and rows that name the same picture file stay apart (their
    indices are equal, so that they are no negatives of one another).
    """
    name = str(path)
    wanted = make_wanted(image_column, caption_columns, label_column, group_column, captions_optional)
    if not name.startswith("synthetic://"):
        located = locate(name, format, split)
        if located.kind == "parquet":
            return _parquet_stream(located.files, wanted, rows, name)
        if located.kind == "tar":
            return _tar_stream(located.files, wanted, rows, name)
        if located.kind in ("csv", "tsv", "jsonl"):
            return _text_stream(located.files, located.kind, wanted, rows, name)
        if located.kind == "datasets" and not Path(located.files[0]).is_dir():
            return _hub_stream(located.files[0], split, wanted, rows, name)
    # Folders of pictures are listed, synthetic scenes drawn, and saved data sets memory-mapped: no less memory
    # would be needed to stream them.
    source = open_source(
        path,
        format=format,
        split=split,
        rows=rows,
        image_column=image_column,
        caption_columns=caption_columns,
        label_column=label_column,
        group_column=group_column,
        captions_optional=captions_optional,
        seed=seed,
    )
    return stream_of(source)


def _parquet_stream(files: Sequence[str], wanted: Wanted, rows: int | None, name: str) -> PairStream:
    columns, names = parquet_columns(files, wanted, name)
    units: list[Unit] = []
    for number, file in enumerate(files):
        with open_parquet(file) as parquet, arrow_errors(file):
            groups = parquet.metadata.num_row_groups
        for group in range(groups):
            read = partial(parquet_rows, file, columns, pictures=True, row_group=group)
            units.append(partial(clean_rows, read, columns, Path(file).parent, number))
    return PairStream(name, columns, names, units, rows, files=files)


def _tar_stream(files: Sequence[str], wanted: Wanted, rows: int | None, name: str) -> PairStream:
    columns = tar_columns(files[0], wanted, name)
    units: list[Unit] = [
        partial(clean_rows, partial(tar_rows, file, columns, pictures=True), columns, Path(), number)
        for number, file in enumerate(files)
    ]
    return PairStream(name, columns, tar_class_names(files[0], columns), units, rows, files=files)


def _text_stream(files: Sequence[str], kind: str, wanted: Wanted, rows: int | None, name: str) -> PairStream:
    columns, _ = text_columns(files[0], kind, wanted)
    units: list[Unit] = [
        partial(clean_rows, partial(text_rows, file, kind, columns), columns, Path(file).parent, number)
        for number, file in enumerate(files)
    ]
    return PairStream(name, columns, None, units, rows, files=files)


def _hub_stream(path: str, split: str | None, wanted: Wanted, rows: int | None, name: str) -> PairStream:
    dataset = hub.load(path, split, streaming=True)
    return dataset_stream(dataset, wanted, rows, name)


def dataset_stream(dataset: Any, wanted: Wanted, rows: int | None, name: str) -> PairStream:
    """Stream of a `datasets.IterableDataset`, one unit for each of its shards."""
    if dataset.features is None:
        dataset = dataset._resolve_features()
    columns = hub.dataset_columns(dataset.features, wanted, name)
    dataset = hub.without_decoding(dataset, columns.image)
    shards = dataset.num_shards
    units: list[Unit] = []
    for number in range(shards):
        read = partial(_dataset_rows, dataset.shard(shards, number), columns, name)
        units.append(partial(clean_rows, read, columns, Path(), number))
    return PairStream(name, columns, hub.class_names(dataset.features, columns.label), units, rows)


def _dataset_rows(dataset: Any, columns: Columns, name: str) -> Iterator[RawRow]:
    for row, record in enumerate(dataset):
        yield raw_row(record, columns, name, row)
