"""A data set embedded once, and all evaluation tasks over it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

import torch
from torch import Tensor

from mmcontrast.data.kept_pictures import KeptPictures
from mmcontrast.data.rows import PairSource
from mmcontrast.embedding import Advance, Encoder, embed_texts
from mmcontrast.errors import DataError
from mmcontrast.evaluation.calibration import calibration
from mmcontrast.evaluation.caption_selection import select_first_captions, select_hard_captions
from mmcontrast.evaluation.classnames import prompt_classnames
from mmcontrast.evaluation.embedded import EmbeddedData as EmbeddedData
from mmcontrast.evaluation.embedded import embed_data as embed_data
from mmcontrast.evaluation.feature_memory import FeatureMemory
from mmcontrast.evaluation.geometry import geometry
from mmcontrast.evaluation.metrics import Metrics
from mmcontrast.evaluation.multi_label import multi_label
from mmcontrast.evaluation.positives import check_rule
from mmcontrast.evaluation.probe_tasks import PROBE_TASKS, run_probes
from mmcontrast.evaluation.ranking import Ranking
from mmcontrast.evaluation.retrieval import RECALL_KS, check_ks, rank_pairs, summarise
from mmcontrast.evaluation.same_kind import same_kind_task
from mmcontrast.evaluation.winoground import winoground
from mmcontrast.evaluation.zero_shot import (
    DEFAULT_TEMPLATES,
    ZeroShotResult,
    check_templates,
    class_weights,
    classify,
    zero_shot_logits,
)
from mmcontrast.preprocess import MAX_IMAGE_PIXELS

_CHOICES = ("hard_captions", "caption_selection", "winoground", "multi_label")
TASKS = ("retrieval", "zero_shot", *PROBE_TASKS, "geometry", "calibration", "image_to_image", "text_to_text", *_CHOICES)
CAPTION_TASKS = ("retrieval", "geometry", "text_to_text", *_CHOICES)
"""Those that need captions."""


@dataclass(frozen=True)
class Evaluation:
    """Results of all tasks, and what a report shows beside them.

    Attributes:
        results: {task: {metric: value}}, JSON-ready: None where a metric is not defined.
        data: the embedded data set.
        positives: the rule that retrieval counted by.
        zero_shot: confusion matrix and class names, or None.
        spelled: class names of the data set -> as spelled in the prompts.
        templates: of the prompts.
        notes: what the reader should know of these numbers.
        rankings: of the pictures and of the captions as queries, or None without retrieval.
    """

    results: dict[str, Metrics]
    data: EmbeddedData
    positives: str
    zero_shot: ZeroShotResult | None = None
    spelled: dict[str, str] = field(default_factory=dict)
    templates: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    rankings: tuple[Ranking, Ranking] | None = None


def run_tasks(
    encoder: Encoder,
    source: PairSource,
    tasks: Sequence[str],
    *,
    positives: str = "id",
    ks: Sequence[int] = RECALL_KS,
    strict: bool = False,
    templates: Sequence[str] | None = None,
    classnames: Mapping[str, str] | Sequence[str] | None = None,
    words: set[str] | None = None,
    batch_size: int = 256,
    workers: int = 0,
    max_image_pixels: int = MAX_IMAGE_PIXELS,
    progress: Advance | None = None,
    kept: KeptPictures | None = None,
    memory: FeatureMemory | None = None,
    train: PairSource | None = None,
    train_memory: FeatureMemory | None = None,
    logit_scale: float = 100.0,
    seed: int = 0,
    together: bool = False,
) -> Evaluation:
    """Embed a source once and run the tasks on it.

    Args:
        encoder: a DualEncoder; it is left in the mode it was in.
        source: pictures with captions (retrieval) or labels (zero_shot).
        tasks: of TASKS.
        positives: "id", "caption", "group" or "label": who is a positive of whom in retrieval.
        ks: of the recalls.
        strict: a k above the size of the gallery is an error; otherwise that recall is None, with a note.
        templates: prompts with "{c}"; None for the general ones.
        classnames: how class names are spelled in prompts, see `prompt_classnames`.
        words: whole words of the tokenizer, to split glued class names.
        batch_size: pictures or captions at a time.
        workers: processes that decode.
        max_image_pixels: larger pictures count as undecodable.
        progress: called with the number of pictures, then captions, done.
        kept: decoded pictures of an earlier evaluation, and a place for them; None decodes anew.
        memory: features of an earlier evaluation by the same encoder, and a place for them; None embeds anew.
        train: labelled pictures that probes learn from.
        train_memory: as `memory`, for the train pictures.
        logit_scale: factor of the cosines in the model's probabilities, for their calibration.
        seed: of what a task draws.
        together: all ranks call this, and share the batches of pictures and captions out.
    """
    _check_tasks(tasks, train)
    check_rule(positives)
    check_templates(templates := list(DEFAULT_TEMPLATES if templates is None else templates))
    embed = partial(
        embed_data,
        encoder,
        batch_size=batch_size,
        workers=workers,
        max_image_pixels=max_image_pixels,
        progress=progress,
        together=together,
    )
    of_captions = [task for task in tasks if task in CAPTION_TASKS]
    data = embed(source, texts=bool(of_captions), needed_by=", ".join(of_captions), kept=kept, memory=memory)
    found = Evaluation({}, data, positives, notes=_bad_row_notes(data))
    if "retrieval" in tasks:
        found.notes.extend(_small_gallery_notes(data, ks, strict))
        rankings = rank_pairs(data.image_features, data.text_features, data.positive_keys(positives))
        found.results["retrieval"] = summarise(*rankings, ks)
        found = replace(found, rankings=rankings)
    if "geometry" in tasks:
        found.results["geometry"] = geometry(data.image_features, data.text_features, data.text_images, seed=seed)
    encode = partial(embed_texts, encoder, batch_size=batch_size, together=together)
    if "hard_captions" in tasks:
        found.results["hard_captions"], notes = select_hard_captions(data, encode, seed=seed)
        found.notes.extend(notes)
    if "caption_selection" in tasks:
        found.results["caption_selection"] = select_first_captions(data, _caption_columns(source))
    if "multi_label" in tasks:
        scores, spellings, notes = multi_label(data, encode, classnames, words or set(), templates)
        found.results["multi_label"] = scores
        found.notes.extend(notes)
        found = replace(found, spelled=spellings, templates=templates)
    if "winoground" in tasks:
        found.results["winoground"], notes = winoground(data)
        found.notes.extend(notes)
    for task in ("image_to_image", "text_to_text"):
        if task in tasks:
            found.results[task], notes = same_kind_task(task, data, positives, ks, strict)
            found.notes.extend(notes)
    if "zero_shot" in tasks or "calibration" in tasks:
        names = _class_names(data, classnames)
        spelled = prompt_classnames(names, classnames, words or set())
        weights = class_weights(encode, spelled, templates)
        features, labels, notes = _labelled(data)
        found.notes.extend(notes)
        found = replace(found, spelled=dict(zip(names, spelled, strict=True)), templates=templates)
        if "zero_shot" in tasks:
            zero_shot = classify(features, labels, weights, spelled)
            found.results["zero_shot"] = zero_shot.metrics
            found.notes.extend(zero_shot.notes)
            found = replace(found, zero_shot=zero_shot)
        if "calibration" in tasks:
            logits = logit_scale / 100 * zero_shot_logits(features, weights)
            found.results["calibration"] = calibration(logits, labels, seed=seed)
    if train is not None and set(tasks) & set(PROBE_TASKS):
        learnt_from = embed(train, texts=False, memory=train_memory)
        learnt, notes = run_probes(tasks, learnt_from, data, seed=seed)
        found.results.update(learnt)
        found.notes.extend([*_bad_row_notes(learnt_from), *notes])
    return found


def _labelled(data: EmbeddedData) -> tuple[Tensor, Tensor, list[str]]:
    labels = torch.tensor([-1 if label is None else label for label in data.labels])
    labelled = torch.tensor([label is not None for label in data.labels])
    notes = []
    if not labelled.all():
        notes.append(f"{int((~labelled).sum())} of {len(labels)} pictures have no label and take no part in zero_shot")
    return data.image_features[labelled], labels[labelled], notes


def _caption_columns(source: PairSource) -> int | None:
    """How many captions a row has, where columns say so; a single column may hold a list."""
    columns = len(source.columns.captions)
    return columns if columns > 1 else None


def _class_names(data: EmbeddedData, classnames: Mapping[str, str] | Sequence[str] | None) -> list[str]:
    if all(label is None for label in data.labels):
        raise DataError(f"{data.name}: zero_shot needs a label column, and it has none (data.label_column)")
    if data.label_names is not None:
        return data.label_names
    if classnames is None or isinstance(classnames, Mapping):
        raise DataError(
            f"{data.name}: its labels are numbers without names: list the names in evaluation.classnames, "
            "or name a column of class names in data.label_column"
        )
    return list(classnames)


def _check_tasks(tasks: Sequence[str], train: PairSource | None) -> None:
    for task in tasks:
        if task not in TASKS:
            raise DataError(f"task {task!r} is unknown; choose of {', '.join(TASKS)}")
        if task in PROBE_TASKS and train is None:
            raise DataError(f"{task} learns from labelled pictures: name them in --train-data (train_data in a suite)")
    if not tasks:
        raise DataError(f"no task to evaluate; choose of {', '.join(TASKS)}")


def _bad_row_notes(data: EmbeddedData) -> list[str]:
    if not data.bad_rows:
        return []
    first = data.bad_rows[0]
    return [f"{len(data.bad_rows)} pictures could not be decoded and take no part; row {first.row}: {first.reason}"]


def _small_gallery_notes(data: EmbeddedData, ks: Sequence[int], strict: bool) -> list[str]:
    notes = []
    for size, what in ((len(data.image_features), "pictures"), (len(data.text_features), "captions")):
        if strict:
            check_ks(ks, size, what)
        elif large := [str(k) for k in ks if k > size]:
            notes.append(f"recall at {', '.join(large)} is not defined among {size} {what}")
    return notes
