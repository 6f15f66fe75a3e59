"""Where pairs come from: one function that opens any of the formats by its path."""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path

from mmcontrast.data.columns import Wanted
from mmcontrast.data.folders import TEXT_KINDS, captions_file, folder_source, has_pictures
from mmcontrast.data.hub import dataset_source, is_saved_folder
from mmcontrast.data.opening import file_name, find_files, is_remote, list_files
from mmcontrast.data.rows import PairSource
from mmcontrast.data.tables import parquet_source
from mmcontrast.data.tars import tar_source
from mmcontrast.data.text_tables import text_source
from mmcontrast.data.web_dataset import check_shards
from mmcontrast.errors import DataError

SCENES = "synthetic://scenes"
FORMATS = ("parquet", "csv", "tsv", "jsonl", "tar", "folder", "datasets")
_ALIASES = {"webdataset": "tar", "wds": "tar", "tars": "tar", "hf": "datasets", "json": "jsonl", "ndjson": "jsonl"}
_SUFFIXES = {".parquet": "parquet", ".pq": "parquet", ".tar": "tar", **TEXT_KINDS}
_STREAMED = ("parquet", "tar")
_SPLITS = {
    "train": "train training",
    "validation": "validation val valid dev",
    "test": "test testing",
}
_HUB_NAME = re.compile(r"[\w-][\w.-]*(/[\w.-]+)?(:[\w.-]+)?")


@dataclass(frozen=True)
class Located:
    """What a path stands for: a format, and the files (or the one folder or name) of it."""

    kind: str
    files: tuple[str, ...]


def open_source(
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
) -> PairSource:
    """Open image-caption pairs for random access.

    Args:
        path: a Parquet, CSV, TSV, JSON lines or WebDataset tar file; a glob or {00..07} pattern of such files, which
            are read as one; a folder of them (of tars, also in CLIP_benchmark's layout); a folder of pictures with
            captions.csv (or metadata.jsonl, ...) or with a .txt beside each picture; a `datasets` Hub name
            ("owner/name" or "owner/name:config") or `save_to_disk` folder; or "synthetic://scenes".
        format: one of FORMATS, where the path does not say it.
        split: split of a data set or folder.
        rows: only the first so many rows.
        image_column, caption_columns, label_column, group_column: names of the columns; None = guess,
            "" = there is none. Several caption columns are pooled.
        captions_optional: pictures alone are enough; otherwise data without captions and labels is an error.
        seed: of synthetic scenes.

    Raises:
        DataError: nothing there, columns missing, or no usable row.
    """
    name = str(path)
    if name.startswith("synthetic://"):
        return _scenes(name, split, rows, seed)
    if rows is not None and rows < 1:
        raise DataError(f"{name}: rows = {rows}: at least 1 is needed")
    wanted = make_wanted(image_column, caption_columns, label_column, group_column, captions_optional)
    located = locate(name, format, split)
    files = located.files
    if located.kind == "parquet":
        return parquet_source(files, wanted, rows, name)
    if located.kind == "tar":
        return tar_source(files, wanted, rows, name)
    if located.kind == "folder":
        return folder_source(Path(files[0]), wanted, rows, name)
    if located.kind == "datasets":
        return dataset_source(files[0], split, wanted, rows, name)
    return text_source(files, located.kind, wanted, rows, name)


def make_wanted(
    image: str | None,
    captions: str | Sequence[str] | None,
    label: str | None,
    group: str | None,
    captions_optional: bool = False,
) -> Wanted:
    """The user's columns in one object."""
    names = (captions,) if isinstance(captions, str) else captions
    chosen = None if names is None else tuple(name for name in names if name)
    return Wanted(image or None, chosen, label, group, captions_optional)


def _scenes(path: str, split: str | None, rows: int | None, seed: int) -> PairSource:
    from mmcontrast.data.scenes import SceneSource  # late: other formats need no drawing

    if path != SCENES:
        raise DataError(f"{path}: the only synthetic data set is {SCENES}")
    return SceneSource(rows=2000 if rows is None else rows, split=split or "train", seed=seed)


def locate(path: str, format: str | None, split: str | None, *, remote: bool = False) -> Located:
    """Find the files that a path stands for, and their format; URLs only where they are to be streamed (`remote`)."""
    kind = _ALIASES.get(format, format) if format else None
    if kind is not None and kind not in FORMATS:
        raise DataError(f"{path}: unknown format {format!r}; known: {', '.join(FORMATS)}")
    if kind == "datasets":
        return Located("datasets", (path,))
    if is_remote(path):
        if not remote:
            raise DataError(
                f"{path}: files behind URLs are only streamed (data.streaming: true): otherwise download them first, "
                "or use a `datasets` Hub name"
            )
        return _locate_remote(path, kind, split)
    files = expand(path)
    if len(files) == 1 and os.path.isdir(files[0]):
        return _locate_in_folder(Path(files[0]), kind, split)
    if not files:
        return _not_on_disk(path)
    if split is not None:
        raise DataError(f"{path}: split {split!r} has no meaning for single files: name the files of that split")
    missing = [file for file in files if not os.path.isfile(file)]
    if missing:
        raise DataError(f"{path}: no such file: {missing[0]}")
    kinds = {kind or _SUFFIXES.get(Path(file).suffix.lower()) for file in files}
    found = kinds.pop()
    if found is None or kinds:
        raise DataError(f"{path}: unknown or mixed file formats; set data.train.format to one of {', '.join(FORMATS)}")
    return Located(found, tuple(files))


def _locate_remote(url: str, kind: str | None, split: str | None) -> Located:
    """Parquet files or tars behind URLs: one, a pattern, or all below a folder."""
    files = [file for pattern in _braced(url) for file in find_files(pattern)]
    kinds = {kind or _SUFFIXES.get(Path(file_name(file)).suffix.lower()) for file in files}
    if len(files) == 1 and kinds <= {None, kind} and (listed := list_files(files[0])):
        files = [file for file in listed if _SUFFIXES.get(Path(file).suffix.lower()) in ({kind} if kind else _STREAMED)]
        kinds = {_SUFFIXES[Path(file).suffix.lower()] for file in files}
        if split is not None:
            files, split = (
                [file for file in files if _split_in(file.removeprefix(url)) == (_split_in(split) or split)],
                None,
            )
    if not files:
        raise DataError(f"{url}: no such file or folder")
    if split is not None:
        raise DataError(f"{url}: split {split!r} has no meaning for single files: name the files of that split")
    found = kinds.pop()
    if found not in _STREAMED or kinds:
        raise DataError(f"{url}: behind URLs only Parquet files or only tars are read (data.train.format says which)")
    return Located(found, tuple(dict.fromkeys(files)))


def _not_on_disk(path: str) -> Located:
    if _SUFFIXES.get(Path(path).suffix.lower()) or not _HUB_NAME.fullmatch(path):
        raise DataError(f"{path}: no such file or folder")
    return Located("datasets", (path,))


def expand(path: str) -> list[str]:
    """Files that a path with {a,b}, {00..07} and * ? [] stands for; [] if nothing is there."""
    path = os.path.expanduser(path)
    if os.path.exists(path):
        return [path]
    patterns = _braced(path)
    if not any(symbol in path for symbol in "*?[{"):
        return []
    found: list[str] = []
    for pattern in patterns:
        found += sorted(glob.glob(pattern, recursive=True)) if re.search(r"[*?\[]", pattern) else [pattern]
    return list(dict.fromkeys(found))


def _braced(path: str) -> list[str]:
    parts = re.split(r"\{([^{}]+)\}", path)
    choices = [_brace(part) if number % 2 else [part] for number, part in enumerate(parts)]
    return ["".join(choice) for choice in product(*choices)]


def _brace(body: str) -> list[str]:
    match = re.fullmatch(r"(\d+)\.\.(\d+)", body)
    if match is None:
        return body.split(",")
    first, last = match.groups()
    width = len(first) if first.startswith("0") or len(first) == len(last) else 0
    return [str(number).zfill(width) for number in range(int(first), int(last) + 1)]


def _locate_in_folder(folder: Path, kind: str | None, split: str | None) -> Located:
    if kind is None and is_saved_folder(folder):
        return Located("datasets", (str(folder),))
    aliases = next((names.split() for names in _SPLITS.values() if split in names.split()), [split])
    for alias in aliases if split is not None else []:
        if (folder / str(alias)).is_dir():
            return _locate_in_folder(folder / str(alias), kind, None)
    for suffix, found in ((".parquet", "parquet"), (".tar", "tar")):
        files = sorted(path for path in folder.rglob(f"*{suffix}") if path.is_file())
        # What lies in hidden folders is a cache, or was not written to its end.
        files = [path for path in files if not any(p.startswith(".") for p in path.relative_to(folder).parts)]
        if files and kind in (None, found):
            files = _files_of_split(files, folder, split)
            if found == "tar":
                check_shards(files)
            return Located(found, tuple(map(str, files)))
    if kind in ("csv", "tsv", "jsonl"):
        files = sorted(path for path in folder.iterdir() if TEXT_KINDS.get(path.suffix.lower()) == kind)
        if files:
            return Located(kind, tuple(map(str, _files_of_split(files, folder, split))))
    if kind in (None, "folder") and (captions_file(folder) or has_pictures(folder)):
        if split is not None:
            raise DataError(f"{folder}: no split {split!r}: there is no folder of that name in it")
        return Located("folder", (str(folder),))
    raise DataError(f"{folder}: no data of a known format in this folder ({', '.join(sorted(_SUFFIXES))} or pictures)")


def _files_of_split(files: Sequence[Path], folder: Path, split: str | None) -> list[Path]:
    """The files of one split, told by the words in their names (train-00000-of-00002.parquet, data/val.parquet)."""
    split_of = {path: _split_in(str(path.relative_to(folder))) for path in files}
    splits = sorted({found for found in split_of.values() if found})
    if split is None:
        if len(splits) > 1:
            raise DataError(f"{folder}: holds the splits {', '.join(splits)}: name one (split), or give a file")
        return list(files)
    wanted = _split_in(split) or split
    chosen = [path for path in files if split_of[path] == wanted or wanted in re.split(r"[^\w]", path.stem)]
    if not chosen:
        raise DataError(f"{folder}: no split {split!r}; splits found: {', '.join(splits) or 'none'}")
    return chosen


def _split_in(name: str) -> str | None:
    words = re.split(r"[^a-z]+", name.lower())
    return next((split for split, aliases in _SPLITS.items() if set(aliases.split()) & set(words)), None)
