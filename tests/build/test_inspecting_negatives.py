"""A look at the negatives of a data set, from its path to the page."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import mmcontrast
from mmcontrast.build.negatives import SampledRows, negatives_of_run
from mmcontrast.data import PairSource, open_source
from mmcontrast.errors import DataError, ModelError
from mmcontrast.negatives.calibrator import Calibrator
from mmcontrast.negatives.signals import SIGNALS
from mmcontrast.negatives.words import WordStatistics

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def scenes() -> PairSource:
    return open_source("synthetic://scenes", split="validation", rows=300)


def test_page_and_numbers(tiny_run: Path, scenes: PairSource, tmp_path: Path) -> None:
    said: list[str] = []
    page = tmp_path / "deep" / "negatives.html"
    found = mmcontrast.inspect_negatives(tiny_run / "model", scenes, page, rows=200, say=said.append)
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    assert found["images"] == 200
    assert found["pairs_judged"] == 200 * 199
    assert found["truth"] == "label"
    assert any("held against their labels" in line for line in said)
    text = page.read_text(encoding="utf-8")
    assert "200 of 300" in text
    assert text.count('<article class="panel pair') == sum(
        len(found[name]) for name in ("false_negatives", "borderline", "hard_negatives")
    )
    for pair in found["false_negatives"]:
        assert pair["caption"] in [caption for i in range(len(scenes)) for caption in scenes.captions(i)]
        assert pair["other_row"] != pair["row"]


def test_rows_are_drawn_from_everywhere_and_keep_their_numbers(scenes: PairSource) -> None:
    sample = SampledRows(scenes, 50, seed=0)
    assert isinstance(sample, PairSource)
    numbers = [sample.row_number(i) for i in range(len(sample))]
    assert len(set(numbers)) == 50
    assert numbers == sorted(numbers)
    assert numbers[-1] > 200
    assert sample.captions(7) == scenes.captions(numbers[7])
    assert sample.label(7) == scenes.label(numbers[7])
    assert sample.image(7) == scenes.image(numbers[7])
    assert [SampledRows(scenes, 50, seed=1).row_number(i) for i in range(50)] != numbers
    assert len(SampledRows(scenes, 1000, seed=0)) == 300


def test_a_run_shows_what_its_own_calibrator_believes(tiny_run: Path, scenes: PairSource) -> None:
    model = mmcontrast.DualEncoder.from_pretrained(tiny_run / "model")
    calibrator = Calibrator(len(SIGNALS))
    words = WordStatistics(model.tokenizer.vocab_size)
    view = negatives_of_run(model, scenes, calibrator=calibrator, words=words, batch=20, rows=100)
    assert view is not None  # not ready, so it is fitted anew
    assert view.map is not None
    assert len(view.map.points) == 100
    few = SampledRows(scenes, 10, seed=0)
    assert negatives_of_run(model, few, calibrator=None, words=None, batch=20) is None


def test_errors_are_one_line(tiny_run: Path, scenes: PairSource, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="10 pictures are too few to look for false negatives"):
        mmcontrast.inspect_negatives(tiny_run / "model", scenes, rows=10)
    with pytest.raises(DataError, match="rows = 0"):
        mmcontrast.inspect_negatives(tiny_run / "model", scenes, rows=0)
    with pytest.raises(ModelError, match="is a run, not a model"):
        mmcontrast.inspect_negatives(tiny_run, scenes)
    with pytest.raises(DataError, match="no such file"):
        mmcontrast.inspect_negatives(tiny_run / "model", tmp_path / "nothing.csv")
