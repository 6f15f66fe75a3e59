from __future__ import annotations

import colorsys
import pickle

import numpy as np
import pytest
import torch
from making_data import picture
from PIL import Image

from mmcontrast.data.transforms import colour_matrix, crop_box, picture_bytes, resized_crop, train_transform
from mmcontrast.errors import ConfigError
from mmcontrast.preprocess import ImagePreprocess, to_tensor

PREPROCESS = ImagePreprocess(16)


@pytest.mark.parametrize("augmentation", ["none", "light", "standard", "strong"])
@pytest.mark.parametrize("size", [(16, 16), (3, 50), (200, 31), (1, 1)])
def test_shape_and_type(augmentation: str, size: tuple[int, int]) -> None:
    transform = train_transform(PREPROCESS, augmentation, rotate90=True)
    for seed in range(5):
        torch.manual_seed(seed)
        view = transform(picture(0, size))
        assert view.shape == (3, 16, 16)
        assert view.dtype == torch.uint8
        assert view.permute(1, 2, 0).is_contiguous()


@pytest.mark.parametrize("mode", ["RGB", "L", "RGBA"])
@pytest.mark.parametrize("size", [(5, 3), (2500, 2000)])  # Pillow holds the larger one in two pieces
def test_bytes_of_a_picture(mode: str, size: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    image = picture(0, size).convert(mode)
    expected = torch.from_numpy(np.array(image.convert("RGB")))
    assert torch.equal(picture_bytes(image)[..., :3], expected)
    assert torch.equal(picture_bytes(expected.numpy()), expected)
    monkeypatch.delattr(Image.Image, "__arrow_c_array__", raising=False)  # as in older Pillows
    assert torch.equal(picture_bytes(image), expected)


@pytest.mark.parametrize("size", [(30, 20), (200, 150)])
def test_a_crop_is_resized_as_pillow_does(size: tuple[int, int]) -> None:
    image, box = picture(2, size), (4.3, 3.8, 26.6, 17.2)
    ours = resized_crop(picture_bytes(image), box, (16, 24), "bicubic")
    theirs = to_tensor(image.crop((4, 4, 27, 17)).resize((24, 16), Image.Resampling.BICUBIC))
    assert ours.shape == theirs.shape
    assert (ours.int() - theirs.int()).abs().max() <= 2


@pytest.mark.parametrize("box", [(0.0, 0.0, 0.2, 0.2), (2.9, 1.9, 3.0, 2.0)])
def test_a_crop_has_a_pixel_at_least(box: tuple[float, float, float, float]) -> None:
    pixels = resized_crop(picture_bytes(picture(2, (3, 2))), box, (4, 4), "bilinear")
    assert (pixels == pixels[:, :1, :1]).all()


@pytest.mark.parametrize("augmentation", ["none", "light", "strong"])
def test_bytes_give_the_view_of_their_picture(augmentation: str) -> None:
    transform, image = train_transform(PREPROCESS, augmentation), picture(3, (40, 20))
    views = []
    for source in (image, np.array(image)):
        torch.manual_seed(3)
        views.append(transform(source))
    assert torch.equal(*views)


def test_none_is_the_evaluation_preprocessing() -> None:
    image = picture(3, (40, 20))
    assert torch.equal(train_transform(PREPROCESS, "none")(image), PREPROCESS.pixels(image))


def test_the_seed_decides_and_pickling_changes_nothing() -> None:
    transform, image = train_transform(PREPROCESS, "strong"), picture(3, (40, 20))
    views = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        views.append(transform(image))
    assert torch.equal(views[0], views[1])
    assert not torch.equal(views[0], views[2])
    torch.manual_seed(1)
    assert torch.equal(pickle.loads(pickle.dumps(transform))(image), views[0])


def test_flips_and_turns_can_be_had_and_left_out() -> None:
    image = picture(5, (16, 16))
    plain = PREPROCESS.pixels(image)

    def views(**options: bool) -> set[bytes]:
        transform = train_transform(PREPROCESS, "light", crop_scale_min=1.0, **options)
        found = set()
        for seed in range(60):
            torch.manual_seed(seed)
            found.add(transform(image).numpy().tobytes())
        return found

    # With the whole area kept, only the shape of the crop varies: sides are cut or not.
    assert len(views(horizontal_flip=False)) > 5
    turned = train_transform(PREPROCESS, "none", rotate90=True)
    found = set()
    for seed in range(40):
        torch.manual_seed(seed)
        found.add(turned(image).numpy().tobytes())
    assert found == {torch.rot90(plain, k, (1, 2)).contiguous().numpy().tobytes() for k in range(4)}


def test_half_of_the_views_are_mirrored() -> None:
    ramp = Image.fromarray(np.tile(np.arange(0, 160, 10, dtype=np.uint8)[None, :, None], (16, 1, 3)))

    def mirrored(flip: bool) -> float:
        transform = train_transform(PREPROCESS, "light", horizontal_flip=flip)
        torch.manual_seed(0)
        views = [transform(ramp).int() for _ in range(300)]
        return float(np.mean([bool(view[0, 8, 0] > view[0, 8, -1]) for view in views]))

    assert mirrored(False) == 0
    assert 0.4 < mirrored(True) < 0.6


def test_crop_boxes_lie_within_and_have_the_right_area() -> None:
    rng = np.random.default_rng(0)
    shares = []
    for _ in range(2000):
        left, top, right, bottom = crop_box(100, 40, 0.5, *rng.random(4).tolist())
        assert 0 <= left < right <= 100
        assert 0 <= top < bottom <= 40
        shares.append((right - left) * (bottom - top) / 4000)
    assert min(shares) > 0.49
    assert 0.65 < np.mean(shares) < 0.75
    assert crop_box(100, 40, 1.0, 0.3, 0.5, 0.7, 0.7) == pytest.approx((0, 0, 100, 40))


def test_colour_matrix_against_the_textbook() -> None:
    colour = np.array([0.8, 0.3, 0.1])
    luma = 0.299 * 0.8 + 0.587 * 0.3 + 0.114 * 0.1
    assert colour_matrix(1, 1, 1, 0) @ colour == pytest.approx(colour)
    assert colour_matrix(1.2, 1, 1, 0) @ colour == pytest.approx(1.2 * colour)
    assert colour_matrix(1, 1, 0, 0) @ colour == pytest.approx([luma] * 3)
    assert colour_matrix(1, 1, 0.4, 0) @ colour == pytest.approx(0.4 * colour + 0.6 * luma)
    assert colour_matrix(1, 1, 1, 1 / 3) @ np.array([1.0, 0, 0]) == pytest.approx([0, 1, 0])
    turned = np.clip(colour_matrix(1, 1, 1, 0.05) @ colour, 0, 1)
    hue = colorsys.rgb_to_hsv(*colour)[0]
    assert colorsys.rgb_to_hsv(*turned)[0] == pytest.approx(hue + 0.05, abs=0.01)


def test_contrast_keeps_the_mean_and_grey_has_no_colour() -> None:
    transform = train_transform(PREPROCESS, "strong")
    image = Image.blend(picture(1, (16, 16)), Image.new("RGB", (16, 16), "grey"), 0.5)  # nothing to be clipped
    before = to_tensor(image)
    plain, grey = (transform._recolour(before, [0.5, 0.9, 0.5, 0.5, u]).numpy().astype(float) for u in (0.9, 0.0))
    assert abs(plain.mean() - before.double().mean()) < 3
    assert plain.std() > before.double().std()
    assert np.ptp(grey, axis=0).max() <= 1


def test_erasing() -> None:
    transform = train_transform(ImagePreprocess(32), "strong")
    black = Image.new("RGB", (32, 32))
    torch.manual_seed(0)
    shares = [float((transform(black)[0] == 128).float().mean()) for _ in range(300)]
    erased = [share for share in shares if share > 0]
    assert 0.15 < len(erased) / 300 < 0.35
    assert max(erased) < 0.25


def test_bad_arguments() -> None:
    with pytest.raises(ConfigError, match="augmentation 'heavy' is unknown: choose one of none, light"):
        train_transform(PREPROCESS, "heavy")
    with pytest.raises(ConfigError, match=r"crop_scale_min = 1\.5"):
        train_transform(PREPROCESS, "light", crop_scale_min=1.5)
