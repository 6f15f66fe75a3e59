from __future__ import annotations

import json

import pytest
from evaluation_fakes import FakeEncoder, FakeSource

from mmcontrast.errors import DataError
from mmcontrast.evaluation.feature_memory import FeatureMemory
from mmcontrast.evaluation.tasks import run_tasks
from mmcontrast.task_names import PROBE_TASKS


def source(classes: list[str] | None, labels: list[int | None], codes: list[int | None] | None = None) -> FakeSource:
    """Row i shows the code of its class's name (its last letter) or number."""
    shown = [None if n is None else n if classes is None else ord(classes[n][-1]) - 97 for n in labels]
    return FakeSource(codes=codes or [0 if n is None else n for n in shown], labels=labels, label_names=classes)


def test_classes_are_matched_by_name() -> None:
    train = source(["class_b", "class_a"], [0, 1, 0, 1, 0, 1])
    data = source(["class_a", "class_b"], [0, 1, 1])
    found = run_tasks(FakeEncoder(), data, PROBE_TASKS, train=train)
    assert found.results["linear_probe"]["acc1"] == 1.0
    assert found.results["linear_probe"]["acc5"] is None
    assert found.results["knn"] == {"acc1@1": 1.0, "acc1@5": 1.0, "acc1@20": None}
    assert found.results["few_shot"]["acc1@2_shots"] == 1.0
    assert found.results["few_shot"]["acc1@4_shots"] is None
    assert "knn: too few train pictures for acc1@20" in found.notes
    json.dumps(found.results, allow_nan=False)


def test_classes_without_names_are_matched_by_number() -> None:
    found = run_tasks(FakeEncoder(), source(None, [3, 1]), ["linear_probe"], train=source(None, [1, 3, 1, 3]))
    assert found.results["linear_probe"]["acc1"] == 1.0


def test_what_cannot_take_part_is_said() -> None:
    train = source(["a", "b"], [0, 1, None, 0, 1], codes=[0, 1, 5, None, 1])
    data = source(["b", "z"], [0, 1, 1, None])
    found = run_tasks(FakeEncoder(), data, ["knn"], train=train)
    assert found.results["knn"]["acc1@1"] == pytest.approx(1 / 3)
    assert found.notes[0].startswith("1 pictures could not be decoded")
    assert found.notes[1:] == [
        "1 of 4 pictures of fake.parquet have no label and take no part in the probes",
        "1 of 4 pictures of fake.parquet have no label and take no part in the probes",
        "1 classes have no train pictures, so that theirs are never right: z",
        "knn: too few train pictures for acc1@5, acc1@20",
    ]


def test_train_pictures_are_embedded_once() -> None:
    encoder, memory, train_memory = FakeEncoder(), FeatureMemory(), FeatureMemory()
    train, data = source(["a", "b"], [0, 1, 0, 1]), source(["a", "b"], [0, 1])
    for task in PROBE_TASKS:
        run_tasks(encoder, data, [task], train=train, memory=memory, train_memory=train_memory)
    assert sum(encoder.image_batches) == 4 + 2


def test_mistakes() -> None:
    encoder, train = FakeEncoder(), source(["a", "b"], [0, 1])
    with pytest.raises(DataError, match=r"knn learns from labelled pictures: name them in --train-data"):
        run_tasks(encoder, train, ["knn"])
    assert encoder.image_batches == []
    with pytest.raises(DataError, match="a probe needs a label column"):
        run_tasks(encoder, source(["a"], [None]), ["knn"], train=train)
    with pytest.raises(DataError, match=r"labels are numbers, those of fake\.parquet are names"):
        run_tasks(encoder, source(None, [0, 1]), ["knn"], train=train)
    with pytest.raises(DataError, match="pictures of fewer than two classes"):
        run_tasks(encoder, train, ["linear_probe"], train=source(["a", "b"], [0, 0]))
