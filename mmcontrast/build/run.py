"""A training run from its config to results, best model and report."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from mmcontrast import distributed
from mmcontrast.build import parts
from mmcontrast.build.batches import make_batches
from mmcontrast.build.folder import RunFolder
from mmcontrast.build.lost import lost_processes_told
from mmcontrast.build.negatives import negatives_of_run
from mmcontrast.build.objective import make_judge, make_objective
from mmcontrast.build.remarks import show_line
from mmcontrast.build.reporting import write_run_report
from mmcontrast.build.run_facts import run_facts, run_intervals
from mmcontrast.build.run_lock import RunLock
from mmcontrast.build.trainer import make_schedule, make_trainer, save_model
from mmcontrast.build.validation import Validation
from mmcontrast.config import Config, check_against_data, load_config
from mmcontrast.data import PairSource, PairStream
from mmcontrast.errors import TrainingError
from mmcontrast.evaluation.tasks import Evaluation
from mmcontrast.models import DualEncoder
from mmcontrast.report.negatives import NegativesView
from mmcontrast.training.trainer import Trainer


@dataclass(frozen=True)
class Results:
    """What a run left behind.

    Attributes:
        run_dir: its folder.
        results: {task: {metric: value}} of the best model on the validation pairs, as in results.json.
    """

    run_dir: Path
    results: dict[str, dict[str, float | None]]


def train(
    config: Config | str | Path | Mapping[str, Any],
    *,
    resume: bool = False,
    overwrite: bool = False,
    console: Console | None = None,
) -> Results:
    """Train, keep the best model, evaluate it, and write the report.

    Args:
        config: a `Config`, a YAML file, or the same as nested mappings.
        resume: go on with the run in `config.output` from its newest checkpoint.
        overwrite: start anew where there is a run already.
        console: where progress is shown; stderr by default.

    Raises:
        MMContrastError: in one line, whatever is wrong with config, data, model or training.
    """
    config = config if isinstance(config, Config) else load_config(config)
    lock = RunLock(Path(config.output))
    try:
        with lost_processes_told():
            run = prepare(config, console or Console(stderr=True), lock, resume=resume, overwrite=overwrite)
            run.trainer.fit()
            return run.finish()
    finally:
        lock.release()


@dataclass
class Run:
    """Everything that is needed to train, and to report on it."""

    config: Config
    folder: RunFolder
    trainer: Trainer
    source: PairSource | PairStream
    validation: Validation | None
    facts: dict[str, str]
    console: Console

    def finish(self) -> Results:
        """Load the best model from disk, evaluate it, and write results.json and report.html."""
        trainer = self.trainer
        results: dict[str, dict[str, float | None]] = {}
        self._save_last()
        if distributed.rank() == 0:
            evaluation: Evaluation | None = None
            best = DualEncoder.from_pretrained(self.folder.model, device=trainer.accelerator.device)
            if self.validation is not None:
                evaluation = self.validation.evaluate(best)
                results = evaluation.results
            self.folder.write_results(results)
            intervals = None if evaluation is None else run_intervals(evaluation)
            if intervals is not None:
                self.folder.write_json(self.folder.intervals, intervals)
            source = None if self.validation is None else self.validation.source
            inspection = self._inspect(best)
            device = trainer.accelerator.device
            told = run_facts(self.source, evaluation, trainer.progress, device, inspection)
            self.folder.write_json(self.folder.facts, told)
            write_run_report(
                self.config,
                self.folder,
                trainer.progress,
                evaluation,
                source,
                self.facts,
                inspection,
                None if intervals is None else intervals["intervals"],
                best.logit_scale.detach().exp().item(),
            )
            show_line(self.console, f"model {self.folder.model}  report {self.folder.report}")
        distributed.barrier()
        trainer.accelerator.end_training()  # last: it takes the process group down, and with it the ranks
        return Results(self.folder.path, results)

    def _save_last(self) -> None:
        """The last model, where there was nothing to choose by or no better one could be saved; and all lines."""
        if self.validation is None or self.trainer.progress.best_metric is None:
            templates = None if self.validation is None else self.validation.templates
            try:
                save_model(self.trainer.bare_model, self.folder, templates)
            except OSError as error:
                raise TrainingError(
                    f"the model cannot be saved in {self.folder.model}: {error.strerror}; make room and go on with "
                    "--resume"
                ) from error
        for file in self.trainer.line_files:
            file.close()

    def _inspect(self, model: DualEncoder) -> NegativesView | None:
        """Who was pushed apart wrongly among the training pairs, for the report; None where that cannot be said."""
        rows, weighting = self.config.evaluation.inspect_negatives, self.trainer.objective.weighting
        if not rows or not isinstance(self.source, PairSource):
            return None
        return negatives_of_run(
            model,
            self.source,
            calibrator=weighting.calibrator,
            words=weighting.words,
            batch=self.config.training.global_batch_size,
            rows=rows,
            batch_size=self.config.evaluation.batch_size,
            workers=self.config.data.workers,
        )


def prepare(
    config: Config, console: Console, lock: RunLock | None = None, *, resume: bool = False, overwrite: bool = False
) -> Run:
    """Open the data, build the model and put the trainer together; nothing is trained yet.

    Args:
        config: of the run.
        console: where progress is shown.
        lock: of the run's folder, taken before anything in it is touched.
        resume, overwrite: see `train`.
    """
    folder = RunFolder(config.output)
    accelerator = parts.make_accelerator(config, folder.path)
    source = parts.open_training(config)
    held_out = parts.open_pairs(config, config.data.validation) if config.data.validation else None
    if distributed.rank() == 0:
        show_line(console, parts.describe(source))
        if held_out is not None:
            show_line(console, parts.describe(held_out))
    num_items = parts.num_items(config, source)
    check_against_data(
        config,
        num_items,
        num_validation=None if held_out is None else len(held_out),
        world_size=accelerator.num_processes,
    )
    validation = None if held_out is None else Validation(held_out, config)
    folder.prepare_together(config, lock, resume=resume, overwrite=overwrite)
    model = parts.make_model(config, source, folder.tokenizer)
    schedule = make_schedule(config, num_items)
    objective = make_objective(config, model, accelerator.device, source)
    batches = make_batches(
        config,
        source,
        model,
        siblings=objective.wants_siblings,
        clusters=objective.clusters,
        probability=make_judge(config, objective, source, model),
        start_step=round(config.negatives.cluster.start * schedule.total_steps),
        console=console,
    )
    torch.manual_seed(config.training.seed + distributed.rank())  # dropout differs between ranks
    trainer = make_trainer(config, folder, accelerator, model, objective, batches, validation, schedule, console)
    if isinstance(source, PairSource):
        trainer.bad_rows.leave_out(source.bad_rows)
    if resume and not trainer.load_checkpoint():
        trainer.metrics.rewind(0)  # it died before its first checkpoint: lines of its first steps come again
    return Run(config, folder, trainer, source, validation, facts(model, source), console)


def facts(model: DualEncoder, source: PairSource | PairStream) -> dict[str, str]:
    """What stands under the report's headline."""
    sizes = {name: sum(p.numel() for p in part.parameters()) for name, part in model.named_children()}
    return {
        "training data": parts.describe(source),
        "parameters": f"{sum(sizes.values()) / 1e6:.2f} M",
        "image tower": f"{sizes['image_encoder'] / 1e6:.2f} M",
        "text tower": f"{sizes['text_encoder'] / 1e6:.2f} M",
    }
