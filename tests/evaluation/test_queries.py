from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from mmcontrast.evaluation import metrics, queries
from mmcontrast.evaluation.confidence import confidence
from mmcontrast.evaluation.embedded import EmbeddedData
from mmcontrast.evaluation.positives import value_keys
from mmcontrast.evaluation.queries import captions_by_picture, outcomes, pictures_by_caption, same_kind, some
from mmcontrast.evaluation.same_kind import same_kind_metrics
from mmcontrast.evaluation.similarities import BINS, NEGATIVES, POSITIVES, histogram

OWNERS = torch.tensor([0, 0, 1, 2, 2, 2, 3, 4, 5, 5])


def features(rows: int, seed: int) -> Tensor:
    return torch.randn(rows, 5, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def data() -> EmbeddedData:
    return EmbeddedData(
        name="d",
        image_features=features(6, 0),
        positions=torch.arange(6),
        text_features=features(10, 1),
        captions=[f"caption {j}" for j in range(10)],
        text_images=OWNERS,
        labels=[0, 0, 1, 1, None, 2],
        groups=["a", None, None, "a", None, None],
        label_names=["x", "y", "z"],
        bad_rows=[],
    )


def test_outcomes_against_a_literal_loop(data: EmbeddedData, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(queries, "_ELEMENTS", 25)  # several chunks
    keys = data.positive_keys("id")
    found = outcomes(captions_by_picture(data, keys), torch.arange(6), 10)
    cosines = metrics.exact_units(data.image_features) @ metrics.exact_units(data.text_features).T
    for i in range(6):
        right = [float(cosines[i, j]) for j in range(10) if OWNERS[j] == i]
        wrong = [float(cosines[i, j]) for j in range(10) if OWNERS[j] != i]
        assert int(found.ranks[i]) == 1 + sum(score >= max(right) for score in wrong)
        assert float(found.margins[i]) == max(right) - max(wrong)
        assert int(found.first[i]) == max(range(10), key=lambda j, i=i: float(cosines[i, j]))
    back = outcomes(pictures_by_caption(data, keys), torch.tensor([9, 3]), 6)
    assert back.queries.tolist() == [9, 3]
    for place, j in enumerate((9, 3)):
        rivals = [float(cosines[i, j]) for i in range(6) if i != OWNERS[j]]
        assert float(back.margins[place]) == float(cosines[OWNERS[j], j]) - max(rivals)


def test_ties_go_against_the_query_and_its_first_is_what_is_wrong(data: EmbeddedData) -> None:
    flat = EmbeddedData(**{**vars(data), "image_features": torch.ones(6, 5), "text_features": torch.ones(10, 5)})
    found = outcomes(captions_by_picture(flat, flat.positive_keys("id")), torch.arange(6), 10)
    assert found.ranks.tolist() == [9, 10, 8, 10, 10, 9]
    assert found.margins.tolist() == [0.0] * 6
    assert OWNERS[found.first[0]] != 0


def test_within_a_modality_a_query_neither_finds_itself_nor_is_asked_without_an_answer(data: EmbeddedData) -> None:
    keys = value_keys(OWNERS, data.labels).image
    search = same_kind(data.image_features, keys)
    scores, positive = search(torch.arange(6))
    assert scores.diagonal().eq(-math.inf).all()
    assert not positive.diagonal().any()
    found = outcomes(search, torch.arange(6), 6)
    assert found.queries.tolist() == [0, 1, 2, 3]  # 4 has no label, 5 is alone
    expected, left_out = same_kind_metrics(data.image_features, keys, ks=(1,))
    assert left_out == 2
    assert metrics.mean_rank(found.ranks) == expected["mean_rank"]
    assert len(outcomes(search, torch.tensor([5]), 6).queries) == 0


def test_a_part_of_the_data_keeps_what_belongs_together(data: EmbeddedData) -> None:
    part = data.take(torch.tensor([1, 2, 5]))
    assert part.captions == ["caption 2", "caption 3", "caption 4", "caption 5", "caption 8", "caption 9"]
    assert part.text_images.tolist() == [0, 1, 1, 1, 2, 2]
    assert part.positions.tolist() == [1, 2, 5]
    assert part.labels == [0, 1, 2]
    assert part.groups == [None, None, None]
    assert torch.equal(part.text_features[4:], data.text_features[8:])


def test_some_are_all_or_drawn_once() -> None:
    assert some(4, 9, 0).tolist() == [0, 1, 2, 3]
    drawn = some(100, 10, 0).tolist()
    assert drawn == sorted(set(drawn))
    assert len(drawn) == 10
    assert drawn == some(100, 10, 0).tolist() != some(100, 10, 1).tolist()


def test_confidence_is_the_softmax_of_scaled_cosines() -> None:
    images, weights = features(7, 2), features(3, 3)
    predictions, labels = torch.tensor([0, 1, 2, 0, 1, 2, 0]), torch.tensor([0, 0, 1, 1, 2, 2, 0])
    found = confidence(images, weights, predictions, labels, logit_scale=13.0)
    for i in range(7):
        powers = [math.exp(13 * float(torch.cosine_similarity(images[i], weights[c], dim=0))) for c in range(3)]
        assert float(found.predicted[i]) == pytest.approx(powers[predictions[i]] / sum(powers), rel=1e-4)
        assert float(found.true[i]) == pytest.approx(powers[labels[i]] / sum(powers), rel=1e-4)


def test_histogram_counts_each_kind_and_leaves_out_what_is_no_pair(data: EmbeddedData) -> None:
    search = same_kind(data.image_features, value_keys(OWNERS, data.labels).image)
    found = histogram([search(torch.arange(6))])
    assert int(found.counts[POSITIVES].sum()) == 4
    assert int(found.counts[NEGATIVES].sum()) == 6 * 5 - 4
    scores, positive = search(torch.arange(6))
    mean = found.mean(POSITIVES)
    assert mean is not None
    assert mean == pytest.approx(float(scores[positive].mean()), abs=2 / BINS)
    assert found.mean("nothing") is None
