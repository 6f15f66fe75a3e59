"""The benchmark of sampling runs, and its numbers mean what they say."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import sampling
import torch


def test_orders_and_kmeans_at_small_scale(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "sampling.json"
    small = ["--items", "200000", "--points", "3000", "--dim", "16", "--clusters", "20", "--repeats", "1"]
    monkeypatch.setattr(sys, "argv", ["sampling.py", *small, "--threads", "1", "--output", str(output)])
    threads = torch.get_num_threads()
    monkeypatch.setattr(sampling, "sides", lambda: {"ours": sampling.ours, "MiniBatchKMeans": sampling.mini_batch})
    sampling.main()
    torch.set_num_threads(threads)
    result = json.loads(output.read_text())
    assert [(row["items"], row["share"]) for row in result["orders"]] == [(200000, 0.0), (200000, 0.25)]
    assert all(row["seconds"] > 0 and row["bytes_per_item"] > 4 for row in result["orders"])
    ours, peer = result["kmeans"]
    assert ours["ours_by_this_seconds"] == ours["ours_by_this_inertia"] == 1
    assert peer["ours_by_this_seconds"] == pytest.approx(ours["seconds"] / peer["seconds"], rel=1e-2)
    assert 0.5 < peer["ours_by_this_inertia"] < 1.03
    assert "MiniBatchKMeans" in capsys.readouterr().out


def test_a_library_that_is_absent_is_named(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sampling, "find_spec", lambda name: None if name == "faiss" else object())
    assert set(sampling.sides()) == {"ours", "MiniBatchKMeans"}
    assert "faiss is left out" in capsys.readouterr().err


def test_peak_memory_is_that_of_the_process_alone() -> None:
    block = torch.ones(1 << 27)  # 512 MB
    code = "import sampling, numpy; a = sampling.peak_bytes(); numpy.ones(1 << 25); print(a, sampling.peak_bytes())"
    folder = str(Path(sampling.__file__).parent)
    said = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, cwd=folder)
    before, after = (int(word) for word in said.stdout.split())
    assert (1 << 28) * 0.9 < after - before < (1 << 28) * 1.2
    assert sampling.peak_bytes() > block.numel() * 4
