"""The benchmark of data loading, tiny: every side delivers the same shapes, and the ratios are those of the rates."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import dataloading
import pytest

for module in ("webdataset", "braceexpand", "pandas"):
    pytest.importorskip(module, reason="open_clip's loader needs it: pip install 'mmcontrast[bench]'")

pytestmark = pytest.mark.usefixtures("one_thread")  # which the benchmark takes as well


@pytest.mark.filterwarnings("ignore")  # of the peers
def test_all_sides(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    output = tmp_path / "out.json"
    words = ["--data", "synthetic://scenes", "--count", "10", "--batch", "4", "--repeats", "2"]
    words += ["--sides", "0", "900", "--output", str(output)]
    monkeypatch.setattr(sys, "argv", ["dataloading.py", *words])
    dataloading.main()
    result = json.loads(output.read_text())
    small, large = result["pictures"]
    assert small["pixels"] == "as they are"
    assert large["pixels"] == "900 x 675"
    assert large["bytes_per_jpeg"] > small["bytes_per_jpeg"]
    assert 0.9 < large["bytes_per_cached_picture"] / (317 * 423 * 3) < 1.1
    for pictures in result["pictures"]:
        rates, ratios = pictures["images_per_second_and_core"], pictures["ratio_to_open_clip"]
        assert rates.keys() == ratios.keys() >= {"open_clip", "datasets", "ours", "ours, cache"}
        for name in rates:
            ours, theirs = rates[name]["clock"], rates["open_clip"]["clock"]
            assert ours["range"][0] <= ours["median"] <= ours["range"][1]
            assert ratios[name]["clock"] == pytest.approx(ours["median"] / theirs["median"], abs=0.01)


@pytest.mark.filterwarnings("ignore")
def test_every_epoch_counts_its_pictures(tmp_path: Path) -> None:
    from mmcontrast import open_source

    source = open_source("synthetic://scenes", rows=10)
    table, parquet, _ = dataloading.write_data(source, 10, 300, 5.0, tmp_path / "pictures")
    sides: dict[str, Any] = {
        "open_clip": dataloading.open_clip_epoch(table, 4),
        "datasets": dataloading.datasets_epoch(parquet, 4, tmp_path / "datasets"),
        "ours": dataloading.our_epoch(table, 4, cache=tmp_path / "cache"),
    }
    assert {name: epoch() for name, epoch in sides.items()} == dict.fromkeys(sides, 8)
