"""Metrics against slow literal loops, on ties, and on properties that must hold for any scores."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import balanced_accuracy_score
from torch import Tensor

from mmcontrast.errors import DataError
from mmcontrast.evaluation import metrics


def slow_ranking(scores: list[float], positive: list[bool]) -> list[bool]:
    """Hits in the order of the ranking: highest score first, in a tie the negatives first."""
    order = sorted(range(len(scores)), key=lambda j: (-scores[j], positive[j]))
    return [positive[j] for j in order]


def slow_first_rank(scores: list[float], positive: list[bool]) -> int:
    return slow_ranking(scores, positive).index(True) + 1


def slow_average_precision_at_r(scores: list[float], positive: list[bool]) -> float:
    r = sum(positive)
    hits = slow_ranking(scores, positive)[:r]
    return sum(sum(hits[: i + 1]) / (i + 1) for i in range(r) if hits[i]) / r


def random_case(seed: int, q: int = 40, m: int = 30, levels: int = 6) -> tuple[Tensor, Tensor]:
    """Scores with many ties, one to many positives."""
    rng = torch.Generator().manual_seed(seed)
    scores = torch.randint(levels, (q, m), generator=rng).double() / 7
    positive = torch.rand(q, m, generator=rng) < torch.rand(q, 1, generator=rng)
    positive[torch.arange(q), torch.randint(m, (q,), generator=rng)] = True
    return scores, positive


@st.composite
def cases(draw: st.DrawFn) -> tuple[Tensor, Tensor]:
    seed, levels = draw(st.integers(0, 10_000)), draw(st.sampled_from([2, 5, 1000]))
    return random_case(seed, q=draw(st.integers(1, 8)), m=draw(st.integers(1, 12)), levels=levels)


quick = settings(max_examples=40, deadline=None, derandomize=True)


@pytest.mark.parametrize("levels", [2, 6, 100_000])
def test_ranks_and_precision_equal_literal_loops(levels: int) -> None:
    scores, positive = random_case(1, levels=levels)
    rows = list(zip(scores.tolist(), positive.tolist(), strict=True))
    assert metrics.first_ranks(scores, positive).tolist() == [slow_first_rank(*row) for row in rows]
    expected = torch.tensor([slow_average_precision_at_r(*row) for row in rows], dtype=torch.float64)
    torch.testing.assert_close(metrics.average_precision_at_r(scores, positive), expected, rtol=0, atol=1e-12)


def test_without_ties_recall_is_that_of_topk() -> None:
    scores = torch.randn(50, 40, generator=torch.Generator().manual_seed(0))
    _, positive = random_case(3, q=50, m=40)
    found = metrics.recall_at_k(scores, positive, (1, 5, 10))
    for k, value in found.items():
        top = scores.topk(k, dim=1).indices
        assert value == pytest.approx(positive.gather(1, top).any(dim=1).double().mean().item(), abs=1e-12)


@pytest.mark.parametrize(
    ("hits", "expected"),
    [
        ("1100", 1.0),  # both positives lead
        ("1010", 1 / 2),  # 1/1 at place 1; the second positive is below R = 2 and earns nothing
        ("0110", 1 / 4),  # (1/2 at place 2) / 2
        ("0011", 0.0),
        ("10110", (1 + 2 / 3) / 3),
        ("1", 1.0),
    ],
)
def test_average_precision_at_r_by_hand(hits: str, expected: float) -> None:
    scores = torch.arange(len(hits), 0, -1).double()[None]
    positive = torch.tensor([[hit == "1" for hit in hits]])
    assert metrics.average_precision_at_r(scores, positive).item() == pytest.approx(expected, abs=1e-12)
    assert metrics.map_at_r(scores, positive) == pytest.approx(expected, abs=1e-12)


def test_ties_count_against_the_query() -> None:
    scores = torch.tensor([[0.5, 0.5, 0.5, 0.1]])
    one, two = torch.tensor([[True, False, False, False]]), torch.tensor([[True, True, False, False]])
    assert metrics.first_ranks(scores, one).item() == 3  # both equal rivals stand before it
    assert metrics.first_ranks(scores, two).item() == 2  # an equal positive does not
    assert metrics.average_precision_at_r(scores, two).item() == pytest.approx((1 / 2) / 2)


def test_constant_scores_earn_nothing() -> None:
    scores = torch.zeros(6, 6)
    positive = torch.eye(6, dtype=torch.bool)
    assert metrics.recall_at_k(scores, positive, (1, 5, 6)) == {1: 0.0, 5: 0.0, 6: 1.0}
    assert metrics.map_at_r(scores, positive) == 0.0
    labels = torch.arange(6)
    assert metrics.class_ranks(scores, labels).tolist() == [6] * 6
    assert (metrics.predicted_classes(scores, labels) != labels).all()


def test_a_gallery_of_positives_only_is_perfect() -> None:
    scores, positive = torch.zeros(2, 4), torch.ones(2, 4, dtype=torch.bool)
    assert metrics.first_ranks(scores, positive).tolist() == [1, 1]
    assert metrics.map_at_r(scores, positive) == 1.0


@quick
@given(cases(), st.randoms(use_true_random=False))
def test_order_of_the_gallery_does_not_matter(case: tuple[Tensor, Tensor], random: object) -> None:
    scores, positive = case
    order = list(range(scores.shape[1]))
    random.shuffle(order)  # type: ignore[attr-defined]
    assert torch.equal(metrics.first_ranks(scores, positive), metrics.first_ranks(scores[:, order], positive[:, order]))
    torch.testing.assert_close(
        metrics.average_precision_at_r(scores, positive),
        metrics.average_precision_at_r(scores[:, order], positive[:, order]),
    )


@quick
@given(cases())
def test_recall_grows_with_k_and_all_values_are_shares(case: tuple[Tensor, Tensor]) -> None:
    scores, positive = case
    recalls = list(metrics.recall_at_k(scores, positive, range(1, scores.shape[1] + 1)).values())
    assert recalls == sorted(recalls)
    assert recalls[-1] == 1.0
    assert 0.0 <= metrics.map_at_r(scores, positive) <= 1.0


@quick
@given(cases())
def test_scores_that_separate_are_perfect(case: tuple[Tensor, Tensor]) -> None:
    scores, positive = case
    separated = scores / 1000 + positive
    assert metrics.recall_at_k(separated, positive, [1]) == {1: 1.0}
    assert metrics.map_at_r(separated, positive) == pytest.approx(1.0, abs=1e-12)


def test_mean_and_median_rank() -> None:
    assert metrics.mean_rank(torch.tensor([1, 2, 9])) == 4.0
    assert metrics.median_rank(torch.tensor([9, 1, 2])) == 2.0
    assert metrics.median_rank(torch.tensor([9, 1, 2, 3])) == 2.5


def test_query_without_positive_is_an_error() -> None:
    positive = torch.tensor([[True, False], [False, False]])
    with pytest.raises(DataError, match="query 1 has no positive"):
        metrics.first_ranks(torch.rand(2, 2), positive)
    with pytest.raises(DataError, match="query 1 has no positive"):
        metrics.map_at_r(torch.rand(2, 2), positive)


def test_exact_units_give_the_same_score_in_any_company() -> None:
    features = torch.randn(200, 96, generator=torch.Generator().manual_seed(0))
    left, right = metrics.exact_units(features[:50]), metrics.exact_units(features[50:])
    whole = left @ right.T
    assert torch.equal(whole, torch.cat([row[None] @ right.T for row in left]))
    assert torch.equal(whole, (right.flip(0) @ left.T).T.flip(1))
    backwards = left.flip(1) @ right.flip(1).T  # another order of summation
    assert torch.equal(whole, backwards)
    cosines = torch.nn.functional.cosine_similarity(features[:50, None].double(), features[None, 50:].double(), dim=-1)
    torch.testing.assert_close(whole, cosines, rtol=0, atol=2e-7)


def test_exact_units_of_a_zero_row_stay_zero() -> None:
    assert torch.equal(metrics.exact_units(torch.zeros(1, 4)), torch.zeros(1, 4, dtype=torch.float64))


def test_confusion_and_balanced_accuracy_equal_sklearn() -> None:
    rng = torch.Generator().manual_seed(0)
    labels = torch.randint(5, (300,), generator=rng) ** 2 // 4  # uneven classes 0, 1, 2, 4
    predictions = torch.where(torch.rand(300, generator=rng) < 0.5, labels, labels.roll(1))
    confusion = metrics.confusion_matrix(predictions, labels, 6)
    assert confusion.shape == (6, 6)
    assert confusion[2, 4] == sum(t == 2 and p == 4 for t, p in zip(labels.tolist(), predictions.tolist(), strict=True))
    expected = balanced_accuracy_score(labels.numpy(), predictions.numpy())
    assert metrics.mean_per_class_recall(confusion) == pytest.approx(expected, abs=1e-12)


def test_accuracies_are_literal_topk_shares() -> None:
    rng = torch.Generator().manual_seed(0)
    logits, labels = torch.randn(200, 7, generator=rng), torch.randint(7, (200,), generator=rng)
    found = metrics.accuracies(metrics.class_ranks(logits, labels), 7)
    hits = logits.topk(5).indices == labels[:, None]
    assert found["acc1"] == pytest.approx(hits[:, 0].double().mean().item())
    assert found["acc5"] == pytest.approx(hits.any(dim=1).double().mean().item())
    assert torch.equal(metrics.predicted_classes(logits, labels), logits.argmax(dim=1))


def test_acc5_is_none_under_five_classes() -> None:
    assert metrics.accuracies(torch.tensor([1, 2]), 4) == {"acc1": 0.5, "acc5": None}
    assert metrics.accuracies(torch.tensor([1, 2]), 5) == {"acc1": 0.5, "acc5": 1.0}


def test_predictions_agree_with_acc1_on_ties() -> None:
    logits = torch.randint(3, (100, 6), generator=torch.Generator().manual_seed(1)).double()
    labels = torch.arange(100) % 6
    hits = metrics.predicted_classes(logits, labels) == labels
    assert torch.equal(hits, metrics.class_ranks(logits, labels) == 1)
    assert metrics.predicted_classes(torch.zeros(2, 1), torch.zeros(2, dtype=torch.int64)).tolist() == [0, 0]
