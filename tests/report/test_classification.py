from __future__ import annotations

import numpy as np
import pytest

from mmcontrast.report.classification import Classification, classification_panes
from mmcontrast.report.panes import Pane

NAMES = ["cat", "dog", "cow", "unseen"]
LABELS = np.array([0, 0, 0, 0, 1, 1, 2])
PREDICTIONS = np.array([0, 1, 1, 0, 1, 2, 2])
SURE = np.array([0.9, 0.5, 0.8, 0.7, 0.6, 0.99, 0.4])


def panes(predicted: np.ndarray | None = SURE) -> dict[str, Pane]:
    found = Classification(
        LABELS, PREDICTIONS, NAMES, np.arange(7) + 100, predicted, None if predicted is None else 1 - SURE
    )
    return {pane.title: pane for pane in classification_panes(found, lambda i: bytes([i]), lambda i: f"row {i}")}


def test_bars_are_sorted_by_recall_and_leave_absent_classes_out() -> None:
    bars = panes()["Classes"].bars
    assert [(bar.name, bar.right, bar.support) for bar in bars] == [("cow", 1, 1), ("cat", 2, 4), ("dog", 1, 2)]
    assert bars[1].recall == 0.5
    assert "1 classes have no picture" in panes()["Classes"].lead


def test_confused_pairs_come_with_their_surest_pictures_and_one_that_is_right() -> None:
    cats, dogs = panes()["Confused"].confused
    assert (cats.true, cats.predicted, cats.count, cats.support) == ("cat", "dog", 2, 4)
    assert [shown.note for shown in cats.examples] == ["row 102", "row 101"]
    assert [shown.probability for shown in cats.examples] == [0.8, 0.5]
    assert cats.like is not None
    assert cats.like.note == "row 104"
    assert (dogs.true, dogs.predicted, dogs.count, dogs.support) == ("dog", "cow", 1, 2)


def test_mistakes_are_the_surest_ones() -> None:
    shown = panes()["Mistakes"]
    assert [(m.true, m.predicted, m.probability) for m in shown.mistakes] == [
        ("dog", "cow", 0.99),
        ("cat", "dog", 0.8),
        ("cat", "dog", 0.5),
    ]
    assert shown.mistakes[0].true_probability == pytest.approx(0.01)
    assert shown.mistakes[0].thumbnail == bytes([105])


def test_without_probabilities_mistakes_are_shown_all_the_same() -> None:
    shown = panes(None)["Mistakes"]
    assert [m.probability for m in shown.mistakes] == [None] * 3
    assert shown.lead.startswith("Some of the mistakes")


def test_one_confusion_does_not_fill_the_mistakes() -> None:
    found = Classification(np.zeros(40, int), np.ones(40, int), NAMES, np.arange(40), np.linspace(0, 1, 40))
    (shown,) = [p for p in classification_panes(found, lambda i: None, str) if p.title == "Mistakes"]
    assert len(shown.mistakes) == 3
    assert "of 40 in all" in shown.lead


def test_nothing_wrong_shows_no_mistakes() -> None:
    found = Classification(LABELS, LABELS, NAMES, np.arange(7))
    assert [pane.title for pane in classification_panes(found, lambda i: None, str)] == ["Classes", "Matrix"]
