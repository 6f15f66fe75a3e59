from __future__ import annotations

import base64
import math

import numpy as np
import pytest

from mmcontrast.report import ReportInputs
from mmcontrast.report.views import (
    bad_row_summary,
    config_rows,
    confusion_view,
    data_uri,
    direction_tables,
    format_metric,
    headlines,
    metric_tables,
    negative_rows,
)
from mmcontrast.types import BadRow


@pytest.mark.parametrize(
    ("name", "value", "text"),
    [
        ("acc1", 0.1234, "12.3 %"),
        ("text_to_image_recall@1", 1 / 400, "0.25 %"),
        ("map@r", 1.0, "100.0 %"),
        ("median_rank", 3.0, "3"),
        ("mean_rank", 1234.56, "1,235"),
        ("mean_rank", 3.14159, "3.142"),
        ("acc5", None, "–"),
        ("acc5", math.nan, "–"),
        ("loss", "text", "–"),
    ],
)
def test_format_metric(name: str, value: object, text: str) -> None:
    assert format_metric(name, value) == text


def test_headlines_and_tables_with_chance() -> None:
    inputs = ReportInputs(
        "r",
        results={
            "retrieval": {"text_to_image_recall@1": 0.2, "image_to_text_mean_rank": 4.5, "mean_recall": 0.3},
            "zero_shot": {"acc1": 0.3},
        },
        chance={"retrieval": {"text_to_image_recall@1": 0.002}},
    )
    assert [(row.name, row.value, row.times) for row in headlines(inputs)] == [
        ("Text → image R@1", "20.0 %", "100×"),
        ("Mean recall", "30.0 %", ""),
        ("Zero-shot accuracy", "30.0 %", ""),
    ]
    assert [row.name for row in metric_tables(inputs)["Retrieval"]] == ["mean_recall"]
    table = direction_tables(inputs)["Retrieval"]
    assert [(name, [cell.value if cell else None for cell in cells]) for name, cells in table] == [
        ("mean rank", ["4.5", None]),
        ("recall@1", [None, "20.0 %"]),
    ]


def test_confusion_rows_sum_to_one_and_pairs_come_worst_first() -> None:
    view = confusion_view((np.array([[6, 4, 0], [1, 9, 0], [0, 0, 0]]), ["a", "b", "c"]))
    assert view.rows[0] == ("a", 10, [0.6, 0.4, 0.0])
    assert view.rows[2] == ("c", 0, [None, None, None])
    assert view.pairs == [("a", "b", 0.4, 4, 10), ("b", "a", 0.1, 1, 10)]
    assert confusion_view((np.eye(2), ["a", "b"])).pairs == []


def test_bad_rows_are_counted_by_reason() -> None:
    rows = [BadRow("f", i, "empty caption" if i < 3 else "no picture") for i in range(4)]
    assert bad_row_summary(rows) == [("empty caption", 3), ("no picture", 1)]


def test_negatives_are_read_from_the_history() -> None:
    history = [{"known_positive_share": 0.01}, {"known_positive_share": 0.03}, {"loss": 1.0}]
    rows = dict(
        negative_rows(ReportInputs("r", history=history, negatives={"rule": "mask", "share": 0.5, "count": 12}))
    )
    assert rows["rule"] == "mask"
    assert rows["share"] == "50.0 %"
    assert rows["count"] == "12"
    assert rows["Known positives among the candidates of a batch, mean"] == "2.000 %"


def test_config_is_flattened_by_section() -> None:
    rows = config_rows(
        {"output": "x", "model": {"image": {"name": None, "locked": True}}, "data": {"templates": ["a"]}}
    )
    assert rows == {
        "": [("output", "x")],
        "model": [("image.name", "null"), ("image.locked", "true")],
        "data": [("templates", "['a']")],
    }


def test_data_uri_tells_png_from_jpeg() -> None:
    assert data_uri(b"\x89PNG123") == "data:image/png;base64," + base64.b64encode(b"\x89PNG123").decode()
    assert data_uri(b"\xff\xd8\xff").startswith("data:image/jpeg;base64,")
