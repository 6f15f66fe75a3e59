"""Retrieval within a modality against loops, and the tasks that use it."""

from __future__ import annotations

import statistics

import pytest
import torch
from evaluation_fakes import FakeEncoder, FakeSource
from torch import Tensor

from mmcontrast.errors import DataError
from mmcontrast.evaluation.metrics import r_precision
from mmcontrast.evaluation.same_kind import same_kind_metrics
from mmcontrast.evaluation.tasks import run_tasks


def slow(features: Tensor, keys: list[set[int]], ks: list[int]) -> tuple[dict[str, float], int]:
    units = torch.nn.functional.normalize(features.double(), dim=-1)
    ranks, averages, precisions = [], [], []
    for query in range(len(units)):
        scores = [(units[query] @ unit).item() for unit in units]
        others = [row for row in range(len(units)) if row != query]
        right = {row for row in others if keys[query] & keys[row]}
        if not right:
            continue
        placed = sorted(others, key=lambda row: (-round(scores[row], 9), row in right))  # in a tie the rival is first
        hits = [row in right for row in placed]
        ranks.append(1 + hits.index(True))
        r = len(right)
        precisions.append(sum(hits[:r]) / r)
        averages.append(sum(sum(hits[: i + 1]) / (i + 1) for i in range(r) if hits[i]) / r)
    found = {f"recall@{k}": sum(rank <= k for rank in ranks) / len(ranks) for k in ks}
    found |= {"mean_rank": statistics.mean(ranks), "median_rank": statistics.median(ranks)}
    found |= {"map@r": statistics.mean(averages), "r_precision": statistics.mean(precisions)}
    return found, len(units) - len(ranks)


@pytest.mark.parametrize("chunk", [1, 7, 256])
def test_by_loops(chunk: int) -> None:
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(40, 3, generator=generator)
    features[5] = features[9] = features[20]  # ties
    keys = torch.randint(0, 15, (40, 2), generator=generator)  # 0 is no key
    keys[30] = torch.tensor([99, 0])
    sets = [set(row) - {0} for row in keys.tolist()]
    found, without = same_kind_metrics(features, keys, ks=[1, 5], chunk=chunk)
    expected, expected_without = slow(features, sets, [1, 5])
    assert found == pytest.approx(expected)
    assert without == expected_without > 0


def test_r_precision_by_hand() -> None:
    scores = torch.tensor([[0.9, 0.8, 0.7, 0.1], [0.5, 0.5, 0.1, 0.2]])
    positive = torch.tensor([[True, False, True, False], [True, False, False, False]])
    assert r_precision(scores, positive).tolist() == [0.5, 0.0]  # the tie is lost


def test_constant_features_find_nothing() -> None:
    found, _ = same_kind_metrics(torch.ones(6, 3), torch.tensor([[1], [1], [2], [2], [3], [3]]), ks=[1])
    assert (found["recall@1"], found["map@r"], found["r_precision"]) == (0, 0, 0)


def test_mistakes() -> None:
    keys = torch.tensor([[1], [1], [2]])
    with pytest.raises(DataError, match="no two rows belong together"):
        same_kind_metrics(torch.eye(3), torch.tensor([[1], [2], [0]]), ks=[1])
    with pytest.raises(DataError, match=r"recall@3: k must be between 1 and the gallery's size, 2 others"):
        same_kind_metrics(torch.eye(3), keys, ks=[1, 3])
    assert same_kind_metrics(torch.eye(3), keys, ks=[3], strict=False)[0]["recall@3"] is None
    with pytest.raises(DataError, match="2 rows of keys for 3 features"):
        same_kind_metrics(torch.eye(3), keys[:2], ks=[1])


def source() -> FakeSource:
    return FakeSource(
        codes=[1, 1, 2, 2, 3],
        texts=[["1", "a 1"], ["1 !"], ["2"], ["2 ."], ["3"]],
        labels=[0, 0, 1, 1, 2],
        label_names=["one", "two", "three"],
    )


def test_as_tasks() -> None:
    encoder = FakeEncoder()
    found = run_tasks(encoder, source(), ["image_to_image", "text_to_text"], positives="label", ks=[1, 5])
    for task in ("image_to_image", "text_to_text"):
        assert found.results[task]["recall@1"] == found.results[task]["r_precision"] == 1.0
    assert found.results["image_to_image"]["recall@5"] is None
    assert found.results["text_to_text"]["recall@5"] == 1.0
    assert found.notes == [
        "image_to_image: 1 pictures belong to no other by label and are no queries",
        "image_to_image: too few pictures for recall@5",
        "text_to_text: 1 captions belong to no other by label and are no queries",
    ]
    by_id = run_tasks(encoder, source(), ["text_to_text"], ks=[1])
    assert by_id.results["text_to_text"]["recall@1"] == 0.0  # the third caption with a 1 ties
    assert by_id.notes == ["text_to_text: 4 captions belong to no other by id and are no queries"]
    with pytest.raises(DataError, match="image_to_image: by id no two pictures belong together: take --positives"):
        run_tasks(encoder, source(), ["image_to_image"])


def test_geometry_and_calibration_as_tasks() -> None:
    encoder = FakeEncoder()
    found = run_tasks(encoder, source(), ["geometry", "calibration"], classnames=["1", "2", "3"], templates=["{c}"])
    assert found.results["geometry"]["alignment"] == pytest.approx(0, abs=1e-12)
    assert found.results["calibration"]["ece_calibrated"] == pytest.approx(0, abs=1e-6)
    assert found.zero_shot is None
    assert found.spelled == {"one": "1", "two": "2", "three": "3"}
    assert sum(encoder.image_batches) == 5
    sharp = run_tasks(encoder, source(), ["calibration"], classnames=["1", "2", "3"], logit_scale=1.0)
    assert sharp.results["calibration"]["ece"] > found.results["calibration"]["ece"]  # type: ignore[operator]
    alone = source()
    alone.texts = []
    with pytest.raises(DataError, match="geometry needs captions"):
        run_tasks(encoder, alone, ["geometry"])
