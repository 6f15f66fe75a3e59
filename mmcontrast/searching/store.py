"""The files of an index: features and the table of what they are of, in safetensors, each whole or not there."""

from __future__ import annotations

import operator
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import filelock
import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from mmcontrast.errors import DataError
from mmcontrast.searching.collection import State

FORMAT = "mmcontrast search 1"
PATIENCE = 10.0
"""Seconds that another process which updates the same index is waited for."""
_KEYS = {"features", "states", "names", "name_ends", "problems", "problem_ends"}


@dataclass(frozen=True)
class Rows:
    """n rows of an index.

    Attributes:
        names: n.
        states: n, as they were when the features were made.
        features: (n, d) float32; zeros where there is a problem.
        problems: n, why a picture could not be decoded; "" where it could.
    """

    names: list[str]
    states: list[State]
    features: Tensor
    problems: list[str]

    @classmethod
    def none(cls) -> Rows:
        """No rows, of unknown width."""
        return cls([], [], torch.empty(0, 0), [])

    def __len__(self) -> int:
        return len(self.names)

    def take(self, positions: Sequence[int]) -> Rows:
        """Some of the rows, in that order."""
        chosen = torch.tensor(positions, dtype=torch.int64)
        return Rows(
            [self.names[i] for i in positions],
            [self.states[i] for i in positions],
            self.features[chosen],
            [self.problems[i] for i in positions],
        )


class Store:
    """One kind of rows ("pictures", "captions") of an index.

    KIND.safetensors holds the rows of the last complete update. KIND-00001.safetensors and so on hold those of one
    under way: if it is interrupted, the next goes on from them.

    Args:
        folder: of the index; created when something is written.
        kind: of the rows.
        stamp: what the features depend on beside the pictures, the model's digest.
    """

    def __init__(self, folder: Path, kind: str, stamp: str) -> None:
        self.folder, self.kind, self.stamp = folder, kind, stamp

    @property
    def _whole(self) -> Path:
        return self.folder / f"{self.kind}.safetensors"

    def _parts(self) -> list[Path]:
        return sorted(self.folder.glob(f"{self.kind}-[0-9]*.safetensors"))

    def read(self) -> Rows:
        """All rows; of those with the same name the newest.

        Raises:
            DataError: a file is damaged, or of another model.
        """
        files = [path for path in (self._whole, *self._parts()) if path.exists()]
        found = [rows for path in files if len(rows := _read(path, self.stamp))]
        if not found:
            return Rows.none()
        if len({rows.features.shape[1] for rows in found}) > 1:
            raise _damaged(files[-1], "features of several widths")
        names = [name for rows in found for name in rows.names]
        joined = Rows(
            names,
            [state for rows in found for state in rows.states],
            found[0].features if len(found) == 1 else torch.cat([rows.features for rows in found]),
            [problem for rows in found for problem in rows.problems],
        )
        newest = {name: i for i, name in enumerate(names)}
        return joined if len(newest) == len(names) else joined.take(list(newest.values()))

    def has_parts(self) -> bool:
        """Whether an update was left unfinished."""
        return bool(self._parts())

    def append(self, rows: Rows) -> None:
        """Keep rows of an update under way."""
        last = self._parts()[-1:]
        number = 1 + (int(last[0].stem.rpartition("-")[2]) if last else 0)
        _write(self.folder / f"{self.kind}-{number:05}.safetensors", rows, self.stamp)

    def replace(self, rows: Rows) -> None:
        """These rows and no others: the end of an update."""
        _write(self._whole, rows, self.stamp)
        self._remove(self._parts())

    def clear(self) -> None:
        """Remove all rows, damaged ones too."""
        self._remove([self._whole, *self._parts()])

    @staticmethod
    def _remove(files: Sequence[Path]) -> None:
        for path in files:
            path.unlink(missing_ok=True)

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Inside, no other process changes the index.

        Raises:
            DataError: another one does and is not done soon, or the folder cannot be written to.
        """
        lock = filelock.FileLock(self.folder / ".lock")
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            lock.acquire(timeout=PATIENCE)
        except filelock.Timeout:
            raise DataError(
                f"another process brings this index up to date ({self.folder}): wait for it, or give another --index"
            ) from None
        except OSError as error:
            raise _unwritable(self.folder, error) from None
        try:
            yield
        finally:
            lock.release()


def _write(path: Path, rows: Rows, stamp: str) -> None:
    tensors = {
        "features": rows.features.contiguous(),
        "states": torch.tensor(rows.states, dtype=torch.int64).view(-1, 2),
    }
    for key, texts in (("name", rows.names), ("problem", rows.problems)):
        tensors[f"{key}s"], tensors[f"{key}_ends"] = _packed(texts)
    aside = path.with_name(f".{path.name}.part")
    try:
        save_file(tensors, aside, {"format": FORMAT, "stamp": stamp})
        with aside.open("rb+") as file:
            os.fsync(file.fileno())
        os.replace(aside, path)
    except (SafetensorError, OSError) as error:
        raise _unwritable(path, error) from None
    finally:
        aside.unlink(missing_ok=True)


def _read(path: Path, stamp: str) -> Rows:
    try:
        with safe_open(path, "pt") as file:
            about = file.metadata() or {}
            if about.get("format") != FORMAT or about.get("stamp") != stamp or set(file.keys()) != _KEYS:
                raise _damaged(path, "of another model or version")
            tensors = {key: file.get_tensor(key) for key in _KEYS}
        names = _unpacked(tensors["names"], tensors["name_ends"])
        problems = _unpacked(tensors["problems"], tensors["problem_ends"])
        states = [(size, time) for size, time in tensors["states"].long().numpy().tolist()]
    except FileNotFoundError:  # another process has just put it together with others
        return Rows.none()
    except (SafetensorError, OSError, ValueError, IndexError, TypeError) as error:
        raise _damaged(path, str(error)) from None
    features = tensors["features"]
    if features.dtype != torch.float32 or features.dim() != 2 or not bool(features.sum().isfinite()):
        raise _damaged(path, "features that can be none")
    if not len(names) == len(problems) == len(states) == len(features):
        raise _damaged(path, "tables of several lengths")
    return Rows(names, states, features, problems)


def _unwritable(path: Path, error: Exception) -> DataError:
    why = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return DataError(f"{path}: the index cannot be written: {why}; give another --index")


def _damaged(path: Path, why: str) -> DataError:
    why = " ".join(why.split())[:200]
    return DataError(f"{path}: the index is damaged ({why}): add --rebuild to make it anew")


def _packed(texts: Sequence[str]) -> tuple[Tensor, Tensor]:
    """All bytes of n texts in a row, and the (n,) end of each; names of files need not be valid text."""
    data = [text.encode("utf-8", "surrogatepass") for text in texts]
    ends = np.cumsum([len(part) for part in data], dtype=np.int64)
    return torch.from_numpy(np.frombuffer(b"".join(data), np.uint8).copy()), torch.from_numpy(ends)


def _unpacked(data: Tensor, ends: Tensor) -> list[str]:
    content, stops = data.numpy().tobytes(), ends.numpy().tolist()
    starts = [0, *stops][:-1]
    if stops and (stops[-1] != len(content) or any(map(operator.gt, starts, stops))):
        raise ValueError("places of texts that can be none")
    if content.isascii():  # by far sooner, and there may be millions
        text = content.decode("ascii")
        return [text[start:stop] for start, stop in zip(starts, stops, strict=True)]
    return [content[start:stop].decode("utf-8", "surrogatepass") for start, stop in zip(starts, stops, strict=True)]
