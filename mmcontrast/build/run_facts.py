"""What a model card wants to know of a run beyond its config and log: RUN/facts.json and RUN/intervals.json."""

from __future__ import annotations

import datetime
import os
from typing import TYPE_CHECKING, Any

import torch

from mmcontrast import distributed
from mmcontrast.build.intervals import interval_document, scored_intervals
from mmcontrast.build.remarks import remarks
from mmcontrast.build.reporting import chance
from mmcontrast.data import PairSource, PairStream
from mmcontrast.evaluation.tasks import Evaluation
from mmcontrast.report.negatives import NegativesView

if TYPE_CHECKING:
    from mmcontrast.training.schedule import Progress


def run_intervals(evaluation: Evaluation) -> dict[str, Any]:
    """intervals.json, see `interval_document`."""
    return interval_document(scored_intervals(evaluation))


def run_facts(
    source: PairSource | PairStream,
    evaluation: Evaluation | None,
    progress: Progress,
    device: torch.device,
    inspection: NegativesView | None,
) -> dict[str, Any]:
    """facts.json: sizes of the data, what it ran on, what guessing scores, and who was pushed apart wrongly."""
    return {
        "train": _sizes(source) | _mixture(source, progress.samples_seen),
        "validation": None if evaluation is None else _evaluated(evaluation),
        "steps": progress.global_step,
        "samples_seen": progress.samples_seen,
        "best_step": progress.best_step if progress.best_metric is not None else None,
        "device": device_name(device),
        "processes": distributed.world_size(),
        "finished": datetime.datetime.now(tz=datetime.UTC).date().isoformat(),
        "chance": {} if evaluation is None else chance(evaluation),
        "negatives": [] if inspection is None else [list(card) for card in inspection.headlines],
        "notes": [] if evaluation is None else remarks(evaluation),
    }


def device_name(device: torch.device) -> str:
    """What a reader makes something of: the name of the GPU, or the number of processors."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    if device.type == "cpu":
        count = min(torch.get_num_threads(), os.cpu_count() or 1)
        return f"CPU, {count} thread{'s' if count > 1 else ''}"
    return device.type.upper()


def _sizes(source: PairSource | PairStream) -> dict[str, int | None]:
    if isinstance(source, PairStream):  # nobody counts a stream
        return {"pictures": None, "captions": None}
    return {"pictures": len(source), "captions": sum(len(source.captions(i)) for i in range(len(source)))}


def _mixture(source: PairSource | PairStream, pairs: int) -> dict[str, Any]:
    """Of a mixture, its sources and how many of the pairs that were seen came from each."""
    if not isinstance(source, PairStream) or source.mixture is None:
        return {}
    counts = source.mixture.counts(pairs)
    listed = zip(source.parts, source.mixture.shares, counts, strict=True)
    return {"sources": [{"name": part.name, "share": share, "pairs": count} for part, share, count in listed]}


def _evaluated(evaluation: Evaluation) -> dict[str, int | None]:
    data = evaluation.data
    return {
        "pictures": len(data.positions),
        "captions": len(data.captions) if "retrieval" in evaluation.results else None,
        "left_out": len(data.bad_rows),
    }
