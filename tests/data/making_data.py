"""Small data sets of every format, made on the spot."""

from __future__ import annotations

import csv
import io
import json
import tarfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from PIL import Image

from mmcontrast.preprocess import decode_image
from mmcontrast.types import Tokens


def picture(seed: int, size: tuple[int, int] = (12, 10)) -> Image.Image:
    """A smooth picture, so that JPEG keeps it nearly as it is."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, (2, 2, 3), dtype=np.uint8))
    return coarse.resize(size, Image.Resampling.BILINEAR)


def encoded(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def png(seed: int) -> bytes:
    return encoded(picture(seed))


def captions_of(seed: int) -> list[str]:
    return [f"caption {seed} first", f"caption {seed} second"]


def table(count: int = 6) -> pa.Table:
    return pa.table(
        {
            "image": [{"bytes": png(i), "path": f"{i}.png"} for i in range(count)],
            "captions": [captions_of(i) for i in range(count)],
            "label": [i % 3 for i in range(count)],
        }
    )


def write_parquet(path: Path, data: pa.Table | None = None, row_group_size: int = 2) -> Path:
    pq.write_table(table() if data is None else data, path, row_group_size=row_group_size)
    return path


def write_pictures(folder: Path, count: int = 6, suffix: str = ".png") -> list[str]:
    folder.mkdir(parents=True, exist_ok=True)
    names = [f"{i:03}{suffix}" for i in range(count)]
    for i, name in enumerate(names):
        picture(i).save(folder / name)
    return names


def write_csv(path: Path, rows: Sequence[Sequence[Any]], separator: str = ",") -> Path:
    with path.open("w", newline="", encoding="utf-8") as stream:
        csv.writer(stream, delimiter=separator).writerows(rows)
    return path


def write_tar(path: Path, members: Sequence[tuple[str, bytes]], format: int = tarfile.USTAR_FORMAT) -> Path:
    with tarfile.open(path, "w", format=format) as tar:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


def tar_members(first: int, count: int) -> list[tuple[str, bytes]]:
    members = []
    for i in range(first, first + count):
        fields = {"caption": f"json {i}", "group": f"g{i // 2}", "url": f"http://x/{i}", "key": f"{i:09}"}
        members += [
            (f"{i:09}.json", json.dumps(fields).encode()),
            (f"{i:09}.txt", f"caption {i} first\ncaption {i} second\n".encode()),
            (f"{i:09}.png", png(i)),
        ]
    return members


def tokenize(captions: list[str]) -> Tokens:
    """A tokenizer for tests: code points, cut at 24."""
    rows = [[ord(letter) for letter in caption[:24]] for caption in captions]
    longest = max(map(len, rows))
    ids = torch.tensor([row + [0] * (longest - len(row)) for row in rows])
    return Tokens(ids, (ids > 0).long(), truncated=sum(len(caption) > 24 for caption in captions))


def pixels(source: Any, i: int) -> np.ndarray:
    return np.asarray(decode_image(source.image(i)))
