"""False negatives that are planted in features and captions, and have to be found."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch.nn import functional

from mmcontrast.errors import DataError
from mmcontrast.evaluation.false_negatives import NegativesInspection, find_false_negatives
from mmcontrast.evaluation.pair_judge import CaptionedRows, PairJudge
from mmcontrast.evaluation.tasks import EmbeddedData
from mmcontrast.types import Tokens

ROWS, CLASSES, CAPTIONS, FILLERS = 400, 20, 3, 200
VOCABULARY = 1 + CLASSES + FILLERS


def tokenize(captions: list[str]) -> Tokens:
    """Words are their numbers: "3 57 108"."""
    ids = torch.tensor([[int(word) for word in caption.split()] for caption in captions])
    return Tokens(ids, torch.ones_like(ids))


def planted(captions: int = CAPTIONS) -> EmbeddedData:
    """Rows of 20 classes; pictures and captions lie round their class, captions name it beside words of their own."""
    generator = torch.Generator().manual_seed(0)

    def near(centres: torch.Tensor) -> torch.Tensor:
        return functional.normalize(centres + 0.12 * torch.randn(centres.shape, generator=generator), dim=1)

    labels = torch.randint(CLASSES, (ROWS,), generator=generator)
    centres = functional.normalize(torch.randn(CLASSES, 32, generator=generator), dim=1)
    owners = torch.arange(ROWS).repeat_interleave(captions)
    fillers = 1 + CLASSES + torch.randint(FILLERS, (len(owners), 2), generator=generator)
    texts = [f"{1 + int(labels[i])} {int(a)} {int(b)}" for i, (a, b) in zip(owners, fillers, strict=True)]
    return EmbeddedData(
        name="planted.csv",
        image_features=near(centres[labels]),
        positions=torch.arange(ROWS),
        text_features=near(centres[labels[owners]]),
        captions=texts,
        text_images=owners,
        labels=labels.tolist(),
        groups=[None] * ROWS,
        label_names=None,
        bad_rows=[],
    )


@pytest.fixture(scope="module")
def found() -> NegativesInspection:
    return find_false_negatives(planted(), tokenize, VOCABULARY)


def test_planted_pairs_are_found_with_probabilities_that_hold(found: NegativesInspection) -> None:
    assert found.calibrated
    assert len(found.false_negatives) == 12
    assert all(pair.same for pair in found.false_negatives)
    assert all(pair.score >= 0.5 for pair in found.false_negatives)
    curve = found.reliability
    assert curve is not None
    assert curve.auroc is not None
    assert curve.auroc > 0.99
    assert curve.brier < 0.6 * curve.brier_constant
    assert found.true_share == pytest.approx(0.05, abs=0.01)
    assert found.believed_share == pytest.approx(found.true_share, rel=0.5)


def test_hard_negatives_are_close_and_improbable(found: NegativesInspection) -> None:
    assert len(found.hard_negatives) == 12
    assert all(pair.score < 0.1 for pair in found.hard_negatives)
    cosines = [pair.cosine for pair in found.hard_negatives]
    assert cosines == sorted(cosines, reverse=True)
    labels = torch.tensor(found.data.labels)
    others = (found.data.image_features @ found.data.text_features.T)[labels[:, None] != labels[found.data.text_images]]
    assert cosines[-1] > others.quantile(0.99)


def test_galleries_repeat_no_picture_and_no_caption(found: NegativesInspection) -> None:
    for gallery in (found.false_negatives, found.borderline, found.hard_negatives):
        rows = [row for pair in gallery for row in (pair.image, pair.other)]
        captions = [found.data.captions[c] for pair in gallery for c in (pair.caption, pair.other_caption)]
        assert len(set(rows)) == len(rows)
        assert len(set(captions)) == len(captions)
        for pair in gallery:
            assert found.data.text_images[pair.caption] == pair.image
            assert found.data.text_images[pair.other_caption] == pair.other
            assert pair.same == (found.data.labels[pair.image] == found.data.labels[pair.other])


def test_a_batch_lies_open(found: NegativesInspection) -> None:
    batch = found.batch
    assert len(set(batch.rows)) == 32
    assert batch.known.diagonal().all()
    labels = torch.tensor(found.data.labels)[batch.rows]
    assert batch.same is not None
    assert torch.equal(batch.same, labels[:, None] == labels)
    assert batch.scores[batch.same].mean() > 5 * batch.scores[~batch.same].mean()


def test_labels_are_never_what_it_learns_from_and_a_seed_repeats(found: NegativesInspection) -> None:
    blind = find_false_negatives(replace(found.data, labels=[None] * ROWS), tokenize, VOCABULARY)
    assert (blind.truth, blind.true_share, blind.reliability) == (None, None, None)
    assert [replace(pair, same=None) for pair in found.false_negatives] == blind.false_negatives
    assert blind.believed_share == found.believed_share


def test_known_pairs_are_counted_and_not_listed() -> None:
    data = planted()
    twins = [data.captions[3 * (c // 3 // 2 * 2)] if c % 3 == 0 else caption for c, caption in enumerate(data.captions)]
    found = find_false_negatives(replace(data, captions=twins), tokenize, VOCABULARY)
    assert found.known_share > 0
    pairs = {(pair.image, pair.other) for pair in found.false_negatives}
    for image, other in pairs:
        own = {twins[3 * image + k] for k in range(3)}
        shown = next(p for p in found.false_negatives if (p.image, p.other) == (image, other))
        assert twins[shown.other_caption] not in own


def test_equal_groups_are_known_and_tell_the_truth_where_there_are_no_labels() -> None:
    data = planted()
    found = find_false_negatives(
        replace(data, groups=[str(label) for label in data.labels], labels=[None] * ROWS), tokenize, VOCABULARY
    )
    assert found.truth == "group"
    assert found.known_share == pytest.approx(0.05, abs=0.01)
    assert found.true_share == 0  # all of them are known now


def test_single_captions_fall_back_to_ranks_and_say_so() -> None:
    found = find_false_negatives(planted(captions=1), tokenize, VOCABULARY)
    assert not found.calibrated
    assert (found.believed_share, found.prior, found.reliability) == (None, None, None)
    assert found.borderline == []
    assert any("too few to calibrate" in note for note in found.notes)
    assert sum(pair.same or False for pair in found.false_negatives) >= 11
    assert all(pair.score >= 0.99 for pair in found.false_negatives)


def test_too_few_rows_or_captions() -> None:
    data = planted()
    few = replace(data, image_features=data.image_features[:20], positions=data.positions[:20],
                  text_features=data.text_features[:60], captions=data.captions[:60],
                  text_images=data.text_images[:60], labels=data.labels[:20], groups=data.groups[:20])  # fmt: skip
    with pytest.raises(DataError, match=r"planted.csv: 20 pictures are too few .* at least 32"):
        find_false_negatives(few, tokenize, VOCABULARY)
    bare = replace(
        data, captions=data.captions[3:], text_features=data.text_features[3:], text_images=data.text_images[3:]
    )
    with pytest.raises(DataError, match="1 pictures have no caption"):
        find_false_negatives(bare, tokenize, VOCABULARY)


def test_a_given_calibrator_is_asked_and_not_replaced() -> None:
    rows = CaptionedRows(planted(), tokenize, seed=0)
    first = PairJudge(rows, VOCABULARY)
    assert first.calibrator is not None
    second = PairJudge(rows, VOCABULARY, calibrator=first.calibrator)
    assert second.calibrator is first.calibrator
    assert torch.equal(first.scores(torch.arange(5)), second.scores(torch.arange(5)))


def test_batches_draw_another_caption_with_different_words() -> None:
    data = planted()
    captions = [data.captions[0]] * 3 + data.captions[3:]  # the first picture has only one caption, three times
    rows = CaptionedRows(replace(data, captions=captions), tokenize, seed=0)
    assert rows.siblings == ROWS - 1
    batch = rows.batch(ROWS)
    assert batch.siblings is not None
    assert 0 not in batch.keys.index[batch.siblings.rows]
    drawn = batch.input_ids[batch.siblings.rows]
    assert (drawn != batch.siblings.input_ids).any(dim=1).all()
    assert (drawn[:, 0] == batch.siblings.input_ids[:, 0]).all()  # of the same picture
    assert rows.batch(ROWS, siblings=False).siblings is None
