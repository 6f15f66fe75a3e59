"""What is done with models and data outside a training run."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import torch

from mmcontrast.build.captions import known_words
from mmcontrast.build.remarks import remarks
from mmcontrast.data import PairSource, open_source
from mmcontrast.data.columns import Wanted
from mmcontrast.data.kept_pictures import KeptPictures
from mmcontrast.data.question_files import open_questions
from mmcontrast.data.web_dataset import prompts_of
from mmcontrast.embedding import Advance
from mmcontrast.errors import DataError, ModelError
from mmcontrast.evaluation.feature_memory import FeatureMemory
from mmcontrast.evaluation.retrieval import RECALL_KS
from mmcontrast.evaluation.tasks import Evaluation, run_tasks
from mmcontrast.evaluation.zero_shot import load_classnames, load_templates
from mmcontrast.models import DualEncoder
from mmcontrast.task_names import CAPTION_TASKS

WORKERS = 2
"""Processes that decode pictures; fewer where there are fewer processors."""


class SharedWork:
    """What one call of `evaluate` leaves to the next: the model that was loaded, and features of the last data.

    Args:
        keep_pictures_mb: memory for decoded pictures of each data set, which then serve several models; 0 keeps none.
    """

    def __init__(self, keep_pictures_mb: int = 0) -> None:
        self.features, self.train_features = FeatureMemory(), FeatureMemory()
        self._name: DualEncoder | str | Path | None = None
        self._model: DualEncoder | None = None
        self._keep_bytes = keep_pictures_mb * 1_000_000
        self._sources: dict[Hashable, tuple[PairSource, KeptPictures | None]] = {}

    def encoder(self, model: DualEncoder | str | Path) -> DualEncoder:
        """The model, loaded once; another one makes the features void."""
        if self._model is None or self._name != model:
            self._name, self._model = model, load_encoder(model)
            self.features, self.train_features = FeatureMemory(), FeatureMemory()
        return self._model

    def source(
        self, data: PairSource | str | Path, split: str | None, wanted: Wanted
    ) -> tuple[PairSource, KeptPictures | None]:
        """The source, and a place for its pictures if they are to be kept."""
        if not self._keep_bytes:
            return _open(data, split, wanted), None
        key = (_identity(data), split, wanted)
        if key not in self._sources:
            self._sources[key] = _open(data, split, wanted), KeptPictures(self._keep_bytes)
        return self._sources[key]


def _open(data: PairSource | str | Path, split: str | None, wanted: Wanted) -> PairSource:
    if not isinstance(data, str | Path):
        return data
    if split is None and wanted == Wanted() and (questions := open_questions(data)) is not None:
        return questions
    return open_source(
        data,
        split=split,
        image_column=wanted.image,
        caption_columns=wanted.captions,
        label_column=wanted.label,
        group_column=wanted.group,
    )


def _identity(data: PairSource | str | Path | None) -> Hashable:
    return str(data) if isinstance(data, str | Path) else id(data)


def evaluate(
    model: DualEncoder | str | Path,
    data: PairSource | str | Path,
    task: str | Sequence[str] = "retrieval",
    *,
    split: str | None = None,
    image_column: str | None = None,
    caption_columns: Sequence[str] | None = None,
    label_column: str | None = None,
    group_column: str | None = None,
    templates: Sequence[str] | str | Path | None = None,
    classnames: Mapping[str, str] | Sequence[str] | str | Path | None = None,
    positives: str = "id",
    train_data: PairSource | str | Path | None = None,
    train_split: str | None = None,
    batch_size: int = 256,
    workers: int = WORKERS,
    ks: Sequence[int] | None = None,
    progress: Advance | None = None,
    say: Callable[[str], object] | None = None,
    shared: SharedWork | None = None,
) -> dict[str, dict[str, float | None]]:
    """Run one or several tasks on a data set; arguments as `run_evaluation`.

    Returns:
        {task: {metric: value}}; None where a metric is not defined.
    """
    return run_evaluation(
        model,
        data,
        task,
        split=split,
        image_column=image_column,
        caption_columns=caption_columns,
        label_column=label_column,
        group_column=group_column,
        templates=templates,
        classnames=classnames,
        positives=positives,
        train_data=train_data,
        train_split=train_split,
        batch_size=batch_size,
        workers=workers,
        ks=ks,
        progress=progress,
        say=say,
        shared=shared,
    ).results


def run_evaluation(
    model: DualEncoder | str | Path,
    data: PairSource | str | Path,
    task: str | Sequence[str] = "retrieval",
    *,
    split: str | None = None,
    image_column: str | None = None,
    caption_columns: Sequence[str] | None = None,
    label_column: str | None = None,
    group_column: str | None = None,
    templates: Sequence[str] | str | Path | None = None,
    classnames: Mapping[str, str] | Sequence[str] | str | Path | None = None,
    positives: str = "id",
    train_data: PairSource | str | Path | None = None,
    train_split: str | None = None,
    batch_size: int = 256,
    workers: int = WORKERS,
    ks: Sequence[int] | None = None,
    progress: Advance | None = None,
    say: Callable[[str], object] | None = None,
    shared: SharedWork | None = None,
) -> Evaluation:
    """Run one or several tasks on a data set.

    Args:
        model: a model, its folder, or its Hub name.
        data: anything that `open_source` opens, an open source, or questions in SugarCrepe's or Winoground's format.
        task: one of `mmcontrast.task_names.TASKS` ("retrieval", "zero_shot", "linear_probe"...), or several.
        split, image_column, caption_columns, label_column, group_column: as for `open_source`.
        templates: prompts with "{c}" for the class, or a file of them; None takes those that lie beside tars (in
            CLIP_benchmark's layout), else the model's own, and general ones if it has none.
        classnames: how class names are spelled in the prompts, or a file of that; beside tars they are taken as
            they are.
        positives: "id", "caption", "group" or "label": who is a positive of whom in retrieval.
        train_data: labelled pictures that a probe learns from; anything that `open_source` opens, or an open source.
        train_split: its split.
        batch_size: pictures or captions at a time.
        workers: processes that decode pictures; 0 decodes in this one.
        ks: of the recalls, none above the size of a gallery; None takes 1, 5 and 10 as far as they are defined.
        progress: told how many more pictures or captions are done.
        say: told what the reader of the numbers should know: rule of positives, spelling of classes, left-out rows.
        shared: handed to several calls, it keeps model and features, so that the same data is embedded once only.

    Returns:
        The results, and all that a report or a comparison makes of them.
    """
    # What is quick to check comes first: a misspelt file should not cost the loading of a model.
    if ks is not None and not all(k >= 1 for k in ks):
        raise DataError(f"ks: recall at {min(ks)} is not defined; take 1 or more")
    templates = load_templates(templates) if isinstance(templates, str | Path) else templates
    classnames = load_classnames(classnames) if isinstance(classnames, str | Path) else classnames
    tasks = [task] if isinstance(task, str) else list(task)
    if caption_columns is None and not set(tasks) & {*CAPTION_TASKS, "robustness"}:
        caption_columns = ()  # a row without a caption is as good as any other here
    chosen = None if caption_columns is None else tuple(caption_columns)
    shared = shared or SharedWork()
    columns = Wanted(image_column, chosen, label_column, group_column)
    source, kept = shared.source(data, split, columns)
    train = None
    if train_data is not None:
        train, _ = shared.source(train_data, train_split, replace(columns, captions=()))
    beside = prompts_of(source)
    encoder = shared.encoder(model)
    shared.features.origin = (_identity(data), split)
    shared.train_features.origin = (_identity(train_data), train_split)
    evaluation = run_tasks(
        encoder,
        source,
        tasks,
        positives=positives,
        ks=RECALL_KS if ks is None else ks,
        strict=ks is not None,
        templates=(beside.templates or encoder.templates) if templates is None else templates,
        classnames=beside.classnames if classnames is None else classnames,
        words=known_words(encoder),
        batch_size=batch_size,
        workers=workers,
        progress=progress,
        kept=kept,
        memory=shared.features,
        train=train,
        train_memory=shared.train_features,
        logit_scale=encoder.logit_scale.detach().exp().item(),
    )
    if say is not None:
        for line in [*left_out(source), *([] if train is None else left_out(train)), *remarks(evaluation)]:
            say(line)
        if templates is None and beside.templates and evaluation.spelled:
            say(f"{source.name}: prompts are the {len(beside.templates)} that lie beside the tars")
    return evaluation


def left_out(source: PairSource) -> list[str]:
    """One line on the rows of a source that cannot be used, if there are any."""
    if not source.bad_rows:
        return []
    first = source.bad_rows[0]
    total = len(source) + len(source.bad_rows)
    return [f"{len(source.bad_rows)} of {total} rows are left out; the first is row {first.row}: {first.reason}"]


def load_encoder(model: DualEncoder | str | Path) -> DualEncoder:
    """A model from its folder or Hub name, on the GPU where there is one; a model passes as it is."""
    if isinstance(model, DualEncoder):
        return model
    if (Path(model) / "config.yaml").is_file():
        raise ModelError(f"{model} is a run, not a model: take {Path(model) / 'model'}")
    return DualEncoder.from_pretrained(model, device="cuda" if torch.cuda.is_available() else None)
