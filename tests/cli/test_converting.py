"""`mmcontrast data to-webdataset`, and what `evaluate` makes of the folder."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from evaluation_fakes import picture
from typer.testing import CliRunner, Result

from mmcontrast.cli import app

Run = Callable[..., Result]
NAMES = ["ant", "bee", "cat"]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.chdir(tmp_path)
    rows = [{"image": picture(i), "captions": [f"text {i}"], "label": NAMES[i % 3]} for i in range(12)]
    pq.write_table(pa.Table.from_pylist(rows), "data.parquet")
    return lambda *words: CliRunner().invoke(app, list(words))


def measured(result: Result) -> dict[str, Any]:
    assert result.exit_code == 0, result.output
    return dict(json.loads(result.stdout))


def test_a_folder_is_measured_as_the_data_it_was_made_of(run: Run, tiny_run: Path, tmp_path: Path) -> None:
    (tmp_path / "prompts.txt").write_text("a {}\nthe {c}\n")
    model = str(tiny_run / "model")
    done = run("data", "to-webdataset", "data.parquet", "wds", "--kind", "classification", "--templates", "prompts.txt")
    assert done.exit_code == 0, done.output
    assert done.stdout.splitlines() == [
        "kind classification  pictures 12  classes 3  shards 8  encoded_anew 0  left_out 0",
        "written to wds",
    ]
    plain = ["--data", "data.parquet", "--templates", "prompts.txt", "--task", "zero_shot", "--workers", "0"]
    again = run("evaluate", model, "--data", "wds", "--task", "zero_shot", "--workers", "0")
    assert "prompts are the 2 that lie beside the tars" in again.stderr
    assert measured(again) == measured(run("evaluate", model, *plain))
    assert measured(again)["zero_shot"]["acc5"] is None  # three classes
    run("data", "to-webdataset", "data.parquet", "captions")
    both = [run("evaluate", model, "--data", data, "--workers", "0") for data in ("captions", "data.parquet")]
    assert measured(both[0]) == measured(both[1])


def test_errors_are_one_line(run: Run) -> None:
    for words, message in {
        ("absent.csv", "o"): "absent.csv",
        ("data.parquet", "."): "holds other files (data.parquet)",
        ("data.parquet", "o", "--as", "a/b"): "split 'a/b' can be no folder",
        ("data.parquet", "o", "--templates", "no.txt"): "no.txt: cannot read templates",
    }.items():
        done = run("data", "to-webdataset", *words)
        assert (done.exit_code, done.stderr.count("\n")) == (1, 1), done.output
        assert message in done.stderr


def test_results_as_clip_benchmarks_json(run: Run, tiny_run: Path, tmp_path: Path) -> None:
    model = str(tiny_run / "model")
    tasks = [
        {"name": "a/b", "task": "retrieval", "data": "data.parquet"},
        {"name": "classes", "task": "zero_shot", "data": "data.parquet"},
        {"name": "shape", "task": "geometry", "data": "data.parquet"},
        {"name": "kinds", "task": "retrieval", "data": "data.parquet", "positives": "label"},
    ]
    (tmp_path / "suite.yaml").write_text(json.dumps({"tasks": tasks}))
    done = run("evaluate", model, "--suite", "suite.yaml", "--workers", "0", "--clip-benchmark-json", "theirs")
    scores = measured(done)
    assert "shape: CLIP_benchmark has no geometry: not in theirs" in done.stderr
    assert "kinds: CLIP_benchmark has no positives by label: not in theirs" in done.stderr
    found = [json.loads(path.read_text()) for path in sorted((tmp_path / "theirs").iterdir())]
    assert [(value["dataset"], value["task"]) for value in found] == [
        ("a/b", "zeroshot_retrieval"),
        ("classes", "zeroshot_classification"),
    ]
    recalls, classes = (value["metrics"] for value in found)
    assert recalls["image_retrieval_recall@5"] == scores["a/b"]["text_to_image_recall@5"]
    assert recalls["text_retrieval_recall@10"] == scores["a/b"]["image_to_text_recall@10"]
    assert classes == scores["classes"]
    (tmp_path / "file").touch()
    refused = run("evaluate", model, "--data", "data.parquet", "--clip-benchmark-json", "file")
    assert (refused.exit_code, refused.stderr) == (1, "error: --clip-benchmark-json: file is a file; name a folder\n")
