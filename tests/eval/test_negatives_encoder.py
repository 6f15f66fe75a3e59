"""Tickets in the place of pictures, and the frozen tower that reads them."""

from __future__ import annotations

import io
from pathlib import Path

import negatives_encoder
import numpy as np
import pyarrow as pa
import pytest
import torch
from negatives_encoder import (
    TICKET,
    TURNS,
    TicketTower,
    distinct_pictures,
    missing_tower,
    read_tickets,
    ticket,
    turned_features,
    with_tickets,
    write_features,
)
from PIL import Image

from mmcontrast.data.transforms import train_transform
from mmcontrast.preprocess import ImagePreprocess, decode_image

NUMBERS = [0, 1, 255, 256, 65_535, 65_536, 1_234_567]


def photo(shade: int) -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (12, 12), (shade, 0, 255 - shade)).save(stream, "PNG")
    return stream.getvalue()


@pytest.mark.parametrize("turn", range(TURNS))
def test_a_ticket_says_its_number_however_it_is_turned(turn: int) -> None:
    pixels = np.stack([np.rot90(np.array(decode_image(ticket(number))), turn) for number in NUMBERS])
    numbers, turns = read_tickets(pixels[..., 0])
    assert numbers.tolist() == NUMBERS
    assert turns.tolist() == [turn] * len(NUMBERS)


def test_the_tower_gives_the_features_of_the_view_that_training_drew() -> None:
    """Through the package's own transform and normalisation: number and turn arrive."""
    features = torch.randn(len(NUMBERS), TURNS, 5, generator=torch.Generator().manual_seed(0))
    preprocess = ImagePreprocess(TICKET)
    tower = TicketTower(features, preprocess)
    transform = train_transform(preprocess, "none", rotate90=True)
    seen = set()
    torch.manual_seed(0)
    for _ in range(20):
        pixels = torch.stack([transform(decode_image(ticket(number))) for number in range(len(NUMBERS))])
        found = tower(preprocess.normalise(pixels))
        for number, row in enumerate(found):
            (turn,) = [t for t in range(TURNS) if torch.equal(features[number, t], row)]
            seen.add((number, turn))
    assert len(seen) == len(NUMBERS) * TURNS
    upright = torch.stack([preprocess.pixels(decode_image(ticket(number))) for number in range(len(NUMBERS))])
    assert torch.equal(tower(preprocess.normalise(upright)), features[:, 0])


def test_equal_pictures_have_one_number() -> None:
    table = pa.table({"image": [{"bytes": photo(shade)} for shade in (3, 3, 9, 3)], "twin": [0, 0, 1, 2]})
    found = with_tickets(table, first=40)
    assert found["twin"].to_pylist() == [0, 0, 1, 2]
    numbers = [read_tickets(np.array(decode_image(x["bytes"]))[None, ..., 0])[0][0] for x in found["image"].to_pylist()]
    assert numbers == [40, 40, 41, 40]
    assert distinct_pictures(table) == [photo(3), photo(9)]


def test_without_the_package_its_settings_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(negatives_encoder, "PACKAGE", "no_such_package")
    assert "pip install no-such-package" in str(missing_tower())
    with pytest.raises(ValueError, match="left out: pip install"):
        turned_features([photo(1)])


@pytest.mark.skipif(missing_tower() is not None, reason=missing_tower() or "")
def test_pretrained_features_tell_turns_and_pictures_apart(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    pictures = []
    for _ in range(2):
        stream = io.BytesIO()
        Image.fromarray(rng.integers(0, 255, (40, 30, 3), dtype=np.uint8)).save(stream, "PNG")
        pictures.append(stream.getvalue())
    found = turned_features(pictures)
    assert found.shape == (2, TURNS, 1280)
    assert len(found.flatten(0, 1).unique(dim=0)) == 2 * TURNS
    write_features(pictures, tmp_path / "features.safetensors")
    assert [path.name for path in tmp_path.iterdir()] == ["features.safetensors"]
