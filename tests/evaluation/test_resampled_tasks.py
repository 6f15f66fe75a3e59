"""Resampling of every task: at the pictures as they are it is the task's own result; else a literal loop's."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from evaluation_fakes import FakeEncoder, FakeSource
from torch import Tensor
from torch.nn.functional import normalize

from mmcontrast.evaluation.calibration import calibration_metrics
from mmcontrast.evaluation.geometry import geometry
from mmcontrast.evaluation.intervals import evaluation_intervals
from mmcontrast.evaluation.metrics import Metrics, confusion_matrix, macro_scores
from mmcontrast.evaluation.multi_label import average_precisions
from mmcontrast.evaluation.outcomes import Classified, Confidences, Details, Items, LabelScores
from mmcontrast.evaluation.resampled_geometry import geometry_resampling
from mmcontrast.evaluation.resampled_tasks import evaluation_resamplings, task_resampling
from mmcontrast.evaluation.resampling import Resampling, observed, percentiles, picture_counts, resampled
from mmcontrast.evaluation.tasks import Evaluation, run_tasks

RESAMPLES = 40
WITHOUT = {
    "geometry": {"image_effective_rank", "text_effective_rank", "image_hubness", "text_hubness"},
    "calibration": {"temperature"},
    "linear_probe": {"strength"},
}


def drawn_counts(pictures: int, seed: int = 2) -> list[list[int]]:
    """The draws that `resampled` makes."""
    (counts,) = picture_counts(pictures, RESAMPLES, seed)
    rows: list[list[int]] = counts.tolist()
    return rows


def drawn_places(row: Sequence[int]) -> Tensor:
    return torch.tensor([place for place, times in enumerate(row) for _ in range(times)])


def check(one: Resampling | None, name: str, literal: list[float]) -> None:
    assert one is not None
    np.testing.assert_allclose(resampled(one, resamples=RESAMPLES, seed=2)[name], literal, rtol=0, atol=1e-12)


def noisy_source(rows: int = 40, classes: int = 6) -> FakeSource:
    """Pictures of codes with captions, some of which speak of another code; groups of two; one bad picture."""
    generator = torch.Generator().manual_seed(0)
    codes: list[int | None] = torch.randint(0, 40, (rows,), generator=generator).tolist()
    shown = [code if code is not None and i % 3 else (code or 0) + 1 for i, code in enumerate(codes)]
    texts = [[f"a red dog with two cats {code}", f"the man on a horse {7 * i % 40}"] for i, code in enumerate(shown)]
    codes[5] = None
    labels: list[int | None] = [None if i == 7 else i % classes for i in range(rows)]
    groups: list[str | None] = [str(i // 4) for i in range(rows)]
    names = [f"class {i}" for i in range(classes)]
    return FakeSource(codes, texts, labels, groups, names)


@pytest.fixture(scope="module")
def evaluation() -> Evaluation:
    tasks = ["retrieval", "zero_shot", "calibration", "geometry", "image_to_image", "text_to_text", "hard_captions"]
    source, train = noisy_source(), noisy_source(60)
    return run_tasks(
        FakeEncoder(),
        source,
        [*tasks, "caption_selection", "linear_probe", "knn", "multi_label", "robustness"],
        positives="group",
        train=train,
        logit_scale=3.0,
    )


def test_as_they_are_all_pictures_give_the_results_of_every_task(evaluation: Evaluation) -> None:
    resamplings = evaluation_resamplings(evaluation)
    assert resamplings.keys() == evaluation.results.keys()
    for task, metrics in evaluation.results.items():
        found = observed(resamplings[task])
        defined = {name: value for name, value in metrics.items() if value is not None}
        assert found.keys() == defined.keys() - WITHOUT.get(task, set()), task
        for name, value in found.items():
            assert value == pytest.approx(metrics[name], abs=1e-12), (task, name)
        for name, part in resamplings[task].parts.items():
            assert part.sum() == pytest.approx(metrics[name], abs=1e-12), (task, name)


def test_every_metric_has_an_interval_around_it_or_none(evaluation: Evaluation) -> None:
    found = evaluation_intervals(evaluation, resamples=200)
    assert found == evaluation_intervals(evaluation, resamples=200)
    for task, metrics in evaluation.results.items():
        assert found[task].keys() == metrics.keys()
        for name, interval in found[task].items():
            value = metrics[name]
            if value is None or name in WITHOUT.get(task, ()):
                assert interval is None, (task, name)
                continue
            assert interval is not None, (task, name)
            assert interval[0] <= value <= interval[1], (task, name)


def test_winoground_draws_pairs() -> None:
    source = FakeSource([1, 2, 3, 4, 5, 6], [[str(i)] for i in (1, 2, 4, 3, 5, 9)], [], ["a", "a", "b", "b", "c", "c"])
    found = run_tasks(FakeEncoder(), source, ["winoground"])
    one = evaluation_resamplings(found)["winoground"]
    assert one.pictures == 3
    assert observed(one) == found.results["winoground"]
    assert one.witnesses == dict.fromkeys(found.results["winoground"], 3)


def test_few_shots_are_means_over_draws_and_their_spread_has_no_interval() -> None:
    right = torch.tensor([0.2, 1.0, 0.6, 1.0], dtype=torch.float64)  # of five draws
    metrics: Metrics = {"acc1@1_shots": 0.7, "acc1_sd@1_shots": 0.1, "acc1@2_shots": None, "acc1_sd@2_shots": None}
    one = task_resampling(metrics, Details({"acc1@1_shots": Items(right, torch.arange(4))}))
    assert one is not None
    assert observed(one) == pytest.approx({"acc1@1_shots": 0.7})
    check(one, "acc1@1_shots", [right[own].mean().item() for own in map(drawn_places, drawn_counts(4))])


def test_macro_means_are_those_of_the_literal_loop() -> None:
    generator = torch.Generator().manual_seed(1)
    labels = torch.randint(5, (30,), generator=generator)
    predictions = torch.where(torch.rand(30, generator=generator) < 0.6, labels, (labels + 1) % 5)
    labels[labels == 2] = 3
    literal = [
        macro_scores(confusion_matrix(predictions[own], labels[own], 5)) for own in map(drawn_places, drawn_counts(30))
    ]
    names = [str(label) for label in range(5)]
    details = Details(classified=Classified(labels, predictions, torch.ones(30), names, torch.arange(30) + 3))
    one = task_resampling(dict.fromkeys(literal[0], 0.5), details)
    for name in literal[0]:
        check(one, name, [value for scores in literal if (value := scores[name]) is not None])


def test_calibration_error_is_that_of_the_literal_loop() -> None:
    generator = torch.Generator().manual_seed(1)
    logits, labels = torch.randn(25, 3, generator=generator).double(), torch.randint(3, (25,), generator=generator)
    best = logits.softmax(dim=1).max(dim=1)
    details = Details(confidences={"ece": Confidences(best.values, best.indices == labels, torch.arange(25))})
    literal = [calibration_metrics(logits[own], labels[own])["ece"] for own in map(drawn_places, drawn_counts(25))]
    check(task_resampling({"ece": 0.5}, details), "ece", [value for value in literal if value is not None])


def test_average_precision_is_that_of_the_literal_loop() -> None:
    generator = torch.Generator().manual_seed(1)
    scores = torch.randint(8, (20, 4), generator=generator).double()  # many ties
    truth = torch.rand(20, 4, generator=generator) < 0.3
    truth[:, 3] = False
    truth[4, 3] = True  # which some resamples lack
    literal = []
    for own in map(drawn_places, drawn_counts(20)):
        every = average_precisions(scores[own], truth[own])
        literal.append(every[~every.isnan()].mean().item())
    check(task_resampling({"map": 0.5}, Details(label_scores=LabelScores(scores, truth, []))), "map", literal)


def test_geometry_is_that_of_the_literal_loop() -> None:
    """Each copy of a picture is another picture: no pairs of rows across two copies of one."""
    generator = torch.Generator().manual_seed(1)
    owner = torch.arange(9).repeat_interleave(torch.tensor([1, 2, 3] * 3))
    images = normalize(torch.randn(9, 5, generator=generator).double(), dim=-1)
    texts = normalize(images[owner] + 0.4 * torch.randn(18, 5, generator=generator).double(), dim=-1)
    one = geometry_resampling(images, texts, owner)
    uniformities, gaps, alignments = [], [], []
    for row in drawn_counts(9):
        rows = [(picture, copy, text) for picture, times in enumerate(row) for copy in range(times)
                for text in (owner == picture).nonzero().flatten().tolist()]  # fmt: skip
        kernel = [
            np.exp(-2 * (texts[a[2]] - texts[b[2]]).square().sum().item())
            for a in rows
            for b in rows
            if a != b and (a[0] != b[0] or a[1] == b[1])
        ]
        uniformities.append(float(np.log(np.mean(kernel))))
        places, captions = drawn_places(row), [text for _, _, text in rows]
        gaps.append((images[places].mean(dim=0) - texts[captions].mean(dim=0)).norm().item())
        alignments.append((images[owner[captions]] - texts[captions]).square().sum(dim=1).mean().item())
    check(one, "text_uniformity", uniformities)
    check(one, "modality_gap", gaps)
    check(one, "alignment", alignments)
    measured = geometry(images, texts, owner)
    for name, value in observed(one).items():
        assert value == pytest.approx(measured[name], abs=1e-12), name


@pytest.mark.parametrize(
    ("kind", "least"), [("captions", 0.89), ("calibration", 0.8), ("precision", 0.89), ("uniformity", 0.89)]
)
def test_coverage(kind: str, least: float) -> None:
    """95 % intervals hold what is true of all pictures in about 95 of 100 samples of them."""
    generator = np.random.default_rng(3)
    held, trials = 0, 100
    for trial in range(trials):
        one, name, truth = {
            "captions": few_questions,
            "calibration": too_sure,
            "precision": precision_by_chance,
            "uniformity": uniform_directions,
        }[kind](generator)
        assert one is not None
        found = percentiles(one, resampled(one, resamples=300, seed=trial))[name]
        assert found is not None
        held += found[0] <= truth <= found[1]
    assert least <= held / trials <= 1.0


def few_questions(generator: np.random.Generator) -> tuple[Resampling | None, str, float]:
    """Wrong captions of one kind: of a third of 90 pictures only, two each that go together."""
    asked = np.flatnonzero(np.arange(90) % 3 == 0)
    right = np.repeat(generator.random(len(asked)) < 0.7, 2)
    items = {
        "text_acc": Items(torch.ones(90, dtype=torch.bool), torch.arange(90)),
        "text_acc_noun": Items(torch.from_numpy(right), torch.from_numpy(np.repeat(asked, 2))),
    }
    return task_resampling({"text_acc": 1.0, "text_acc_noun": 0.7}, Details(items)), "text_acc_noun", 0.7


def too_sure(generator: np.random.Generator) -> tuple[Resampling | None, str, float]:
    """Five points too sure: expected calibration error 0.0502 in 15 bins (of two million)."""
    sure = generator.beta(4, 2, 400)
    right = torch.from_numpy(generator.random(400) < np.clip(sure - 0.05, 0, 1))
    found = Confidences(torch.from_numpy(sure), right, torch.arange(400))
    return task_resampling({"ece": 0.05}, Details(confidences={"ece": found})), "ece", 0.0502


def precision_by_chance(generator: np.random.Generator) -> tuple[Resampling | None, str, float]:
    """Positives are N(1, 1), others N(0, 1), two in ten are positives: average precision .4966 (of 4 million)."""
    truth = np.arange(400) % 5 == 0
    scores = generator.normal(size=400) + truth
    found = LabelScores(torch.from_numpy(scores[:, None]), torch.from_numpy(truth[:, None]), ["it"])
    return task_resampling({"map": 0.5}, Details(label_scores=found)), "map", 0.4966


def uniform_directions(generator: np.random.Generator) -> tuple[Resampling | None, str, float]:
    """Uniform on the circle: log of e^-4 I0(4)."""
    angles = generator.uniform(0, 2 * np.pi, 80)
    points = torch.from_numpy(np.stack([np.cos(angles), np.sin(angles)], axis=1))
    return geometry_resampling(points, points, torch.arange(80)), "image_uniformity", float(np.log(np.i0(4)) - 4)


def test_a_kind_of_question_that_few_pictures_ask_is_no_surer_for_the_others() -> None:
    """All of three pictures right: the exact bound of three, not of ninety."""
    items = {"all": Items(torch.ones(90, dtype=torch.bool), torch.arange(90))}
    items["few"] = Items(torch.ones(3, dtype=torch.bool), torch.arange(3))
    metrics: Metrics = {"all": 1.0, "few": 1.0, "none": None}
    one = task_resampling(metrics, Details(items))
    assert one is not None
    found = percentiles(one, resampled(one, resamples=100))
    assert found == {"all": pytest.approx((0.025 ** (1 / 90), 1.0)), "few": pytest.approx((0.025 ** (1 / 3), 1.0))}


def test_nothing_to_resample() -> None:
    assert task_resampling({"odd": 1.0}, Details()) is None
