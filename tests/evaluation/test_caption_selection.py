from __future__ import annotations

import json

import pytest
import torch
from evaluation_fakes import FakeEncoder, FakeSource

from mmcontrast.data.columns import Columns
from mmcontrast.errors import DataError, ModelError
from mmcontrast.evaluation.caption_selection import chosen_right
from mmcontrast.evaluation.hard_captions import hard_captions
from mmcontrast.evaluation.tasks import run_tasks


def test_the_closer_caption_is_chosen_and_a_tie_is_lost() -> None:
    images = torch.tensor([[1.0, 0.0], [1.0, 0.0], [2.0, 0.0]])
    right = torch.tensor([[1.0, 1.0], [1.0, 2.0], [3.0, 3.0]])
    wrong = torch.tensor([[1.0, 2.0], [1.0, 1.0], [1.0, 1.0]])
    assert chosen_right(images, right, wrong).tolist() == [True, False, False]


def test_features_that_do_not_fit() -> None:
    with pytest.raises(
        DataError, match=r"do not fit: \(3, 3\) of images, \(2, 3\) of right captions, \(3, 3\) of wrong"
    ):
        chosen_right(torch.eye(3), torch.eye(3)[:2], torch.eye(3))
    with pytest.raises(ModelError, match="wrong caption features are not finite"):
        chosen_right(torch.eye(3), torch.eye(3), torch.full((3, 3), torch.nan))


def test_first_captions_by_loops() -> None:
    encoder = FakeEncoder()
    texts = [["1", "7", "8"], ["9", "2", "3"], ["4", "4", "5"], ["6", "10", "11"]]  # the third has a tie
    found = run_tasks(encoder, FakeSource(codes=[1, 2, 4, 12], texts=texts), ["caption_selection"])
    vectors = encoder.vectors.detach().double()
    right = [
        [bool(vectors[code] @ vectors[int(row[0])] > vectors[code] @ vectors[int(text)] + 1e-9) for text in row[1:]]
        for code, row in zip([1, 2, 4, 12], texts, strict=True)
    ]
    assert right[:3] == [[True, True], [False, right[1][1]], [False, True]]
    assert found.results["caption_selection"] == {
        "text_acc": sum(map(sum, right)) / 8,
        "question_acc": sum(map(all, right)) / 4,
    }


@pytest.mark.parametrize(
    "texts", [[["1"], ["2"]], [["1", "2"], ["1", "2", "1", "2"]], [["1", "2"], ["3"]], [["1", "2"], ["1", "2", "3"]]]
)
def test_first_captions_need_their_wrong_ones(texts: list[list[str]]) -> None:
    with pytest.raises(DataError, match=r"fake.parquet: row \d has \d captions, 2 are needed: the right one first"):
        run_tasks(FakeEncoder(), FakeSource(codes=[1, 2], texts=texts), ["caption_selection"])


def test_a_picture_of_several_rows_has_several_questions() -> None:
    columns = Columns("image", ("caption", "negative_caption"))
    source = FakeSource(codes=[1, 2], texts=[["1", "7", "7", "1"], ["2", "3"]], columns=columns)
    found = run_tasks(FakeEncoder(), source, ["caption_selection"])
    assert found.results["caption_selection"] == {
        "text_acc": pytest.approx(2 / 3),
        "question_acc": pytest.approx(2 / 3),
    }
    source.texts[0].pop()  # one of them was empty
    with pytest.raises(DataError, match="row 0 has 3 captions, 2 are needed"):
        run_tasks(FakeEncoder(), source, ["caption_selection"])


def test_lists_in_columns_are_refused_and_not_misread() -> None:
    columns = Columns("image", ("right", "wrong"))
    texts = [["1", "2", "7", "8"], ["2", "3"]]  # ["1", "2"] in one column, ["7", "8"] in the other
    source = FakeSource(codes=[1, 2], texts=texts, columns=columns, column_numbers=[[0, 0, 1, 1], [0, 1]])
    with pytest.raises(
        DataError, match="row 0 has several captions in one column: caption_selection takes one of each"
    ):
        run_tasks(FakeEncoder(), source, ["caption_selection"])


def test_hard_captions_by_loops() -> None:
    encoder = FakeEncoder()
    captions = ["a dog of 1 on a big red hill", "two cats of 2", "a man of 3 in the city"]
    source = FakeSource(codes=[1, 2, 3], texts=[[caption] for caption in captions])
    found = run_tasks(encoder, source, ["hard_captions"], seed=1)
    made = hard_captions(captions, range(3), seed=1)
    vectors = encoder.vectors.detach().double()
    scores: dict[str, list[bool]] = {}
    for hard in made:
        own, code = vectors[hard.place + 1], encoder._code(hard.text)
        scores.setdefault(hard.kind, []).append(bool(own @ own > own @ vectors[code] + 1e-9))
    everything = [right for of_kind in scores.values() for right in of_kind]
    expected = {"text_acc": sum(everything) / len(everything)}
    for kind in ("noun", "adjective", "number", "order"):
        expected[f"text_acc_{kind}"] = sum(scores[kind]) / len(scores[kind]) if kind in scores else None
    assert found.results["hard_captions"] == pytest.approx(expected)
    assert "number" in scores
    assert found.notes[0].startswith(f"hard_captions: {len(made)} wrong captions: ")
    json.dumps(found.results, allow_nan=False)


def test_captions_that_the_rules_do_not_know() -> None:
    source = FakeSource(codes=[1, 2], texts=[["有一个男孩正在扔石头。"], ["手扔石头的小男孩。"]])
    with pytest.raises(DataError, match=r"no hard caption can be made of its 2 captions: the rules look for English"):
        run_tasks(FakeEncoder(), source, ["hard_captions"])
    with pytest.raises(DataError, match="caption_selection needs captions"):
        run_tasks(FakeEncoder(), FakeSource(codes=[1]), ["caption_selection"])
