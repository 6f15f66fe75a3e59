from __future__ import annotations

import pytest
import torch
from evaluation_fakes import FakeEncoder, FakeSource

from mmcontrast.errors import DataError
from mmcontrast.evaluation.tasks import run_tasks
from mmcontrast.evaluation.winoground import winoground_scores


def test_by_the_paper_s_conditions() -> None:
    generator = torch.Generator().manual_seed(0)
    images, captions = (torch.randn(200, 2, 3, generator=generator) for _ in range(2))
    unit_images, unit_captions = (torch.nn.functional.normalize(part.double(), dim=-1) for part in (images, captions))
    text = image = group = 0
    for i, c in zip(unit_images, unit_captions, strict=True):
        c0_i0, c1_i0, c0_i1, c1_i1 = (float(i[p] @ c[q]) for p, q in ((0, 0), (0, 1), (1, 0), (1, 1)))
        text_right = c0_i0 > c1_i0 and c1_i1 > c0_i1
        image_right = c0_i0 > c0_i1 and c1_i1 > c1_i0
        text, image, group = text + text_right, image + image_right, group + (text_right and image_right)
    found = winoground_scores(images, captions)
    assert found == {"text_score": text / 200, "image_score": image / 200, "group_score": group / 200}
    assert len(set(found.values())) == 3


def test_a_tie_is_lost() -> None:
    same = torch.ones(1, 2, 3)
    assert set(winoground_scores(same, same).values()) == {0.0}
    own = torch.eye(2)[None]
    assert set(winoground_scores(own, own).values()) == {1.0}
    assert winoground_scores(same[..., :2], own)["text_score"] == 0.0


def source(codes: list[int], texts: list[list[str]], groups: list[str | None]) -> FakeSource:
    return FakeSource(codes=list(codes), texts=texts, groups=groups)


def test_as_a_task_groups_need_not_stand_together() -> None:
    texts = [["1"], ["7"], ["2"], ["3"], ["4"], ["no number"]]
    found = run_tasks(FakeEncoder(), source([1, 9, 2, 4, 3, 5], texts, ["x", "z", "x", "y", "y", None]), ["winoground"])
    assert found.results["winoground"] == {"text_score": 0.5, "image_score": 0.5, "group_score": 0.5}
    assert found.notes == ["winoground: 1 groups have a single picture and take no part"]


@pytest.mark.parametrize(
    ("codes", "texts", "groups", "message"),
    [
        ([1, 2], [["1"], ["2"]], [None, None], "winoground needs a group column"),
        ([1, 2, 3], [["1"], ["2"], ["3"]], ["x", "x", "x"], "group 'x' has 3 pictures; winoground compares two"),
        ([1, 2], [["1"], ["2"]], ["x", "y"], "no group has two pictures"),
        ([1, 2], [["1"], ["2", "3"]], ["x", "x"], "row 1 has 2 captions; winoground takes one"),
    ],
)
def test_data_that_is_no_such_thing(
    codes: list[int], texts: list[list[str]], groups: list[str | None], message: str
) -> None:
    with pytest.raises(DataError, match=message):
        run_tasks(FakeEncoder(), source(codes, texts, groups), ["winoground"])
    with pytest.raises(DataError, match="pairs of pictures and captions"):
        winoground_scores(torch.ones(2, 3), torch.ones(2, 3))
