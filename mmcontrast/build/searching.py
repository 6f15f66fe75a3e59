"""Search in pictures, from names of a model and of a folder."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path

from PIL import Image

from mmcontrast.build.jobs import WORKERS, load_encoder
from mmcontrast.data import PairSource
from mmcontrast.data.pictures import cache_folder
from mmcontrast.embedding import Advance
from mmcontrast.errors import DataError, Interrupted
from mmcontrast.models import DualEncoder
from mmcontrast.models.fingerprint import model_digest
from mmcontrast.searching import (
    Collection,
    Hit,
    Searcher,
    Store,
    different_captions,
    open_collection,
    read_query,
    update_captions,
    update_pictures,
)
from mmcontrast.searching.query import Kind
from mmcontrast.searching.update import Indexed
from mmcontrast.training.signals import StopRequest, stop_on_signals


def search(
    model: DualEncoder | str | Path,
    data: PairSource | str | Path,
    query: str | Path | Image.Image,
    k: int = 12,
    *,
    kind: Kind = "guess",
    captions: bool = False,
    index: str | Path | None = None,
    rebuild: bool = False,
    split: str | None = None,
    image_column: str | None = None,
    caption_columns: Sequence[str] | None = None,
    batch_size: int = 64,
    progress: Advance | None = None,
    expect: Callable[[int], object] | None = None,
    say: Callable[[str], object] | None = None,
) -> list[Hit]:
    """The k pictures of a folder that fit some words, or look like a picture, best; the best first.

    Args:
        model, data, captions, index, rebuild, split, image_column, caption_columns, batch_size, progress, expect, say:
            as for `open_search`, which serves several queries sooner.
        query: words, or the path of a picture, or a picture.
        k: 1 or more.
        kind: "text" or "picture" says which it is; "guess" takes the path of a picture for one.

    Raises:
        DataError: as `open_search`, and where the query is empty or a broken picture.
    """
    asked = read_query(query, kind)
    searcher = open_search(
        model,
        data,
        captions=captions,
        index=index,
        rebuild=rebuild,
        split=split,
        image_column=image_column,
        caption_columns=caption_columns,
        batch_size=batch_size,
        progress=progress,
        expect=expect,
        say=say,
    )
    return searcher.search(asked, k, say)


def open_search(
    model: DualEncoder | str | Path,
    data: PairSource | str | Path,
    *,
    captions: bool = False,
    index: str | Path | None = None,
    rebuild: bool = False,
    split: str | None = None,
    image_column: str | None = None,
    caption_columns: Sequence[str] | None = None,
    batch_size: int = 64,
    progress: Advance | None = None,
    expect: Callable[[int], object] | None = None,
    say: Callable[[str], object] | None = None,
) -> Searcher:
    """Open pictures for searching: embed those that are new or have changed since the last time, forget those gone.

    The index is kept in the user's cache folder (MMCONTRAST_CACHE moves it), one for each folder and model.

    Args:
        model: a model, its folder, or its Hub name.
        data: a folder of pictures, or anything else that `open_source` opens, or an open source.
        captions: search the captions in place of the pictures.
        index: folder to keep the index in.
        rebuild: embed everything anew.
        split, image_column, caption_columns: as for `open_source`.
        batch_size: pictures or captions at a time.
        progress: told how many more are done.
        expect: told how many there are to do.
        say: told what the user should know: how many were new, which are broken.

    Raises:
        DataError: no picture there, or none that can be decoded; the index is damaged, cannot be written, or is in use.
        Interrupted: Ctrl-C or SIGTERM came; what is embedded is kept.
    """
    collection = open_collection(data, split=split, image_column=image_column, caption_columns=caption_columns)
    for note in collection.notes:
        if say:
            say(note)
    encoder = load_encoder(model)
    digest = model_digest(encoder)
    folder = index_folder(collection, digest, index)
    store, texts = Store(folder, "pictures", digest), Store(folder, "captions", digest)
    if rebuild and folder.is_dir():
        with store.lock():
            store.clear()
            texts.clear()
    with stop_on_signals() as stop:
        work = _Work(progress, expect, stop)
        indexed = update_pictures(
            encoder,
            collection,
            store,
            batch_size=batch_size,
            workers=WORKERS,
            progress=work.advance,
            expect=work.expect,
        )
        _report(collection, indexed, folder, say)
        found = None
        if captions:
            different = different_captions(collection, indexed)
            features = update_captions(
                encoder, different, texts, batch_size=batch_size, progress=work.advance, expect=work.expect
            )
            found = different, features
        work.advance(0)  # a signal that came when there was nothing more to do
    return Searcher(encoder, collection, indexed, found)


def _report(collection: Collection, indexed: Indexed, folder: Path, say: Callable[[str], object] | None) -> None:
    """Say what an update did; DataError where there is nothing to search."""
    if say and (indexed.embedded or indexed.removed):
        say(f"index: {indexed.embedded} pictures embedded, {indexed.removed} removed; kept in {folder}")
    if not indexed.broken:
        return
    name, why = indexed.broken[0]
    if not len(indexed.features):
        where = collection.source.name
        raise DataError(f"{where}: none of its {len(collection)} pictures could be decoded; {name}: {why}")
    if say:
        say(f"{len(indexed.broken)} of {len(collection)} pictures cannot be used; the first is {name}: {why}")


def index_folder(collection: Collection, digest: str, base: str | Path | None = None) -> Path:
    """Where the index of a collection and a model lies: not in the folder that is searched, unless asked for."""
    above = cache_folder() / "search" if base is None else Path(base).expanduser()
    key = hashlib.blake2b(os.fsencode(collection.root), digest_size=6).hexdigest()
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", Path(collection.root.partition("|")[0]).name)[:40].strip("-.") or "pictures"
    return above / f"{name}-{key}" / digest[:16]


class _Work:
    """Progress over pictures and captions together, which a signal ends after the batch in which it came."""

    def __init__(self, progress: Advance | None, expect: Callable[[int], object] | None, stop: StopRequest) -> None:
        self._progress, self._expect, self._stop, self._total = progress, expect, stop, 0

    def expect(self, count: int) -> None:
        self._total += count
        if self._expect is not None:
            self._expect(self._total)

    def advance(self, count: int) -> None:
        if self._progress is not None:
            self._progress(count)
        if self._stop.signal_number is not None:
            raise Interrupted(
                f"stopped by signal {self._stop.signal_number}: what is indexed is kept, the same command goes on",
                128 + self._stop.signal_number,
            )
