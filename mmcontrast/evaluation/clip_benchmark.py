"""Our metrics under the names that CLIP_benchmark 1.6 gives to the same numbers."""

from __future__ import annotations

import re
from collections.abc import Mapping

from mmcontrast.evaluation.metrics import Metrics

TASKS = {
    "zero_shot": "zeroshot_classification",
    "multi_label": "zeroshot_classification",
    "retrieval": "zeroshot_retrieval",
    "caption_selection": "image_caption_selection",
    "winoground": "image_caption_selection",
}
"""Our tasks -> its tasks. A linear probe is none of them: it trains ten epochs of AdamW, we fit to the optimum."""

# By our task; where one of its metrics has no counterpart there, it is left out.
_NAMES: dict[str, dict[str, str]] = {
    "zero_shot": {"acc1": "acc1", "acc5": "acc5", "mean_per_class_recall": "mean_per_class_recall"},
    "multi_label": {"map": "mean_average_precision"},
    "retrieval": {},  # by _RECALL
    "caption_selection": {"question_acc": "text_acc"},  # its text_acc asks for the right caption above all others
    "winoground": {"text_score": "text_acc", "image_score": "image_acc", "group_score": "acc"},
}
_RECALL = re.compile(r"(text_to_image|image_to_text)_recall@(\d+)")
_SOUGHT = {"text_to_image": "image", "image_to_text": "text"}


def shared_metrics(task: str, metrics: Mapping[str, float | None]) -> Metrics:
    """Those of the metrics of a task of ours that CLIP_benchmark has too, by its names; {} for other tasks."""
    names = _NAMES.get(task, {})
    found = {names[name]: value for name, value in metrics.items() if name in names}
    if task == "retrieval":
        for name, value in metrics.items():
            if match := _RECALL.fullmatch(name):
                found[f"{_SOUGHT[match[1]]}_retrieval_recall@{match[2]}"] = value
    return found


def record(
    task: str, metrics: Mapping[str, float | None], *, dataset: str, model: str, language: str = "en"
) -> dict[str, object] | None:
    """One result as CLIP_benchmark's JSON, which its `build` command reads; None for a task that it does not have.

    A metric that is not defined is None, which becomes an empty cell.
    """
    shared = shared_metrics(task, metrics)
    if not shared:
        return None
    return {
        "dataset": dataset,
        "model": model,
        "pretrained": "",
        "task": TASKS[task],
        "metrics": shared,
        "language": language,
    }


def file_name(result: Mapping[str, object]) -> str:
    """As CLIP_benchmark calls its files: dataset, pretrained, model, language and task; safe on any disk."""
    parts = (str(result[key]) for key in ("dataset", "pretrained", "model", "language", "task"))
    return "_".join(re.sub(r"[^\w.-]+", "-", part).strip("-.")[:80] for part in parts) + ".json"
