"""The card of a real run's model: what comes from config, results, log and data."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from huggingface_hub import ModelCard
from PIL import Image
from tiny_runs import tiny_config

from mmcontrast.build.card_examples import example_pictures, may_be_shown
from mmcontrast.build.carding import card_facts, find_run, run_of, training_seconds
from mmcontrast.build.folder import RunFolder
from mmcontrast.data import open_source
from mmcontrast.export.card import write_card
from mmcontrast.export.card_facts import CardAnswers, CardFacts
from mmcontrast.models import DualEncoder


@pytest.fixture(scope="module")
def facts(tiny_run: Path) -> CardFacts:
    run = find_run(tiny_run / "model")
    model = DualEncoder.from_pretrained(tiny_run / "model")
    return card_facts(model, ("transformers",), run, CardAnswers(), "fallback")


def test_a_run_leaves_intervals_and_facts(tiny_run: Path) -> None:
    results = json.loads((tiny_run / "results.json").read_text())
    written = json.loads((tiny_run / "intervals.json").read_text())
    assert (written["level"], written["resamples"], written["seed"]) == (0.95, 1000, 0)
    assert written["intervals"].keys() == results.keys() == {"retrieval", "zero_shot"}
    for task, metrics in results.items():
        assert written["intervals"][task].keys() == metrics.keys()
        for metric, value in metrics.items():
            interval = written["intervals"][task][metric]
            assert (interval is None) == (value is None)
            if interval is not None:
                assert interval[0] - 1e-9 <= value <= interval[1] + 1e-9, metric
    told = json.loads((tiny_run / "facts.json").read_text())
    assert told["train"]["pictures"] == 120
    assert told["validation"]["pictures"] == 40
    assert told["negatives"]


def test_the_report_shows_the_intervals(tiny_run: Path) -> None:
    low, high = json.loads((tiny_run / "intervals.json").read_text())["intervals"]["zero_shot"]["acc1"]
    assert f"{100 * low:.1f} % – {100 * high:.1f} %" in (tiny_run / "report.html").read_text()


def test_the_card_says_what_the_run_did(facts: CardFacts, tiny_run: Path, tmp_path: Path) -> None:
    results = json.loads((tiny_run / "results.json").read_text())
    text = write_card(tmp_path, facts).read_text(encoding="utf-8")
    data = ModelCard(text).data
    assert data.model_name == tiny_run.name
    assert data.eval_results is not None
    measured = {(r.task_name, r.metric_type): r.metric_value for r in data.eval_results}
    assert measured["zero-shot", "acc1"] == results["zero_shot"]["acc1"]
    assert measured["retrieval", "mean_recall"] == results["retrieval"]["mean_recall"]
    assert facts.run is not None
    assert facts.run.train.pictures == 120
    assert facts.run.recipe["model.embed_dim"] == "16"
    assert facts.run.recipe["training.global_batch_size"] == "20"
    assert facts.run.recipe["steps"] == "18"
    assert "training.beta1" not in facts.run.recipe  # a default that nobody asks for
    assert "training.keep_checkpoints" not in facts.run.recipe  # changed, but it taught nothing
    assert facts.run.chosen_by == "retrieval.mean_recall"
    assert str(tiny_run.parent) not in text
    assert any(label.startswith("Known to match") for label, _, _ in facts.run.negatives)


def test_time_is_that_of_the_log(facts: CardFacts, tiny_run: Path) -> None:
    lines = [json.loads(line) for line in (tiny_run / "metrics.jsonl").read_text().splitlines()]
    expected = sum(3 * line["seconds_per_step"] for line in lines if "split" not in line)  # a line each three steps
    assert facts.run is not None
    assert facts.run.seconds == pytest.approx(expected)
    assert training_seconds([]) is None
    assert training_seconds([{"global_step": 3, "seconds_per_step": None}]) is None


def test_only_the_model_of_a_run_has_a_run(tiny_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert find_run("owner/name") is None
    assert find_run(tiny_run / "checkpoints") is None
    copy = shutil.copytree(tiny_run / "model", tmp_path / "elsewhere" / "model")
    assert find_run(copy) is None
    monkeypatch.chdir(tiny_run / "model")
    found = find_run(".")
    assert found is not None
    assert found.folder.path == tiny_run.resolve()


def test_a_run_of_an_older_version_leaves_questions_open(tiny_run: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(tiny_run, run, ignore=shutil.ignore_patterns("checkpoints", "facts.json", "intervals.json"))
    found = find_run(run / "model")
    assert found is not None
    told = run_of(found)
    assert told.train.pictures is None
    assert told.device is None
    assert all(score.low is None for score in told.scores)
    (run / "config.yaml").write_text("model: {unknown: 1}\n")
    said: list[str] = []
    assert find_run(run / "model", said.append) is None
    assert "the card says nothing of the run" in said[0]


def test_example_pictures(tiny_run: Path) -> None:
    model = DualEncoder.from_pretrained(tiny_run / "model")
    source = open_source("synthetic://scenes", rows=30)
    examples, gallery = example_pictures(model, source, count=5)
    assert len(examples) == 5
    assert gallery == len({caption for i in range(30) for caption in source.captions(i)})
    again, _ = example_pictures(model, source, count=5)
    assert again == examples
    for example in examples:
        assert example.hit == (
            example.found in next(c for c in map(source.captions, range(30)) if example.caption in c)
        )
        assert -1 <= example.score <= 1


def test_examples_skip_what_cannot_be_decoded(tiny_run: Path, tmp_path: Path) -> None:
    for number in range(6):
        Image.new("RGB", (20, 20), (40 * number, 0, 0)).save(tmp_path / f"{number}.png")
    (tmp_path / "0.png").write_bytes(b"no picture")
    lines = ["image,caption", *(f"{number}.png,caption {number}" for number in range(6))]
    (tmp_path / "captions.csv").write_text("\n".join(lines) + "\n")
    model = DualEncoder.from_pretrained(tiny_run / "model")
    examples, _ = example_pictures(model, open_source(tmp_path), count=6)
    assert {example.caption for example in examples} == {f"caption {number}" for number in range(1, 6)}


def test_only_our_own_pictures_are_shown_unasked() -> None:
    assert may_be_shown("synthetic://scenes/validation", None)
    assert not may_be_shown("photos.csv", None)
    assert may_be_shown("photos.csv", True)
    assert not may_be_shown("synthetic://scenes", False)


def test_a_new_run_in_the_folder_drops_what_the_old_one_said(tmp_path: Path) -> None:
    folder, config = RunFolder(tmp_path), tiny_config(tmp_path)
    folder.prepare(config, resume=False, overwrite=False)
    for file in (folder.facts, folder.intervals):
        folder.write_json(file, {})
    folder.prepare(config, resume=False, overwrite=True)
    assert not folder.facts.exists()
    assert not folder.intervals.exists()
