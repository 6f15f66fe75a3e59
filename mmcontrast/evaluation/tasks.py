"""A data set embedded once, and all evaluation tasks over it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor

from mmcontrast.data.kept_pictures import KeptPictures
from mmcontrast.data.keys import normalise_caption
from mmcontrast.data.rows import PairSource
from mmcontrast.embedding import Advance, Encoder, embed_images, embed_texts
from mmcontrast.errors import DataError
from mmcontrast.evaluation.classnames import prompt_classnames
from mmcontrast.evaluation.feature_memory import FeatureMemory
from mmcontrast.evaluation.metrics import Metrics
from mmcontrast.evaluation.positives import PositiveKeys, caption_keys, check_rule, id_keys, value_keys
from mmcontrast.evaluation.ranking import Ranking
from mmcontrast.evaluation.retrieval import RECALL_KS, check_ks, rank_pairs, summarise
from mmcontrast.evaluation.zero_shot import DEFAULT_TEMPLATES, ZeroShotResult, check_templates, class_weights, classify
from mmcontrast.preprocess import MAX_IMAGE_PIXELS
from mmcontrast.types import BadRow

TASKS = ("retrieval", "zero_shot")


@dataclass(frozen=True)
class EmbeddedData:
    """n pictures and their m captions, embedded.

    Attributes:
        name: of the source.
        image_features: (n, d) float32.
        positions: (n,) int64, position of each picture in the source.
        text_features: (m, d) float32; (0, d) when no task needed them.
        captions: m, in the order of the pictures.
        text_images: (m,) int64, the picture (0..n-1) of each caption.
        labels: n, None where a row has none.
        groups: n, None where a row has none.
        label_names: as the data set spells them, or None.
        bad_rows: pictures that could not be decoded; they and their captions take no part.
    """

    name: str
    image_features: Tensor
    positions: Tensor
    text_features: Tensor
    captions: list[str]
    text_images: Tensor
    labels: list[int | None]
    groups: list[str | None]
    label_names: list[str] | None
    bad_rows: list[BadRow]

    def positive_keys(self, rule: str) -> PositiveKeys:
        """Who is a positive of whom: by "id", "caption", "group" or "label"."""
        check_rule(rule)
        if rule == "id":
            return id_keys(self.text_images, len(self.positions))
        if rule == "caption":
            return caption_keys(self.text_images, list(map(normalise_caption, self.captions)), len(self.positions))
        values: Sequence[int | str | None] = self.groups if rule == "group" else self.labels
        if all(value is None for value in values):
            raise DataError(f"{self.name}: positives by {rule} need a {rule} column, and it has none")
        return value_keys(self.text_images, values)


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


def embed_data(
    encoder: Encoder,
    source: PairSource,
    *,
    texts: bool = True,
    batch_size: int = 256,
    workers: int = 0,
    max_image_pixels: int = MAX_IMAGE_PIXELS,
    progress: Advance | None = None,
    kept: KeptPictures | None = None,
    memory: FeatureMemory | None = None,
) -> EmbeddedData:
    """Embed a source once for all tasks; the captions only if `texts`. See `embed_images`, `embed_texts`."""
    memory = memory or FeatureMemory()
    images = memory.images(
        source,
        (batch_size, max_image_pixels),
        lambda: embed_images(
            encoder,
            source,
            batch_size=batch_size,
            workers=workers,
            max_image_pixels=max_image_pixels,
            progress=progress,
            kept=kept,
        ),
    )
    positions: list[int] = images.positions.tolist()
    own = [source.captions(position) for position in positions] if texts else []
    captions = [caption for row in own for caption in row]
    features = torch.empty(0, images.features.shape[1])
    if texts:
        if not captions:
            raise DataError(f"{source.name}: retrieval needs captions, and it has none")
        features = memory.texts(
            captions, batch_size, lambda: embed_texts(encoder, captions, batch_size=batch_size, progress=progress)
        )
    return EmbeddedData(
        name=source.name,
        image_features=images.features,
        positions=images.positions,
        text_features=features,
        captions=captions,
        text_images=torch.tensor([i for i, row in enumerate(own) for _ in row], dtype=torch.int64),
        labels=[source.label(position) for position in positions],
        groups=[source.group(position) for position in positions],
        label_names=source.label_names,
        bad_rows=images.bad_rows,
    )


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
    """
    _check_tasks(tasks)
    check_rule(positives)
    check_templates(templates := list(DEFAULT_TEMPLATES if templates is None else templates))
    data = embed_data(
        encoder,
        source,
        texts="retrieval" in tasks,
        batch_size=batch_size,
        workers=workers,
        max_image_pixels=max_image_pixels,
        progress=progress,
        kept=kept,
        memory=memory,
    )
    results: dict[str, Metrics] = {}
    rankings: tuple[Ranking, Ranking] | None = None
    notes = _bad_row_notes(data)
    if "retrieval" in tasks:
        notes += _small_gallery_notes(data, ks, strict)
        keys = data.positive_keys(positives)
        rankings = rank_pairs(data.image_features, data.text_features, keys)
        results["retrieval"] = summarise(*rankings, ks)
    if "zero_shot" not in tasks:
        return Evaluation(results, data, positives, notes=notes, rankings=rankings)
    encode = partial(embed_texts, encoder, batch_size=batch_size)
    names = _class_names(data, classnames)
    spelled = prompt_classnames(names, classnames, words or set())
    zero_shot, unlabelled = _zero_shot(data, encode, spelled, templates)
    results["zero_shot"] = zero_shot.metrics
    mapping = dict(zip(names, spelled, strict=True))
    notes += [*unlabelled, *zero_shot.notes]
    return Evaluation(results, data, positives, zero_shot, mapping, templates, notes, rankings)


def _zero_shot(
    data: EmbeddedData, encode: Callable[[list[str]], Tensor], spelled: list[str], templates: list[str]
) -> tuple[ZeroShotResult, list[str]]:
    labels = torch.tensor([-1 if label is None else label for label in data.labels])
    labelled = torch.tensor([label is not None for label in data.labels])
    notes = []
    if not labelled.all():
        notes.append(f"{int((~labelled).sum())} of {len(labels)} pictures have no label and take no part in zero_shot")
    weights = class_weights(encode, spelled, templates)
    return classify(data.image_features[labelled], labels[labelled], weights, spelled), notes


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


def _check_tasks(tasks: Sequence[str]) -> None:
    for task in tasks:
        if task not in TASKS:
            raise DataError(f"task {task!r} is unknown; choose of {', '.join(TASKS)}")
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
