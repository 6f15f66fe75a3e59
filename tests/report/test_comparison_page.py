"""The page of a comparison from numbers made up: verdicts, words, escaping, and what is left out."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from PIL import Image

from mmcontrast.evaluation.comparison import MetricCompared
from mmcontrast.evaluation.contests import ClassContest, Race, Tally
from mmcontrast.evaluation.paired import SIGN_FLIPS, Difference
from mmcontrast.report.comparison import Answer, ComparisonPage, DataPage, DisputedPicture, DisputedQuery, Duel
from mmcontrast.report.comparison_page import render_comparison, render_comparison_markdown, write_comparison
from mmcontrast.report.comparison_rows import headlines, p_text, rows, signed, title
from mmcontrast.report.inputs import RetrievedItem

HOSTILE = "<img src=x onerror=alert(1)> | `b`"


def metric(value: float, by: float, p: float, adjusted: float) -> MetricCompared:
    moved = Difference(by, (by - 0.05, by + 0.05), p, SIGN_FLIPS, adjusted)
    ends = (value - 0.1, value + 0.1)
    return MetricCompared([value, value + by], [ends, None], [None, moved])


def thumbnail() -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (8, 8), "red").save(file, "JPEG")
    return file.getvalue()


def page(duel: Duel | None = None, **metrics: MetricCompared) -> ComparisonPage:
    tasks = {"retrieval": metrics or {"mean_recall": metric(0.5, 0.1, 0.001, 0.01)}}
    data = DataPage("val", {"data": HOSTILE}, tasks, [] if duel is None else [duel])
    return ComparisonPage(["first", HOSTILE], [data], 0.95, 7, ["a note"])


def full_duel(classes: int = 3) -> Duel:
    items = [RetrievedItem(0.5, True, HOSTILE), RetrievedItem(0.4, False, "b")]
    pictures = [RetrievedItem(0.5, True, thumbnail=thumbnail())]
    return Duel(
        other=1,
        races={"ranks": Race(3, 4, 5)},
        tallies={"acc": Tally(1, 2, 3, 4)},
        classes={"zero_shot": [ClassContest(f"{HOSTILE} {i}", 9, i % 9, 5) for i in range(classes)]},
        text_queries=[DisputedQuery(1, (Answer(9, pictures), Answer(1, pictures)), 10, [HOSTILE], thumbnail())],
        image_queries=[DisputedQuery(0, (Answer(1, items), Answer(7, items)), 10, [HOSTILE], thumbnail())],
        only_first=[DisputedPicture(thumbnail(), HOSTILE, "other")],
        only_other=[DisputedPicture(thumbnail(), "cat", HOSTILE)],
    )


def test_nothing_of_strangers_is_markup() -> None:
    html = render_comparison(page(full_duel()))
    assert "<img src=x" not in html
    assert html.count("&lt;img src=x") > 8
    markdown = render_comparison_markdown(page(full_duel()))
    assert "<img" not in markdown.replace(r"\<img", "")
    assert r"\| \`b\`" in markdown


def test_what_is_empty_is_left_out() -> None:
    bare, full = render_comparison(page()), render_comparison(page(full_duel()))
    for part in ("Who wins", "Class by class", "Queries on which", "Pictures that only one"):
        assert part in full
        assert part not in bare
    assert "a note" in bare
    assert "class by class" not in render_comparison_markdown(page())


def test_of_many_classes_both_ends_are_shown() -> None:
    html = render_comparison(page(full_duel(classes=100)))
    assert "60 more in between" in html
    assert html.count('<li class="up">') + html.count('<li class="down">') == 40
    assert render_comparison_markdown(page(full_duel(classes=100))).count("| 9 |") == 100


def test_a_colour_says_who_is_better_and_not_what_is_more() -> None:
    found = {
        row.metric: row.cells[1].difference
        for row in rows(
            {
                "text_acc": metric(0.5, 0.1, 0.001, 0.01),
                "mean_rank": metric(9.0, 2.0, 0.001, 0.01),
                "nll": metric(2.0, -0.5, 0.001, 0.01),
                "modality_gap": metric(0.5, 0.1, 0.001, 0.01),
                "acc1": metric(0.5, 0.1, 0.01, 0.06),
            }
        )
    }
    verdicts = {name: cell.verdict for name, cell in found.items() if cell}
    assert verdicts == {"text_acc": "win", "mean_rank": "lose", "nll": "win", "modality_gap": "", "acc1": ""}
    shown = found["text_acc"]
    assert shown is not None
    assert (shown.value, shown.interval, shown.p) == ("+10.0", "+5.0 to +15.0", "p = 0.010")
    assert (shown.low, shown.high) == (pytest.approx(0.5 + 0.5 / 3), pytest.approx(1.0))
    assert rows({"acc5": MetricCompared([None, None], [None, None], [None, None])})[0].cells[1].value == "–"


@pytest.mark.parametrize(
    ("compared", "sentence"),
    [
        (metric(0.5, 0.1, 0.001, 0.01), f"{HOSTILE} is better."),
        (metric(0.5, -0.1, 0.001, 0.01), "first is better."),
        (metric(0.5, 0.1, 0.01, 0.07), f"{HOSTILE} may be better; among 7 tests that is not sure."),
        (metric(0.5, 0.1, 0.2, 1.0), "These pictures do not tell the two apart."),
    ],
)
def test_the_headline_says_how_sure_it_is(compared: MetricCompared, sentence: str) -> None:
    (card,) = headlines(page(mean_recall=compared, other=metric(0.1, 0.1, 0.1, 0.1)))
    assert card.sentence == sentence
    assert (card.metric, card.model) == ("mean recall", HOSTILE)


def test_without_its_first_metric_a_task_is_stood_for_by_another() -> None:
    undefined = MetricCompared([None, None], [None, None], [None, None])
    (card,) = headlines(page(mean_recall=undefined, strength=metric(1, 1, 0.1, 0.1), acc1=metric(0.5, 0.1, 0.1, 0.1)))
    assert card.metric == "accuracy"
    assert headlines(page(mean_recall=undefined)) == []


def test_words() -> None:
    assert [signed("acc1", 0.0312), signed("acc1", -0.0004), signed("mean_rank", -2.345)] == ["+3.1", "0", "−2.35"]
    assert [p_text(p) for p in (0.0004, 0.0123, 0.4, 1.0)] == ["p < 0.001", "p = 0.012", "p = 0.40", "p = 1.00"]
    assert title("image_to_text_recall@5") == "image → text R@5"


def test_a_page_is_written_as_its_name_ends(tmp_path: Path) -> None:
    assert write_comparison(page(), tmp_path / "deep" / "p.md").read_text().startswith("# first against")
    assert write_comparison(page(), tmp_path / "p.html").read_text().startswith("<!doctype html>")
    assert sorted(path.name for path in tmp_path.rglob("*.*")) == ["p.html", "p.md"]
