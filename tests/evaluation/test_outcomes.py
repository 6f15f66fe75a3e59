"""What stands behind the numbers gives the numbers again."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from evaluation_fakes import FakeEncoder, FakeSource
from sklearn.metrics import average_precision_score, balanced_accuracy_score, f1_score

from mmcontrast.data.columns import Columns
from mmcontrast.evaluation.reliability import reliability
from mmcontrast.evaluation.tasks import Evaluation, run_tasks
from mmcontrast.task_names import TASKS

N = 24


def source() -> FakeSource:
    """Pictures of six classes, some of which the encoder takes for others; two captions each, groups of two."""
    generator = torch.Generator().manual_seed(3)
    codes: list[int | None] = torch.randint(40, (N,), generator=generator).tolist()
    codes[4] = None
    names = [torch.randint(40, (2,), generator=generator).tolist() for _ in range(N)]
    return FakeSource(
        codes=codes,
        texts=[[f"a red dog on {first} grey hills", f"{second} cats"] for first, second in names],
        labels=[None if i == 7 else i % 6 for i in range(N)],
        label_names=[f"class_{i}" for i in range(6)],
        groups=[f"g{i // 2}" for i in range(N)],
        columns=Columns("image", ("one", "two")),
    )


@pytest.fixture(scope="module")
def found() -> Evaluation:
    tasks = [task for task in TASKS if task != "winoground"]
    return run_tasks(
        FakeEncoder(), source(), tasks, positives="label", train=source(), logit_scale=5.0, templates=["{c}"]
    )


@pytest.mark.parametrize("task", [task for task in TASKS if task not in ("winoground", "multi_label")])
def test_metrics_are_means_of_their_items(found: Evaluation, task: str) -> None:
    details, metrics = found.details[task], found.results[task]
    assert details.items
    known = dict(metrics)
    for name, (values, pictures) in details.items.items():
        known.setdefault(name, values.double().mean().item())  # recalls under a corruption are no metrics themselves
        assert values.double().mean().item() == pytest.approx(known[name], abs=1e-12), name
        assert values.shape == pictures.shape
        assert pictures.dtype == torch.int64
        assert 0 <= int(pictures.min()) <= int(pictures.max()) < N - 1  # one could not be decoded
    for name, of in details.means.items():
        defined = [value for other in of if (value := known[other]) is not None]
        assert np.mean(defined) == pytest.approx(metrics[name]), name
    bare = {"mean_recall", "acc1"} if task == "robustness" else set(metrics)
    for name in bare - {"strength", "temperature", "ece", "ece_calibrated", "mean_per_class_recall"}:
        whole = name in details.items or name in details.means or metrics[name] is None
        assert whole or name.startswith(("macro_", "acc1_sd")) or "median" in name or task == "geometry", name
    for name in metrics:
        if name.endswith("median_rank"):
            ranks = details.items[name.replace("median", "mean")].values
            assert np.median(ranks.numpy()) == metrics[name]


def test_items_stand_under_their_pictures(found: Evaluation) -> None:
    retrieval = found.details["retrieval"].items
    assert torch.equal(retrieval["text_to_image_map@r"].pictures, found.data.text_images)
    assert retrieval["image_to_text_mean_rank"].pictures.tolist() == list(range(N - 1))
    assert found.details["zero_shot"].items["acc1"].pictures.tolist() == [i for i in range(N - 1) if i != 6]
    assert found.source is not None


@pytest.mark.parametrize("task", ["zero_shot", "linear_probe"])
def test_classes_give_recall_and_f1(found: Evaluation, task: str) -> None:
    classified, metrics = found.details[task].classified, found.results[task]
    assert classified is not None
    assert len(classified.class_names) == 6
    labels, predictions = classified.labels.numpy(), classified.predictions.numpy()
    assert balanced_accuracy_score(labels, predictions) == pytest.approx(metrics["mean_per_class_recall"])
    if task == "linear_probe":
        assert f1_score(labels, predictions, average="macro") == pytest.approx(metrics["macro_f1"])


def test_confidences_give_the_calibration_error(found: Evaluation) -> None:
    details, metrics = found.details["calibration"], found.results["calibration"]
    assert set(details.confidences) == {"ece", "ece_calibrated"}
    for name, (probabilities, right, pictures) in details.confidences.items():
        assert reliability(probabilities, right, 15).ece == pytest.approx(metrics[name])
        assert len(pictures) == len(right) == 11


def test_label_scores_give_the_mean_average_precision(found: Evaluation) -> None:
    held = found.details["multi_label"].label_scores
    assert held is not None
    ours = [average_precision_score(truth, scores) for scores, truth in zip(held.scores.T, held.truth.T, strict=True)]
    assert np.mean(ours) == pytest.approx(found.results["multi_label"]["map"], abs=0.02)  # ties are decided otherwise


def test_questions_of_two_pictures_stand_under_the_first() -> None:
    data = source()
    data.texts = [texts[:1] for texts in data.texts]
    found = run_tasks(FakeEncoder(), data, ["winoground"])
    items = found.details["winoground"].items
    assert items["group_score"].pictures.tolist() == [0, 2, *range(5, N - 1, 2)]
    for name, value in found.results["winoground"].items():
        assert items[name].values.double().mean().item() == value
