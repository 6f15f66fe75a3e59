"""The names of what `mmcontrast evaluate` can measure: one list for the command, for suites and for the evaluation."""

from __future__ import annotations

from typing import Literal, get_args

Task = Literal[
    "retrieval",
    "zero_shot",
    "linear_probe",
    "knn",
    "few_shot",
    "geometry",
    "calibration",
    "image_to_image",
    "text_to_text",
    "hard_captions",
    "caption_selection",
    "winoground",
    "multi_label",
    "multilingual",
    "robustness",
]
TASKS: tuple[Task, ...] = get_args(Task)
CAPTION_TASKS: tuple[Task, ...] = (
    "retrieval",
    "geometry",
    "text_to_text",
    "hard_captions",
    "caption_selection",
    "winoground",
    "multi_label",
    "multilingual",
)
"""Those that need captions; robustness takes them where there are some."""
PROBE_TASKS: tuple[Task, ...] = ("linear_probe", "knn", "few_shot")
"""Those that learn from labelled train pictures."""
