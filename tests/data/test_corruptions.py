"""Corrupted pictures: sizes, strengths, and random numbers that belong to the picture."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from evaluation_fakes import FakeSource
from PIL import Image

from mmcontrast.data.corruptions import CORRUPTIONS, SEVERITIES, CorruptedSource, corrupt
from mmcontrast.errors import DataError
from mmcontrast.preprocess import decode_image


def photo(width: int = 60, height: int = 40) -> Image.Image:
    """Smooth colours with an edge in them."""
    x, y = np.meshgrid(np.linspace(0, 1, width), np.linspace(0, 1, height))
    planes = [255 * (0.2 + 0.6 * x), 255 * (0.3 + 0.5 * y), np.where(x + y > 1, 200, 60)]
    return Image.fromarray(np.stack(planes, axis=2).astype(np.uint8))


def png(image: Image.Image) -> bytes:
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


def changed(image: Image.Image, other: Image.Image) -> float:
    return float(np.abs(np.asarray(image, dtype=float) - np.asarray(other.resize(image.size), dtype=float)).mean())


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_each_severity_is_worse_than_the_one_before(name: str) -> None:
    image = photo(224, 224)
    damage = [0.0]
    for severity in SEVERITIES:
        worse = corrupt(image, name, severity, np.random.default_rng(3))
        assert worse.mode == "RGB"
        assert (worse.size == image.size) == (name != "crop")
        damage.append(changed(image, worse))
    assert damage == sorted(damage)
    assert damage[1] > 0


def test_strengths_are_those_written_down() -> None:
    image, rng = photo(200, 100), np.random.default_rng(0)
    assert corrupt(image, "crop", 2, rng).size == (120, 60)
    dark = np.asarray(corrupt(image, "darkness", 1, rng), dtype=float)
    assert dark == pytest.approx(np.asarray(image) * 0.6, abs=1)
    grey = Image.new("RGB", (100, 100), (128, 128, 128))
    noise = np.asarray(corrupt(grey, "noise", 1, rng), dtype=float)
    assert noise.std() == pytest.approx(255 * 0.08, rel=0.02)
    assert noise.mean() == pytest.approx(128, abs=0.5)


def source(n: int = 4, size: tuple[int, int] = (60, 40)) -> FakeSource:
    class Photos(FakeSource):
        def image(self, i: int) -> bytes | Path:
            return b"broken" if self.codes[i] is None else png(photo(*size))

    return Photos(codes=list(range(n)), texts=[["a"]] * n, labels=[1] * n, groups=["g"] * n)


@pytest.mark.parametrize("name", ["noise", "crop"])
def test_random_numbers_are_those_of_the_picture_and_the_seed(name: str) -> None:
    first = CorruptedSource(source(), name, 1, 64, seed=5)
    pictures = [first.image(i) for i in range(4)]
    assert len(set(pictures)) > 1  # the same photo, another draw
    again = CorruptedSource(source(), name, 1, 64, seed=5)
    assert [again.image(i) for i in (3, 1, 0, 2)] == [pictures[i] for i in (3, 1, 0, 2)]
    assert [CorruptedSource(source(), name, 1, 64, seed=6).image(i) for i in range(4)] != pictures


def test_everything_else_is_the_sources() -> None:
    inner = source()
    made = CorruptedSource(inner, "blur", 1, 64)
    assert (len(made), made.captions(1), made.label(1), made.group(1), made.row_number(1)) == (4, ["a"], 1, "g", 101)
    assert (made.name, made.columns, made.bad_rows) == (inner.name, inner.columns, [])


def test_large_pictures_are_scaled_to_the_models_side_first() -> None:
    small = decode_image(CorruptedSource(source(size=(60, 40)), "blur", 1, 64).image(0))
    large = decode_image(CorruptedSource(source(size=(600, 400)), "blur", 1, 64).image(0))
    assert small.size == (60, 40)
    assert large.size == (96, 64)
    noisy = decode_image(CorruptedSource(source(size=(900, 900)), "noise", 2, 64).image(0))
    residue = np.asarray(noisy, dtype=float) - np.asarray(photo(64, 64), dtype=float)
    assert residue[8:-8, 8:-8, 0].std() > 255 * 0.15  # not averaged away


def test_mistakes() -> None:
    broken = source()
    broken.codes[2] = None
    with pytest.raises(DataError, match="not a picture in a known format"):
        CorruptedSource(broken, "jpeg", 1, 64).image(2)
    for name, severity in (("fog", 1), ("jpeg", 4)):
        with pytest.raises(DataError, match=rf"corruption '{name}' at severity {severity} is unknown: choose of jpeg"):
            corrupt(photo(), name, severity, np.random.default_rng(0))
