"""A data set embedded once, and all evaluation tasks over it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

from mmcontrast.data.corruptions import CorruptedSource
from mmcontrast.data.kept_pictures import KeptPictures
from mmcontrast.data.rows import PairSource
from mmcontrast.embedding import Advance, EmbeddedImages, Encoder, embed_images, embed_texts
from mmcontrast.errors import DataError
from mmcontrast.evaluation.embedded import EmbeddedData as EmbeddedData
from mmcontrast.evaluation.embedded import embed_data as embed_data
from mmcontrast.evaluation.feature_memory import FeatureMemory
from mmcontrast.evaluation.metrics import Metrics
from mmcontrast.evaluation.multilingual import check_columns
from mmcontrast.evaluation.outcomes import Details, TaskResult
from mmcontrast.evaluation.positives import check_rule
from mmcontrast.evaluation.ranking import Ranking
from mmcontrast.evaluation.retrieval import RECALL_KS
from mmcontrast.evaluation.task_context import TaskContext
from mmcontrast.evaluation.task_table import TABLE
from mmcontrast.evaluation.zero_shot import DEFAULT_TEMPLATES, ZeroShotResult, check_templates
from mmcontrast.preprocess import MAX_IMAGE_PIXELS
from mmcontrast.task_names import CAPTION_TASKS, PROBE_TASKS, TASKS


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
        details: {task: what its metrics are made of}.
        source: what `data` was embedded from, for its pictures.
    """

    results: dict[str, Metrics]
    data: EmbeddedData
    positives: str
    zero_shot: ZeroShotResult | None = None
    spelled: dict[str, str] = field(default_factory=dict)
    templates: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    rankings: tuple[Ranking, Ranking] | None = None
    details: dict[str, Details] = field(default_factory=dict)
    source: PairSource | None = None


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
        tasks: of `mmcontrast.task_names.TASKS`.
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
    if "multilingual" in tasks:
        check_columns(source)
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
    texts = bool(of_captions) or ("robustness" in tasks and any(source.captions(i) for i in range(len(source))))
    data = embed(source, texts=texts, needed_by=", ".join(of_captions) or "robustness", kept=kept, memory=memory)

    def embed_corrupted(name: str, severity: int) -> EmbeddedImages:
        side = encoder.preprocess.image_size
        corrupted = CorruptedSource(source, name, severity, side, seed=seed, max_image_pixels=max_image_pixels)
        return embed_images(
            encoder, corrupted, batch_size=batch_size, workers=workers, progress=progress, together=together
        )

    def embed_train(pictures: PairSource) -> tuple[EmbeddedData, list[str]]:
        learnt_from = embed(pictures, texts=False, memory=train_memory)
        return learnt_from, _bad_row_notes(learnt_from)

    context = TaskContext(
        data=data,
        source=source,
        encode=partial(embed_texts, encoder, batch_size=batch_size, together=together),
        embed_corrupted=embed_corrupted,
        embed_train=None if train is None else partial(embed_train, train),
        positives=positives,
        ks=ks,
        strict=strict,
        templates=templates,
        classnames=classnames,
        words=words or set(),
        logit_scale=logit_scale,
        seed=seed,
    )
    found = Evaluation({}, data, positives, notes=_bad_row_notes(data), source=source)
    for task, function in TABLE.items():
        if task in tasks:
            found = _with(found, task, function(context), templates)
    return found


def _with(found: Evaluation, task: str, result: TaskResult, templates: list[str]) -> Evaluation:
    """The evaluation so far with one more task; what several tasks note is said once."""
    found.results[task], found.details[task] = result.metrics, result.details
    said = set(found.notes)
    found.notes.extend(note for note in result.notes if note not in said)
    if result.spelled is not None:
        found = replace(found, spelled=result.spelled, templates=templates)
    return replace(found, rankings=result.rankings or found.rankings, zero_shot=result.zero_shot or found.zero_shot)


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
