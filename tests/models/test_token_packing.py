from __future__ import annotations

import pytest
import torch

from mmcontrast.errors import ModelError
from mmcontrast.models.token_packing import check_captions, mask_from_ids, pack


def test_pack_pads_to_the_longest_and_keeps_the_end_mark_of_cut_captions() -> None:
    tokens = pack([[2, 7, 3], [2, 7, 8, 9, 7, 3], [2, 8, 9, 3]], context_length=4, pad_id=0, eos_id=3)
    assert tokens.input_ids.tolist() == [[2, 7, 3, 0], [2, 7, 8, 3], [2, 8, 9, 3]]
    assert tokens.attention_mask.tolist() == [[1, 1, 1, 0], [1, 1, 1, 1], [1, 1, 1, 1]]
    assert tokens.truncated == 1
    assert tokens.input_ids.dtype == tokens.attention_mask.dtype == torch.int64


def test_short_batches_are_not_padded_to_the_context() -> None:
    assert pack([[2, 3], [2, 7, 3]], 50, 0, 3).input_ids.shape == (2, 3)


def test_mask_from_ids_keeps_padding_ids_inside_a_caption() -> None:
    # In CLIP's vocabulary 0 is both padding and "!".
    assert mask_from_ids(torch.tensor([[5, 0, 6, 0, 0], [5, 6, 7, 8, 6]]), 0, 6).tolist() == [
        [1, 1, 1, 0, 0],
        [1, 1, 1, 1, 1],
    ]


def test_mask_from_ids_where_padding_is_the_end_mark() -> None:
    assert mask_from_ids(torch.tensor([[5, 7, 9, 9], [5, 7, 7, 9]]), 9, 9).tolist() == [[1, 1, 1, 0], [1, 1, 1, 1]]


@pytest.mark.parametrize(
    ("captions", "message"),
    [("a dog", "not one string"), ([], "the list is empty"), (["a", None], "caption 1 is a NoneType, not a string")],
)
def test_wrong_captions_are_named(captions, message) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(ModelError, match=message):
        check_captions(captions)
