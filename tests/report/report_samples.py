from __future__ import annotations

import math
from typing import Any

HOSTILE = "<script>alert('x')</script> \"><img src=http://evil.example/x onerror=alert(1)> & $x_1$ {{ 7 * 7 }}"


def make_history(steps: int = 60) -> list[dict[str, Any]]:
    lines: list[dict[str, Any]] = []
    for step in range(1, steps + 1):
        lines.append(
            {
                "global_step": step, "epoch": 0, "samples_seen": 32 * step, "loss": 3 * math.exp(-step / 30),
                "logit_scale": 14.0, "lr": 1e-3, "pairs_per_second": 100.0, "known_positive_share": 0.002,
            }
        )  # fmt: skip
        if step % 20 == 0:
            metrics = {"retrieval.text_to_image_recall@1": step / 100, "retrieval.text_to_image_median_rank": 3}
            lines.append({"global_step": step, "epoch": 0, "split": "validation", **metrics, "zero_shot.acc1": 0.5})
    return lines
