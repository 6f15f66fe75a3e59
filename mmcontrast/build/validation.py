"""Evaluation on the validation pairs, during a run and at its end."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from mmcontrast.build.captions import known_words
from mmcontrast.config import Config, EvaluationConfig
from mmcontrast.data import KeptPictures, PairSource
from mmcontrast.errors import ConfigError
from mmcontrast.evaluation.classnames import prompt_classnames
from mmcontrast.evaluation.tasks import Evaluation, run_tasks
from mmcontrast.evaluation.zero_shot import DEFAULT_TEMPLATES, load_templates
from mmcontrast.models import DualEncoder


def configured_templates(config: Config) -> list[str]:
    """Prompt templates of a run: a list in the config, or the lines of a file."""
    templates = config.evaluation.templates
    if templates is None:
        return list(DEFAULT_TEMPLATES)
    return load_templates(templates) if isinstance(templates, str) else list(templates)


def check_measurable(source: PairSource, settings: EvaluationConfig, tasks: Sequence[str]) -> None:
    """Find before training what would end the run at its first evaluation.

    Raises:
        ConfigError: the data lacks the groups, labels or sizes that the settings ask for.
        DataError: the class names do not fit those of the data.
    """
    task, _, metric = settings.best_metric.partition(".")
    if task not in tasks:
        raise ConfigError(
            f"evaluation.best_metric: {settings.best_metric!r} needs labels with names, and {source.name} has none "
            "(data.label_column)"
        )
    if settings.positives in ("group", "label") and "retrieval" in tasks:
        value = source.group if settings.positives == "group" else source.label
        if all(value(i) is None for i in range(len(source))):
            rule = settings.positives
            raise ConfigError(f"evaluation.positives: {rule} needs data.{rule}_column, and {source.name} has none")
    names = source.label_names
    if "zero_shot" in tasks and names is not None:
        prompt_classnames(names, settings.classnames, set())
    if metric == "acc5" and names is not None and len(names) < 5:
        raise ConfigError(f"evaluation.best_metric: acc5 is not defined for {len(names)} classes; take zero_shot.acc1")
    way, at, k = metric.partition("_recall@")
    gallery = len(source) if way == "text_to_image" else sum(len(source.captions(i)) for i in range(len(source)))
    if at and int(k) > gallery:
        raise ConfigError(f"evaluation.best_metric: {metric} is not defined among {gallery} rows; take a smaller k")


class Validation:
    """Runs the configured tasks on one source; zero_shot is left out where the data has no labels."""

    def __init__(self, source: PairSource, config: Config) -> None:
        self.source = source
        self.settings = config.evaluation
        self.sharding = config.training.sharding
        self.templates = configured_templates(config)
        self.workers = config.data.workers
        self.max_image_pixels = config.data.max_image_pixels
        self.kept = KeptPictures(config.evaluation.keep_pictures_mb * 10**6)
        labelled = source.label_names is not None or config.evaluation.classnames is not None
        self.tasks: Sequence[str] = [task for task in self.settings.tasks if task != "zero_shot" or labelled]
        check_measurable(source, self.settings, self.tasks)

    def evaluate(self, model: DualEncoder, *, together: bool = False) -> Evaluation:
        """All tasks, with what the report shows; `together` by all ranks, which share the batches out."""
        return run_tasks(
            model,
            self.source,
            self.tasks,
            positives=self.settings.positives,
            templates=self.templates,
            classnames=self.settings.classnames,
            words=known_words(model),
            batch_size=self.settings.batch_size,
            workers=self.workers,
            max_image_pixels=self.max_image_pixels,
            kept=self.kept,
            together=together,
        )

    def __call__(self, model: nn.Module) -> dict[str, float | None]:
        """Flat metrics ("retrieval.mean_recall": .41, ...) for the trainer."""
        assert isinstance(model, DualEncoder)
        # Ranks with shares of the weights gather them in step, so there all do the same batches.
        results = self.evaluate(model, together=self.sharding == "none").results
        return {f"{task}.{name}": value for task, metrics in results.items() for name, value in metrics.items()}
