"""What can be wrong with data that are evaluated: one clear line each, and no NaN in JSON."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from evaluation_fakes import picture
from typer.testing import CliRunner, Result

from mmcontrast.cli import app


@pytest.fixture
def model(tiny_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.chdir(tmp_path)
    return str(tiny_run / "model")


def rows(count: int, **columns: list[object]) -> str:
    values = {"image": [picture(i) for i in range(count)], **columns}
    pq.write_table(pa.table(values), "data.parquet")
    return "data.parquet"


def evaluate(model: str, data: str, *words: str) -> Result:
    return CliRunner().invoke(app, ["evaluate", model, "--data", data, "--workers", "0", *words])


def refused(result: Result) -> str:
    assert result.exit_code == 1, result.output
    (line,) = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    assert not result.stdout
    return line


def scores(result: Result, task: str) -> dict[str, float | None]:
    assert result.exit_code == 0, result.output
    found: dict[str, float | None] = json.loads(result.stdout, parse_constant=pytest.fail)[task]
    return found


def test_k_above_the_gallery(model: str) -> None:
    data = rows(4, captions=[["a"], ["b"], ["c"], ["d"]])
    asked = refused(evaluate(model, data, "--recall-k", "1", "--recall-k", "7"))
    assert "recall@7: k must be between 1 and the gallery's size, 4 pictures" in asked
    usual = evaluate(model, data)  # 1, 5 and 10
    found = scores(usual, "retrieval")
    assert found["image_to_text_recall@5"] is None
    assert found["image_to_text_recall@1"] is not None
    assert "recall at 5, 10 is not defined among 4 pictures" in usual.stderr


def test_a_class_without_pictures_and_fewer_than_five_classes(model: str) -> None:
    Path("names.txt").write_text("ant\nbee\ncow\n")
    result = evaluate(model, rows(4, label=[0, 2, 0, 2]), "--task", "zero_shot", "--classnames", "names.txt")
    found = scores(result, "zero_shot")
    assert found["acc5"] is None
    assert found["mean_per_class_recall"] is not None
    assert "1 classes have no pictures and count in no mean: bee" in result.stderr


def test_labels_out_of_range(model: str) -> None:
    Path("names.txt").write_text("ant\nbee\n")
    line = refused(evaluate(model, rows(3, label=[0, 1, 2]), "--task", "zero_shot", "--classnames", "names.txt"))
    assert "label 2 of picture 2 is out of range: there are 2 class names, for the labels 0 to 1" in line
    done = CliRunner().invoke(app, ["data", "to-webdataset", rows(3, label=["x", "y", "z"]), "wds2"])
    assert done.exit_code == 0, done.output
    Path("wds2/classnames.txt").write_text("x\ny\n")
    line = refused(evaluate(model, "wds2", "--task", "zero_shot"))
    assert "label 2 has no name: there are 2 class names" in line


def test_empty_captions(model: str) -> None:
    some = evaluate(model, rows(3, captions=[["a"], [""], ["c"]]))
    assert scores(some, "retrieval")["image_to_text_recall@1"] is not None
    assert "1 of 3 rows are left out; the first is row 1: no caption: 'captions' empty or missing" in some.stderr
    assert "no usable row: all 2 are bad" in refused(evaluate(model, rows(2, captions=[[" "], []])))


def test_features_of_two_models_do_not_fit(model: str, tmp_path: Path) -> None:
    """A head of another width than config.json says, as after mixing files of two models."""
    import shutil

    from safetensors.torch import load_file, save_file

    shutil.copytree(model, "mixed")
    weights = load_file("mixed/model.safetensors")
    name = next(name for name in weights if name.startswith("text_projection"))
    save_file({**weights, name: weights[name][:-1].contiguous()}, "mixed/model.safetensors")
    assert "mixed" in refused(evaluate("mixed", rows(2, captions=[["a"], ["b"]])))
