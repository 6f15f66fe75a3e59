"""A source and an encoder small enough to know by heart, for tests of embedding and evaluation."""

from __future__ import annotations

import io
import re
from dataclasses import dataclass, field
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor, nn

from mmcontrast.data.columns import Columns
from mmcontrast.preprocess import ImagePreprocess
from mmcontrast.types import BadRow

STEP = 5


def picture(code: int) -> bytes:
    """A PNG whose every pixel says `code` (0 to 51)."""
    file = io.BytesIO()
    Image.new("RGB", (6, 4), (code * STEP, 0, 0)).save(file, "PNG")
    return file.getvalue()


@dataclass
class FakeSource:
    """Row i shows code `codes[i]`; code None is a picture that cannot be decoded."""

    codes: list[int | None]
    texts: list[list[str]] = field(default_factory=list)
    labels: list[int | None] = field(default_factory=list)
    groups: list[str | None] = field(default_factory=list)
    label_names: list[str] | None = None
    name: str = "fake.parquet"
    columns: Columns = field(default_factory=lambda: Columns("image", ("captions",)))
    bad_rows: list[BadRow] = field(default_factory=list)
    column_numbers: list[list[int]] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.codes)

    def image(self, i: int) -> bytes | Path:
        code = self.codes[i]
        return b"broken" if code is None else picture(code)

    def captions(self, i: int) -> list[str]:
        return self.texts[i] if self.texts else []

    def caption_columns(self, i: int) -> list[int]:
        """One caption of each column in turn, unless `column_numbers` says otherwise."""
        if self.column_numbers:
            return self.column_numbers[i]
        return [number % len(self.columns.captions) for number in range(len(self.captions(i)))]

    def label(self, i: int) -> int | None:
        return self.labels[i] if self.labels else None

    def group(self, i: int) -> str | None:
        return self.groups[i] if self.groups else None

    def row_number(self, i: int) -> int:
        return 100 + i


class FakeEncoder(nn.Module):
    """A picture of code c and any text with the number c in it get the same feature, `vectors[c]`."""

    def __init__(self, dimension: int = 8) -> None:
        super().__init__()
        vectors = torch.randn(52, dimension, generator=torch.Generator().manual_seed(0))
        self.embed_dim = dimension
        self.vectors = nn.Parameter(nn.functional.normalize(vectors, dim=-1))
        self.locked = nn.Dropout()  # as a locked tower: in eval mode while the rest trains
        self.preprocess = ImagePreprocess(image_size=4)
        self.image_batches: list[int] = []
        self.text_batches: list[list[str]] = []

    def encode_image(self, pixels: Tensor) -> Tensor:
        assert not self.training
        assert torch.is_inference_mode_enabled()
        assert pixels.dtype == torch.uint8
        self.image_batches.append(len(pixels))
        return self.vectors[pixels[:, 0, 0, 0].long() // STEP]

    def encode_text(self, texts: list[str]) -> Tensor:
        assert not self.training
        assert torch.is_inference_mode_enabled()
        self.text_batches.append(texts)
        return self.vectors[[self._code(text) for text in texts]]

    def _code(self, text: str) -> int:
        found = re.search(r"\d+", text)
        return int(found.group()) if found else len(text) % 52
