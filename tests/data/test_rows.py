from __future__ import annotations

import numpy as np
import pytest

from mmcontrast.data.rows import clean_captions, clean_group, encode_labels, label_number
from mmcontrast.errors import DataError


def test_captions_of_all_kinds_of_cells() -> None:
    assert clean_captions([" a ", None, float("nan"), "", "nan"]) == ["a"]
    assert clean_captions([["a", ["b"]], np.array(["c", "d"]), b"e", 7]) == ["a", "b", "c", "d", "e", "7"]
    assert clean_captions([[{"raw": "a", "sentid": 1}, {"text": "b"}, {"other": "c"}]]) == ["a", "b"]
    assert clean_captions(["none", "null", "a none"]) == ["none", "null", "a none"]


def test_groups() -> None:
    assert [clean_group(cell) for cell in (7, "a", "", None, float("nan"))] == ["7", "a", None, None, None]


def test_label_numbers() -> None:
    assert [label_number(cell) for cell in (3, 3.0, "3", "-1", "3.5", "x", None)] == [3, 3, 3, -1, None, None, None]


def test_labels_as_numbers_and_as_texts() -> None:
    numbers, names = encode_labels([2, None, "1", 0.0], None, "x")
    assert numbers is not None
    assert numbers.tolist() == [2, -1, 1, 0]
    assert names is None
    numbers, names = encode_labels(["b", "a", None, "b"], None, "x")
    assert numbers is not None
    assert numbers.tolist() == [1, 0, -1, 1]
    assert names == ["a", "b"]
    assert encode_labels([None, ""], None, "x")[0] is None


def test_labels_without_a_name() -> None:
    with pytest.raises(DataError, match="x: label 2 has no name: there are 2 class names"):
        encode_labels([0, 2], ["a", "b"], "x")
    with pytest.raises(DataError, match=r"x: label 'c' is none of the class names \['a', 'b'\]"):
        encode_labels(["c"], ["a", "b"], "x")
