"""From finished cells to negatives.json and its table."""

from __future__ import annotations

import json
import statistics
from dataclasses import replace
from pathlib import Path

import pytest
from negatives_methods import DEFAULT_SCALE, METHODS, SCALES, Cell, merged, parse_cell
from negatives_plot import curves
from negatives_setups import SETUPS
from negatives_store import Planner, append_cell, best_scales, read_cells
from negatives_table import aggregated, table, variations

KEYS = {
    "dataset", "setting", "batch", "method", "metric", "seeds", "mean", "sd", "low", "high", "recovered", "overhead",
}  # fmt: skip
VALUES = {
    "infonce": [0.30, 0.32, 0.28, 0.31, 0.29],
    "calibrated": [0.35, 0.36, 0.33, 0.37, 0.34],
    "oracle_mask": [0.36, 0.38, 0.35, 0.37, 0.34],
    "oracle_positives": [0.40, 0.42, 0.38, 0.41, 0.39],
}
SECONDS = {"ucm_captions/natural/128": {"infonce": 0.4, "calibrated": 0.44, "oracle_mask": 0.4}}


def cells() -> list[tuple[Cell, dict[str, float]]]:
    return [
        (Cell("ucm_captions", "natural", 128, method, seed), {"acc1": value})
        for method, values in VALUES.items()
        for seed, value in enumerate(values, 1)
    ]


def test_entries_have_exactly_the_agreed_keys_and_are_json() -> None:
    entries = aggregated(cells(), SECONDS)
    assert [entry["method"] for entry in entries] == ["infonce", "calibrated", "oracle_mask", "oracle_positives"]
    assert all(set(entry) == KEYS for entry in entries)
    assert json.loads(json.dumps(entries, allow_nan=False)) == entries


def test_numbers_of_an_entry() -> None:
    entry = {entry["method"]: entry for entry in aggregated(cells(), SECONDS)}
    found = entry["calibrated"]
    gains = [a - b for a, b in zip(VALUES["calibrated"], VALUES["infonce"], strict=True)]
    oracle = [a - b for a, b in zip(VALUES["oracle_mask"], VALUES["infonce"], strict=True)]
    assert (found["seeds"], found["mean"]) == (5, pytest.approx(0.35))
    assert found["sd"] == pytest.approx(statistics.stdev(VALUES["calibrated"]))
    assert min(gains) - 1e-9 <= found["low"] < statistics.mean(gains) < found["high"] <= max(gains) + 1e-9
    assert found["recovered"] == pytest.approx(statistics.mean(gains) / statistics.mean(oracle))
    assert found["overhead"] == pytest.approx(0.1)
    assert (entry["infonce"]["low"], entry["infonce"]["high"], entry["infonce"]["recovered"]) == (0, 0, 0)
    assert entry["oracle_mask"]["recovered"] == pytest.approx(1)
    assert entry["oracle_positives"]["overhead"] is None


def test_only_common_seeds_are_compared() -> None:
    extra = [(Cell("ucm_captions", "natural", 128, "calibrated", 9), {"acc1": 0.99})]
    found = {entry["method"]: entry for entry in aggregated(cells() + extra, {})}["calibrated"]
    before = {entry["method"]: entry for entry in aggregated(cells(), {})}["calibrated"]
    assert found["seeds"] == 6
    assert [found[key] for key in ("low", "high", "recovered")] == [before[key] for key in ("low", "high", "recovered")]


def test_no_headroom_no_share() -> None:
    flat = [
        (cell, metrics | {"acc1": 0.3 if "oracle" in cell.method else metrics["acc1"]}) for cell, metrics in cells()
    ]
    assert all(entry["recovered"] is None for entry in aggregated(flat, {}))


def test_another_budget_is_another_setting() -> None:
    timed = [(Cell(c.dataset, c.setting, c.batch, c.method, c.seed, "time"), metrics) for c, metrics in cells()]
    entries = aggregated(cells() + timed, SECONDS)
    assert {entry["setting"] for entry in entries} == {"natural", "natural, equal time"}
    assert [entry["overhead"] for entry in entries if entry["method"] == "calibrated"] == pytest.approx([0.1, 0.1])


def test_table_shows_the_share_of_both_oracles() -> None:
    text = table(aggregated(cells(), SECONDS))
    line = next(line for line in text.splitlines() if line.startswith("| calibrated"))
    assert "### ucm_captions, natural, batch 128: acc1" in text
    assert [cell.strip() for cell in line.strip("|").split("|")][:5] == ["calibrated", "5", "35.0", "1.6", "+5.0"]
    assert [cell.strip() for cell in line.strip("|").split("|")][6:] == ["83", "50", "10"]


def test_methods_are_held_against_what_they_vary() -> None:
    values = {"soft_positives": [0.4, 0.5, 0.6], "cluster_soft": [0.41, 0.52, 0.63], "soft_half": [0.3]}
    runs = [
        (Cell("ucm_captions", "natural", 128, method, seed), {"acc1": value, "map@r": 0.5})
        for method, found in values.items()
        for seed, value in enumerate(found, 1)
    ]
    lines = variations(runs, ["acc1"]).splitlines()
    assert len(lines) == 5  # one seed is no comparison, text_similarity did not run, map@r was not asked for
    found = [cell.strip() for cell in lines[-1].strip("|").split("|")]
    assert found[:6] == ["ucm_captions, natural, batch 128", "acc1", "cluster_soft", "soft_positives", "3", "+2.0"]
    assert found[-1] == "10.0"


def test_curves_over_scales_are_means_of_the_tuning_runs(tmp_path: Path) -> None:
    file = tmp_path / "cells.jsonl"
    for seed, scale, value in ((1000, 7.0, 0.2), (1001, 7.0, 0.4), (1000, 3.5, 0.1), (1, None, 0.9)):
        cell = Cell("ucm_captions", "pretrained", 128, "infonce", seed, tuning_scale=scale)
        append_cell(file, {"cell": cell.key, "fingerprint": cell.key, "metrics": {"map@r": value}})
    found = curves(file, "ucm_captions", "pretrained")
    assert found == {("infonce", "map@r"): {3.5: pytest.approx(0.1), 7.0: pytest.approx(0.3)}}
    assert curves(file, "ucm_captions", "natural") == {}


def test_keys_of_cells_lead_back_to_them() -> None:
    plain = Cell("flickr8k", "injected-30", 64, "calibrated", 3)
    tuning = Cell("flickr8k", "injected-30", 64, "calibrated", 1000, tuning_scale=SCALES[1])
    timed = Cell("flickr8k", "injected-30", 64, "calibrated", 3, "time")
    assert plain.key == "flickr8k/injected-30/64/calibrated/3"
    assert [parse_cell(cell.key) for cell in (plain, tuning, timed)] == [plain, tuning, timed]
    with pytest.raises(ValueError, match="no method"):
        parse_cell("flickr8k/injected-30/64/nothing/3")
    with pytest.raises(ValueError, match="is no cell"):
        parse_cell("flickr8k/64")


def test_merged_goes_into_sections() -> None:
    assert merged({"a": {"b": 1, "c": 2}, "d": 3}, {"a": {"b": 5}}) == {"a": {"b": 5, "c": 2}, "d": 3}


def test_records_outlive_a_crash_in_mid_line(tmp_path: Path) -> None:
    file = tmp_path / "cells.jsonl"
    append_cell(file, {"fingerprint": "a", "metrics": {"acc1": 0.1}})
    with file.open("a") as stream:
        stream.write('{"fingerprint": "b", "met')
    append_cell(file, {"fingerprint": "c", "metrics": {"acc1": 0.3}})
    assert sorted(read_cells(file)) == ["a", "c"]


def test_the_best_scale_is_that_of_the_deciding_metric_over_all_tuning_seeds() -> None:
    metric = SETUPS["ucm_captions"].metrics[0]
    tried = {(1000, 7.0): 0.1, (1001, 7.0): 0.3, (1000, 25.0): 0.25, (1001, 25.0): 0.25, (1000, 14.285714): 0.9}
    runs = [
        (Cell("ucm_captions", "natural", 128, "infonce", seed, tuning_scale=scale), {metric: value})
        for (seed, scale), value in tried.items()
    ]
    assert best_scales(runs) == {"ucm_captions": {"infonce": 25.0}}  # 14.3 was not tried with all seeds


def test_plans_follow_what_was_measured() -> None:
    planner = Planner({"ucm_captions": {"calibrated": 7.0, "soft_positives": 7.0}}, SECONDS)
    timed = Cell("ucm_captions", "natural", 128, "calibrated", 1, "time")
    assert planner.plan(timed).scale == 7.0
    assert planner.plan(timed).share_of_steps == pytest.approx(1 / 1.1)
    assert planner.plan(Cell("ucm_captions", "natural", 128, "soft_half", 1)).scale == 7.0
    untuned = Cell("ucm_captions", "pretrained-untuned", 128, "calibrated", 1)
    named = Planner({"ucm_captions/pretrained": {"calibrated": 3.5}}, {})
    assert named.plan(untuned).scale == DEFAULT_SCALE
    assert named.plan(replace(untuned, setting="pretrained")).scale == 3.5
    with pytest.raises(ValueError, match="run --time"):
        planner.plan(Cell("ucm_captions", "natural", 64, "calibrated", 1, "time"))
    # InfoNCE in its own time is the same run: it is not trained twice.
    same = [Cell("ucm_captions", "natural", 128, "infonce", 1, budget) for budget in ("samples", "time")]
    assert planner.fingerprint(same[0]) == planner.fingerprint(same[1])
    assert planner.fingerprint(timed) != planner.fingerprint(Cell("ucm_captions", "natural", 128, "calibrated", 1))


def test_every_method_has_another_fingerprint() -> None:
    planner = Planner({}, {})
    found = {planner.fingerprint(Cell("ucm_captions", "natural", 128, method, 1)) for method in METHODS}
    assert len(found) == len(METHODS)


def test_table_holds_no_mean_against_one_over_other_seeds() -> None:
    extra = [(Cell("ucm_captions", "natural", 128, "calibrated", 9), {"acc1": 0.99})]
    text = table(aggregated(cells() + extra, SECONDS))
    line = next(line for line in text.splitlines() if line.startswith("| calibrated"))
    found = [cell.strip() for cell in line.strip("|").split("|")]
    assert found[1] == "6"
    assert (found[4], found[7]) == ("-", "-")
