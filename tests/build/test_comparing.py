"""Models compared on the same data: the whole way from folders and runs to numbers and pages."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from mmcontrast import build
from mmcontrast.build.compared_runs import model_names, model_of
from mmcontrast.build.parts import open_pairs
from mmcontrast.cli import app
from mmcontrast.config import load_config
from mmcontrast.data import PairSource
from mmcontrast.data.kept_pictures import KeptPictures
from mmcontrast.errors import DataError, MMContrastError, ModelError
from mmcontrast.models import DualEncoder


@pytest.fixture(scope="module")
def scenes(tiny_run: Path) -> PairSource:
    """The forty pictures that the tiny run is evaluated on."""
    config = load_config(tiny_run)
    assert config.data.validation is not None
    return open_pairs(config, config.data.validation)


@pytest.fixture(scope="module")
def other(tiny_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run like the tiny one, whose model has other weights and reads smaller pictures."""
    folder = tmp_path_factory.mktemp("other") / "other <b>run"
    model = DualEncoder.from_pretrained(tiny_run / "model")
    for parameter in model.parameters():
        parameter.data.mul_(1.5)
    model.save_pretrained(folder / "model")
    (folder / "config.yaml").write_text((tiny_run / "config.yaml").read_text())
    return folder


@pytest.fixture(scope="module")
def compared(tiny_run: Path, other: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], Path]:
    """The comparison of both runs on what their configs agree on, and the folder of its pages."""
    pages = tmp_path_factory.mktemp("pages")
    found = build.compare([tiny_run, other / "model"], outputs=[pages / "page.html", pages / "page.md"])
    return found, pages


def test_values_are_those_of_evaluate(compared: tuple[dict[str, Any], Path], tiny_run: Path) -> None:
    found, _ = compared
    json.dumps(found, allow_nan=False)
    results = json.loads((tiny_run / "results.json").read_text())
    intervals = json.loads((tiny_run / "intervals.json").read_text())["intervals"]
    tasks = found["data"]["validation"]
    assert tasks.keys() == results.keys() == {"retrieval", "zero_shot"}
    for task, metrics in tasks.items():
        assert metrics.keys() == results[task].keys()
        for name, one in metrics.items():
            assert one["values"][0] == pytest.approx(results[task][name], abs=1e-9), name
            if one["values"][0] is None:
                continue
            low, high = one["intervals"][0]
            assert (low, high) == pytest.approx(intervals[task][name], abs=0.06 if high <= 1 else 4)
            moved = one["differences"][1]
            assert moved["value"] == pytest.approx(one["values"][1] - one["values"][0], abs=1e-12)
            assert moved["interval"][0] <= moved["value"] <= moved["interval"][1]
            assert 0 < moved["p"] <= moved["p_holm"] <= 1
            assert one["differences"][0] is None


def test_the_page_shows_everything_and_escapes_names(compared: tuple[dict[str, Any], Path], tiny_run: Path) -> None:
    _, pages = compared
    page = (pages / "page.html").read_text()
    assert f"{tiny_run.name} against other &lt;b&gt;run" in page
    assert "<b>run" not in page
    for part in ("Who wins", "Class by class", "Queries on which they differ most", "seed", "far ahead", "Holm"):
        assert part in page
    assert not re.search(r"<script|https?://", page)
    assert len(page) < 5_000_000
    markdown = (pages / "page.md").read_text()
    assert r"other \<b\>run" in markdown
    assert "| mean recall |" in markdown
    assert "class by class" in markdown
    assert len(list(pages.iterdir())) == 2


def test_three_models_and_two_tasks_by_name(
    tiny_run: Path, other: Path, scenes: PairSource, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoded: list[int] = []
    keeping = KeptPictures._keeping
    monkeypatch.setattr(KeptPictures, "_keeping", lambda *args: decoded.append(1) or keeping(*args))
    tasks = {"found": {"data": scenes, "task": "retrieval"}, "named": {"data": scenes, "task": ["zero_shot"]}}
    found = build.compare([other, tiny_run, other], tasks, outputs=[tmp_path / "p.html", tmp_path / "p.md"])
    assert found["models"] == ["other <b>run", tiny_run.name, "other <b>run (2)"]
    assert {name: list(metrics) for name, metrics in found["data"].items()} == {
        "found": ["retrieval"],
        "named": ["zero_shot"],
    }
    one = found["data"]["found"]["retrieval"]["mean_recall"]
    assert one["differences"][0] is None
    assert one["differences"][1]["value"] == pytest.approx(one["values"][1] - one["values"][0])
    assert one["differences"][2]["value"] == 0
    page = (tmp_path / "p.html").read_text()
    assert "against 2 others" in page
    assert "named: Classes" in page
    assert decoded == [1]  # once, and not for each model and task


def test_the_same_model_twice_is_said(tiny_run: Path, scenes: PairSource) -> None:
    said: list[str] = []
    found = build.compare([tiny_run, tiny_run / "model"], {"scenes": {"data": scenes}}, say=said.append)
    assert any("are the same model" in line for line in said)
    moved = found["data"]["scenes"]["retrieval"]["mean_recall"]["differences"][1]
    assert (moved["value"], moved["interval"], moved["p_holm"]) == (0.0, [0.0, 0.0], 1.0)
    assert any("retrieval: a picture" in line for line in said)
    assert len(said) == len(set(said))


def test_models_may_prepare_pictures_and_prompts_differently(tiny_run: Path, scenes: PairSource) -> None:
    large = DualEncoder.from_pretrained(tiny_run / "model")
    large.preprocess = replace(large.preprocess, image_size=48)
    large.templates = ["here is a {c}"]
    found = build.compare([tiny_run, large], {"scenes": {"data": scenes, "task": ["retrieval", "zero_shot"]}})
    assert found["models"] == [tiny_run.name, "model 2"]
    assert any("model 2 were asked with the prompts" in note for note in found["notes"])
    one = found["data"]["scenes"]["retrieval"]["image_to_text_mean_rank"]
    assert one["values"][0] != one["values"][1]


def test_runs_that_disagree_must_be_told_what_to_compare_on(tiny_run: Path, other: Path, tmp_path: Path) -> None:
    config = load_config(tiny_run / "config.yaml", ["data.validation.rows=30"])
    disagreeing, without = tmp_path / "rows", tmp_path / "none"
    for folder, changed in (
        (disagreeing, config),
        (without, load_config(config, ["data.validation=null", "evaluation.every_epochs=null"])),
    ):
        folder.mkdir()
        (folder / "model").symlink_to(tiny_run / "model")
        (folder / "config.yaml").write_text(json.dumps(changed.model_dump()))
    with pytest.raises(DataError, match=r"data\.validation\.rows is 40 and 30; say .* --data"):
        build.compare([tiny_run, disagreeing])
    with pytest.raises(DataError, match=r"none was trained without data\.validation"):
        build.compare([tiny_run, without])
    plain = tmp_path / "plain"
    plain.symlink_to(tiny_run / "model")
    with pytest.raises(DataError, match="plain is no run that names data"):
        build.compare([tiny_run, plain])


def test_what_cannot_be_compared(tiny_run: Path, scenes: PairSource, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="takes 2 to 26 models, not 1"):
        build.compare([tiny_run])
    with pytest.raises(MMContrastError, match=r"p\.pdf: a page ends in \.html or \.md"):
        build.compare([tiny_run, tiny_run], {"s": {"data": scenes}}, outputs=[tmp_path / "p.pdf"])
    with pytest.raises(DataError, match="no group has two pictures"):
        build.compare([tiny_run, tiny_run], {"s": {"data": scenes, "task": "winoground"}})
    (tmp_path / "begun").mkdir()
    (tmp_path / "begun" / "config.yaml").write_text((tiny_run / "config.yaml").read_text())
    with pytest.raises(ModelError, match="is a run without a model: has it ended"):
        build.compare([tiny_run, tmp_path / "begun"])


def test_names(tiny_run: Path, other: Path, tmp_path: Path) -> None:
    assert model_names([tiny_run, other / "model"]) == [tiny_run.name, other.name]
    assert model_names(["hf-hub:a/b", "ViT-B-32"]) == ["hf-hub:a/b", "ViT-B-32"]
    assert model_names([tiny_run, tiny_run]) == [tiny_run.name, f"{tiny_run.name} (2)"]
    twin = tmp_path / tiny_run.name
    twin.mkdir()
    (twin / "config.yaml").touch()
    assert model_names([tiny_run, twin]) == [str(tiny_run), str(twin)]
    assert model_of(tiny_run) == tiny_run / "model"
    assert model_of("ViT-B-32") == "ViT-B-32"


def test_the_command(tiny_run: Path, other: Path, tmp_path: Path) -> None:
    words = ["compare", str(tiny_run), str(other), "--output", str(tmp_path / "p.html"), "--json", str(tmp_path / "c")]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0, done.output
    assert "mean recall" in done.stdout
    assert (tmp_path / "p.html").is_file()
    assert json.loads((tmp_path / "c").read_text())["tests"] > 10
    failed = CliRunner().invoke(app, ["compare", str(tiny_run), str(other), "--data", str(tmp_path / "missing.csv")])
    assert failed.exit_code != 0
    assert "missing.csv" in failed.stderr
