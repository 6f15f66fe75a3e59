from __future__ import annotations

import hashlib
from collections import Counter

import numpy as np
import pytest

from mmcontrast.data.scene_captions import class_names
from mmcontrast.data.scenes import SceneSource, describes, false_negative_rate, positives, truth_matrix
from mmcontrast.errors import DataError
from mmcontrast.preprocess import decode_image

PIXEL_MEAN, TEXT_HASH = 99.01, "678f4ca3fc33"


@pytest.fixture(scope="module")
def source() -> SceneSource:
    return SceneSource(150, "train", seed=3)


def test_rows_depend_on_seed_split_and_position_only(source: SceneSource) -> None:
    again = SceneSource(5, "train", seed=3)
    for i in range(5):
        assert again.image(i) == source.image(i)
        assert again.captions(i) == source.captions(i)
        assert again.scene(i) == source.scene(i)
    for other in (
        SceneSource(5, "train", seed=4),
        SceneSource(5, "validation", seed=3),
        SceneSource(5, "test", seed=3),
    ):
        assert all(other.image(i) != source.image(i) for i in range(5))


def test_pictures_are_those_of_the_first_release(source: SceneSource) -> None:
    # Pixels within one grey level or so: another Pillow may round differently. Scenes and captions: exactly.
    pixels = np.asarray(decode_image(source.image(0)), np.float64)
    assert pixels.shape == (64, 64, 3)
    assert pixels.mean() == pytest.approx(PIXEL_MEAN, abs=1.0)
    text = "\n".join([*source.captions(0), source.group(0) or ""])
    assert hashlib.sha256(text.encode()).hexdigest()[:12] == TEXT_HASH


def test_every_caption_is_true_of_its_own_picture(source: SceneSource) -> None:
    for i in range(len(source)):
        captions = source.captions(i)
        assert 3 <= len(captions) <= 5
        assert len(set(captions)) == len(captions) == len(source.meanings(i))
        assert all(caption == caption.strip() for caption in captions)
        assert all(describes(meaning, source.scene(i)) for meaning in source.meanings(i))


def test_label_is_the_shape_of_the_largest_object(source: SceneSource) -> None:
    assert source.label_names == class_names()
    assert len(class_names()) == 12
    for i in range(len(source)):
        label = source.label(i)
        assert label is not None
        largest = max(source.scene(i).objects, key=lambda thing: thing.diameter)
        assert class_names()[label] == largest.shape
    assert len(Counter(source.label(i) for i in range(len(source)))) == 12


def test_group_is_shared_by_equal_descriptions_only(source: SceneSource) -> None:
    by_group: dict[str | None, list[int]] = {}
    large = SceneSource(1200, "train", seed=3, image_size=16)
    for i in range(len(large)):
        by_group.setdefault(large.group(i), []).append(i)
    twins = [rows for rows in by_group.values() if len(rows) > 1]
    assert twins
    for first, second, *_ in twins:
        # All that is said of one of them is true of the other, though the pictures differ.
        assert truth_matrix(large.meanings(first), [large.scene(second)]).all()
        assert large.image(first) != large.image(second)


def test_positives_agrees_with_describes(source: SceneSource) -> None:
    rows = range(60)
    matrix, owners = positives(source, rows)
    assert matrix.shape == (len(owners), 60)
    for j, (row, k) in enumerate(owners):
        meaning = source.meanings(row)[k]
        assert matrix[j].tolist() == [describes(meaning, source.scene(i)) for i in rows]
        assert matrix[j, row]


def test_there_are_false_negatives_but_not_too_many(source: SceneSource) -> None:
    rate = false_negative_rate(SceneSource(600, "train", image_size=16), 128, batches=10)
    assert 0.005 < rate < 0.03


def test_pictures_of_any_size() -> None:
    source = SceneSource(2, "test", image_size=96)
    assert decode_image(source.image(1)).size == (96, 96)
    assert source.row_number(1) == 1
    assert source.bad_rows == []


def test_pictures_are_bright_and_varied_not_blank(source: SceneSource) -> None:
    for i in range(30):
        pixels = np.asarray(decode_image(source.image(i)), np.float64)
        assert pixels.std() > 8


def test_unknown_split_and_empty_source_are_refused() -> None:
    with pytest.raises(DataError, match=r"no split 'dev': choose one of train, validation, test"):
        SceneSource(5, "dev")
    with pytest.raises(DataError, match="rows >= 1"):
        SceneSource(0)
