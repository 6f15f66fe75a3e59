"""The formulas of docs/scaling.md agree with what real processes exchange and what objects take."""

from __future__ import annotations

import argparse
import json

import pytest
import simulate_scale


@pytest.mark.parametrize("rules", [False, True])
def test_traffic_of_two_processes(rules: bool) -> None:
    counted = simulate_scale.counted_traffic(32, 8, 2, rules)
    assert counted == [simulate_scale.expected_traffic(32, 8, 2, rules)] * 2
    assert counted[0]["all_gather"] > 0


def test_the_share_of_one_rank_of_many() -> None:
    found = simulate_scale._share(16, 256, 8, repeats=1)
    assert found["limit"] > 0
    assert 0 < found["least"] <= found["seconds"] <= found["most"]
    assert found["growing_mb"] == pytest.approx((4 * 8 * (256 + 16) + 24 * 256) / 1e6)


def test_what_a_data_set_takes() -> None:
    assert simulate_scale.measured_data_bytes(1000) == simulate_scale.data_bytes(1000)


def test_tables() -> None:
    options = argparse.Namespace(local=512, dim=512, weights=151e6, gflop=29.0, peak=989.0, reached=0.4, link=50.0)
    alone, many = simulate_scale.projected(1, options), simulate_scale.projected(64, options)
    assert alone["exchange"] == alone["gradients"] == 0
    assert many["loss"] == pytest.approx(64 * alone["loss"])  # a rank's share grows with all captions
    assert many["sharded_state_mb"] == pytest.approx(many["state_mb"] / 64)
    row = {"processes": 2, "rules": True}
    traffic = row | {name: {"all_gather": 10, "all_reduce": 20} for name in ("counted", "expected")}
    share = {"ranks": 4, "pairs": 64, "seconds": 2.0, "least": 1.0, "most": 3.0, "limit": 1.0, "extra_mb": 5.0}
    kept = json.loads(json.dumps({"traffic": [traffic], "shares": [share | {"growing_mb": 4.0}]}))
    text = simulate_scale.tables(kept, options)
    assert "| 2 | yes | 10 | 10 | 20 | 20 |" in text
    assert "| 4 | 64 | 2 (1 to 3) | 0.50 | 5 | 4 |" in text
    assert "| 1,024 | 524,288 |" in text
