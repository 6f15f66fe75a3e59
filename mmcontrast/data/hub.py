"""Data sets of the `datasets` library: by Hub name, or folders written by `save_to_disk`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa

from mmcontrast.data.columns import Columns, Wanted, choose_columns, drop_coarse_group, prefer_label_text
from mmcontrast.data.map_source import RowSource, collect, no_rows
from mmcontrast.data.pictures import ArrowPictures
from mmcontrast.data.tables import SAMPLE_ROWS, raw_row
from mmcontrast.errors import DataError, ReadError


def is_saved_folder(folder: Path) -> bool:
    """True of a folder that `save_to_disk` wrote."""
    return (folder / "state.json").is_file() or (folder / "dataset_dict.json").is_file()


def load(path: str, split: str | None, *, streaming: bool = False) -> Any:
    """A `datasets` data set from a saved folder or by name ("owner/name" or "owner/name:config")."""
    import datasets  # late: it costs a second that other formats need not pay

    try:
        if Path(path).is_dir():
            found = datasets.load_from_disk(path)
        else:
            name, _, config = path.partition(":")
            found = datasets.load_dataset(name, config or None, split=split or "train", streaming=streaming)
    except Exception as error:  # the library raises dozens of kinds, network errors among them
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise DataError(f"{path}: no such file or folder, and `datasets` cannot load it: {reason}") from None
    if isinstance(found, datasets.DatasetDict | datasets.IterableDatasetDict):
        wanted = split or ("train" if "train" in found else next(iter(found)))
        if wanted not in found:
            raise DataError(f"{path}: no split {wanted!r}; splits found: {', '.join(found)}")
        return found[wanted]
    if split is not None and Path(path).is_dir():
        raise DataError(f"{path}: holds a single data set, no split {split!r}: leave the split out")
    return found


@contextmanager
def stream_errors(name: str) -> Iterator[None]:
    """Whatever the library and the network say while rows of a stream are read becomes a ReadError."""
    try:
        yield
    except DataError:
        raise
    except Exception as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ReadError(f"{name}: cannot be read: {reason}") from None


def class_names(features: Any, label: str | None) -> list[str] | None:
    """Names of a ClassLabel feature."""
    names: list[str] | None = getattr(features.get(label), "names", None) if features else None
    return names


def dataset_columns(features: Any, wanted: Wanted, name: str) -> Columns:
    """Columns in use; without a hint from its name, the only picture feature is the picture column."""
    if wanted.image is None:
        pictures = [column for column, feature in features.items() if type(feature).__name__ == "Image"]
        if len(pictures) == 1:
            wanted = replace(wanted, image=pictures[0])
    columns = choose_columns(list(features), wanted, name)
    return prefer_label_text(columns, list(features), class_names(features, columns.label) is not None)


def without_decoding(dataset: Any, column: str) -> Any:
    """The data set with its pictures left as bytes."""
    import datasets

    if type(dataset.features[column]).__name__ != "Image":
        return dataset
    return dataset.cast_column(column, datasets.Image(decode=False))


def _column(dataset: Any, column: str) -> Any:
    """A column as a pyarrow.ChunkedArray; memory-mapped where the data set is."""
    return dataset.data.table.column(column)


def _in_table_order(dataset: Any) -> Any:
    """The data set with its rows written out in order, without the library's progress bar."""
    import datasets

    shown = not datasets.are_progress_bars_disabled()
    datasets.disable_progress_bars()
    try:
        return dataset.flatten_indices()
    finally:
        if shown:
            datasets.enable_progress_bars()


def dataset_source(path: str, split: str | None, wanted: Wanted, rows: int | None, name: str) -> RowSource:
    """Map-style source of a `datasets` data set."""
    dataset = load(path, split)
    if rows is not None and rows < len(dataset):
        dataset = dataset.select(range(rows))
    if not len(dataset):
        raise no_rows(name, [])
    # An order laid over the table by shuffle() or select() would make positions disagree with its rows.
    dataset = _in_table_order(dataset)
    columns = dataset_columns(dataset.features, wanted, name)
    used = [column for column in [*columns.captions, columns.label, columns.group] if column]
    kind = dataset.data.schema.field(columns.image).type
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        used.append(columns.image)
    table = dataset.data.table.select(list(dict.fromkeys(used)))
    if columns.group:
        columns = drop_coarse_group(columns, table.column(columns.group).slice(0, SAMPLE_ROWS).to_pylist())
    records = (record for batch in table.to_batches(8192) for record in batch.to_pylist())
    raw_rows = (raw_row(record, columns, name, row) for row, record in enumerate(records))
    root = Path(path) if Path(path).is_dir() else Path()
    pictures = ArrowPictures(partial(_column, dataset, columns.image), [(0, root)])
    source = collect(name, raw_rows, pictures, columns, label_names=class_names(dataset.features, columns.label))
    source.fingerprint = str(dataset._fingerprint)
    return source
