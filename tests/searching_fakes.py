"""A small model and a folder of pictures that differ, for tests of searching."""

from __future__ import annotations

import os
import struct
import zlib
from functools import cache
from pathlib import Path

from PIL import Image, ImageDraw

from mmcontrast.models import DualEncoder, SentencePieceTokenizer, train_sentencepiece
from mmcontrast.models.build import build_dual_encoder
from mmcontrast.models.spec import ImageTowerSpec, ModelSpec, TextTowerSpec

COLOURS = ("red", "green", "blue", "orange", "purple", "black")
SHAPES = ("square", "circle", "bar")
CONTEXT = 16
BOMB = b"\x89PNG\r\n\x1a\n" + b"".join(
    struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
    for kind, data in (
        (b"IHDR", struct.pack(">IIBBBBB", 60_000, 60_000, 8, 0, 0, 0, 0)),
        (b"IDAT", zlib.compress(bytes(1000))),
        (b"IEND", b""),
    )
)
"""A file of a hundred bytes that claims to be a picture of 3.6 billion pixels."""


@cache
def tokenizer() -> SentencePieceTokenizer:
    """Of words for the pictures."""
    corpus = [f"{n} {c} {s} on white" for n in ("a", "one", "the") for c in COLOURS for s in SHAPES]
    return SentencePieceTokenizer(train_sentencepiece(corpus, 300), CONTEXT)


def tiny_model(seed: int = 0) -> DualEncoder:
    """Of random weights: what it finds means nothing, and is always the same."""
    spec = ModelSpec(
        embed_dim=12,
        image=ImageTowerSpec(
            library="open_clip", image_size=32, kwargs={"layers": 1, "width": 16, "head_width": 8, "patch_size": 8}
        ),
        text=TextTowerSpec(library="bag_of_words", context_length=CONTEXT, kwargs={"width": 16}),
    )
    return build_dual_encoder(spec, tokenizer(), seed=seed).eval()


def paint(path: Path, number: int, kind: str | None = None) -> Path:
    """A picture file like no other number's."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.new("RGB", (48, 40), "white")
    draw = ImageDraw.Draw(image)
    box = (4 + number % 5, 4, 30 + number % 11, 32)
    colour, shape = COLOURS[number % 6], SHAPES[number // 6 % 3]
    (draw.ellipse if shape == "circle" else draw.rectangle)(box if shape != "bar" else (0, 15, 47, 24), fill=colour)
    image.save(path, kind)
    return path


def picture_folder(folder: Path, count: int = 8) -> Path:
    """Pictures in a folder and one below it."""
    for number in range(count):
        paint(folder / ("below" if number % 3 == 2 else "") / f"{number:02}.png", number)
    return folder


def changed(path: Path) -> None:
    """Make sure that the time of change is another one, however coarse the clock of the file system is."""
    time = path.stat().st_mtime_ns + 10**9
    os.utime(path, ns=(time, time))
