"""Data sets in CLIP_benchmark's layout of WebDataset tars, written from parquet files."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterable
from contextlib import ExitStack
from pathlib import Path

from mmcontrast import open_source
from mmcontrast.data import PairSource

SHARDS = 2
"""A tar for each of the two workers that read."""
TEMPLATES = ("a photo of a {c}.", "a blurry photo of a {c}.", "a small picture of the {c}.")


def write_classification(source: Path, folder: Path, rows: int) -> None:
    """Pictures with classes, class names and templates."""
    pairs = open_source(source / "val.parquet", rows=rows, caption_columns=())
    names = pairs.label_names
    assert names is not None, f"{source} has no class names"
    _write_tars(pairs, folder, ((i, "cls", str(pairs.label(i))) for i in range(len(pairs))))
    (folder / "classnames.txt").write_text("".join(f"{name}\n" for name in names))
    # Without a newline at the end: CLIP_benchmark would take an empty line for a template.
    (folder / "zeroshot_classification_templates.txt").write_text("\n".join(TEMPLATES))


def write_retrieval(source: Path, folder: Path, rows: int) -> None:
    """Pictures with captions, one a line."""
    pairs = open_source(source / "val.parquet", rows=rows)
    _write_tars(pairs, folder, ((i, "txt", "\n".join(pairs.captions(i))) for i in range(len(pairs))))
    (folder / "dataset_type.txt").write_text("retrieval")


def _write_tars(pairs: PairSource, folder: Path, rows: Iterable[tuple[int, str, str]]) -> None:
    (folder / "test").mkdir(parents=True)
    with ExitStack() as stack:
        files = [folder / "test" / f"{number}.tar" for number in range(SHARDS)]
        tars = [stack.enter_context(tarfile.open(file, "w")) for file in files]
        for i, suffix, text in rows:
            picture = pairs.image(i)
            data = picture if isinstance(picture, bytes) else picture.read_bytes()
            kind = "png" if data.startswith(b"\x89PNG") else "jpg"
            for name, content in ((kind, data), (suffix, text.encode())):
                member = tarfile.TarInfo(f"{i:08d}.{name}")
                member.size = len(content)
                tars[i * SHARDS // len(pairs)].addfile(member, io.BytesIO(content))
    (folder / "test" / "nshards.txt").write_text(str(SHARDS))
