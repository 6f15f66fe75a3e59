"""Writing tars and the notes beside them so that a split is there whole, or not at all."""

from __future__ import annotations

import io
import shutil
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import filelock

from mmcontrast.data.web_dataset import KIND, SHARDS, read_lines
from mmcontrast.errors import DataError, MMContrastError


@contextmanager
def claimed(folder: Path, split: str, notes: Mapping[str, list[str]]) -> Iterator[Path]:
    """A hidden folder for a split, in a folder that this process alone writes to; gone after an error.

    Args:
        folder: new, empty, or with other splits and the same notes.
        split: name of the folder that the hidden one is to become.
        notes: lines of the files beside the splits.

    Raises:
        DataError: the folder holds something else, or this split; another process writes to it; or nobody can.
    """
    if split != Path(split).name or split.startswith("."):
        raise DataError(f"split {split!r} can be no folder: take a plain name such as test")
    if folder.exists() and not folder.is_dir():
        raise DataError(f"{folder} is a file; the data set needs a folder")
    is_new, part = not folder.exists(), folder / f".{split}.part"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with filelock.FileLock(folder / ".lock").acquire(blocking=False):
            try:
                _check_free(folder, split, notes)
                shutil.rmtree(part, ignore_errors=True)  # of a process that was killed
                part.mkdir()
                yield part
            finally:
                shutil.rmtree(part, ignore_errors=True)
                (folder / ".lock").unlink(missing_ok=True)
    except filelock.Timeout:
        raise DataError(f"another process writes to {folder}: wait for it, or choose another folder") from None
    except MMContrastError:
        raise
    except OSError as error:
        raise DataError(f"{folder}: cannot be written: {error.strerror or error}") from None
    finally:
        if is_new:
            with suppress(OSError):
                folder.rmdir()  # only where nothing is in it


def _check_free(folder: Path, split: str, notes: Mapping[str, list[str]]) -> None:
    if (folder / split).exists():
        raise DataError(f"{folder / split} is there already: remove it, or choose another folder or split")
    visible = sorted(path.name for path in folder.iterdir() if not path.name.startswith("."))
    if visible and KIND not in visible:
        raise DataError(f"{folder} holds other files ({visible[0]}); choose a new or empty folder")
    for name, lines in notes.items():
        if (folder / name).is_file() and read_lines(folder / name) != lines:
            raise DataError(f"{folder / name} says something else than this split's would: choose another folder")


def write_tars(folder: Path, samples: Iterator[tuple[int, Mapping[str, bytes]]], shards: int, rows: int) -> None:
    """Samples, given by row and {extension: bytes}, in tars 0.tar, 1.tar..., each of an equal part of the rows."""
    with ExitStack() as stack:
        tar, current = None, -1
        for row, members in samples:
            if tar is None or row * shards // rows != current:
                stack.close()
                current = row * shards // rows
                tar = stack.enter_context(tarfile.open(folder / f"{current}.tar", "w", format=tarfile.USTAR_FORMAT))
            for extension, data in members.items():
                entry = tarfile.TarInfo(f"{row:08d}.{extension}")
                entry.size = len(data)
                tar.addfile(entry, io.BytesIO(data))


def number_shards(folder: Path) -> int:
    """Number tars without a gap, as one without a usable row would leave, and note how many; returns that."""
    files = sorted(folder.glob("*.tar"), key=lambda path: int(path.stem))
    for number, file in enumerate(files):
        file.rename(folder / f"{number}.tar")
    replace_text(folder / SHARDS, [str(len(files))])
    return len(files)


def replace_text(path: Path, lines: Sequence[str]) -> None:
    """Write lines in one step."""
    part = path.with_name(f".{path.name}.part")
    part.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    part.replace(path)
