"""What is made once so that batches come sooner: captions as token ids, and smaller pictures."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from mmcontrast import distributed
from mmcontrast.build.remarks import show_line
from mmcontrast.config import Config
from mmcontrast.data import PairSource
from mmcontrast.data.caption_table import CaptionTable, tokenize_source
from mmcontrast.data.image_cache import CacheSettings, ImageCache
from mmcontrast.data.image_cache_build import open_image_cache
from mmcontrast.data.map_source import RowSource
from mmcontrast.data.transforms import DRAFT_RESERVE, TrainTransform
from mmcontrast.errors import ConfigError
from mmcontrast.models import DualEncoder

MAX_AUTO_CAPTIONS = 2_000_000
"""Captions up to which `data.pretokenize: auto` makes a table of them: a minute or two, and some 80 MB."""

LINE_EVERY = 30.0
"""Seconds between lines of progress where there is no terminal."""


def caption_table(
    config: Config, source: PairSource, model: DualEncoder, draws: int, console: Console
) -> CaptionTable | None:
    """The captions as token ids, or None where each batch tokenizes its own.

    Args:
        config: of the run.
        source: the pairs.
        model: whose tokenizer is used.
        draws: captions that the whole run draws: with fewer draws than captions a table is not worth its making.
        console: for the progress of large ones.
    """
    setting, captions = config.data.pretokenize, num_captions(source)
    if setting is False or (setting == "auto" and captions > min(draws, MAX_AUTO_CAPTIONS)):
        return None
    tokenizer = model.tokenizer
    with counted(console if distributed.rank() == 0 else Console(quiet=True), "tokenize", captions) as advance:
        return tokenize_source(
            source, tokenizer, vocab_size=tokenizer.vocab_size, pad_id=tokenizer.pad_id, advance=advance
        )


def num_captions(source: PairSource) -> int:
    """Captions of all rows."""
    if isinstance(source, RowSource):
        return int(source.caption_counts().sum())
    return sum(len(source.captions(row)) for row in range(len(source)))


def image_cache(config: Config, source: PairSource, transform: TrainTransform, console: Console) -> ImageCache | None:
    """The cache of training pictures, built where it is not there yet; None without `data.image_cache`.

    Raises:
        ConfigError: data.image_cache_size is smaller than the model's input.
    """
    data, preprocess = config.data, transform.preprocess
    if data.image_cache is None:
        return None
    side = data.image_cache_size or transform.least_side or preprocess.image_size
    if side < preprocess.image_size:
        raise ConfigError(
            f"data.image_cache_size: {side} is below the model's image_size of {preprocess.image_size}, so that all "
            f"pictures would be enlarged again; take {transform.least_side or preprocess.image_size}, or leave it out"
        )
    drafts = data.draft_decoding and transform.draft_side is not None
    settings = CacheSettings(
        side, preprocess.interpolation, data.max_image_pixels, int(DRAFT_RESERVE * side) + 1 if drafts else None
    )
    with counted(console, "image cache", len(source)) as advance:
        return open_image_cache(
            Path(data.image_cache).expanduser(),
            source,
            settings,
            workers=data.workers,
            say=partial(show_line, console),
            advance=advance,
        )


@contextmanager
def counted(console: Console, name: str, total: int) -> Iterator[Callable[[int], None]]:
    """Progress with ETA while something runs: a bar on a terminal, else a line now and then; yields what adds to it."""
    columns = (
        TextColumn(f"[bold]{name}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("eta"),
        TimeRemainingColumn(),
    )
    start = last = time.monotonic()
    done = 0

    def advance(count: int) -> None:
        nonlocal done, last
        done += count
        bar.update(task, completed=done)
        now = time.monotonic()
        if not console.is_terminal and now - last > LINE_EVERY:
            last = now
            left = (total - done) * (now - start) / max(1, done)
            show_line(console, f"{name} {done}/{total}  eta {left / 60:.1f} min")

    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(name, total=total)
        yield advance
