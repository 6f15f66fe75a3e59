"""Tables of scores: what stands in a grid, and what in a list."""

from __future__ import annotations

from rich.console import Console

from mmcontrast.cli.score_tables import Scores, score_tables


def printed(results: Scores) -> list[list[str]]:
    """The words of each line that holds any, without borders."""
    console = Console(width=100)
    with console.capture() as capture:
        for table in score_tables(results):
            console.print(table)
    lines = capture.get().translate(dict.fromkeys(map(ord, "┃│┏┓┗┛━┳┻┡┩╇├┤┼─┴└┘"), " ")).splitlines()
    return [line.split() for line in lines if line.split()]


def test_plain_metrics_are_one_table() -> None:
    lines = printed({"retrieval": {"map@r": 0.25, "recall@5": None}, "knn": {"acc1@1": 1.0}})
    assert lines == [["task", "metric", "value"], ["retrieval", "map@r", "0.25"], ["retrieval", "recall@5", "-"],
                     ["knn", "acc1@1", "1"]]  # fmt: skip


def test_rows_with_columns_in_common_are_a_grid() -> None:
    scores = {"clean/f1": 1, "clean/acc1": 0.5, "x@1/f1": 1, "x@1/f1_drop": 0, "x@1/acc1": 0.25, "acc1": 0.25}
    assert printed({"robustness": scores})[2:] == [
        ["f1"], ["robustness", "f1", "drop", "acc1"],
        ["clean", "1.000", "0.500"], ["x@1", "1.000", "0.000", "0.250"],
    ]  # fmt: skip


def test_other_columns_are_a_grid_of_their_own() -> None:
    scores = {"a/image_to_text_recall@1": 0.5, "b/image_to_text_recall@1": None, "a->b/recall@1": 0.75}
    assert printed({"multilingual": scores}) == [
        ["i→t"], ["multilingual", "R@1"], ["a", "0.500"], ["b", "-"], ["multilingual", "R@1"], ["a->b", "0.750"],
    ]  # fmt: skip


def test_seven_columns_fit_into_eighty_characters() -> None:
    console = Console(width=80)
    ways = [f"{way}_recall@{k}" for way in ("image_to_text", "text_to_image") for k in (1, 5, 10)]
    scores = {f"captions_de/{metric}": 0.0123456 for metric in [*ways, "mean_recall"]}
    with console.capture() as capture:
        console.print(*score_tables({"multilingual": scores}))
    assert "captions_de" in capture.get()
    assert capture.get().count("0.012") == 7
