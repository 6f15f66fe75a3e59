"""From the config and what was made of it to the trainer."""

from __future__ import annotations

from accelerate import Accelerator
from rich.console import Console
from torch import nn

from mmcontrast import distributed
from mmcontrast.build import parts
from mmcontrast.build.batches import MapBatches, StreamBatches
from mmcontrast.build.folder import RunFolder
from mmcontrast.build.validation import Validation
from mmcontrast.config import Config, total_steps, warmup_steps
from mmcontrast.models import DualEncoder
from mmcontrast.models.compiling import compile_towers
from mmcontrast.training.checkpoint import Checkpointer
from mmcontrast.training.ema import WeightAverage
from mmcontrast.training.grad_cache import GradCache, batch_norm_warning
from mmcontrast.training.log import BadRowLog, MetricsLog, ProgressDisplay
from mmcontrast.training.objective import ContrastiveObjective
from mmcontrast.training.odd_steps import OddStepLog
from mmcontrast.training.optim import adamw, scheduler
from mmcontrast.training.schedule import Schedule
from mmcontrast.training.sharding import Shards, shard, unsharded, whole_state
from mmcontrast.training.trainer import Trainer


def save_model(model: nn.Module, folder: RunFolder, templates: list[str] | None) -> None:
    """RUN/model, written by the first rank; of a sharded model all ranks give their part."""
    assert isinstance(model, DualEncoder)
    weights = whole_state(model)
    if distributed.rank() == 0:
        whole = unsharded(model, weights)
        whole.templates = templates
        whole.save_pretrained(folder.model)


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
    shards = _shard(model, average) if training.sharding == "fsdp" and distributed.world_size() > 1 else None
    if training.compile:
        compile_towers(model)
    optimizer = adamw(
        model,
        learning_rate=training.learning_rate,
        weight_decay=training.weight_decay,
        betas=(training.beta1, training.beta2),
        as_stored=None if shards is None else shards.as_stored,
    )
    templates = None if validation is None else validation.templates
    # For evaluation means without DDP, which would keep all weights whole.
    prepared = accelerator.prepare_model(model, evaluation_mode=shards is not None)
    prepared_optimizer = accelerator.prepare_optimizer(optimizer)
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
        shards=shards,
        spike_factor=training.loss_spike_factor,
    )


def _shard(model: DualEncoder, average: WeightAverage | None) -> Shards:
    shard(model)
    if average is not None:
        assert isinstance(average.model, DualEncoder)
        shard(average.model)
    return Shards(model)
