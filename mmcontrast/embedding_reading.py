"""Reading a folder of features: `mmcontrast.load_features`."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from itertools import accumulate
from pathlib import Path
from typing import Any, Literal, overload

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray

from mmcontrast.embedding_row_files import Rows, damage_of
from mmcontrast.embedding_shards import (
    FORMAT_VERSION,
    MANIFEST,
    SUMMARY,
    Floats,
    Format,
    damaged_file,
    read_shards,
    shard_files,
)
from mmcontrast.errors import DataError

Side = Literal["image", "text"]
_LARGEST_DIMENSION = 2**20


class ShardedArray:
    """The (n, d) features of all shards as one array, which stays on the disk.

    Rows are read as `array[i]`, `array[start:stop]` or `array[[i, j, ...]]`; `np.asarray(array)` reads all of them,
    `blocks()` a shard at a time. Shards of .npy files are memory-mapped; of .parquet the last two read are kept.

    Attributes:
        shape: (n, d).
        dtype: float32 or float16.
    """

    def __init__(self, files: Sequence[Path], counts: Sequence[int], dimension: int, dtype: str) -> None:
        self._files = list(files)
        self._starts = [0, *accumulate(counts)]
        self.shape, self.dtype = (self._starts[-1], dimension), np.dtype(dtype)
        self._read = lru_cache(maxsize=2)(_parquet_features)
        self._maps: dict[int, Floats] = {}

    def __len__(self) -> int:
        return self.shape[0]

    def blocks(self) -> Iterator[tuple[int, Floats]]:
        """Position of the first row, and the (b, d) features, of each shard in turn."""
        for number, start in enumerate(self._starts[:-1]):
            yield start, self._shard(number)

    @overload
    def __getitem__(self, rows: int) -> Floats: ...
    @overload
    def __getitem__(self, rows: slice | Sequence[int] | NDArray[np.integer[Any]]) -> Floats: ...
    def __getitem__(self, rows: int | slice | Sequence[int] | NDArray[np.integer[Any]]) -> Floats:
        """(d,) of one row, (b, d) of several."""
        if isinstance(rows, int | np.integer):
            one: Floats = self[[int(rows)]][0]
            return one
        if isinstance(rows, slice):
            rows = np.arange(*rows.indices(len(self)))
        wanted = np.asarray(rows, dtype=np.int64)
        if len(wanted) and not (-len(self) <= wanted.min() and wanted.max() < len(self)):
            raise IndexError(f"there are {len(self)} features, and none at {wanted.max()}")
        wanted = np.where(wanted < 0, wanted + len(self), wanted)
        found: Floats = np.empty((len(wanted), self.shape[1]), self.dtype)
        shards = np.searchsorted(self._starts, wanted, side="right") - 1
        for number in np.unique(shards).tolist():
            mine = shards == number
            found[mine] = self._shard(number)[wanted[mine] - self._starts[number]]
        return found

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Floats:
        for number in range(len(self._files)):
            self._check_count(number)  # before room is made for what was only claimed
        found: Floats = np.empty(self.shape, dtype or self.dtype)
        for start, block in self.blocks():
            found[start : start + len(block)] = block
        return found

    def _check_count(self, number: int) -> None:
        file, wanted = self._files[number], self._starts[number + 1] - self._starts[number]
        if file.suffix != ".parquet":
            self._shard(number)
            return
        with damage_of(file):
            rows = pq.read_metadata(file).num_rows
            if rows != wanted:
                raise ValueError(f"{rows} rows instead of {wanted}")

    def _shard(self, number: int) -> Floats:
        file = self._files[number]
        if file.suffix == ".parquet":
            with damage_of(file):
                return self._checked(self._read(file), number)
        if number not in self._maps:
            with damage_of(file):
                # Not np.load, which also opens zip archives and pickles.
                self._maps[number] = self._checked(np.lib.format.open_memmap(file, mode="r"), number)
        return self._maps[number]

    def _checked(self, features: Floats, number: int) -> Floats:
        wanted = (self._starts[number + 1] - self._starts[number], self.shape[1])
        if features.shape != wanted or features.dtype != self.dtype:
            raise ValueError(f"{features.dtype} of shape {features.shape} instead of {self.dtype} of {wanted}")
        return features


def _parquet_features(file: Path) -> Floats:
    column = pq.read_table(file, columns=["feature"], memory_map=True)["feature"].combine_chunks()
    values: Floats = column.flatten().to_numpy(zero_copy_only=False).reshape(len(column), -1)
    return values


class FeatureFolder:
    """A complete folder of features.

    Attributes:
        folder: where it lies.
        summary: as in embed.json.
        image: (n, d) features of the pictures.
        text: (m, d) features of the captions.
        rows: n, what each picture is; `rows[i]["texts"]` is the span of its captions among the text features.
        text_image: (m,) the picture of each caption.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder).expanduser()
        manifest = self._json(MANIFEST)
        form, dtype, dimension = self._form(manifest)
        if not (self.folder / SUMMARY).is_file():
            raise DataError(f"{self.folder} is not complete: call `mmcontrast embed` again as before")
        self.summary = self._json(SUMMARY)
        shards = read_shards(self.folder)
        for shard in shards:
            if name := damaged_file(self.folder, shard):
                raise DataError(f"{self.folder / name} is missing or cut off: embed again as before, which mends it")
        names = [shard_files(shard.number, form) for shard in shards]

        def features(side: str, counts: list[int]) -> ShardedArray:
            chosen = [(self.folder / own[side], count) for own, count in zip(names, counts, strict=True) if count]
            return ShardedArray([f for f, _ in chosen], [c for _, c in chosen], dimension, dtype)

        self.image = features("images", [shard.images for shard in shards])
        self.text = features("texts", [shard.texts for shard in shards])
        rows = [
            (self.folder / (own.get("rows") or own["images"]), shard.images)
            for own, shard in zip(names, shards, strict=True)
            if shard.images
        ]
        self.rows = Rows([file for file, _ in rows], [count for _, count in rows])

    def _form(self, manifest: Mapping[str, Any]) -> tuple[Format, str, int]:
        """Kind of the shards, and type and size of the features."""
        version, dimension = manifest.get("format_version"), manifest.get("embed_dim")
        form, dtype = manifest.get("format"), manifest.get("dtype")
        if type(version) is int and version > FORMAT_VERSION:
            raise DataError(f"{self.folder} was written by a newer mmcontrast: upgrade to read it")
        known = type(version) is int and form in ("npy", "parquet") and dtype in ("float32", "float16")
        if known and type(dimension) is int and 0 < dimension <= _LARGEST_DIMENSION:
            return form, dtype, dimension  # type: ignore[return-value]
        raise DataError(f"{self.folder / MANIFEST} is damaged: remove {self.folder} and embed again")

    @property
    def text_image(self) -> NDArray[np.int64]:
        """(m,) position of the picture that each caption belongs to; reads all rows."""
        counts = [len(row["captions"]) for row in self.rows]
        if sum(counts) != len(self.text):
            what = f"{sum(counts)} captions in its rows, {len(self.text)} features"
            raise DataError(f"{self.folder} is damaged ({what}): remove it and embed again")
        return np.repeat(np.arange(len(counts)), counts)

    def side(self, side: Side) -> ShardedArray:
        """The features of the pictures, or those of the captions."""
        return self.image if side == "image" else self.text

    def search(
        self, queries: NDArray[np.floating[Any]], k: int = 10, side: Side = "image"
    ) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """The nearest features by cosine: those of the folder's faiss index, or all compared where there is none.

        Args:
            queries: (q, d) L2-normalised features.
            k: how many; fewer where there are fewer.
            side: "image" searches pictures, "text" captions.

        Returns:
            (q, k) cosines, the greatest first, and (q, k) positions among `image` or `text`.
        """
        from mmcontrast.embedding_index import search  # it needs this class

        return search(self, np.asarray(queries, dtype=np.float32), k, side)

    def _json(self, name: str) -> dict[str, Any]:
        try:
            values: dict[str, Any] = json.loads((self.folder / name).read_text(encoding="utf-8"))
        except OSError:
            raise DataError(f"{self.folder} is no folder of `mmcontrast embed`: it has no {name}") from None
        except (ValueError, RecursionError):
            values = None  # type: ignore[assignment]
        if not isinstance(values, dict):
            raise DataError(f"{self.folder / name} is damaged: remove {self.folder} and embed again")
        return values


def load_features(folder: str | Path) -> FeatureFolder:
    """Open what `mmcontrast embed` wrote, without reading features yet.

    Raises:
        DataError: there is nothing of the kind, it is not complete, or files were changed.
    """
    return FeatureFolder(folder)
