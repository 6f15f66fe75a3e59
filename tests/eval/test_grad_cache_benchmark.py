"""The benchmark of the gradient cache, run tiny."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from grad_cache import MODELS, summary

from mmcontrast import load_config

ROOT = Path(__file__).parents[2]


def test_it_measures_both_sides(tmp_path: Path) -> None:
    command = [sys.executable, "eval/benchmarks/grad_cache.py", "--batch=16", "--micro=4", "--repeats=2", "--threads=1"]
    command += ["--model=vit", f"--output={tmp_path / 'out.json'}", "--name=tiny"]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    result = json.loads((tmp_path / "out.json").read_text())["tiny"]
    assert (result["batch"], result["micro"], result["repeats"], result["threads"]) == (16, 4, 2, 1)
    for side in ("whole", "chunks"):
        low, high = result["range"][side]
        assert 0 < low <= result["seconds_per_step"][side] <= high
        assert result["megabytes"][side]["before"] > 50
    ratio = result["seconds_per_step"]["chunks"] / result["seconds_per_step"]["whole"]
    assert result["time_ratio"] == pytest.approx(ratio, rel=0.02)


def test_the_ratios_are_those_of_the_medians() -> None:
    times = {"whole": [(1.0, 1.0), (9.0, 2.0), (2.0, 2.0)], "chunks": [(3.0, 2.0), (3.0, 3.0), (1.0, 9.0)]}
    found = summary(times, {"whole": {"extra": 100}, "chunks": {"extra": 25}})
    assert (found["time_ratio"], found["cpu_time_ratio"], found["memory_ratio"]) == (1.5, 1.5, 0.25)
    assert found["range"] == {"whole": [1.0, 9.0], "chunks": [1.0, 3.0]}


@pytest.mark.parametrize("model", MODELS)
def test_the_models_are_valid(model: str) -> None:
    load_config(ROOT / "configs" / "quickstart.yaml", MODELS[model])
