"""From a finished run to its report."""

from __future__ import annotations

from math import comb
from typing import TYPE_CHECKING, Any

from PIL import Image

from mmcontrast.build.folder import RunFolder
from mmcontrast.build.panes import run_panes
from mmcontrast.build.pictures import Pictures, Room
from mmcontrast.build.remarks import remarks
from mmcontrast.config import Config
from mmcontrast.data import PairSource
from mmcontrast.evaluation.intervals import Intervals
from mmcontrast.evaluation.tasks import Evaluation
from mmcontrast.preprocess import decode_image
from mmcontrast.report import ReportInputs, retrieval_examples, write_report
from mmcontrast.report.gallery import GalleryPair
from mmcontrast.report.negatives import NegativesView
from mmcontrast.report.panes import Pane
from mmcontrast.training.lines import LineFile
from mmcontrast.training.log import few_negatives
from mmcontrast.types import BadRow

if TYPE_CHECKING:
    from mmcontrast.training.schedule import Progress


_ROOM = 6_000_000
"""Bytes for the pictures of the panes; the galleries and the pairs of the negatives take some more."""
INTERVALS = "ranges beneath the results are 95 % bootstrap intervals over pictures, with the gallery as it is"


def write_run_report(
    config: Config,
    folder: RunFolder,
    progress: Progress,
    evaluation: Evaluation | None,
    source: PairSource | None,
    facts: dict[str, str],
    inspection: NegativesView | None = None,
    intervals: dict[str, Intervals] | None = None,
    logit_scale: float = 100.0,
) -> None:
    """RUN/report.html: curves, metrics, galleries and confusion of the best model."""
    gallery, history = GalleryPair([], []), folder.history()
    zero_shot = None if evaluation is None else evaluation.zero_shot
    if evaluation is not None and source is not None and len(evaluation.data.text_features):
        gallery = _gallery(evaluation, source)
    panes: dict[str, list[Pane]] = {}
    if evaluation is not None and source is not None:
        panes = run_panes(evaluation, Pictures(evaluation.data, source, Room(_ROOM)), logit_scale)
    bad_rows = [BadRow(**line) for line in LineFile(folder.bad_rows).read()]
    write_report(
        ReportInputs(
            run_name=folder.path.name,
            config=config.model_dump(),
            history=history,
            results={} if evaluation is None else evaluation.results,
            chance={} if evaluation is None else chance(evaluation),
            intervals=intervals or {},
            facts={**facts, "steps": f"{progress.global_step:,}", "best at step": f"{progress.best_step:,}"},
            image_queries=gallery.image_queries,
            text_queries=gallery.text_queries,
            confusion=None if zero_shot is None else (zero_shot.confusion.numpy(), zero_shot.class_names),
            panes=panes,
            bad_rows=bad_rows,
            negatives={
                "rule": " + ".join(config.negatives.rules) or "none",
                "known positives": config.negatives.known_positives,
            },
            inspection=inspection,
            notes=[
                *([] if evaluation is None else remarks(evaluation)),
                *([INTERVALS] if intervals else []),
                *few_negatives_note(history, config.training.global_batch_size),
            ],
        ),
        folder.report,
    )


def _gallery(evaluation: Evaluation, source: PairSource) -> GalleryPair:
    data = evaluation.data
    keys = data.positive_keys(evaluation.positives)  # hits in the pictures are what the numbers count as hits
    positions: list[int] = data.positions.tolist()

    def thumbnail(i: int) -> Image.Image:
        return decode_image(source.image(positions[i]))

    return retrieval_examples(
        data.image_features,
        data.text_features,
        data.text_images,
        thumbnail,
        data.captions,
        image_positives=lambda i: keys.image_queries(i, i + 1)[0],
        text_positives=lambda j: keys.text_queries(j, j + 1)[0],
    )


def few_negatives_note(history: list[dict[str, Any]], batch_size: int) -> list[str]:
    """A line where the log says that fewer than half of a batch's pairs counted as negatives."""
    counted = [line for line in history if line.get("effective_negatives") is not None]
    low = [line for line in counted if few_negatives(line, batch_size)]
    if not low:
        return []
    least = few_negatives(min(low, key=lambda line: float(line["effective_negatives"])), batch_size)
    return [f"negatives: {least} (so in {len(low)} of {len(counted)} lines of the log; this was the lowest)"]


def chance(evaluation: Evaluation) -> dict[str, dict[str, float | None]]:
    """What guessing would score, where that is known: accuracy over the classes, recall with positives by id."""
    values: dict[str, dict[str, float | None]] = {}
    if evaluation.zero_shot is not None:
        classes = len(evaluation.zero_shot.class_names)
        values["zero_shot"] = {"acc1": 1 / classes, "acc5": min(1.0, 5 / classes), "mean_per_class_recall": 1 / classes}
    if "retrieval" in evaluation.results and evaluation.positives == "id":
        images, texts = len(evaluation.data.positions), len(evaluation.data.captions)
        per_image = evaluation.data.text_images.bincount(minlength=images).tolist()
        recalls: dict[str, float | None] = {}
        for name in evaluation.results["retrieval"]:
            direction, at, k = name.partition("_recall@")
            if at and direction == "text_to_image":
                recalls[name] = min(1.0, int(k) / images)
            elif at:  # at least one of a picture's captions among k drawn ones
                misses = [comb(texts - own, int(k)) / comb(texts, int(k)) for own in per_image if int(k) <= texts]
                recalls[name] = 1 - sum(misses) / len(misses) if misses else None
        values["retrieval"] = recalls
    return values
