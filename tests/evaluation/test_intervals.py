"""Bootstrap intervals: against a slow literal loop, for coverage, and at the ends of the scale."""

from __future__ import annotations

import statistics

import numpy as np
import pytest
import torch
from torch import Tensor

from mmcontrast.evaluation import resampling
from mmcontrast.evaluation.metrics import Metrics, accuracies, confusion_matrix, mean_per_class_recall
from mmcontrast.evaluation.outcomes import Classified, Details, accuracy_items, ranking_items
from mmcontrast.evaluation.positives import id_keys
from mmcontrast.evaluation.ranking import Ranking
from mmcontrast.evaluation.resampled_tasks import task_resampling
from mmcontrast.evaluation.resampling import Intervals, percentiles, picture_counts, resampled
from mmcontrast.evaluation.retrieval import RECALL_KS, rank_pairs, retrieval_metrics, summarise

RESAMPLES = 60


def of_task(metrics: Metrics, details: Details, resamples: int, seed: int) -> Intervals:
    """The intervals of all metrics of a task."""
    one = task_resampling(metrics, details)
    assert one is not None
    found = percentiles(one, resampled(one, resamples=resamples, seed=seed))
    return {name: found.get(name) for name in metrics}


def retrieval_intervals(
    by_image: Ranking,
    by_text: Ranking,
    owner: Tensor,
    *,
    ks: tuple[int, ...] = RECALL_KS,
    resamples: int = 1000,
    seed: int = 0,
) -> Intervals:
    metrics = summarise(by_image, by_text, ks)
    items = ranking_items("image_to_text_", by_image, torch.arange(len(by_image.ranks)), metrics)
    items |= ranking_items("text_to_image_", by_text, owner, metrics)
    means = {
        "map@r": [name for name in items if name.endswith("_map@r")],
        "r_precision": [name for name in items if name.endswith("_r_precision")],
        "mean_recall": [name for name in items if "_recall@" in name],
    }
    return of_task(metrics, Details(items, means), resamples, seed)


def zero_shot_intervals(
    ranks: Tensor, labels: Tensor, predictions: Tensor, classes: int, *, resamples: int = 1000, seed: int = 0
) -> Intervals:
    metrics = accuracies(ranks, classes) | {"mean_per_class_recall": 0.5}  # its value is not looked at
    pictures = torch.arange(len(ranks))
    classified = Classified(labels, predictions, ranks, [str(label) for label in range(classes)], pictures)
    return of_task(metrics, Details(accuracy_items(ranks, pictures, metrics), classified=classified), resamples, seed)


def rankings(pictures: int = 23, seed: int = 0) -> tuple[Ranking, Ranking, Tensor]:
    """Noisy pairs of which each picture has one to four captions."""
    generator = torch.Generator().manual_seed(seed)
    per_picture = torch.randint(1, 5, (pictures,), generator=generator)
    owner = torch.arange(pictures).repeat_interleave(per_picture)
    images = torch.randn(pictures, 8, generator=generator)
    texts = images[owner] + 1.2 * torch.randn(len(owner), 8, generator=generator)
    by_image, by_text = rank_pairs(images, texts, id_keys(owner, pictures))
    return by_image, by_text, owner


def without_precision(ranks: Tensor) -> Ranking:
    zeros = torch.zeros(len(ranks), dtype=torch.float64)
    return Ranking(ranks, zeros, zeros)


def literal_retrieval(counts: list[int], by_image: Ranking, by_text: Ranking, owner: list[int]) -> dict[str, float]:
    """The scores of one resample, one drawn picture after another."""
    image_ranks, text_ranks, image_ap, text_ap, image_rp, text_rp = [], [], [], [], [], []
    for picture, times in enumerate(counts):
        for _ in range(times):
            image_ranks.append(int(by_image.ranks[picture]))
            image_ap.append(float(by_image.precision[picture]))
            image_rp.append(float(by_image.r_precision[picture]))
            for caption, of in enumerate(owner):
                if of == picture:
                    text_ranks.append(int(by_text.ranks[caption]))
                    text_ap.append(float(by_text.precision[caption]))
                    text_rp.append(float(by_text.r_precision[caption]))
    scores = {}
    sides = (("image_to_text", image_ranks, image_ap, image_rp), ("text_to_image", text_ranks, text_ap, text_rp))
    for way, ranks, ap, rp in sides:
        for k in (1, 5, 10):
            scores[f"{way}_recall@{k}"] = sum(rank <= k for rank in ranks) / len(ranks)
        scores[f"{way}_mean_rank"] = sum(ranks) / len(ranks)
        scores[f"{way}_median_rank"] = float(statistics.median(ranks))
        scores[f"{way}_map@r"] = sum(ap) / len(ap)
        scores[f"{way}_r_precision"] = sum(rp) / len(rp)
    for name in ("map@r", "r_precision"):
        scores[name] = (scores[f"image_to_text_{name}"] + scores[f"text_to_image_{name}"]) / 2
    scores["mean_recall"] = statistics.mean(value for name, value in scores.items() if "recall@" in name)
    return scores


@pytest.mark.parametrize("elements", [100, 1 << 22])
def test_retrieval_is_that_of_the_literal_loop(elements: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resampling, "_ELEMENTS", elements)  # many chunks, or one
    by_image, by_text, owner = rankings()
    (counts,) = picture_counts(len(by_image.ranks), RESAMPLES, seed=3)
    literal = [literal_retrieval(row, by_image, by_text, owner.tolist()) for row in counts.tolist()]
    found = retrieval_intervals(by_image, by_text, owner, resamples=RESAMPLES, seed=3)
    assert found.keys() == literal[0].keys() == summarise(by_image, by_text).keys()
    for name, interval in found.items():
        expected = np.quantile([scores[name] for scores in literal], [0.025, 0.975])
        assert interval == pytest.approx(tuple(expected), abs=1e-12), name
        assert interval is not None
        assert interval[0] < interval[1] or "median" in name


def test_zero_shot_is_that_of_the_literal_loop() -> None:
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(7, (40,), generator=generator)
    labels[labels == 2] = 3  # a class without pictures
    labels[0], labels[1:][labels[1:] == 0] = 0, 1  # a class with one picture, which some resamples lack
    ranks = torch.randint(1, 8, (40,), generator=generator)
    predictions = torch.where(ranks == 1, labels, (labels + 1) % 7)
    (counts,) = picture_counts(40, RESAMPLES, seed=1)
    literal, all_recalls = [], recalls(predictions, labels)
    for row in counts.tolist():
        drawn = torch.tensor([picture for picture, times in enumerate(row) for _ in range(times)])
        scores = accuracies(ranks[drawn], 7)
        per_class = all_recalls | recalls(predictions[drawn], labels[drawn])
        literal.append(scores | {"mean_per_class_recall": statistics.mean(per_class.values())})
    found = zero_shot_intervals(ranks, labels, predictions, 7, resamples=RESAMPLES, seed=1)
    assert found.keys() == literal[0].keys()
    for name, interval in found.items():
        values = [value for scores in literal if (value := scores[name]) is not None]
        assert interval == pytest.approx(tuple(np.quantile(values, [0.025, 0.975])), abs=1e-12), name


def recalls(predictions: torch.Tensor, labels: torch.Tensor) -> dict[int, float]:
    """Of the classes that there are."""
    return {name: (predictions[labels == name] == name).double().mean().item() for name in set(labels.tolist())}


def test_rare_classes_do_not_move_the_interval_away_from_the_value() -> None:
    """Classes of one picture, none found, are missing in a third of the resamples."""
    labels = torch.cat([torch.arange(60), torch.full((60,), 60)])
    ranks = torch.where((labels == 60) & (torch.arange(120) % 10 > 0), 1, 3)
    predictions = torch.where(ranks == 1, labels, (labels + 1) % 61)
    value = mean_per_class_recall(confusion_matrix(predictions, labels, 61))
    found = zero_shot_intervals(ranks, labels, predictions, 61)["mean_per_class_recall"]
    assert found is not None
    assert found[0] < value < found[1]


def test_counts_are_whole_draws_whatever_the_chunk() -> None:
    (whole,) = picture_counts(11, 50, seed=5)
    assert (whole.sum(axis=1) == 11).all()
    np.testing.assert_array_equal(np.concatenate(list(picture_counts(11, 50, seed=5, chunk=7))), whole)
    (other,) = picture_counts(11, 50, seed=6)
    assert (other != whole).any()
    assert abs(whole.mean() - 1) < 1e-12
    assert whole.var() == pytest.approx(1 - 1 / 11, rel=0.15)  # multinomial, not a permutation


def test_same_seed_same_intervals() -> None:
    by_image, by_text, owner = rankings()
    first = retrieval_intervals(by_image, by_text, owner, seed=4)
    assert retrieval_intervals(by_image, by_text, owner, seed=4) == first
    assert retrieval_intervals(by_image, by_text, owner, seed=5) != first
    scores = summarise(by_image, by_text)
    for name, interval in first.items():
        value = scores[name]
        assert interval is not None
        assert value is not None
        assert interval[0] <= value <= interval[1], name


def test_captions_of_a_picture_are_no_independent_witnesses() -> None:
    """Four equal captions each: the interval is as wide as with one, not half as wide."""
    ranks = torch.where(torch.arange(200) % 2 == 0, 1, 50)
    once, four = without_precision(ranks), without_precision(ranks.repeat_interleave(4))
    single = retrieval_intervals(once, once, torch.arange(200))["text_to_image_recall@1"]
    clustered = retrieval_intervals(once, four, torch.arange(200).repeat_interleave(4))["text_to_image_recall@1"]
    assert single == clustered


def test_coverage_of_captions_that_go_together() -> None:
    """A picture decides how likely each of its three captions is found: 95 % intervals hold the truth about 95 %."""
    generator = np.random.default_rng(0)
    trials, pictures, held, width_wrong = 200, 120, 0, 0
    for trial in range(trials):
        easy = generator.beta(0.8, 0.8, pictures)  # of mean 1/2
        found = generator.random((pictures, 3)) < easy[:, None]
        ranks = torch.from_numpy(np.where(found, 1, 20).ravel())
        by_text, by_image = without_precision(ranks), without_precision(ranks[::3])
        owner = torch.arange(pictures).repeat_interleave(3)
        interval = retrieval_intervals(by_image, by_text, owner, resamples=300, seed=trial)["text_to_image_recall@1"]
        assert interval is not None
        held += interval[0] <= 0.5 <= interval[1]
        naive = 1.96 * np.sqrt(found.mean() * (1 - found.mean()) / found.size)
        width_wrong += abs(found.mean() - 0.5) <= naive
    assert 0.91 <= held / trials <= 0.99
    assert width_wrong / trials < 0.9  # what captions taken one by one would give: the test can tell


def test_coverage_of_zero_shot_accuracy() -> None:
    generator = np.random.default_rng(1)
    held, trials = 0, 200
    for trial in range(trials):
        ranks = torch.from_numpy(np.where(generator.random(150) < 0.7, 1, 3))
        labels = torch.arange(150) % 6
        predictions = torch.where(ranks == 1, labels, (labels + 1) % 6)
        found = zero_shot_intervals(ranks, labels, predictions, 6, resamples=300, seed=trial)["mean_per_class_recall"]
        assert found is not None
        held += found[0] <= 0.7 <= found[1]
    assert 0.91 <= held / trials <= 0.99


def test_all_or_none_right_is_no_certainty() -> None:
    ones, zeros = torch.ones(40, dtype=torch.int64), torch.zeros(40, dtype=torch.float64)
    all_right = Ranking(ones, zeros + 1, zeros + 1)
    best = retrieval_intervals(all_right, all_right, torch.arange(40))
    assert best["mean_recall"] == pytest.approx((0.025 ** (1 / 40), 1.0))
    assert best["image_to_text_median_rank"] == (1.0, 1.0)
    worst = retrieval_intervals(without_precision(ones * 30), without_precision(ones * 30), torch.arange(40))
    assert worst["text_to_image_recall@10"] == pytest.approx((0.0, 1 - 0.025 ** (1 / 40)))


def test_what_is_not_defined_has_no_interval() -> None:
    by_image, by_text, owner = rankings(pictures=4)
    found = retrieval_intervals(by_image, by_text, owner)
    undefined = {name for name, value in summarise(by_image, by_text).items() if value is None}
    assert undefined >= {"text_to_image_recall@5", "text_to_image_recall@10"}
    assert {name for name, interval in found.items() if interval is None} == undefined
    few = zero_shot_intervals(torch.tensor([1, 2]), torch.tensor([0, 1]), torch.tensor([0, 0]), 2)
    assert few["acc5"] is None
    assert few["acc1"] == (0.0, 1.0)


def test_one_picture() -> None:
    one = Ranking(torch.tensor([1]), torch.ones(1), torch.ones(1))
    found = retrieval_intervals(one, one, torch.tensor([0]), ks=(1,))
    assert found["mean_recall"] == pytest.approx((0.025, 1.0))


def test_rank_pairs_and_summarise_are_retrieval_metrics() -> None:
    generator = torch.Generator().manual_seed(2)
    images, texts = torch.randn(12, 4, generator=generator), torch.randn(12, 4, generator=generator)
    keys = id_keys(torch.arange(12), 12)
    assert summarise(*rank_pairs(images, texts, keys)) == retrieval_metrics(images, texts, keys)
