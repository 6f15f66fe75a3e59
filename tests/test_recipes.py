"""Every recipe is short, uses public names only, and runs."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hub_clients import environment
from hub_server import running_hub
from tiny_runs import ROOT, tiny_config

import mmcontrast
from mmcontrast.config import dump_config
from mmcontrast.data import open_source

RECIPES = sorted((ROOT / "recipes").glob("*.py"))
STANDARD = {*sys.stdlib_module_names}


def test_the_promised_recipes_are_there() -> None:
    assert {path.stem for path in RECIPES} >= {"pretrain", "zero_shot_eval", "export_to_hub"}


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_short_and_public(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 40
    tree = ast.parse(text)
    imported = {name.name for node in ast.walk(tree) if isinstance(node, ast.Import) for name in node.names}
    imported |= {f"{node.module}" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert imported <= {"mmcontrast", *STANDARD}
    used = {
        node.attr
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "mmcontrast"
    }
    assert used
    assert used <= set(mmcontrast.__all__)
    assert (ast.get_docstring(tree) or "").count(f"Example: python recipes/{path.name} ") == 1


def run(name: str, *words: str | Path, **settings: str) -> Any:
    """Run a recipe as a user does; returns the JSON at the end of what it prints."""
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"} | settings
    command = [sys.executable, str(ROOT / "recipes" / f"{name}.py"), *map(str, words)]
    finished = subprocess.run(command, capture_output=True, text=True, timeout=200, env=environment, check=False)
    assert finished.returncode == 0, finished.stderr
    return json.loads(finished.stdout[finished.stdout.index("{") :])


def test_pretrain(tmp_path: Path) -> None:
    (tmp_path / "tiny.yaml").write_text(dump_config(tiny_config(tmp_path / "unused")))
    words = ["--output", tmp_path / "run", "--set", "training.max_steps=3", "--set", "training.trackers=[tensorboard]"]
    results = run("pretrain", tmp_path / "tiny.yaml", *words)
    assert results == json.loads((tmp_path / "run" / "results.json").read_text())
    assert not (tmp_path / "unused").exists()


def test_zero_shot_eval(tiny_run: Path, tmp_path: Path) -> None:
    scenes = open_source("synthetic://scenes", rows=20)
    rows = [{"image": scenes.image(i), "shape": (scenes.label_names or [])[scenes.label(i) or 0]} for i in range(20)]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "scenes.parquet")
    words = ["--label-column", "shape", "--template", "a {}", "--template", "there is a {}"]
    results = run("zero_shot_eval", tiny_run / "model", tmp_path / "scenes.parquet", *words)
    assert results.keys() == {"a {}", "there is a {}", "a {} + there is a {}"}
    assert all(scores.keys() == {"acc1", "acc5", "mean_per_class_recall"} for scores in results.values())


def test_export_to_hub(tiny_run: Path, tmp_path: Path) -> None:
    with running_hub() as hub:
        settings = environment(hub, tmp_path)
        words = [tiny_run / "model", "org/tiny", "--private", "--format", "mmcontrast"]
        done = run("export_to_hub", *words, "--publish", **settings)
        assert done["commit"] == hub.repos["org/tiny"].branches["main"]
        assert done["embed_dim"] == 16


def test_no_recipe_is_left_out() -> None:
    assert {path.stem for path in RECIPES} == {
        name.removeprefix("test_") for name in globals() if name.removeprefix("test_") in {p.stem for p in RECIPES}
    }
