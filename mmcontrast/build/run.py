"""A training run from its config to results, best model and report."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from rich.console import Console
from torch import nn

from mmcontrast import distributed
from mmcontrast.build import parts
from mmcontrast.build.batches import MapBatches, StreamBatches, make_batches
from mmcontrast.build.folder import RunFolder
from mmcontrast.build.negatives import negatives_of_run
from mmcontrast.build.objective import make_judge, make_objective
from mmcontrast.build.reporting import write_run_report
from mmcontrast.build.run_lock import RunLock
from mmcontrast.build.validation import Validation
from mmcontrast.config import Config, check_against_data, load_config, total_steps, warmup_steps
from mmcontrast.data import PairSource, PairStream
from mmcontrast.errors import TrainingError
from mmcontrast.evaluation.tasks import Evaluation
from mmcontrast.models import DualEncoder
from mmcontrast.models.compiling import compile_towers
from mmcontrast.report.negatives import NegativesView
from mmcontrast.training.checkpoint import Checkpointer
from mmcontrast.training.ema import WeightAverage
from mmcontrast.training.grad_cache import GradCache, batch_norm_warning
from mmcontrast.training.log import BadRowLog, MetricsLog, ProgressDisplay
from mmcontrast.training.objective import ContrastiveObjective
from mmcontrast.training.odd_steps import OddStepLog
from mmcontrast.training.optim import adamw, scheduler
from mmcontrast.training.schedule import Schedule
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
        if distributed.rank() == 0:
            evaluation: Evaluation | None = None
            self._save_last()
            best = DualEncoder.from_pretrained(self.folder.model, device=trainer.accelerator.device)
            if self.validation is not None:
                evaluation = self.validation.evaluate(best)
                results = evaluation.results
            self.folder.write_results(results)
            source = None if self.validation is None else self.validation.source
            inspection = self._inspect(best)
            write_run_report(self.config, self.folder, trainer.progress, evaluation, source, self.facts, inspection)
            self.console.print(
                f"model {self.folder.model}  report {self.folder.report}", highlight=False, soft_wrap=True
            )
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


def save_model(model: nn.Module, folder: RunFolder, templates: list[str] | None) -> None:
    """RUN/model, by the first rank only."""
    if distributed.rank() == 0:
        assert isinstance(model, DualEncoder)
        model.templates = templates
        model.save_pretrained(folder.model)


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
    source = parts.open_pair_stream(config) if config.data.streaming else parts.open_pairs(config, config.data.train)
    held_out = parts.open_pairs(config, config.data.validation) if config.data.validation else None
    if distributed.rank() == 0:
        console.print(parts.describe(source), highlight=False, soft_wrap=True)
        if held_out is not None:
            console.print(parts.describe(held_out), highlight=False, soft_wrap=True)
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


def make_schedule(config: Config, num_items: int | None) -> Schedule:
    """Epochs to steps; a stream (None items) counts in steps only."""
    training, evaluation = config.training, config.evaluation
    steps_per_epoch = (num_items or 0) // training.global_batch_size
    by_epochs = (evaluation.every_epochs or 0) * steps_per_epoch
    return Schedule(
        total_steps=total_steps(config, num_items or 0),
        log_every=training.log_every_steps,
        evaluate_every=evaluation.every_steps or by_epochs or None,
        checkpoint_every=training.checkpoint_every_steps,
        patience=training.early_stopping_patience,
        checkpoint_minutes=training.checkpoint_every_minutes,
    )


def make_trainer(
    config: Config,
    folder: RunFolder,
    accelerator: Accelerator,
    model: DualEncoder,
    objective: ContrastiveObjective,
    batches: MapBatches | StreamBatches,
    validation: Validation | None,
    schedule: Schedule,
    console: Console,
) -> Trainer:
    """The trainer of a run, ready to `fit`."""
    training = config.training
    model = model.to(accelerator.device)
    average = WeightAverage(model, training.ema_decay) if training.ema_decay else None
    if training.compile:
        compile_towers(model)
    optimizer = adamw(
        model,
        learning_rate=training.learning_rate,
        weight_decay=training.weight_decay,
        betas=(training.beta1, training.beta2),
    )
    templates = None if validation is None else validation.templates
    prepared, prepared_optimizer = accelerator.prepare(model, optimizer)
    accelerator.init_trackers("mmcontrast")
    display = ProgressDisplay(schedule.total_steps, console)
    micro, share = training.micro_batch_size, training.global_batch_size // distributed.world_size()
    if micro and (warning := batch_norm_warning(model, micro, share)):
        display.warn_once("batch norm", warning)
    return Trainer(
        model=prepared,
        objective=objective,
        batches=batches,
        optimizer=prepared_optimizer,
        scheduler=scheduler(
            prepared_optimizer,
            warmup_steps=warmup_steps(config, schedule.total_steps),
            total_steps=schedule.total_steps,
            schedule=training.schedule,
        ),
        accelerator=accelerator,
        schedule=schedule,
        checkpointer=Checkpointer(folder.checkpoints, training.keep_checkpoints),
        metrics=MetricsLog(folder.metrics, accelerator),
        bad_rows=BadRowLog(folder.bad_rows, config.data.max_bad_row_share, batches.num_rows),
        odd_steps=OddStepLog(folder.bad_steps, training.max_bad_steps, parts.precision_name(accelerator)),
        display=display,
        evaluator=validation,
        best_metric=config.evaluation.best_metric,
        save_best=lambda best: save_model(best, folder, templates),
        clip_norm=training.gradient_clip_norm,
        average=average,
        grad_cache=GradCache(prepared, accelerator, micro) if micro else None,
        spike_factor=training.loss_spike_factor,
    )
