"""One function that opens any of the formats as a stream."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from mmcontrast.data import hub
from mmcontrast.data.arrow import arrow_errors
from mmcontrast.data.columns import Columns, Wanted, choose_columns
from mmcontrast.data.opening import is_remote
from mmcontrast.data.rows import RawRow, Row
from mmcontrast.data.sources import locate, make_wanted, open_source
from mmcontrast.data.steady import PATIENCE, Patience, Unit, retried
from mmcontrast.data.stream import PairStream, clean_rows, stream_of
from mmcontrast.data.tables import as_wanted, open_parquet, parquet_columns, parquet_rows, raw_row
from mmcontrast.data.tars import tar_class_names, tar_columns, tar_rows
from mmcontrast.data.text_tables import text_columns, text_rows
from mmcontrast.errors import DataError
from mmcontrast.types import BadRow


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
    patience: Patience = PATIENCE,
    first_file: int = 0,
) -> PairStream:
    """Open image-caption pairs to be read in order, holding neither texts nor pictures in memory.

    The arguments are those of `open_source`. Parquet files and tars may also be behind URLs that fsspec knows (s3://,
    gs://, https://, ...); `patience` is for files that cannot be read at once, and `first_file` is the number of the
    first file, where the rows must not be mistaken for those of another stream. Two things differ for lack of a first
    look at the data: classes given as texts without a list of their names are left out, and rows that name the same
    picture file stay apart (their indices are equal, so that they are no negatives of one another).
    """
    name = str(path)
    wanted = make_wanted(image_column, caption_columns, label_column, group_column, captions_optional)
    if not name.startswith("synthetic://"):
        located = locate(name, format, split, remote=True)
        if located.kind == "parquet":
            return _parquet_stream(located.files, wanted, rows, name, patience, first_file)
        if located.kind == "tar":
            return _tar_stream(located.files, wanted, rows, name, patience, first_file)
        if located.kind in ("csv", "tsv", "jsonl"):
            return _text_stream(located.files, located.kind, wanted, rows, name, patience, first_file)
        if located.kind == "datasets" and not Path(located.files[0]).is_dir():
            loaded = hub.load(located.files[0], split, streaming=True)
            return dataset_stream(loaded, wanted, rows, name, patience, first_file)
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
    return stream_of(source, first_file=first_file)


def _parquet_stream(
    files: Sequence[str], wanted: Wanted, rows: int | None, name: str, patience: Patience, first_file: int
) -> PairStream:
    columns, names, units = None, None, []
    error: DataError | None = None
    for number, file in enumerate(files, first_file):
        try:
            if columns is None:
                columns, names = retried(partial(parquet_columns, [file], wanted, name), patience)
            groups = retried(partial(_row_groups, file, columns), patience)
        except DataError as found:
            error = error or found
            units.append(Unit(partial(_failed, found), file))
            continue
        for group, count in enumerate(groups):
            read = partial(parquet_rows, file, columns, pictures=True, row_group=group)
            clean = partial(clean_rows, read, columns, _root(file), number)
            units.append(Unit(clean, f"{file} (row group {group})", count))
    if columns is None:
        raise error or DataError(f"{name}: no files")
    return PairStream(name, columns, names, units, rows, files=files, patience=patience, num_files=len(files))


def _row_groups(file: str, columns: Columns) -> list[int]:
    """Rows of each row group."""
    with open_parquet(file) as parquet, arrow_errors(file):
        choose_columns(parquet.schema_arrow.names, as_wanted(columns), file)
        metadata = parquet.metadata
        return [int(metadata.row_group(group).num_rows) for group in range(metadata.num_row_groups)]


def _failed(error: DataError) -> Iterator[Row | BadRow]:
    """A file that could not even be opened."""
    raise error


def _root(file: str) -> Path | None:
    return None if is_remote(file) else Path(file).parent


def _tar_stream(
    files: Sequence[str], wanted: Wanted, rows: int | None, name: str, patience: Patience, first_file: int
) -> PairStream:
    columns = _first_columns(files, wanted, name, patience)
    units = [
        Unit(partial(clean_rows, partial(tar_rows, file, columns, pictures=True), columns, None, number), file)
        for number, file in enumerate(files, first_file)
    ]
    names = tar_class_names(files[0], columns)
    return PairStream(name, columns, names, units, rows, files=files, patience=patience, num_files=len(files))


def _first_columns(files: Sequence[str], wanted: Wanted, name: str, patience: Patience) -> Columns:
    """Columns of the first of some tars that can be read."""
    first: DataError | None = None
    for file in files:
        try:
            return retried(partial(tar_columns, file, wanted, name), patience)
        except DataError as error:
            first = first or error
    raise first or DataError(f"{name}: no files")


def _text_stream(
    files: Sequence[str], kind: str, wanted: Wanted, rows: int | None, name: str, patience: Patience, first_file: int
) -> PairStream:
    columns, _ = text_columns(files[0], kind, wanted)
    units = [
        Unit(partial(clean_rows, partial(text_rows, file, kind, columns), columns, Path(file).parent, number), file)
        for number, file in enumerate(files, first_file)
    ]
    return PairStream(name, columns, None, units, rows, files=files, patience=patience, num_files=len(files))


def dataset_stream(
    dataset: Any, wanted: Wanted, rows: int | None, name: str, patience: Patience = PATIENCE, first_file: int = 0
) -> PairStream:
    """Stream of a `datasets.IterableDataset`, one unit for each of its shards."""
    if dataset.features is None:
        dataset = dataset._resolve_features()
    columns = hub.dataset_columns(dataset.features, wanted, name)
    dataset = hub.without_decoding(dataset, columns.image)
    shards = dataset.num_shards
    units = []
    for number in range(shards):
        read = partial(_dataset_rows, dataset.shard(shards, number), columns, name)
        clean = partial(clean_rows, read, columns, Path(), first_file + number)
        units.append(Unit(clean, f"{name} (shard {number})"))
    names = hub.class_names(dataset.features, columns.label)
    return PairStream(name, columns, names, units, rows, patience=patience, num_files=shards)


def _dataset_rows(dataset: Any, columns: Columns, name: str) -> Iterator[RawRow]:
    # By batches: one by one, the library would deal the rows out to the workers once more, and most would get none.
    with hub.stream_errors(name):
        row = 0
        for batch in dataset.iter(batch_size=16):
            for values in zip(*batch.values(), strict=True):
                yield raw_row(dict(zip(batch, values, strict=True)), columns, name, row)
                row += 1
