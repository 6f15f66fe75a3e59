"""Fixtures that several rooms share."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from tiny_runs import mmcontrast_command, one_thread, tiny_run

__all__ = ["mmcontrast_command", "one_thread", "tiny_run"]  # fixtures that are made once for all files


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder of the real data sets, or a skip that says where they were looked for."""
    folder = Path(os.environ.get("MMCONTRAST_DATA", Path(__file__).parents[2] / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"real data sets are absent: no folder {folder} (set MMCONTRAST_DATA)")
    return folder
