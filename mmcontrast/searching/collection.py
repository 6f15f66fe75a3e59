"""What is searched: the pictures of a folder, or the rows of a data set, each with a name and a state."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from mmcontrast.data import PairSource, open_source
from mmcontrast.data.columns import Columns, Wanted
from mmcontrast.data.digest import data_digest
from mmcontrast.data.folders import captions_file, folder_source, has_pictures, walk_pictures
from mmcontrast.data.map_source import RowSource
from mmcontrast.data.sources import make_wanted
from mmcontrast.errors import DataError
from mmcontrast.types import BadRow

State = tuple[int, int]
"""Size and time of change of the file that holds a picture: while they stay, so do its features."""


@dataclass(frozen=True)
class Collection:
    """n pictures.

    Attributes:
        root: what tells the collection from any other: a folder or file, and how it is read.
        source: the pictures and their captions.
        names: n different ones; of a file its path below the folder.
        states: n.
        notes: what the user should know.
    """

    root: str
    source: PairSource
    names: list[str]
    states: list[State]
    notes: list[str] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.names)

    def path(self, i: int) -> Path | None:
        """File of a picture that has one of its own."""
        found = self.source.image(i)
        return found.absolute() if isinstance(found, Path) else None


def open_collection(
    data: PairSource | str | Path,
    *,
    split: str | None = None,
    image_column: str | None = None,
    caption_columns: Sequence[str] | None = None,
) -> Collection:
    """Open what is to be searched; pictures are not decoded.

    Args:
        data: a folder with pictures in it or below, of which all are taken, captioned or not; otherwise anything that
            `open_source` opens, or an open source.
        split, image_column, caption_columns: as for `open_source`.

    Raises:
        DataError: nothing there, or it cannot be read.
    """
    if not isinstance(data, str | Path):
        return _of_source(data, f"{data.name}|{data_digest(data)}")
    folder = Path(data).expanduser()
    if folder.is_dir():
        try:
            os.scandir(folder).close()
        except OSError as error:
            raise DataError(f"{folder}: cannot be read: {error.strerror}") from None
        if split is None and has_pictures(folder):
            return _of_folder(folder, make_wanted(image_column, caption_columns, None, None, captions_optional=True))
    source = open_source(
        data, split=split, image_column=image_column, caption_columns=caption_columns, captions_optional=True
    )
    where = str(folder.resolve()) if folder.exists() else str(data)
    return _of_source(source, "|".join([where, split or "", source.columns.image]))


class FolderSource:
    """All pictures of a folder as a `PairSource`.

    Args:
        folder: above all of them.
        names: of the files, relative to it.
        captions: of each.
    """

    def __init__(self, folder: Path, names: list[str], captions: list[list[str]]) -> None:
        self.name = str(folder)
        self.columns = Columns("file", ("caption",) if any(captions) else ())
        self.label_names: list[str] | None = None
        self.bad_rows: list[BadRow] = []
        self._folder, self._names, self._captions = folder, names, captions

    def __len__(self) -> int:
        return len(self._names)

    def image(self, i: int) -> Path:
        """The file."""
        return self._folder / self._names[i]

    def captions(self, i: int) -> list[str]:
        """From the captions file, or the text file beside the picture."""
        return self._captions[i]

    def label(self, i: int) -> None:
        """None: a folder of pictures is searched, not classified."""

    def group(self, i: int) -> None:
        """None, as of `label`."""

    def row_number(self, i: int) -> int:
        """Position of the picture."""
        return i


class Chosen:
    """Some pictures of a source, as a `PairSource`; a bad row is told by its position among them."""

    def __init__(self, source: PairSource, positions: Sequence[int]) -> None:
        self.name, self.columns = source.name, source.columns
        self.label_names: list[str] | None = None
        self.bad_rows: list[BadRow] = []
        self._source = source
        self._positions = np.array(positions, dtype=np.int64)  # shared by the processes that decode

    def __len__(self) -> int:
        return len(self._positions)

    def image(self, i: int) -> bytes | Path:
        """The encoded picture, or its file."""
        return self._source.image(int(self._positions[i]))

    def captions(self, i: int) -> list[str]:
        """Of the picture."""
        return self._source.captions(int(self._positions[i]))

    def label(self, i: int) -> None:
        """None: as of `FolderSource`."""

    def group(self, i: int) -> None:
        """None: as of `FolderSource`."""

    def row_number(self, i: int) -> int:
        """Position among the chosen ones."""
        return i


def _of_folder(folder: Path, wanted: Wanted) -> Collection:
    folder = folder.resolve()
    unreadable: list[OSError] = []
    names: list[str] = []
    states: list[State] = []
    for name in walk_pictures(folder, unreadable.append):
        try:
            found = os.stat(folder / name)
        except OSError:
            continue  # gone since, or a link to nowhere
        names.append(name)
        states.append((found.st_size, found.st_mtime_ns))
    if not names:
        raise DataError(f"{folder}: no picture in it can be read")
    captions, notes = _captions(folder, names, wanted)
    if unreadable:
        first = unreadable[0]
        notes.append(f"{len(unreadable)} folders cannot be read; the first: {first.filename}: {first.strerror}")
    return Collection(str(folder), FolderSource(folder, names, captions), names, states, notes)


def _captions(folder: Path, names: list[str], wanted: Wanted) -> tuple[list[list[str]], list[str]]:
    """Captions of each picture, as far as there are any, and notes."""
    try:
        table = captions_file(folder)
        if table is None and not any((folder / name).with_suffix(".txt").is_file() for name in names):
            return [[] for _ in names], []
        source = folder_source(folder, wanted, None, str(folder))
    except DataError as error:  # a table of something else is no reason not to search the pictures
        return [[] for _ in names], [f"no captions are shown: {error}"]
    found = {os.path.normpath(str(source.image(i))): source.captions(i) for i in range(len(source))}
    return [found.get(str(folder / name), []) for name in names], []


def _of_source(source: PairSource, root: str) -> Collection:
    names, states = [], []
    known: dict[str, State | None] = {}
    own_files = isinstance(source.image(0), Path)  # as the first one, so are all
    for i in range(len(source)):
        if own_files:
            file = name = os.path.abspath(str(source.image(i)))
        else:
            file = source.file(i) if isinstance(source, RowSource) else ""
            name = f"{os.path.abspath(file) if os.path.exists(file) else source.name}#{source.row_number(i)}"
        if file not in known:
            known[file] = _state(file)
        names.append(name)
        states.append(known[file])
    # What stands in no file is told by what tells the whole data from any other.
    digest = (int(data_digest(source)[:15], 16), 0) if None in states else (0, 0)
    return Collection(root, source, _distinct(_shortened(names)), [state or digest for state in states])


def _state(file: str) -> State | None:
    try:
        found = os.stat(file)
    except OSError:
        return None
    return found.st_size, found.st_mtime_ns


def _shortened(names: list[str]) -> list[str]:
    """Without the folder that all of them share."""
    absolute = [name for name in names if os.path.isabs(name)]
    if not absolute or len(absolute) < len(names):
        return names
    above = os.path.commonpath({os.path.dirname(name) for name in names})
    return [os.path.relpath(name, above) for name in names]


def _distinct(names: list[str]) -> list[str]:
    """Names that come again get a number."""
    seen: dict[str, int] = {}
    result = []
    for name in names:
        seen[name] = seen.get(name, 0) + 1
        result.append(name if seen[name] == 1 else f"{name} ({seen[name]})")
    return result
