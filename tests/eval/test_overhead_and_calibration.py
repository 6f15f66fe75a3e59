"""The two small benchmarks beside that of the negatives: their configs, and what they make of measurements."""

from __future__ import annotations

from pathlib import Path

import pytest
from calibration import summary
from overhead import SIDES, VIT_B_32

from mmcontrast import load_config
from mmcontrast.evaluation.reliability import Reliability

QUICKSTART = Path(__file__).parents[2] / "configs" / "quickstart.yaml"


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("model", [[], VIT_B_32], ids=["quickstart", "vit_b_32"])
def test_both_sides_are_valid_configs_that_differ_in_their_negatives_only(side: str, model: list[str]) -> None:
    plain = load_config(QUICKSTART, model).model_dump()
    config = load_config(QUICKSTART, [*model, *SIDES[side]]).model_dump()
    assert {key for key in config if config[key] != plain[key]} <= {"negatives"}
    assert (config["negatives"]["cluster"]["share"] > 0) == (side == "with")


def test_the_largest_gap_leaves_nearly_empty_bins_out() -> None:
    run = Reliability(
        believed=[0.01, 0.5, 0.95],
        observed=[0.02, 0.9, 1.0],
        counts=[960, 5, 35],
        base_rate=0.05,
        mean=0.05,
        brier=0.02,
        brier_constant=0.05,
        ece=0.01,
        auroc=0.97,
    )
    found = summary([run, run])
    assert found["largest_gap"] == pytest.approx(0.05)
    assert found["brier_against_constant"] == pytest.approx(0.4)
    assert found["seeds"] == 2
    assert found["curve"]["counts"] == [960, 5, 35]
