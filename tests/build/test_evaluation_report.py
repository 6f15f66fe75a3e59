"""Pages of real evaluations: what is on them, how large they get, and what strangers' texts do to them."""

from __future__ import annotations

import csv
import io
import re
from pathlib import Path

import pytest
import torch
from PIL import Image
from tiny_runs import CommandLines

from mmcontrast import DualEncoder
from mmcontrast.build import evaluation_report, run_evaluation
from mmcontrast.build.evaluation_report import EvaluationReport
from mmcontrast.build.pictures import Pictures, Room
from mmcontrast.data import open_source
from mmcontrast.report.panes import PAGE_LIMIT, Section

pytestmark = pytest.mark.usefixtures("one_thread")
SCENES = "synthetic://scenes"
HOSTILE = "</script><script>alert('x')</script> \" onload=\"alert(1)"


@pytest.fixture(scope="module")
def encoder(tiny_run: Path) -> DualEncoder:
    return DualEncoder.from_pretrained(tiny_run / "model")


@pytest.fixture(scope="module")
def sections(encoder: DualEncoder) -> dict[str, Section]:
    """What is shown of several tasks on 300 scenes, two captions each."""
    source = open_source(SCENES, split="validation", rows=300)
    tasks = ["retrieval", "zero_shot", "calibration", "hard_captions", "linear_probe", "geometry"]
    found = run_evaluation(encoder, source, tasks, train_data=open_source(SCENES, rows=100))
    report = EvaluationReport("m")
    report.add(found, encoder, intervals={"retrieval": {"mean_recall": (0.1, 0.2)}})
    return {section.task: section for section in report._sections}


def titles(section: Section) -> list[str]:
    return [pane.title for pane in section.panes]


def test_retrieval_shows_galleries_cosines_and_a_map(sections: dict[str, Section]) -> None:
    section = sections["retrieval"]
    assert {"Best", "Worst", "Confused", "Cosines", "Map"} <= set(titles(section))
    panes = {pane.title: pane for pane in section.panes}
    assert all(example.rank == 1 for example in panes["Best"].text_queries)
    worst = [example.rank for example in panes["Worst"].image_queries]
    assert worst == sorted(worst, reverse=True)
    assert panes["Confused"].text_queries
    assert all(not example.items[0].hit for example in panes["Confused"].text_queries)
    found = panes["Map"].map
    assert found is not None
    assert len(found.dots) == 300
    assert found.kind == "class"
    assert found.dots[0].caption
    assert "positives" in str(panes["Cosines"].svg)
    assert section.intervals == {"mean_recall": (0.1, 0.2)}


def test_classification_shows_bars_pairs_mistakes_and_reliability(sections: dict[str, Section]) -> None:
    section = sections["zero_shot"]
    assert {"Classes", "Confused", "Mistakes", "Matrix", "Reliability", "Map"} <= set(titles(section))
    panes = {pane.title: pane for pane in section.panes}
    right = sum(bar.right for bar in panes["Classes"].bars)
    assert right / sum(bar.support for bar in panes["Classes"].bars) == pytest.approx(section.results["acc1"])
    sure = [mistake.probability or 0.0 for mistake in panes["Mistakes"].mistakes]
    assert sure == sorted(sure, reverse=True)
    assert min(sure) > 0
    assert panes["Confused"].confused[0].examples[0].thumbnail is not None
    assert "Reliability" not in titles(sections["linear_probe"])  # it states no probabilities
    assert {"Classes", "Confused"} <= set(titles(sections["linear_probe"]))


def test_other_tasks_show_what_tells_most(sections: dict[str, Section]) -> None:
    (calibration,) = sections["calibration"].panes
    assert [curve.title for curve in calibration.curves] == ["As it is", "With one temperature"]
    (lost,) = sections["hard_captions"].panes
    assert all(choice.wrong_score >= choice.right_score for choice in lost.choices)
    assert len({choice.thumbnail for choice in lost.choices}) > 1
    assert titles(sections["geometry"]) == ["Map"]


def test_a_page_of_many_pictures_stays_small_and_says_what_is_left_out(
    encoder: DualEncoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = open_source(SCENES, split="validation", rows=700)
    found = run_evaluation(encoder, source, "zero_shot")
    report = EvaluationReport("m")
    report.add(found, encoder)
    page = report.write(tmp_path / "page.html")
    assert page.stat().st_size < PAGE_LIMIT
    assert "600 pictures, drawn at random; 100 more are left out" in page.read_text(encoding="utf-8")
    monkeypatch.setattr(evaluation_report, "PAGE_LIMIT", evaluation_report._RESERVED + 60_000)
    tight = EvaluationReport("m")
    tight.add(found, encoder)
    (section,) = tight._sections
    assert any("pictures are left out, so that the page stays below" in note for note in section.notes)
    assert tight.write(tmp_path / "tight.html").stat().st_size < page.stat().st_size / 2


def test_room_is_shared_out_and_counted() -> None:
    room = Room(1000)
    assert room.take(300)
    assert room.left == 1000 - 400 - 160
    assert not room.take(300)
    assert room.refused == 1


def test_strangers_captions_and_classes_are_shown_to_the_letter(
    tiny_run: Path, mmcontrast_command: CommandLines, tmp_path: Path
) -> None:
    rows = []
    for i in range(40):
        Image.new("RGB", (32, 24), (6 * i, 100, 250 - 6 * i)).save(tmp_path / f"{i}.png")
        rows.append([f"{i}.png", f"{HOSTILE} number {i}", f"class {i % 3} {HOSTILE}"])
    with (tmp_path / "rows.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([["image", "caption", "label"], *rows])
    words = ["evaluate", tiny_run / "model", "--data", "rows.csv", "--report", "page.html", "--output", "o.json"]
    done = mmcontrast_command(*words, cwd=tmp_path)
    assert done.code == 0, done.stderr
    assert "report: page.html" in done.stderr
    text = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert "<script" not in text
    assert "&lt;/script&gt;&lt;script&gt;alert(&#39;x&#39;)&lt;/script&gt; &#34; onload=&#34;alert(1) number 7" in text
    assert not re.search(r"url\((?!data:image/jpeg;base64,[\w+/=]+\)|#)", text)


def test_a_page_that_cannot_be_written_is_said_before_the_work(
    mmcontrast_command: CommandLines, tmp_path: Path
) -> None:
    done = mmcontrast_command("evaluate", "nothing", "--data", "d.csv", "--report", tmp_path, cwd=tmp_path)
    assert done.code != 0
    assert done.error == f"--report: {tmp_path} is a folder; name a file in it"


def test_thumbnails_are_made_once_a_size(encoder: DualEncoder) -> None:
    source = open_source(SCENES, split="validation", rows=8)
    data = run_evaluation(encoder, source, "geometry").data.take(torch.tensor([3, 5]))
    pictures = Pictures(data, source)
    assert pictures.thumbnail(1) is pictures.thumbnail(1)
    assert Image.open(io.BytesIO(pictures.thumbnail(1, 16))).size == (16, 16)
    assert pictures.where(0) == f"row {source.row_number(3)}"
    assert pictures.class_name(None) == ""
