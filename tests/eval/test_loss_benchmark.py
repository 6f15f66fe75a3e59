"""The benchmark of the losses, tiny: what it compares is equal, and its rows and table say what was measured."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import loss as benchmark
import pytest
import torch


def test_a_run_writes_rows_and_a_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "loss.json"
    arguments = ["loss.py", "--sizes", "96", "--dim", "16", "--repeats", "2", "--device", "cpu", "--no-memory"]
    arguments += ["--losses", "info_nce", "sigmoid", "--output", str(output)]
    for _ in range(2):  # a second run takes the place of the first one
        monkeypatch.setattr(sys, "argv", arguments)
        benchmark.main()
    rows = {row["loss"]: row for row in json.loads(output.read_text())}
    assert len(json.loads(output.read_text())) == len(rows) == 4
    assert rows["info_nce"]["peer"] == "ClipLoss"
    assert rows["info_nce"]["time_ratio"] == pytest.approx(
        rows["info_nce"]["seconds"] / rows["ClipLoss"]["seconds"], rel=0.3
    )
    assert rows["sigmoid"]["extra_mb"] is None
    capsys.readouterr()
    monkeypatch.setattr(sys, "argv", ["loss.py", "--table", "--output", str(output)])
    benchmark.main()
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(" | ")[0] for line in lines[2:]] == ["| info_nce", "| sigmoid"]


def test_triton_is_skipped_without_a_gpu(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    output = tmp_path / "loss.json"
    arguments = ["loss.py", "--sizes", "32", "--dim", "16", "--repeats", "1", "--device", "cpu", "--no-memory"]
    arguments += ["--losses", "sigmoid", "--kernel", "triton", "--output", str(output)]
    monkeypatch.setattr(sys, "argv", arguments)
    benchmark.main()
    assert capsys.readouterr().err.startswith("skipped info_nce_triton, sigmoid_triton: triton needs ")
    assert {row["loss"] for row in json.loads(output.read_text())} == {"sigmoid", "SigLipLoss"}


def test_the_sides_compute_the_same() -> None:
    sides = benchmark.losses(300, 32, "cpu")
    inputs = benchmark.inputs(300, 32, "cpu")
    for ours, theirs in (("info_nce", "ClipLoss"), ("info_nce_kept", "ClipLoss"), ("sigmoid", "SigLipLoss")):
        torch.testing.assert_close(sides[ours](inputs), sides[theirs](inputs), rtol=1e-5, atol=1e-5)


@pytest.mark.skipif(sys.platform != "linux", reason="resident sets are read from /proc")
def test_memory_is_measured_in_a_process_of_its_own() -> None:
    few, many = (benchmark.peak_bytes(name, 3000, 32, "cpu", "fp32") for name in ("info_nce", "ClipLoss"))
    assert many > 8 * 3000**2 > few
