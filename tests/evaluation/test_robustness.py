"""Scores of corrupted pictures: what they are compared with, and how often anything is embedded."""

from __future__ import annotations

import pytest
from evaluation_fakes import FakeEncoder, FakeSource

from mmcontrast.data.corruptions import CORRUPTIONS, SEVERITIES
from mmcontrast.errors import DataError
from mmcontrast.evaluation.tasks import run_tasks

SETS = [f"{name}@{severity}" for name in CORRUPTIONS for severity in SEVERITIES]


def source(n: int = 12, *, captions: bool = True, labels: bool = True) -> FakeSource:
    """Row i shows code 2 i + 10, as its caption and class say."""
    codes: list[int | None] = [2 * i + 10 for i in range(n)]
    return FakeSource(
        codes=codes,
        texts=[[f"number {code}"] for code in codes] if captions else [],
        labels=list(range(n)) if labels else [],
        label_names=[str(code) for code in codes] if labels else None,
    )


def test_scores_of_each_corruption_and_what_is_lost() -> None:
    encoder = FakeEncoder()
    found = run_tasks(encoder, source(), ["robustness"], templates=["{c}"])
    scores = found.results["robustness"]
    assert scores["clean/mean_recall"] == scores["clean/acc1"] == 1.0
    assert scores["blur@3/acc1"] == scores["crop@3/acc1"] == 1.0  # the pictures have one colour
    assert scores["blur@3/acc1_drop"] == 0.0
    # A picture of a third of its light shows another code: right by chance only.
    assert scores["darkness@2/acc1"] < 0.3  # type: ignore[operator]
    assert scores["darkness@2/acc1_drop"] == pytest.approx(1 - scores["darkness@2/acc1"])  # type: ignore[operator]
    for metric in ("mean_recall", "acc1"):
        values = [scores[f"{name}/{metric}"] for name in SETS]
        assert scores[metric] == pytest.approx(sum(values) / len(values))  # type: ignore[arg-type]
        assert scores[f"{metric}_drop"] == pytest.approx(1 - scores[metric])  # type: ignore[operator]
    assert 0 < scores["noise@1/acc1"] + scores["noise@1/mean_recall"] < 2  # type: ignore[operator]
    names = {f"{name}/{metric}" for name in ("clean", *SETS) for metric in ("acc1", "mean_recall")}
    names |= {f"{name}_drop" for name in names if not name.startswith("clean")}
    assert set(scores) == names | {"acc1", "acc1_drop", "mean_recall", "mean_recall_drop"}
    assert found.spelled["10"] == "10"


def test_each_set_is_embedded_once_and_texts_are_too() -> None:
    encoder = FakeEncoder()
    run_tasks(encoder, source(), ["robustness", "retrieval", "zero_shot"], templates=["{c}"])
    assert sum(encoder.image_batches) == 12 * (1 + len(SETS))
    assert [len(batch) for batch in encoder.text_batches] == [12, 12]  # captions, prompts


def test_same_seed_same_numbers_in_any_batches() -> None:
    first = run_tasks(FakeEncoder(), source(), ["robustness"]).results
    assert run_tasks(FakeEncoder(), source(), ["robustness"], batch_size=5).results == first
    assert run_tasks(FakeEncoder(), source(), ["robustness"], seed=1).results != first


def test_captions_or_labels_alone_and_bad_pictures() -> None:
    data = source(captions=False)
    data.codes[1] = None
    by_labels = run_tasks(FakeEncoder(), data, ["robustness"])
    assert "mean_recall" not in by_labels.results["robustness"]
    assert by_labels.results["robustness"]["clean/acc1"] == 1.0
    assert len(by_labels.notes) == 1  # on the bad picture
    by_captions = run_tasks(FakeEncoder(), source(labels=False), ["robustness"])
    assert "acc1" not in by_captions.results["robustness"]
    numbered = source()
    numbered.label_names = None
    found = run_tasks(FakeEncoder(), numbered, ["robustness"])
    assert found.notes == ["robustness: the labels are numbers without names, so that acc1 is left out"]


def test_neither_captions_nor_labels() -> None:
    with pytest.raises(DataError, match=r"fake.parquet: robustness needs captions or labels, and it has neither"):
        run_tasks(FakeEncoder(), source(captions=False, labels=False), ["robustness"])
    numbered = source(captions=False)
    numbered.label_names = None
    with pytest.raises(DataError, match="its labels are numbers without names"):
        run_tasks(FakeEncoder(), numbered, ["robustness"])
