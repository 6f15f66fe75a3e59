from __future__ import annotations

import pytest
import torch
from torch import Tensor

from mmcontrast.errors import DataError
from mmcontrast.evaluation.positives import PositiveKeys, caption_keys, check_rule, id_keys, value_keys

TEXT_IMAGES = torch.tensor([0, 0, 1, 2, 2])
CAPTIONS = ["a dog", "a cat", "a dog", "a bird", "a fish"]


def all_pairs(keys: PositiveKeys) -> Tensor:
    matrix = keys.image_queries(0, len(keys.image))
    assert torch.equal(matrix.T, keys.text_queries(0, len(keys.text)))
    return matrix.int()


def test_by_id_a_caption_belongs_to_its_picture_only() -> None:
    assert all_pairs(id_keys(TEXT_IMAGES, 3)).tolist() == [[1, 1, 0, 0, 0], [0, 0, 1, 0, 0], [0, 0, 0, 1, 1]]


def test_by_caption_equal_captions_belong_to_all_their_pictures() -> None:
    keys = caption_keys(TEXT_IMAGES, CAPTIONS, 3)
    assert keys.image.shape == (3, 2)
    assert all_pairs(keys).tolist() == [[1, 1, 1, 0, 0], [1, 0, 1, 0, 0], [0, 0, 0, 1, 1]]


def test_by_value_rows_without_one_keep_only_their_own_captions() -> None:
    assert all_pairs(value_keys(TEXT_IMAGES, ["x", None, "x"])).tolist() == [
        [1, 1, 0, 1, 1],
        [0, 0, 1, 0, 0],
        [1, 1, 0, 1, 1],
    ]
    assert torch.equal(all_pairs(value_keys(TEXT_IMAGES, [None] * 3)), all_pairs(id_keys(TEXT_IMAGES, 3)))


def test_label_zero_is_a_label_and_no_filler() -> None:
    assert all_pairs(value_keys(torch.tensor([0, 1]), [0, 0])).tolist() == [[1, 1], [1, 1]]


def test_filler_matches_nothing() -> None:
    keys = PositiveKeys(torch.tensor([[3, 0], [0, 0]]), torch.tensor([3, 0]))
    assert all_pairs(keys).tolist() == [[1, 0], [0, 0]]


def test_slices_are_rows_of_the_whole() -> None:
    keys = caption_keys(TEXT_IMAGES, CAPTIONS, 3)
    assert torch.equal(keys.image_queries(1, 3), keys.image_queries(0, 3)[1:])
    assert torch.equal(keys.text_queries(2, 4), keys.text_queries(0, 5)[2:4])


def test_unknown_rule_is_an_error() -> None:
    with pytest.raises(DataError, match="'class' is unknown; choose one of id, caption, group, label"):
        check_rule("class")
