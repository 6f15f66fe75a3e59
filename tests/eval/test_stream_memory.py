"""Streaming needs no more memory for more rows; the benchmark of it, at a small scale."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "eval" / "benchmarks" / "stream_memory.py"


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="reads the memory in use from /proc")
def test_memory_stays_where_it_was(tmp_path: Path) -> None:
    output = tmp_path / "memory.json"
    small = ["--rows", "120000", "--shard-rows", "10000", "--group-rows", "1000", "--buffer", "500", "--shares", "3"]
    command = [sys.executable, str(SCRIPT), *small, "--output", str(output)]
    subprocess.run(command, check=True, capture_output=True, timeout=110)
    result = json.loads(output.read_text())
    assert result["rows_never"] == result["rows_twice"] == 0
    assert result["memory_highest_mb"] < result["memory_after_a_tenth_mb"] + 40  # all texts and pictures: 60 MB more
    assert result["same_row"]
    assert result["parts_read_to_go_on"] < result["parts_read_at_first"] / 2
