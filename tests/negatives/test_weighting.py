"""From a batch to what its pairs count: against literal loops, and plain InfoNCE where nothing is to change."""

from __future__ import annotations

import io
import math
from typing import Any

import pytest
import torch
from making_batches import VOCABULARY, WIDTH, permuted, random_batch, seen
from torch import Tensor

from mmcontrast.losses import symmetric_info_nce
from mmcontrast.negatives import rules
from mmcontrast.negatives.batch import GlobalBatch, gather_batch
from mmcontrast.negatives.calibrator import Calibrator
from mmcontrast.negatives.clustering import Clusters
from mmcontrast.negatives.evidence import anchor_signals
from mmcontrast.negatives.known import mask_log_weights
from mmcontrast.negatives.pair_weights import Weights
from mmcontrast.negatives.settings import RuleSettings
from mmcontrast.negatives.signals import SIGNALS
from mmcontrast.negatives.weighting import Weighting as TiledWeighting
from mmcontrast.negatives.words import WordStatistics

FULL = 1.0
"""Progress at which every rule has its full effect."""


class Weighting(TiledWeighting):
    """All pairs at once, the captions' view with captions in rows."""

    def __call__(self, batch: GlobalBatch, progress: float) -> tuple[Weights, dict[str, Tensor]]:  # type: ignore[override]
        pairs, diagnostics = super().__call__(batch, progress)
        return pairs.dense(), diagnostics


def make(*names: Any, clusters: Clusters | None = None, seed: int = 0, **numbers: Any) -> Weighting:
    calibrator = words = None
    if {"calibrated", "quantile"} & set(names):
        calibrator = Calibrator(len(SIGNALS), seed=seed)
    if calibrator is not None or "text_similarity" in names:
        words = WordStatistics(VOCABULARY)
    return Weighting(
        RuleSettings(rules=names, **numbers), calibrator=calibrator, words=words, clusters=clusters, seed=seed
    )


def batch_of(number: int, n: int = 32) -> GlobalBatch:
    return gather_batch(*random_batch(n, seed=number, first_index=n * number, siblings=8))


def taught(*names: Any, steps: int = 80, **numbers: Any) -> Weighting:
    """A weighting whose calibrator has learnt from some batches."""
    weighting = make(*names, **numbers)
    for number in range(steps):
        weighting(batch_of(number), 0.0)
    assert weighting.calibrator is not None
    assert weighting.calibrator.ready
    return weighting


@pytest.fixture(scope="module")
def calibrated() -> Weighting:
    return taught("duplicates", "calibrated")


def both(weights: Weights) -> tuple[Tensor, Tensor]:
    assert weights.log_weights is not None
    assert weights.text_log_weights is not None
    return weights.log_weights, weights.text_log_weights


def off_diagonal(values: Tensor) -> Tensor:
    return values[~torch.eye(len(values), dtype=torch.bool)]


# Nothing to change


def test_no_rule_changes_nothing() -> None:
    assert make()(batch_of(0), FULL) == (Weights(), {})


def test_calibrated_has_no_say_before_its_start_nor_before_it_is_ready(calibrated: Weighting) -> None:
    weighting = taught("calibrated", start=0.5)
    weights, diagnostics = weighting(batch_of(90), 0.49)
    assert weights == Weights()
    assert diagnostics["prior"] > 0
    assert make("calibrated")(batch_of(0), FULL)[0] == Weights()
    assert weighting(batch_of(91), 0.6)[0].log_weights is not None


def test_correction_0_and_unknown_clusters_change_nothing() -> None:
    assert make(clusters=clusters_of(32))(batch_of(0), FULL)[0] == Weights()
    unknown = Clusters(32, WIDTH, items_per_cluster=8, seed=0, device="cpu")
    assert make(clusters=unknown, correction=1.0)(batch_of(0), FULL)[0] == Weights()


# Known positives


def test_duplicates_are_masked_as_before() -> None:
    batch = batch_of(0)
    image, text = both(make("duplicates")(batch, 0.0)[0])
    known = batch.known(torch.arange(len(batch)))
    assert torch.equal(image, mask_log_weights(known[0]))
    assert torch.equal(text, mask_log_weights(known[1]))
    assert torch.equal(image, text.T)
    assert known[0].sum() > len(batch)


def test_duplicates_can_become_positives_and_are_then_no_negatives() -> None:
    batch = batch_of(0)
    weights, diagnostics = make("duplicates", known_positives="positives")(batch, 0.0)
    known = batch.known(torch.arange(len(batch)))
    assert weights.log_weights is None
    assert weights.positives is not None
    assert weights.text_positives is not None
    assert torch.equal(weights.positives, known[0])
    assert torch.equal(weights.text_positives, known[1])
    share = (int(known[0].sum()) - len(batch)) / (len(batch) * (len(batch) - 1))
    assert float(diagnostics["known_positive_share"]) == pytest.approx(share)
    masked = make("duplicates", "text_similarity")(batch, 0.0)[1]
    extra = make("duplicates", "text_similarity", known_positives="positives")(batch, 0.0)[1]
    assert float(masked["effective_negatives"]) == pytest.approx(float(extra["effective_negatives"]))


@pytest.mark.parametrize("known_positives", ["mask", "positives"])
def test_oracle_knows_the_classes(known_positives: Any) -> None:
    batch = batch_of(0)
    weights, _ = make("oracle", known_positives=known_positives)(batch, 0.0)
    same = batch.label[:, None] == batch.label
    for log_weights, positives in (
        (weights.log_weights, weights.positives),
        (weights.text_log_weights, weights.text_positives),
    ):
        if known_positives == "mask":
            assert log_weights is not None
            assert torch.equal(log_weights, mask_log_weights(same))
        else:
            assert positives is not None
            assert torch.equal(positives, same)
    joined, _ = make("oracle", "duplicates")(batch, 0.0)
    known = batch.known(torch.arange(len(batch)))
    assert torch.equal(both(joined)[0], mask_log_weights(same | known[0]))


def test_oracle_of_groups_and_an_oracle_that_knows_nothing() -> None:
    features, batch, _ = random_batch(8)
    batch.group_key = torch.tensor([5, 5, 0, 0, 6, 6, 6, 0])
    image, _ = both(make("oracle", oracle="group")(seen(batch, features), 0.0)[0])
    out = [(i, j) for i, j in image.isinf().nonzero().tolist() if i != j]
    assert out == [(0, 1), (1, 0), (4, 5), (4, 6), (5, 4), (5, 6), (6, 4), (6, 5)]
    batch.group_key = torch.zeros(8, dtype=torch.long)
    image, _ = both(make("oracle", oracle="group")(seen(batch, features), 0.0)[0])
    assert not off_diagonal(image).any()


# The rules together


def test_the_rules_add_up(calibrated: Weighting) -> None:
    """Every term of the formula in a literal loop, both directions."""
    batch = batch_of(70)
    clusters = clusters_of(32 * 80)
    learnt = calibrated.calibrator
    words = calibrated.words
    assert learnt is not None
    assert words is not None
    settings = RuleSettings(
        rules=("duplicates", "calibrated", "text_similarity", "hardness"), floor=0.1, beta=0.3, correction=0.7
    )
    words_before = {**words.state_dict(), "counts": words.counts.clone()}
    weighting = Weighting(settings, words=words, clusters=clusters)
    weighting.calibrator = Untaught(learnt)
    progress = settings.start + settings.ramp / 2
    image, text = both(weighting(batch, progress)[0])
    rows = torch.arange(len(batch))
    probability = [learnt.probability(signals) for signals in anchor_signals(batch, words, rows)]
    overlap = words.similarity((batch.input_ids, batch.attention_mask), (batch.input_ids, batch.attention_mask))
    words.load_state_dict(words_before)
    ids, sizes = clusters.ids_of(batch.keys.index).tolist(), clusters.sizes.tolist()
    for side, weights in enumerate((image, text)):
        known = batch.known(rows)[side]
        anchors, candidates = (batch.image, batch.text) if side == 0 else (batch.text, batch.image)
        logits = batch.scale * anchors @ candidates.T
        for i in range(len(batch)):
            others = [j for j in range(len(batch)) if not known[i, j]]
            mean = sum(math.exp(0.3 * float(logits[i, j])) for j in others) / len(others)
            near = [j for j in range(len(batch)) if j != i and ids[j] == ids[i]]
            share = (sizes[ids[i]] - 1) / (sum(sizes) - 1)
            far = len(batch) - 1 - len(near)
            for j in range(len(batch)):
                if known[i, j]:
                    assert weights[i, j] == -math.inf
                    continue
                kappa = (len(batch) - 1) * (share / len(near) if j in near else (1 - share) / far)
                expected = 0.7 * math.log(kappa)
                expected += 0.5 * math.log(max(0.1, 1 - float(probability[side][i, j])))
                expected += math.log(max(0.1, 1 - float(overlap[i, j])))
                expected += 0.3 * float(logits[i, j]) - math.log(mean)
                assert float(weights[i, j]) == pytest.approx(expected, abs=2e-4)


class Untaught(Calibrator):
    """A calibrator that has learnt and learns no more, so that a loop can ask it again."""

    def __init__(self, learnt: Calibrator) -> None:
        self.__dict__ = dict(learnt.__dict__)

    def observe(self, *_: Any, **__: Any) -> None:
        return

    def step(self) -> None:
        return


@pytest.mark.parametrize("relative", [False, True])
def test_margin_and_quantile_cut_both_ways_once_they_begin(relative: bool) -> None:
    batch = batch_of(0)
    own = batch.own(torch.arange(len(batch)))
    weighting = make("margin", "quantile", margin=0.2, relative_margin=relative, quantile=0.1)
    assert weighting(batch, 0.05)[0] == Weights()
    found = both(weighting(batch, FULL)[0])
    cross, same = batch.image @ batch.text.T, batch.text @ batch.text.T
    for weights, similarity in zip(found, (cross, cross.T), strict=True):
        expected = rules.margin_log_weights(similarity, cross.diagonal(), 0.2, relative)
        closest = rules.closest_threshold(similarity + same, round(0.1 * 31), own)
        expected = expected + mask_log_weights((similarity + same >= closest[:, None]) & ~own)
        assert torch.equal(weights, expected)
        assert off_diagonal(weights).isinf().any()


def test_a_quantile_of_none_is_the_prior() -> None:
    weighting = make("quantile")
    assert weighting.calibrator is not None
    weighting.calibrator = calibrator = Untaught(weighting.calibrator)
    for share in (0.1, 0.4):
        type(calibrator).prior = property(lambda _, share=share: share)  # type: ignore[assignment, method-assign]
        image, _ = both(weighting(batch_of(0), FULL)[0])
        assert image.isinf().sum(dim=1).tolist() == [round(share * 31)] * 32
    del type(calibrator).prior


def clusters_of(items: int) -> Clusters:
    """Clusters of random features of all items."""
    clusters = Clusters(items, WIDTH, items_per_cluster=max(4, items // 6), seed=0, device="cpu")
    features = torch.nn.functional.normalize(torch.randn(items, WIDTH, generator=torch.Generator().manual_seed(0)))
    clusters.observe(torch.arange(items), features, features)
    clusters.refresh()
    return clusters


def test_an_item_of_no_cluster_is_not_corrected() -> None:
    clusters = clusters_of(32)
    clusters.ids[5] = -1
    image, text = both(make(clusters=clusters, correction=1.0)(batch_of(0), FULL)[0])
    assert not image[5].any()
    assert off_diagonal(image).any()
    assert torch.equal(image, text)


# Soft positives


def test_soft_positives_against_a_loop(calibrated: Weighting) -> None:
    batch, threshold = batch_of(70), 0.2
    assert calibrated.calibrator is not None
    for known_positives in ("mask", "positives"):
        settings = RuleSettings(
            rules=("duplicates", "calibrated"), soft_positives=threshold, known_positives=known_positives
        )
        weighting = Weighting(settings, calibrator=Untaught(calibrated.calibrator), words=calibrated.words)
        assert weighting.words is not None
        before = weighting.words.counts.clone(), weighting.words.captions
        weights, _ = weighting(batch, FULL)
        rows = torch.arange(len(batch))
        signals = anchor_signals(batch, weighting.words, rows)
        weighting.words.counts, weighting.words.captions = before
        known = batch.known(rows)
        logits = batch.scale * batch.image @ batch.text.T
        total = 0.0
        for side, similarity in enumerate((logits, logits.T)):
            p = calibrated.calibrator.probability(signals[side])
            for i in rows.tolist():
                targets = {i: 1.0}
                for j in rows.tolist():
                    if known_positives == "positives" and known[side][i, j]:
                        targets[j] = 1.0
                    elif float(p[i, j]) > max(threshold, calibrated.calibrator.typical) and j != i:
                        targets[j] = float(p[i, j])
                    elif known[side][i, j] and j != i:
                        targets[j] = 0.0  # masked: no negative either
                terms = []
                for j in rows.tolist():
                    masked = known_positives == "mask" and bool(known[side][i, j]) and targets.get(j, 0.0) == 0
                    weight = 1.0 if targets.get(j, 0) > 0 else max(0.02, 1 - float(p[i, j]))
                    terms.append(0.0 if masked else weight * math.exp(float(similarity[i, j])))
                norm = math.log(sum(terms))
                wanted = {j: w for j, w in targets.items() if w > 0}
                loss = -sum(w * (float(similarity[i, j]) - norm) for j, w in wanted.items()) / sum(wanted.values())
                total += loss / (2 * len(batch))
        found = symmetric_info_nce(
            batch.image,
            batch.text,
            batch.scale,
            log_weights=weights.log_weights,
            text_log_weights=weights.text_log_weights,
            positives=weights.positives,
            text_positives=weights.text_positives,
        )
        assert weights.positives is not None
        assert ((weights.positives > 0) & (weights.positives < 1)).any()
        assert float(found) == pytest.approx(total, rel=1e-4)


# Diagnostics


def test_diagnostics_of_a_batch(calibrated: Weighting) -> None:
    batch = batch_of(70)
    assert calibrated.calibrator is not None
    weighting = Weighting(
        RuleSettings(rules=("duplicates", "calibrated"), floor=0.7),
        calibrator=Untaught(calibrated.calibrator),
        words=calibrated.words,
    )
    assert weighting.words is not None
    before = weighting.words.counts.clone(), weighting.words.captions
    weights, found = weighting(batch, FULL)
    asked = ~batch.known(torch.arange(32))[0]
    p = calibrated.calibrator.probability(anchor_signals(batch, weighting.words, torch.arange(32))[0])
    weighting.words.counts, weighting.words.captions = before
    image, _ = both(weights)
    w = image.exp() * asked
    effective = sum(float(row.sum() ** 2 / row.square().sum()) for row in w) / 32
    assert float(found["effective_negatives"]) == pytest.approx(effective, rel=1e-5)
    assert float(found["mean_log_weight"]) == pytest.approx(float(image[asked].mean()), rel=1e-5)
    assert float(found["false_negative_share"]) == pytest.approx(float(p[asked].mean()), rel=1e-5)
    assert float(found["floor_share"]) == pytest.approx(float((p[asked] >= 0.3).float().mean()), abs=1e-6)
    assert 0 < found["floor_share"] < 1
    assert all(isinstance(value, Tensor) and value.device == batch.image.device for value in found.values())


def test_once_ready_the_calibrator_learns_from_every_second_batch(calibrated: Weighting) -> None:
    assert calibrated.calibrator is not None
    lessons = []
    for number in range(4):
        before = calibrated.learns
        _, diagnostics = calibrated(batch_of(200 + number), FULL)
        assert ("calibrator_loss" in diagnostics) == before
        lessons.append(before)
    assert sorted(lessons) == [False, False, True, True]
    assert lessons[0] != lessons[1]
    assert not make().learns
    assert make("calibrated").learns  # not ready: every batch


# The calibrator within a batch


def test_permuting_the_batch_permutes_the_probabilities(calibrated: Weighting) -> None:
    """Risk "leakage": no index, diagonal or anchor in what the calibrator sees."""
    batch = batch_of(71)
    order = torch.randperm(32, generator=torch.Generator().manual_seed(1))
    assert calibrated.calibrator is not None
    assert calibrated.words is not None
    for before, after in zip(
        anchor_signals(batch, calibrated.words, torch.arange(32)),
        anchor_signals(permuted(batch, order), calibrated.words, torch.arange(32)),
        strict=True,
    ):
        p, q = (calibrated.calibrator.probability(signals) for signals in (before, after))
        torch.testing.assert_close(p[order][:, order], q)


def test_it_learns_who_matches_without_being_told(calibrated: Weighting) -> None:
    """Pairs of a class match; only linked captions and siblings say so."""
    batch = batch_of(72)
    assert calibrated.calibrator is not None
    assert calibrated.words is not None
    p = calibrated.calibrator.probability(anchor_signals(batch, calibrated.words, torch.arange(32))[0])
    same, own = batch.label[:, None] == batch.label, torch.eye(32, dtype=torch.bool)
    # The order tells, not the size: few known matches among these pairs cap the prior.
    assert float((p[same & ~own][:, None] > p[~same]).float().mean()) > 0.85


def test_a_resumed_weighting_equals_an_uninterrupted_one() -> None:
    options: dict[str, Any] = {"soft_positives": 0.5}
    whole, first = (make("duplicates", "calibrated", **options) for _ in range(2))
    outcomes = [whole(batch_of(number), number / 60) for number in range(60)]
    for number in range(33):
        first(batch_of(number), number / 60)
    file = io.BytesIO()
    torch.save(first.state_dict(), file)
    file.seek(0)
    second = make("duplicates", "calibrated", seed=5, **options)
    second.load_state_dict(torch.load(file, weights_only=True))
    for number in range(33, 60):
        weights, diagnostics = second(batch_of(number), number / 60)
        expected, expected_diagnostics = outcomes[number]
        for name, value in vars(expected).items():
            ours = vars(weights)[name]
            assert (value is None and ours is None) or torch.equal(value, ours)
        assert diagnostics.keys() == expected_diagnostics.keys()
        assert all(torch.equal(diagnostics[name], value) for name, value in expected_diagnostics.items())
    assert outcomes[-1][0].positives is not None  # the calibrator had a say
