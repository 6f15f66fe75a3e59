"""The features of a whole data set as files: `mmcontrast embed`."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from torch import Tensor

from mmcontrast.data.rows import PairSource
from mmcontrast.embedding import Advance, EmbeddedImages, Encoder, check_any, embed_texts, evaluating, image_batches
from mmcontrast.preprocess import MAX_IMAGE_PIXELS
from mmcontrast.types import BadRow

# Captions that are sorted and held at a time.
_TEXT_BLOCK = 16384


@dataclass(frozen=True)
class EmbedSummary:
    """What `embed_to_folder` wrote; also in its embed.json."""

    source: str
    images: int
    texts: int
    embed_dim: int
    bad_rows: int


def embed_to_folder(
    encoder: Encoder,
    source: PairSource,
    folder: str | Path,
    *,
    batch_size: int = 256,
    workers: int = 0,
    max_image_pixels: int = MAX_IMAGE_PIXELS,
    progress: Advance | None = None,
) -> EmbedSummary:
    """Write the features of a data set of any size: nothing but one batch and one block of captions is held.

    The folder gets image_features.npy (n, d) and text_features.npy (m, d), float32; rows.jsonl, whose line i tells
    of image feature i: its row in the data set, label, group, captions and the span [start, stop) of their text
    features; bad_rows.jsonl; and embed.json, the summary. They appear together, when all are complete.

    Args:
        encoder: as for `embed_images`.
        source: as for `embed_images`.
        folder: created where needed; files of an earlier call are replaced.
        batch_size: pictures or captions at a time.
        workers: processes that decode.
        max_image_pixels: larger pictures count as undecodable.
        progress: called with the number of pictures done, and then with that of captions.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder, prefix=".partial-") as partial, evaluating(encoder):
        work = Path(partial)
        batches = image_batches(encoder, source, batch_size, workers, max_image_pixels, progress)
        kept, dimension, bad_rows = _write_images(batches, work)
        check_any(len(kept), source, bad_rows)
        num_texts = _write_texts(encoder, source, work, kept, batch_size, progress)
        bad_rows = [*source.bad_rows, *bad_rows]
        _write_lines(work / "bad_rows.jsonl", map(asdict, bad_rows))
        summary = EmbedSummary(source.name, len(kept), num_texts, dimension, len(bad_rows))
        (work / "embed.json").write_text(json.dumps(asdict(summary), indent=2) + "\n", encoding="utf-8")
        for file in sorted(work.iterdir()):
            os.replace(file, folder / file.name)
    return summary


def _write_images(batches: Iterable[EmbeddedImages], work: Path) -> tuple[list[int], int, list[BadRow]]:
    kept: list[int] = []
    bad_rows: list[BadRow] = []
    with _FeatureFile(work / "image_features.npy") as file:
        for batch in batches:
            kept += batch.positions.tolist()
            bad_rows += batch.bad_rows
            file.append(batch.features)
    return kept, file.dimension, bad_rows


def _write_texts(
    encoder: Encoder, source: PairSource, work: Path, kept: Sequence[int], batch_size: int, progress: Advance | None
) -> int:
    captions: list[str] = []
    with _FeatureFile(work / "text_features.npy") as file, (work / "rows.jsonl").open("w", encoding="utf-8") as rows:
        for count, position in enumerate(kept, start=1):
            own, start = source.captions(position), file.length + len(captions)
            captions += own
            row: dict[str, Any] = {"row": source.row_number(position)}
            row |= {"label": source.label(position), "group": source.group(position)}
            row |= {"captions": own, "texts": [start, start + len(own)]}
            rows.write(json.dumps(row, ensure_ascii=False) + "\n")
            if captions and (len(captions) >= _TEXT_BLOCK or count == len(kept)):
                file.append(embed_texts(encoder, captions, batch_size=batch_size, progress=progress))
                captions = []
    return file.length


def _write_lines(path: Path, values: Iterable[dict[str, Any]]) -> None:
    with path.open("w", encoding="utf-8") as file:
        file.writelines(json.dumps(value, ensure_ascii=False) + "\n" for value in values)


class _FeatureFile:
    """A .npy of float32 rows that are appended; the header is written last, when their number is known."""

    def __init__(self, path: Path) -> None:
        self.file = path.open("wb")
        self.length = 0
        self.dimension = 0

    def __enter__(self) -> _FeatureFile:
        self._write_header()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        with self.file:
            self._write_header()

    def append(self, features: Tensor) -> None:
        """(b, d) more rows."""
        if len(features):
            self.length += len(features)
            self.dimension = features.shape[1]
            self.file.write(np.ascontiguousarray(features.numpy(), dtype="<f4").tobytes())

    def _write_header(self) -> None:
        # A fixed width, so that the header can be replaced in place whatever the number of rows.
        described = f"{{'descr': '<f4', 'fortran_order': False, 'shape': ({self.length}, {self.dimension}), }}"
        self.file.seek(0)
        self.file.write(b"\x93NUMPY\x01\x00" + (118).to_bytes(2, "little") + described.ljust(117).encode() + b"\n")
