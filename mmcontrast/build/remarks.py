"""What stands beside the numbers of an evaluation."""

from __future__ import annotations

from mmcontrast.evaluation.tasks import Evaluation


def remarks(evaluation: Evaluation) -> list[str]:
    """What the reader of the numbers should know."""
    lines = []
    if "retrieval" in evaluation.results:
        lines.append(f"retrieval: a picture and a caption belong together by {evaluation.positives}")
    if changed := [f"{name} -> {spelled}" for name, spelled in evaluation.spelled.items() if name != spelled]:
        lines.append(f"zero_shot: class names as spelled in prompts: {', '.join(changed)}")
    return lines + evaluation.notes
