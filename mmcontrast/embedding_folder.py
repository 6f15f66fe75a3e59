"""The features of a whole data set as files: `mmcontrast embed`."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from mmcontrast.data.digest import data_digest
from mmcontrast.data.map_source import RowSource
from mmcontrast.data.rows import PairSource
from mmcontrast.data.steady import skipped_shards
from mmcontrast.data.stream import PairStream
from mmcontrast.embedding import Advance, Encoder, embed_texts, evaluating
from mmcontrast.embedding_claim import claimed
from mmcontrast.embedding_rows import DecodedBatch, Entry, Place, decoded_batches
from mmcontrast.embedding_shards import (
    BAD_ROWS,
    FORMAT_VERSION,
    MANIFEST,
    SHARDS,
    SUMMARY,
    Floats,
    Format,
    Shard,
    ShardContent,
    append_shard,
    whole_shards,
    write_json,
    write_lines,
    write_shard,
)
from mmcontrast.errors import DataError
from mmcontrast.preprocess import MAX_IMAGE_PIXELS
from mmcontrast.types import BadRow

# Captions that are sorted by length together.
_TEXT_BLOCK = 16384
SHARD_ROWS = 16384


class SizedEncoder(Encoder, Protocol):
    """An `Encoder` that knows the size of its features."""

    @property
    def embed_dim(self) -> int: ...  # noqa: D102


@dataclass(frozen=True)
class EmbedSummary:
    """What `embed_to_folder` wrote; also in its embed.json.

    Attributes:
        source: what was embedded.
        images, texts: features of each kind, `embed_dim` wide.
        bad_rows: lines of bad_rows.jsonl; the rest of a shard that could not be read is one of them.
        shards: written here.
        format, dtype: of the files.
        skipped_shards: of a stream, those that could not be read to their end.
        missing_rows: rows that were lost with them; None where nobody can count them.
    """

    source: str
    images: int
    texts: int
    embed_dim: int
    bad_rows: int
    shards: int
    format: Format
    dtype: str
    skipped_shards: int = 0
    missing_rows: int | None = 0


def embed_to_folder(
    encoder: SizedEncoder,
    data: PairSource | PairStream,
    folder: str | Path,
    *,
    model_digest: str,
    format: Format = "npy",
    shard_rows: int = SHARD_ROWS,
    half: bool = False,
    batch_size: int = 256,
    workers: int = 0,
    max_image_pixels: int = MAX_IMAGE_PIXELS,
    progress: Advance | None = None,
    expect: Callable[[int], object] | None = None,
    say: Callable[[str], object] | None = None,
) -> EmbedSummary:
    """Write the features of a data set of any size: nothing but one shard is held, and a stream's rows not at all.

    The folder gets, for each `shard_rows` rows, image_features-NNNNN.npy (n, d), text_features-NNNNN.npy (m, d) and
    rows-NNNNN.jsonl, or images-NNNNN.parquet and texts-NNNNN.parquet; then bad_rows.jsonl and, last, embed.json, the
    summary. A call that was stopped in any way is gone on with by the same call, after its last complete shard; with
    the same `batch_size` on the same device the files are those of an undisturbed call, bit for bit.

    Args:
        encoder: as for `embed_images`.
        data: undecodable pictures are left out and listed, and so are shards of a stream that cannot be read, after
            some tries.
        folder: new, empty, or of an earlier call with the same model, data and options.
        model_digest: what tells the encoder from others.
        format: of the shards.
        shard_rows: rows of a shard, bad ones included.
        half: keep features as float16.
        batch_size: pictures or captions at a time.
        workers: processes that decode.
        max_image_pixels: larger pictures count as undecodable.
        progress: called with how many more pictures and captions are done; what it raises stops the work.
        expect: told how many will be done in all, where that is known.
        say: told when work goes on that was begun earlier.

    Raises:
        DataError: the folder holds something else, another process writes to it, or no picture could be decoded.
    """
    folder = Path(folder).expanduser()
    options = {"format": format, "shard_rows": shard_rows, "dtype": "float16" if half else "float32"}
    manifest = {
        "format_version": FORMAT_VERSION,
        "source": data.name,
        "model": model_digest,
        "data": data_digest(data),
        "max_image_pixels": max_image_pixels,
        "embed_dim": encoder.embed_dim,
        **options,
    }
    with claimed(folder, manifest), evaluating(encoder):
        shards = whole_shards(folder)
        place = shards[-1].place if shards else Place()
        if (done := _summary(folder)) is not None and done.shards == len(shards):
            _tell(say, f"{folder} is complete already")
            _tell_missing(say, folder, done)
            return done
        (folder / SUMMARY).unlink(missing_ok=True)
        if shards:
            _tell(say, f"going on after shard {shards[-1].number} (row {place.rows}) in {folder}")
        if expect and (left := _left(data, place)) is not None:
            expect(left)
        batches = decoded_batches(
            data,
            encoder.preprocess,
            batch_size=batch_size,
            part_rows=shard_rows,
            start=place,
            workers=workers,
            max_image_pixels=max_image_pixels,
        )
        writer = _Writer(folder, format, np.dtype("<f2" if half else "<f4"), shards)
        _write(encoder, batches, writer, shard_rows, batch_size, progress)
        summary = _finish(data, folder, writer.shards, manifest)
        _tell_missing(say, folder, summary)
        return summary


def _write(
    encoder: SizedEncoder,
    batches: Iterator[DecodedBatch],
    writer: _Writer,
    shard_rows: int,
    batch_size: int,
    progress: Advance | None,
) -> None:
    features: list[Tensor] = []
    entries: list[Entry] = []
    bad_rows: list[BadRow] = []
    place = None
    for batch, waiting in _encoded(encoder, batches):
        features.append(waiting.float().cpu())
        entries += batch.entries
        bad_rows += batch.bad_rows
        place = batch.place
        if progress:
            progress(len(batch.entries) + len(batch.bad_rows))
        if place.rows % shard_rows == 0:
            writer.write(encoder, features, entries, bad_rows, place, batch_size, progress)
            features, entries, bad_rows, place = [], [], [], None
    if place is not None:
        writer.write(encoder, features, entries, bad_rows, place, batch_size, progress)


def _encoded(encoder: SizedEncoder, batches: Iterator[DecodedBatch]) -> Iterator[tuple[DecodedBatch, Tensor]]:
    """Features on the encoder's device, each when the next batch is under way: a GPU works while we write."""
    device = next(encoder.parameters()).device
    waiting: tuple[DecodedBatch, Tensor] | None = None
    for batch in batches:
        features = torch.empty(0, encoder.embed_dim)
        if len(batch.pixels):
            with torch.inference_mode():
                features = encoder.encode_image(batch.pixels.to(device, non_blocking=True))
        if waiting is not None:
            yield waiting
        waiting = batch, features
    if waiting is not None:
        yield waiting


class _Writer:
    """Appends shards, and knows how many features stand before them."""

    def __init__(self, folder: Path, format: Format, dtype: np.dtype[Any], shards: list[Shard]) -> None:
        self.folder, self.format, self.dtype, self.shards = folder, format, dtype, shards

    def write(
        self,
        encoder: SizedEncoder,
        features: Sequence[Tensor],
        entries: Sequence[Entry],
        bad_rows: list[BadRow],
        place: Place,
        batch_size: int,
        progress: Advance | None,
    ) -> None:
        """Embed the captions of a shard, and write it."""
        captions = [caption for entry in entries for caption in entry.captions]
        texts: Floats = np.empty((len(captions), encoder.embed_dim), self.dtype)
        for start in range(0, len(captions), _TEXT_BLOCK):
            block = slice(start, start + _TEXT_BLOCK)
            texts[block] = embed_texts(encoder, captions[block], batch_size=batch_size, progress=progress).numpy()
        images = torch.cat(list(features)).numpy().astype(self.dtype, copy=False)
        before = [sum(shard.images for shard in self.shards), sum(shard.texts for shard in self.shards)]
        number = len(self.shards)
        files = write_shard(self.folder, number, self.format, ShardContent(images, texts, entries, *before))
        self.shards.append(Shard(number, len(images), len(texts), place, files, bad_rows))
        append_shard(self.folder, self.shards[-1])


def _finish(
    data: PairSource | PairStream, folder: Path, shards: Sequence[Shard], manifest: dict[str, Any]
) -> EmbedSummary:
    """bad_rows.jsonl and embed.json; a folder without a single feature goes again."""
    bad_rows = [] if isinstance(data, PairStream) else list(data.bad_rows)
    bad_rows += [row for shard in shards for row in shard.bad_rows]
    images = sum(shard.images for shard in shards)
    if not images:
        for name in (MANIFEST, SHARDS):
            (folder / name).unlink(missing_ok=True)
        rows = shards[-1].place.rows if shards else 0
        why = f"; row {bad_rows[0].row}: {bad_rows[0].reason}" if bad_rows else ""
        raise DataError(f"{data.name}: none of its {rows} pictures could be decoded{why}")
    write_lines(folder / BAD_ROWS, map(asdict, bad_rows))
    skipped, missing = skipped_shards(bad_rows)
    summary = EmbedSummary(
        source=data.name,
        images=images,
        texts=sum(shard.texts for shard in shards),
        embed_dim=manifest["embed_dim"],
        bad_rows=len(bad_rows),
        shards=len(shards),
        format=manifest["format"],
        dtype=manifest["dtype"],
        skipped_shards=skipped,
        missing_rows=missing,
    )
    write_json(folder / SUMMARY, asdict(summary))
    return summary


def _summary(folder: Path) -> EmbedSummary | None:
    path = folder / SUMMARY
    try:
        return EmbedSummary(**json.loads(path.read_text(encoding="utf-8"))) if path.is_file() else None
    except (ValueError, TypeError, RecursionError):
        return None  # as if it were not there: it is written again


def _left(data: PairSource | PairStream, place: Place) -> int | None:
    """Pictures and captions behind a place, or None where they cannot be counted."""
    source = data.source if isinstance(data, PairStream) else data
    if source is None:
        return None
    if isinstance(source, RowSource):
        captions = int(source.caption_counts()[place.rows :].sum())
    else:
        captions = sum(len(source.captions(i)) for i in range(place.rows, len(source)))
    return max(0, len(source) - place.rows) + captions


def _tell_missing(say: Callable[[str], object] | None, folder: Path, summary: EmbedSummary) -> None:
    if not summary.skipped_shards:
        return
    count, rows = summary.skipped_shards, summary.missing_rows
    cost = "an unknown number of rows is" if rows is None else f"{rows} rows are"
    _tell(
        say,
        f"{count} shard{'s' if count > 1 else ''} could not be read to the end, and {cost} missing: see "
        f"{folder / BAD_ROWS}, mend the data and embed it into another folder",
    )


def _tell(say: Callable[[str], object] | None, line: str) -> None:
    if say is not None:
        say(line)
