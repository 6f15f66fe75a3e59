"""JPEGs decoded at a part of their size look the same in training, and evaluation never sees them."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
import torch
from making_data import encoded, picture
from PIL import Image

from mmcontrast.data import train_transform
from mmcontrast.data.transforms import DRAFT_RESERVE, picture_bytes, resized_crop
from mmcontrast.errors import DataError
from mmcontrast.preprocess import ImagePreprocess, decode_image

sample_images = pytest.importorskip("sklearn.datasets").load_sample_images


@pytest.mark.parametrize(
    ("side", "least", "size"),
    [
        (400, None, (600, 400)),
        (400, 201, (600, 400)),
        (400, 200, (300, 200)),
        (400, 101, (300, 200)),
        (400, 100, (150, 100)),
        (400, 40, (75, 50)),
        (401, 200, (301, 201)),
    ],
)
def test_the_shorter_side_keeps_enough(side: int, least: int | None, size: tuple[int, int]) -> None:
    data = encoded(picture(0, (round(1.5 * side), side)), "JPEG")
    assert decode_image(data, least_side=least).size == size


def test_other_formats_come_whole() -> None:
    for kind in ("PNG", "WEBP"):
        data = encoded(picture(0, (600, 400)), kind)
        assert decode_image(data, least_side=50).size == (600, 400)


def test_the_exif_tag_turns_drafts_too() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    lying = picture(7, (400, 600)).transpose(Image.Transpose.ROTATE_90)
    draft = decode_image(encoded(lying, "JPEG", quality=95, exif=exif), least_side=100)
    assert draft.size == (100, 150)
    expected = picture_bytes(picture(7, (400, 600)).resize((100, 150))).int()
    assert (picture_bytes(draft).int() - expected)[..., :3].abs().float().mean() < 2


def test_the_cap_counts_the_pixels_that_are_claimed(tmp_path: Path) -> None:
    data = encoded(picture(0, (600, 400)), "JPEG")
    with pytest.raises(DataError, match="picture of 600 x 400 pixels is over the limit of 100000"):
        decode_image(data, 100_000, least_side=50)


def test_a_cut_off_file_is_still_found() -> None:
    data = encoded(sample(0), "JPEG", quality=90)
    with pytest.raises(DataError, match="undecodable picture"):
        decode_image(data[: len(data) // 2], least_side=50)


def sample(number: int) -> Image.Image:
    """A detailed photograph, 640 x 427."""
    return Image.fromarray(sample_images().images[number])


@pytest.mark.parametrize("number", [0, 1])
@pytest.mark.parametrize("share", [1.0, 0.75, 0.5])
def test_crops_look_the_same_as_those_of_the_whole_picture(number: int, share: float) -> None:
    """On average they differ less than those of the picture when it is saved again at quality 60."""
    photo = sample(number)
    data = encoded(photo, "JPEG", quality=95)
    transform = train_transform(ImagePreprocess(124), "light", crop_scale_min=0.5)
    full, draft = decode_image(data), decode_image(data, least_side=transform.draft_side)
    assert draft.size == (320, 214)  # the least reserve that is possible: 214 / 175 = 1.22
    assert transform.least_side == 176
    width, height = (2 * int(side * share**0.5 / 2) for side in full.size)
    views = [
        resized_crop(picture_bytes(image), (0, 0, width / f, height / f), (124, 124), "bicubic").float()
        for image, f in ((full, 1), (draft, 2), (decode_image(encoded(photo, "JPEG", quality=60)), 1))
    ]
    difference = (views[0] - views[1]).abs().mean()
    assert 0 < difference < 1.5  # of 255
    assert difference < (views[0] - views[2]).abs().mean()


def test_what_a_transform_allows() -> None:
    preprocess = ImagePreprocess(224)
    for augmentation, least in (("light", 251), ("standard", 317), ("strong", 409)):
        transform = train_transform(preprocess, augmentation)
        assert transform.least_side == least
        assert transform.draft_side is not None
        assert transform.draft_side >= DRAFT_RESERVE * least
    assert train_transform(preprocess, "none").draft_side is None  # promises the pixels of evaluation


def test_training_drafts_large_jpegs_and_evaluation_does_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from making_data import write_csv

    from mmcontrast.data import Draw, PairDataset, image_loader, open_source

    sample(0).save(tmp_path / "a.jpg", quality=95)
    source = open_source(write_csv(tmp_path / "a.csv", [["image", "caption"], ["a.jpg", "a temple"]]))
    drafts: list[tuple[int, int]] = []
    jpeg = type(Image.open(io.BytesIO(encoded(sample(0), "JPEG"))))
    original = jpeg.draft
    monkeypatch.setattr(jpeg, "draft", lambda self, mode, size: (drafts.append(size), original(self, mode, size))[1])
    transform = train_transform(ImagePreprocess(64), "light")
    off = PairDataset(source, transform)[Draw(0, 0)].image
    (batch,) = image_loader(source, ImagePreprocess(64), 4)
    assert not drafts
    on = PairDataset(source, transform, draft_side=transform.draft_side)[Draw(0, 0)].image
    assert drafts == [(160, 106)]
    assert 0 < (on.int() - off.int()).abs().float().mean() < 8  # boxes move to whole pixels of the smaller picture
    assert torch.equal(batch.images[0], ImagePreprocess(64).pixels(Image.open(tmp_path / "a.jpg")))
