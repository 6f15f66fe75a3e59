from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from making_data import captions_of, encoded, picture, png, table, write_parquet
from PIL import Image

from mmcontrast.data import Draw, PairDataset, caption_key, open_source, text_key, train_transform
from mmcontrast.data.dataset import RESERVED_ONE_IN, item_seed, reserved_caption, seeded
from mmcontrast.errors import ConfigError, DataError
from mmcontrast.preprocess import ImagePreprocess
from mmcontrast.types import NO_KEY

PREPROCESS = ImagePreprocess(8)
NONE, STRONG = train_transform(PREPROCESS, "none"), train_transform(PREPROCESS, "strong")


def pairs(path: Path, pictures: list[bytes], **columns: list[object]) -> Path:
    data = pa.table({"image": pictures, "caption": [f"c{i}" for i in range(len(pictures))], **columns})
    return write_parquet(path / "pairs.parquet", data)


def test_an_item(tmp_path: Path) -> None:
    data = table(4).append_column("group_id", pa.array(["a", "a", None, "b"]))
    dataset = PairDataset(open_source(write_parquet(tmp_path / "a.parquet", data)), NONE)
    item = dataset[Draw(3, 0)]
    assert len(dataset) == 4
    assert torch.equal(item.image, PREPROCESS.pixels(picture(3)))
    assert item.caption in captions_of(3)
    assert set(item.caption_keys) == {caption_key(caption) for caption in captions_of(3)}
    assert item.caption_keys[0] == caption_key(item.caption)
    assert (item.index, item.label, item.group_key, item.bad_rows) == (3, 0, text_key("b"), [])
    assert dataset[Draw(2, 0)].group_key == NO_KEY


def test_an_item_depends_on_seed_epoch_and_index_only(tmp_path: Path) -> None:
    source = open_source(write_parquet(tmp_path / "a.parquet"))
    dataset = PairDataset(source, STRONG, seed=5)
    first = dataset[Draw(1, 2)]
    random.seed(0)
    torch.manual_seed(9)
    before = torch.get_rng_state()
    other = PairDataset(source, STRONG, seed=5)
    _ = other[Draw(4, 2)]
    again = other[Draw(1, 2)]
    assert torch.equal(first.image, again.image)
    assert first.caption == again.caption
    assert torch.equal(before, torch.get_rng_state())
    assert not torch.equal(first.image, dataset[Draw(1, 3)].image)
    assert not torch.equal(first.image, PairDataset(source, STRONG, seed=6)[Draw(1, 2)].image)
    assert {dataset[Draw(1, epoch)].caption for epoch in range(20)} == set(captions_of(1))


def test_every_caption_an_item(tmp_path: Path) -> None:
    data = table(3).set_column(1, "captions", pa.array([["a"], ["b", "c", "d"], ["e", "f"]]))
    dataset = PairDataset(open_source(write_parquet(tmp_path / "a.parquet", data)), NONE, caption_sampling="all")
    items = [dataset[Draw(i, 0)] for i in range(len(dataset))]
    assert [(item.index, item.caption) for item in items] == [
        (0, "a"), (1, "b"), (1, "c"), (1, "d"), (2, "e"), (2, "f"),
    ]  # fmt: skip
    assert items[2].caption_keys[0] == caption_key("c")


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (b"not a picture at all", "not a picture in a known format"),
        (encoded(picture(0, (64, 64)), "JPEG")[:300], "undecodable picture"),
        (encoded(Image.new("RGB", (60, 60))), r"picture of 60 x 60 pixels is over the limit of 1000"),
    ],
)
def test_a_bad_picture_is_replaced_and_reported(tmp_path: Path, bad: bytes, reason: str) -> None:
    source = open_source(pairs(tmp_path, [png(0), bad, png(2), png(3)]))
    dataset = PairDataset(source, NONE, max_image_pixels=1000)
    other = PairDataset(source, NONE, max_image_pixels=1000)
    replacements = set()
    for epoch in range(8):
        item, same = dataset[Draw(1, epoch)], other[Draw(1, epoch)]
        assert item.index == same.index != 1
        assert item.caption == f"c{item.index}"
        assert torch.equal(item.image, PREPROCESS.pixels(picture(item.index)))
        assert {row.row for row in item.bad_rows} == {1}
        assert reason in item.bad_rows[0].reason
        assert item.bad_rows[0].source.endswith("pairs.parquet")
        replacements.add(item.index)
    assert len(replacements) > 1
    fresh = PairDataset(source, NONE, max_image_pixels=1000)
    assert fresh[Draw(1, 7)].index == item.index  # what is known to be bad changes nothing


def test_a_known_bad_picture_is_not_decoded_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dataset = PairDataset(open_source(pairs(tmp_path, [png(0), b"bad", png(2)])), NONE)
    _ = dataset[Draw(1, 0)]
    monkeypatch.setattr(type(dataset.source), "image", lambda self, i: png(i) if i != 1 else pytest.fail("read"))
    assert dataset[Draw(1, 1)].index in (0, 2)


def test_gives_up_when_all_is_bad(tmp_path: Path) -> None:
    dataset = PairDataset(open_source(pairs(tmp_path, [b"bad", b"worse"])), NONE)
    with pytest.raises(DataError, match=r"21 rows drawn one after another are bad, the last \(.*, row [01]\): not a"):
        _ = dataset[Draw(0, 0)]


def test_pictures_of_every_mode(tmp_path: Path) -> None:
    base = picture(7, (32, 32))
    exif = Image.Exif()
    exif[0x0112] = 6  # stored lying: to be turned by a quarter
    pictures = {
        "cmyk": encoded(base.convert("CMYK"), "JPEG", quality=95),
        "palette": encoded(base.convert("P", palette=Image.Palette.ADAPTIVE)),
        "alpha": encoded(base.convert("RGBA")),
        "palette with alpha": encoded(base.convert("P"), transparency=0),
        "webp": encoded(base, "WEBP", quality=95),
        "upright": encoded(base.transpose(Image.Transpose.ROTATE_90), "JPEG", quality=95, exif=exif),
    }
    sixteen = np.asarray(base.convert("L")).astype(np.uint16) * 257
    pictures["16 bit"] = encoded(Image.fromarray(sixteen))
    pictures["grey"] = encoded(base.convert("L"))
    dataset = PairDataset(open_source(pairs(tmp_path, list(pictures.values()))), NONE)
    colour, grey = PREPROCESS.pixels(base).int(), PREPROCESS.pixels(base.convert("L")).int()
    for i, name in enumerate(pictures):
        item = dataset[Draw(i, 0)]
        assert item.bad_rows == [], name
        expected = grey if name in ("16 bit", "grey") else colour
        assert (item.image.int() - expected).abs().float().mean() < 12, name


def test_custom_torchvision_transforms(tmp_path: Path) -> None:
    from torchvision.transforms import v2

    transform = v2.Compose([v2.ToImage(), v2.RandomResizedCrop(8, antialias=True), v2.RandomHorizontalFlip()])
    source = open_source(write_parquet(tmp_path / "a.parquet"))
    views = [PairDataset(source, transform, seed=1)[Draw(2, 0)].image for _ in range(2)]
    assert views[0].shape == (3, 8, 8)
    assert torch.equal(views[0], views[1])


def test_seeds_and_arguments(tmp_path: Path) -> None:
    seeds = {item_seed(s, e, i) for s in (-1, 0, 1) for e in range(10) for i in range(50)}
    assert len(seeds) == 1500
    assert all(0 <= seed < 2**63 for seed in seeds)
    with seeded(3):
        a = torch.rand(1)
    with seeded(3):
        assert torch.equal(a, torch.rand(1))
    unlabelled = open_source(write_parquet(tmp_path / "b.parquet", table(3).drop_columns(["captions"])))
    with pytest.raises(DataError, match="has no captions to train on"):
        PairDataset(unlabelled, NONE)
    source = open_source(write_parquet(tmp_path / "a.parquet"))
    with pytest.raises(ConfigError, match="caption_sampling = 'some': choose random or all"):
        PairDataset(source, NONE, caption_sampling="some")  # type: ignore[arg-type]


# Captions that are kept from training


def rows_of_captions(tmp_path: Path, captions: list[list[str]], **options: Any) -> PairDataset:
    data = table(len(captions)).set_column(1, "captions", pa.array(captions))
    source = open_source(write_parquet(tmp_path / "captions.parquet", data))
    return PairDataset(source, NONE, reserve_captions=True, **options)


FIVE = ["a dog", "a brown dog", "a dog runs", "an animal", "it runs"]


@pytest.mark.parametrize("sampling", ["random", "all"])
def test_a_reserved_caption_is_never_drawn(tmp_path: Path, sampling: Any) -> None:
    dataset = rows_of_captions(tmp_path, [[f"{c} {i}" for c in FIVE] for i in range(9)], caption_sampling=sampling)
    drawn: dict[int, set[str]] = {}
    siblings: dict[int, set[str | None]] = {}
    for epoch in range(40 if sampling == "random" else 3):
        for index in range(len(dataset)):
            item = dataset[Draw(index, epoch)]
            drawn.setdefault(item.index, set()).add(item.caption)
            siblings.setdefault(item.index, set()).add(item.sibling)
            assert item.caption_keys[0] == caption_key(item.caption)
            assert set(item.caption_keys) == {caption_key(f"{c} {item.index}") for c in FIVE}
    for row in range(9):
        (sibling,) = siblings[row]  # one and the same in every epoch
        whole = {f"{c} {row}" for c in FIVE}
        if row % RESERVED_ONE_IN:
            assert sibling is None
            assert drawn[row] == whole
        else:
            assert sibling in whole
            assert drawn[row] == whole - {sibling}


def test_what_is_reserved_is_a_function_of_the_row_alone(tmp_path: Path) -> None:
    row = RESERVED_ONE_IN
    captions = [list(FIVE) for _ in range(2 * row)]
    found = {
        rows_of_captions(tmp_path, captions, seed=seed)[Draw(row, epoch)].sibling for seed in (0, 5) for epoch in (0, 9)
    }
    assert found == {FIVE[reserved_caption(row, FIVE) or 0]}
    numbers = [reserved_caption(row, FIVE) for row in range(0, 100 * RESERVED_ONE_IN, RESERVED_ONE_IN)]
    assert {numbers.count(n) for n in range(5)} == {20}  # every place equally often
    assert not any(reserved_caption(row, FIVE) is not None for row in range(400) if row % RESERVED_ONE_IN)


@pytest.mark.parametrize(
    ("captions", "possible"),
    [
        (["one"], []),
        (["one", "two"], []),
        (["one", "two", "three"], [0, 1, 2]),
        (["one", "One.", "two"], []),  # without "two" one caption would be left
        (["one", "One.", "two", "three"], [2, 3]),  # "one" would still be trained on under its other spelling
        (["one", "one", "two", "two"], []),
    ],
)
def test_only_captions_that_can_be_spared_are_reserved(captions: list[str], possible: list[int]) -> None:
    found = {reserved_caption(row, captions) for row in range(0, 10 * RESERVED_ONE_IN, RESERVED_ONE_IN)}
    assert found == (set(possible) or {None})


def test_nothing_is_reserved_unasked(tmp_path: Path) -> None:
    source = open_source(
        write_parquet(tmp_path / "a.parquet", table(8).set_column(1, "captions", pa.array([FIVE] * 8)))
    )
    dataset = PairDataset(source, NONE)
    assert {dataset[Draw(0, epoch)].caption for epoch in range(60)} == set(FIVE)
    assert dataset[Draw(0, 0)].sibling is None
