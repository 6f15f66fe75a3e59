from __future__ import annotations

import math

import numpy as np
from report_samples import make_history

from mmcontrast.report.curves import MAX_POINTS, charts, flatten, negative_charts


def test_one_chart_for_each_training_number_and_kind_of_metric() -> None:
    drawn = {chart.title: chart for chart in charts(make_history())}
    assert list(drawn) == [
        "Training loss", "Logit scale", "Learning rate", "Pairs per second",
        "Retrieval: text → image recall", "Retrieval: ranks", "Zero-shot: overall",
    ]  # fmt: skip
    recall = drawn["Retrieval: text → image recall"]
    assert recall.unit == "share"
    assert [series.name for series in recall.series] == ["@1"]
    assert recall.series[0].x.tolist() == [20, 40, 60]
    assert recall.series[0].y.tolist() == [0.2, 0.4, 0.6]
    assert drawn["Zero-shot: overall"].series[0].name == "acc1"


def test_nested_evaluation_lines_are_read_like_dotted_ones() -> None:
    line = {"global_step": 5, "split": "validation", "retrieval": {"mean_recall": 0.5, "map@r": None}}
    (chart,) = charts([line])
    assert [(series.name, series.y.tolist()) for series in chart.series] == [("mean recall", [0.5])]
    assert flatten({"a": {"b": {"c": 1}}, "d": {}}) == {"a.b.c": 1, "d": {}}


def test_precisions_have_a_chart_of_their_own() -> None:
    line = {
        "global_step": 5,
        "split": "validation",
        "mean_recall": 0.5,
        "map@r": 0.25,
        "text_to_image_r_precision": 0.2,
    }
    drawn = {chart.title: [series.name for series in chart.series] for chart in charts([line])}
    assert drawn["Validation: overall"] == ["mean recall"]
    assert drawn["Validation: mAP@R and R-precision"] == ["mAP@R", "text → image R-precision"]


def test_long_series_are_thinned_out_to_means() -> None:
    lines = [{"global_step": step, "loss": math.nan if step % 2 else 2.0} for step in range(10 * MAX_POINTS)]
    (chart,) = charts(lines)
    (series,) = chart.series
    assert len(series.x) == MAX_POINTS
    assert np.allclose(series.y, 2.0)
    assert (np.diff(series.x) > 0).all()


def test_gaps_stay_gaps_and_empty_series_have_no_chart() -> None:
    lines = [{"global_step": s, "loss": None if s == 2 else 1.0, "lr": None} for s in range(1, 4)]
    (chart,) = charts(lines)
    assert np.isnan(chart.series[0].y).tolist() == [False, True, False]
    assert charts([]) == []


def test_what_is_logged_about_negatives_has_charts_of_its_own() -> None:
    lines = [
        {"global_step": step, "known_positive_share": 0.1, "false_negative_share": 0.2,
         "effective_negatives": 40.0 + step,
         "calibrator_brier": 0.02, "calibrator_ece": None if step == 1 else 0.01, "loss": 1.0}
        for step in (1, 2)
    ]  # fmt: skip
    lines.append({"global_step": 2, "split": "validation", "prior": 0.5})
    shares, effective, error = negative_charts(lines)
    assert [series.name for series in shares.series] == ["known to match", "believed to match"]
    assert shares.unit == "share"
    assert effective.series[0].y.tolist() == [41, 42]
    assert [series.name for series in error.series] == ["Brier score", "ECE"]
    assert np.isnan(error.series[1].y).tolist() == [True, False]
    assert [chart.title for chart in charts(lines)] == ["Training loss", "Validation: other"]
    assert negative_charts([{"global_step": 1, "loss": 2.0}]) == []
