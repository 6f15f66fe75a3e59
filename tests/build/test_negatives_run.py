"""Whole runs with guided batches and a calibrator, and what their report says of the negatives."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from rich.console import Console
from tiny_runs import CommandLines, assert_same_run, metric_lines, tiny_config, train

from mmcontrast.build.objective import STREAM_ITEMS, has_linked_pairs
from mmcontrast.build.reporting import few_negatives_note
from mmcontrast.build.run import prepare
from mmcontrast.config import dump_config
from mmcontrast.data import open_source

pytestmark = pytest.mark.usefixtures("one_thread")

GUIDED = (
    "training.epochs=6",
    "training.log_every_steps=3",
    "training.checkpoint_every_steps=11",
    "negatives.rule=[duplicates, calibrated]",
    "negatives.start=0.4",
    "negatives.soft_positives=0.6",
    "negatives.cluster={share: 0.25, start: 0.3, items_per_cluster: 12, correction: 0.5, refresh_every_steps: 4}",
    "evaluation.every_epochs=null",
    "evaluation.every_steps=18",
)


@pytest.fixture(scope="module")
def guided_run(tmp_path_factory: pytest.TempPathFactory, one_thread: None) -> Path:
    return train(tiny_config(tmp_path_factory.mktemp("guided") / "run", *GUIDED)).run_dir


def test_every_part_has_a_say(guided_run: Path) -> None:
    lines = [line for line in metric_lines(guided_run) if "loss" in line]
    assert {"prior", "calibrator_loss", "false_negative_share", "effective_negatives", "cluster_drift"} <= set(
        lines[-1]
    )
    assert "cluster_inertia" not in lines[0]
    assert "false_negative_share" not in lines[0]
    assert lines[-1]["clusters"] == 10


def test_a_killed_run_goes_on_as_if_nothing_had_been(
    guided_run: Path, tmp_path: Path, mmcontrast_command: CommandLines
) -> None:
    file = tmp_path / "run.yaml"
    file.write_text(dump_config(tiny_config(tmp_path / "run", *GUIDED)))
    killed = mmcontrast_command(
        "train", file, die=(35, signal.SIGKILL)
    )  # saved at 33: within an epoch, after a plan at 32
    assert killed.code == -signal.SIGKILL
    resumed = mmcontrast_command("train", file, "--resume")
    assert resumed.code == 0, resumed.stderr
    assert_same_run(guided_run, tmp_path / "run")


# The report


def page_of(run: Path) -> str:
    return (run / "report.html").read_text(encoding="utf-8")


def test_the_report_shows_training_pairs_it_judged(guided_run: Path, tiny_run: Path) -> None:
    for run in (guided_run, tiny_run):
        assert page_of(run).count('<article class="panel pair') > 5


@pytest.mark.parametrize(
    "overrides",
    [
        ["evaluation.inspect_negatives=0"],
        ["evaluation.inspect_negatives=20"],  # too few to judge
        ["data.streaming=true", "evaluation.every_epochs=null", "evaluation.every_steps=3"],
    ],
    ids=["off", "few", "stream"],
)
def test_runs_that_cannot_be_judged_have_a_report_without(tmp_path: Path, overrides: list[str]) -> None:
    run = train(tiny_config(tmp_path / "run", "training.max_steps=3", *overrides)).run_dir
    assert "report.html" in {path.name for path in run.iterdir()}
    assert '<article class="panel pair' not in page_of(run)


def test_without_validation_the_last_model_judges(tmp_path: Path) -> None:
    run = train(tiny_config(tmp_path / "run", "training.max_steps=3", "data.validation=null")).run_dir
    assert '<article class="panel pair' in page_of(run)
    assert json.loads((run / "results.json").read_text()) == {}


def test_turning_it_off_does_not_hinder_resuming(tmp_path: Path) -> None:
    train(tiny_config(tmp_path / "run", "training.max_steps=3"))
    again = tiny_config(tmp_path / "run", "training.max_steps=3", "evaluation.inspect_negatives=0")
    run = train(again, resume=True).run_dir
    assert '<article class="panel pair' not in page_of(run)


def test_few_negatives_are_noted() -> None:
    history: list[dict[str, Any]] = [
        {"global_step": step, "effective_negatives": value}
        for step, value in ((1, None), (2, 60.0), (3, 20.0), (4, 12.0), (5, 33.0))
    ]
    (note,) = few_negatives_note([*history, {"global_step": 5, "split": "validation"}], 64)
    assert "only 12 of a batch's 64 pairs count as negatives (effective number at step 4)" in note
    assert "2 of 4 lines of the log" in note
    assert few_negatives_note(history[:2], 64) == []


# Clusters of a stream


def test_numbers_of_a_stream_are_spread_over_all_places() -> None:
    """A stream numbers row r of file f as f << 32 | r: of 1 << 20 places all files' first rows would share one."""
    rows = (torch.arange(200)[:, None] << 32) + torch.arange(5)
    assert len((rows % STREAM_ITEMS).unique()) == 1000
    assert len((rows % (1 << 20)).unique()) == 5
    assert all(STREAM_ITEMS % n for n in range(2, 1025))


def test_captions_that_recur_are_evidence_enough(tmp_path: Path) -> None:
    """Then no caption is kept from training, and the calibrator sees how alike pictures are."""
    words = ["red", "green", "blue"]
    lines = ["image,caption_1,caption_2,caption_3"]
    for i in range(24):
        Image.new("RGB", (8, 8), (10 * i, 0, 0)).save(tmp_path / f"{i}.png")
        lines.append(f"{i}.png,{words[i % 3]} {i % 6 // 3},a {words[i % 3]} thing {i},{words[i % 3]} {i % 5}")
    (tmp_path / "pairs.csv").write_text("\n".join(lines))
    columns = ["caption_1", "caption_2", "caption_3"]
    source = open_source(tmp_path / "pairs.csv", caption_columns=columns)
    assert has_linked_pairs(source)
    assert not has_linked_pairs(open_source(tmp_path / "pairs.csv", caption_columns=columns[1:2]))
    # One caption each: pictures that share it are known to match, and nothing is left to learn from them.
    assert not has_linked_pairs(open_source(tmp_path / "pairs.csv", caption_columns=columns[:1]))
    overrides = [f"data.train.path={tmp_path / 'pairs.csv'}", f"data.caption_column=[{', '.join(columns)}]"]
    config = tiny_config(
        tmp_path / "run", *overrides, "data.validation=null", "negatives.rule=calibrated",
        "training.global_batch_size=8", "model.tokenizer={kind: clip}", "data.train.split=null", "data.train.rows=null",
    )  # fmt: skip
    objective = prepare(config, Console(quiet=True)).trainer.objective
    assert objective.weighting.calibrator is not None
    assert objective.weighting.calibrator.linked
    assert not objective.wants_siblings


def test_an_objective_has_what_its_rules_need(tmp_path: Path) -> None:
    def made(*overrides: str) -> Any:
        return prepare(tiny_config(tmp_path / "run", *overrides), Console(quiet=True), overwrite=True).trainer.objective

    plain = made()
    assert plain.weighting.calibrator is plain.weighting.words is plain.clusters is None
    text = made("negatives.rule=text_similarity")
    assert text.weighting.calibrator is None
    assert text.weighting.words is not None
    quantile = made("negatives.rule=quantile", "negatives.quantile=0.1")
    assert quantile.weighting.calibrator is None
    learning = made("negatives.rule=quantile", "negatives.cluster.share=0.5")
    assert learning.weighting.calibrator is not None
    assert not learning.weighting.calibrator.linked  # captions of scenes say much, and few of them recur
    assert learning.wants_siblings
    assert learning.clusters is learning.weighting.clusters is not None
