"""Several models measured on the same data: table, page and JSON of who is better, and whether that is chance."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch

from mmcontrast.build.compared_page import data_page
from mmcontrast.build.compared_runs import model_names, model_of, shared_evaluation
from mmcontrast.build.jobs import SharedWork, run_evaluation
from mmcontrast.build.merging import KEEP_PICTURES_MB, Model, Say
from mmcontrast.embedding import Advance
from mmcontrast.errors import MMContrastError, ModelError
from mmcontrast.evaluation.comparison import MetricCompared, TasksCompared, compare_evaluations
from mmcontrast.evaluation.paired import FLIPS
from mmcontrast.evaluation.resampling import LEVEL
from mmcontrast.evaluation.tasks import Evaluation
from mmcontrast.report.comparison import ComparisonPage
from mmcontrast.report.comparison_page import write_comparison

RESAMPLES = 2000
MOST = 26  # letters that name them
NOT_OF_SEEDS = (
    "Intervals and p values speak of these pictures, and of others drawn like them. They do not speak of training: the "
    "same recipe with another seed gives another model, and two such models may differ by more than is chance here."
)


def compare(
    models: Sequence[Model],
    evaluations: Mapping[str, Mapping[str, Any]] | None = None,
    *,
    outputs: Sequence[str | Path] = (),
    keep_pictures_mb: int = KEEP_PICTURES_MB,
    seed: int = 0,
    progress: Advance | None = None,
    say: Say | None = None,
) -> dict[str, Any]:
    """Measure models on the same pictures, and compare all of them with the first.

    Pictures are decoded once for all models that prepare them alike, where they fit into `keep_pictures_mb`.

    Args:
        models: two or more; models, runs, folders or Hub names.
        evaluations: {name: options of `run_evaluation`: data, task, ...}; None takes the validation data of runs that
            agree on it.
        outputs: pages to write, .html or .md.
        keep_pictures_mb: for each data set.
        seed: of draws.
        progress: told how many more pictures or captions are done.
        say: told what the reader of the numbers should know.

    Returns:
        Ready for JSON: {"models", "level", "resamples", "flips", "seed", "tests", "notes", "data": {name: {task:
        {metric: {"values", "intervals", "differences"}}}}}, lists in the order of the models.

    Raises:
        ModelError: fewer than two models, or one that cannot be loaded.
        DataError: as `run_evaluation`, and where the models did not see the same pictures.
    """
    if not 2 <= len(models) <= MOST:
        raise ModelError(f"a comparison takes 2 to {MOST} models, not {len(models)}")
    for output in map(Path, outputs):
        if output.suffix.lower() not in (".html", ".md"):
            raise MMContrastError(f"--output {output}: a page ends in .html or .md")
    names = model_names(models)
    wanted = shared_evaluation(models) if evaluations is None else dict(evaluations)
    shared, notes = SharedWork(keep_pictures_mb), _Notes()
    found: dict[str, list[Evaluation]] = {name: [] for name in wanted}
    for model, own in zip(models, names, strict=True):
        for name, options in wanted.items():
            hear = partial(notes.hear, own, f"{name}: " if len(wanted) > 1 else "")
            found[name].append(run_evaluation(model_of(model), progress=progress, say=hear, shared=shared, **options))
    lines = [*notes.lines(names), *_on_prompts(names, found), *_on_sameness(names, found)]
    if say is not None:
        for line in lines:
            say(line)
    compared = compare_evaluations(found, resamples=RESAMPLES, flips=FLIPS, seed=seed, level=LEVEL)
    pages = [data_page(name, several, compared[name], seed=seed) for name, several in found.items()]
    page = ComparisonPage(names, pages, LEVEL, _tests(compared), [NOT_OF_SEEDS, *lines])
    for path in outputs:
        write_comparison(page, path)
    return _document(page, seed)


class _Notes:
    """What the evaluations say; what all models' say is one line."""

    def __init__(self) -> None:
        self._said: dict[str, list[str]] = {}

    def hear(self, model: str, prefix: str, line: str) -> None:
        """One line from the evaluation of a model."""
        models = self._said.setdefault(prefix + line, [])
        if model not in models:
            models.append(model)

    def lines(self, models: Sequence[str]) -> list[str]:
        """All of them; what only some models' say begins with their names."""
        return [line if len(said) == len(models) else f"{', '.join(said)}: {line}" for line, said in self._said.items()]


def _on_prompts(names: Sequence[str], found: Mapping[str, Sequence[Evaluation]]) -> list[str]:
    """A line where models were asked with prompts of their own."""
    for several in found.values():
        for name, one in zip(names[1:], several[1:], strict=True):
            if one.templates != several[0].templates:
                return [
                    f"{names[0]} and {name} were asked with the prompts that each was saved with, and these differ; "
                    "--templates FILE asks both alike"
                ]
    return []


def _on_sameness(names: Sequence[str], found: Mapping[str, Sequence[Evaluation]]) -> list[str]:
    """A line for each model whose features are those of the first, bit for bit."""
    lines = []
    for place, name in enumerate(names[1:], 1):
        pairs = [(several[0].data, several[place].data) for several in found.values()]
        if all(
            torch.equal(one.image_features, other.image_features)
            and torch.equal(one.text_features, other.text_features)
            for one, other in pairs
        ):
            lines.append(f"{names[0]} and {name} are the same model: their features are equal, so nothing can differ")
    return lines


def _tests(compared: Mapping[str, TasksCompared]) -> int:
    every = [one for tasks in compared.values() for metrics in tasks.values() for one in metrics.values()]
    return sum(difference is not None for one in every for difference in one.differences)


def _document(page: ComparisonPage, seed: int) -> dict[str, Any]:
    return {
        "models": list(page.models),
        "level": page.level,
        "resamples": RESAMPLES,
        "flips": FLIPS,
        "seed": seed,
        "tests": page.tests,
        "notes": list(page.notes),
        "data": {
            data.name: {
                task: {metric: _metric(one) for metric, one in metrics.items()} for task, metrics in data.tasks.items()
            }
            for data in page.data
        },
    }


def _metric(one: MetricCompared) -> dict[str, Any]:
    differences = [
        difference
        and {
            "value": difference.value,
            "interval": list(difference.interval),
            "p": difference.p,
            "p_holm": difference.adjusted,
            "test": difference.test,
        }
        for difference in one.differences
    ]
    return {"values": one.values, "intervals": one.intervals, "differences": differences}
