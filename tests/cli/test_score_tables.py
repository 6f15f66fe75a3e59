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
    scores = {"clean/acc1": 0.5, "jpeg@1/acc1": 0.25, "jpeg@1/acc1_drop": 0.5, "acc1": 0.25}
    assert printed({"robustness": scores})[2:] == [
        ["robustness", "acc1", "acc1", "drop"], ["clean", "0.5"], ["jpeg@1", "0.25", "0.5"],
    ]  # fmt: skip


def test_other_columns_are_a_grid_of_their_own() -> None:
    scores = {"a/image_to_text_recall@1": 0.5, "b/image_to_text_recall@1": None, "a->b/recall@1": 0.75}
    assert printed({"multilingual": scores}) == [
        ["multilingual", "i→t", "R@1"], ["a", "0.5"], ["b", "-"], ["multilingual", "R@1"], ["a->b", "0.75"],
    ]  # fmt: skip
