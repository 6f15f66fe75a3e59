"""The features of a data set as files, from names of a model and of data."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from mmcontrast.build.jobs import WORKERS, load_encoder
from mmcontrast.data import PairSource, PairStream, open_source, open_stream
from mmcontrast.embedding import Advance
from mmcontrast.embedding_folder import SHARD_ROWS, embed_to_folder
from mmcontrast.embedding_index import build_index, require_faiss
from mmcontrast.embedding_reading import load_features
from mmcontrast.embedding_shards import Format
from mmcontrast.errors import Interrupted
from mmcontrast.models import DualEncoder
from mmcontrast.models.fingerprint import model_digest
from mmcontrast.training.signals import StopRequest, stop_on_signals


def embed(
    model: DualEncoder | str | Path,
    data: PairSource | PairStream | str | Path,
    output: str | Path,
    *,
    split: str | None = None,
    image_column: str | None = None,
    caption_columns: Sequence[str] | None = None,
    batch_size: int = 256,
    format: Format = "npy",
    shard_rows: int = SHARD_ROWS,
    half: bool = False,
    stream: bool = False,
    index: bool = False,
    progress: Advance | None = None,
    expect: Callable[[int], object] | None = None,
    say: Callable[[str], object] | None = None,
) -> dict[str, Any]:
    """Write the features of all pictures and captions of a data set to a folder; `load_features` reads it.

    Args:
        model: a model, its folder, or its Hub name.
        data: anything that `open_source` opens, or an open source or stream.
        output: new, empty, or of an earlier call with the same model, data and options, which is then gone on with.
        split, image_column, caption_columns: as for `open_source`.
        batch_size, format, shard_rows, half, progress, expect, say: as for `embed_to_folder`.
        stream: read rows in file order instead of loading an index of them, in bounded memory; files that cannot be
            read are tried again, then skipped and counted.
        index: also write faiss indices, see `build_index`.

    Returns:
        The summary: source, images, texts, embed_dim, bad_rows, shards, format, dtype, skipped_shards, missing_rows.

    Raises:
        Interrupted: Ctrl-C or SIGTERM came; the same call goes on later.
    """
    if index:
        require_faiss()  # before hours of work
    opened = data
    if isinstance(opened, str | Path):
        opened = (open_stream if stream else open_source)(
            opened,
            split=split,
            image_column=image_column,
            caption_columns=caption_columns,
            captions_optional=True,
        )
    encoder = load_encoder(model)
    with stop_on_signals() as stop:
        summary = embed_to_folder(
            encoder,
            opened,
            output,
            model_digest=model_digest(encoder),
            format=format,
            shard_rows=shard_rows,
            half=half,
            batch_size=batch_size,
            workers=WORKERS,
            progress=_stoppable(progress, stop, output),
            expect=expect,
            say=say,
        )
    if index:
        build_index(load_features(output), say=say)
    return asdict(summary)


def _stoppable(progress: Advance | None, stop: StopRequest, output: str | Path) -> Advance:
    """The same, which also ends the work after the batch in which a signal came."""

    def advance(count: int) -> None:
        if stop.signal_number is not None:
            raise Interrupted(
                f"stopped by signal {stop.signal_number}: complete shards are in {output}, the same command goes on",
                128 + stop.signal_number,
            )
        if progress is not None:
            progress(count)

    return advance
