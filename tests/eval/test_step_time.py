"""The benchmarks of a step: both sides really train, on one curve; stages add up to the step."""

from __future__ import annotations

import importlib.util
import io
from pathlib import Path
from typing import Any

import profile_step
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import step_time
from PIL import Image
from rich.console import Console
from step_time_sides import config_of

from mmcontrast.build.run import prepare

WORDS = ("a", "red", "dog", "runs", "over", "the", "green", "grass", "with", "two", "cars")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A parquet file as that of Flickr8k."""
    rows = []
    for i in range(40):
        buffer = io.BytesIO()
        Image.linear_gradient("L").convert("RGB").resize((48, 40)).rotate(9 * i).save(buffer, "JPEG")
        captions = [" ".join(WORDS[(i * k) % 11] for k in range(2 + i % 9)) + f" {i}" for _ in range(2)]
        rows.append({"image": {"bytes": buffer.getvalue(), "path": None}, "captions": captions})
    file = tmp_path_factory.mktemp("data") / "pairs.parquet"
    pq.write_table(pa.Table.from_pylist(rows), file)
    return file


def job(data: Path, folder: Path, steps: int) -> dict[str, Any]:
    values = {**step_time.SETUPS["tiny"], "workers": 0, "steps": steps, "warmup_steps": 2}
    return values | {"pairs": str(step_time.write_pairs(data, folder, values["batch"] * steps))}


needs_peers = pytest.mark.skipif(
    not all(importlib.util.find_spec(name) for name in step_time.PEERS),
    reason="open_clip's training loop needs the bench extra",
)


@needs_peers
@pytest.mark.timeout(600)
def test_both_sides_train_on_one_curve(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    result = step_time.compare_curves(job(data, tmp_path, 8), tmp_path)
    assert result["largest_difference"] < 1e-3
    ours = result["losses"]["ours"]
    assert len(ours) == 8
    assert len(set(ours)) == 8


@needs_peers
@pytest.mark.timeout(600)
def test_both_sides_are_timed(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    result = step_time.measure_time(job(data, tmp_path, 5), tmp_path, warmup=2, repeats=1)
    assert result["ratio"] > 0
    assert result["cpu_ratio"] > 0
    assert result["peak_memory_mb"].keys() == {"ours", "open_clip"}
    assert all(found["process"] > 100 for found in result["peak_memory_mb"].values())


def test_missing_peers_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(step_time, "PEERS", ("json", "no_such_package"))
    with pytest.raises(SystemExit, match=r"needs no_such_package: pip install -e '\.\[bench\]'"):
        step_time.check_peers()


def test_stages_of_a_step_add_up(data: Path, tmp_path: Path) -> None:
    config = config_of(job(data, tmp_path, 6) | {"folder": str(tmp_path)})
    result = profile_step.measure(prepare(config, Console(quiet=True)), steps=2, warmup=1)
    expected = {"data wait", "image forward", "text forward", "loss", "backward", "clip", "optimiser", "other"}
    assert set(result["stages"]) == expected
    assert sum(result["shares"].values()) == pytest.approx(1, abs=0.01)
    assert all(seconds >= 0 for seconds in result["stages"].values())
    assert 0 < sum(result["operators"].values()) <= 1.001
    assert result["gflop_per_step"] > 0
