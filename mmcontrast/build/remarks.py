"""What stands beside the numbers of an evaluation, and lines beside the progress of a run."""

from __future__ import annotations

from rich.console import Console

from mmcontrast.errors import printable
from mmcontrast.evaluation.tasks import Evaluation


def show_line(console: Console, line: str) -> None:
    """A line as it stands: names of files and columns in it are no markup, and cannot command the terminal."""
    console.print(printable(line), markup=False, emoji=False, highlight=False, soft_wrap=True)


def remarks(evaluation: Evaluation) -> list[str]:
    """What the reader of the numbers should know."""
    lines = []
    for task in ("retrieval", "multilingual", "robustness"):
        if "mean_recall" in evaluation.results.get(task, {}):
            lines.append(f"{task}: a picture and a caption belong together by {evaluation.positives}")
    if changed := [f"{name} -> {spelled}" for name, spelled in evaluation.spelled.items() if name != spelled]:
        lines.append(f"zero_shot: class names as spelled in prompts: {', '.join(changed)}")
    return lines + evaluation.notes
