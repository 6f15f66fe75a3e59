"""The training loop: backward, clip, step, log, evaluate, checkpoint."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Protocol

import torch
from accelerate import Accelerator
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from mmcontrast import distributed
from mmcontrast.errors import TrainingError, TrainingInterrupted
from mmcontrast.training.checkpoint import Checkpointer
from mmcontrast.training.ema import WeightAverage
from mmcontrast.training.log import BadRowLog, MetricsLog, ProgressDisplay
from mmcontrast.training.objective import ContrastiveObjective
from mmcontrast.training.signals import StopRequest, stop_on_signals
from mmcontrast.training.window import StepWindow
from mmcontrast.types import BadRow, PairBatch

Evaluator = Callable[[nn.Module], dict[str, float | None]]


@dataclass
class Progress:
    """Where a run stands.

    Attributes:
        global_step: optimiser steps taken.
        epoch: current pass over the data, from 0.
        batch_in_epoch: global batches of this epoch that were used.
        samples_seen: pairs of all ranks together.
        best_metric: best value of the watched metric so far, or None.
        best_step: step of that value.
        evaluations_without_gain: since then.
    """

    global_step: int = 0
    epoch: int = 0
    batch_in_epoch: int = 0
    samples_seen: int = 0
    best_metric: float | None = None
    best_step: int = 0
    evaluations_without_gain: int = 0


class EpochBatches(Protocol):
    """Training data: batches of one epoch, from any batch of it on."""

    def epoch(self, epoch: int, start_batch: int) -> Iterator[PairBatch]:
        """This rank's share of each global batch."""
        ...


@dataclass(frozen=True)
class Schedule:
    """When to do what, in optimiser steps.

    Attributes:
        total_steps: length of the run.
        log_every: steps between lines of metrics.jsonl.
        evaluate_every: steps between evaluations (the last step is always evaluated), or None.
        checkpoint_every: steps between checkpoints, or None for one at each evaluation; interruptions and the end
            always save one.
        patience: evaluations without gain before the run stops early, or None.
    """

    total_steps: int
    log_every: int = 10
    evaluate_every: int | None = None
    checkpoint_every: int | None = None
    patience: int | None = None


class Trainer:
    """Trains a dual encoder.

    Args:
        model, optimizer: as `accelerator.prepare` returned them.
        objective: features and batch to loss.
        batches: the training data.
        scheduler: stepped once an optimiser step.
        evaluator: model to metrics ("retrieval.mean_recall": .41, ...), or None.
        best_metric: which of them decides on the best model; larger is better.
        save_best: called with the model to keep whenever it is better than before.
        clip_norm: of the gradient, or None.
        average: moving average of the weights; then the average is evaluated and kept.
    """

    def __init__(
        self,
        *,
        model: nn.Module,
        objective: ContrastiveObjective,
        batches: EpochBatches,
        optimizer: Optimizer,
        scheduler: LRScheduler,
        accelerator: Accelerator,
        schedule: Schedule,
        checkpointer: Checkpointer,
        metrics: MetricsLog,
        bad_rows: BadRowLog,
        display: ProgressDisplay,
        evaluator: Evaluator | None,
        best_metric: str,
        save_best: Callable[[nn.Module], None],
        clip_norm: float | None = 1.0,
        average: WeightAverage | None = None,
    ) -> None:
        self.model = model
        self.objective = objective
        self.batches = batches
        self.optimizer = optimizer
        self.scheduler = scheduler
        self.accelerator = accelerator
        self.schedule = schedule
        self.checkpointer = checkpointer
        self.metrics = metrics
        self.bad_rows = bad_rows
        self.display = display
        self.evaluator = evaluator
        self.best_metric = best_metric
        self.save_best = save_best
        self.clip_norm = clip_norm
        self.average = average
        self.progress = Progress()
        self._window = StepWindow()
        self._new_bad_rows: list[BadRow] = []

    @property
    def bare_model(self) -> nn.Module:
        """The model without DDP around it, and its moving average where there is one."""
        return self.average.model if self.average else self.accelerator.unwrap_model(self.model)  # type: ignore[no-any-return]

    def fit(self) -> Progress:
        """Train to the end of the schedule, or to early stopping.

        Raises:
            TrainingInterrupted: SIGINT or SIGTERM came; a checkpoint was saved.
            TrainingError: the loss is not finite, or the data gave no batch.
        """
        with stop_on_signals() as stop, self.display:
            while not self._finished():
                start = self.progress.batch_in_epoch
                for batch in self.batches.epoch(self.progress.epoch, start):
                    self._step(batch)
                    self._after_step(stop)
                    if self._finished():
                        return self.progress
                if self.progress.batch_in_epoch == 0:
                    raise TrainingError("the training data gave no full batch: lower training.global_batch_size")
                self.progress.epoch += 1
                self.progress.batch_in_epoch = 0
        return self.progress

    def _finished(self) -> bool:
        patience = self.schedule.patience
        stalled = patience is not None and self.progress.evaluations_without_gain >= patience
        return stalled or self.progress.global_step >= self.schedule.total_steps

    def _step(self, batch: PairBatch) -> None:
        self.model.train()
        bad_rows, truncated = batch.bad_rows, batch.truncated
        batch = batch.to(self.accelerator.device)
        features = self.model(batch.image, batch.input_ids, batch.attention_mask)
        output = self.objective(features, batch)
        self.accelerator.backward(output.loss)
        observed = {"loss": output.loss.detach(), **output.diagnostics}
        if self.clip_norm is not None:
            observed["grad_norm"] = self.accelerator.clip_grad_norm_(self.model.parameters(), self.clip_norm)
        self.optimizer.step()
        self.scheduler.step()
        self.optimizer.zero_grad()
        self.accelerator.unwrap_model(self.model).clamp_logit_scale()
        if self.average:
            self.average.update(self.accelerator.unwrap_model(self.model))
        observed["truncated_share"] = torch.tensor(truncated / len(batch), device=self.accelerator.device)
        self._window.add(observed)
        self._new_bad_rows += bad_rows
        self.progress.global_step += 1
        self.progress.batch_in_epoch += 1
        self.progress.samples_seen += len(batch) * distributed.world_size()

    def _after_step(self, stop: StopRequest) -> None:
        step, due = self.progress.global_step, self.schedule
        last = step == due.total_steps
        self.display.step(step)
        if last or _due(step, due.log_every):
            self._log()
        evaluate = self.evaluator is not None and (last or _due(step, due.evaluate_every))
        if evaluate:
            self._evaluate()
        stopping = distributed.any_rank(stop.signal_number is not None, self.accelerator.device)
        save = evaluate if due.checkpoint_every is None else _due(step, due.checkpoint_every)
        if save or stopping or self._finished():
            self.save_checkpoint()
        if stopping and not self._finished():
            number = stop.signal_number or 15
            raise TrainingInterrupted(
                f"stopped by signal {number} after step {step}; the checkpoint is saved, go on with --resume",
                exit_code=128 + number,
            )

    def _log(self) -> None:
        means, seconds = self._window.flush()
        pairs_per_step = self.progress.samples_seen / self.progress.global_step
        bare = self.accelerator.unwrap_model(self.model)
        values = {
            "global_step": self.progress.global_step,
            "epoch": self.progress.epoch,
            "samples_seen": self.progress.samples_seen,
            **means,
            "logit_scale": bare.logit_scale.exp().item(),
            "lr": self.scheduler.get_last_lr()[0],
            "pairs_per_second": pairs_per_step / seconds,
            "seconds_per_step": seconds,
        }
        self.metrics.write(values)
        self.display.values(values)
        self.bad_rows.add(self._new_bad_rows, self.progress.samples_seen)
        self._new_bad_rows = []
        self._check_finite(means["loss"])

    def _check_finite(self, loss: float) -> None:
        if not math.isfinite(loss):
            raise TrainingError(
                f"the loss is {loss} at step {self.progress.global_step}: lower training.learning_rate "
                "or use training.precision fp32; the last checkpoint is from before"
            )

    def _evaluate(self) -> None:
        assert self.evaluator is not None
        start = time.perf_counter()
        # Every rank evaluates: the numbers agree, so nobody has to be told the decision that follows from them.
        values = self.evaluator(self.bare_model)
        metric = values.get(self.best_metric)
        if metric is None:
            raise TrainingError(
                f"evaluation.best_metric: no metric {self.best_metric!r} was computed; there are {', '.join(values)}"
            )
        better = self.progress.best_metric is None or metric > self.progress.best_metric
        if better:
            self.progress.best_metric, self.progress.best_step = metric, self.progress.global_step
            self.save_best(self.bare_model)
        self.progress.evaluations_without_gain = 0 if better else self.progress.evaluations_without_gain + 1
        line = {"global_step": self.progress.global_step, "epoch": self.progress.epoch, "split": "validation"}
        # TASK.METRIC is how configs name a metric; lines of the log carry the metric's own name.
        self.metrics.write(line | {name.partition(".")[2]: value for name, value in values.items()})
        self.display.evaluation(self.progress.global_step, values, self.best_metric, better)
        self._window.exclude(time.perf_counter() - start)

    def save_checkpoint(self) -> None:
        """Everything that a resumed run needs to go on as if nothing had happened."""
        self._check_finite(self._window.total("loss"))
        shared: dict[str, Any] = {
            "progress": asdict(self.progress),
            "model": self.accelerator.unwrap_model(self.model).state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scheduler": self.scheduler.state_dict(),
        }
        if self.average:
            shared["average"] = {"model": self.average.model.state_dict(), "steps": self.average.steps}
        own: dict[str, Any] = {
            "rng": _rng_state(),
            "window": self._window.state_dict(),
            "bad_rows": [asdict(row) for row in self._new_bad_rows],
        }
        self.checkpointer.save(self.progress.global_step, shared, own)

    def load_checkpoint(self) -> bool:
        """Go back to the newest checkpoint; False where there is none."""
        checkpoints = self.checkpointer.all()
        if not checkpoints:
            return False
        shared, own = self.checkpointer.load(checkpoints[-1])
        self.progress = Progress(**shared["progress"])
        self.accelerator.unwrap_model(self.model).load_state_dict(shared["model"])
        self.optimizer.load_state_dict(shared["optimizer"])
        self.scheduler.load_state_dict(shared["scheduler"])
        if self.average:
            self.average.model.load_state_dict(shared["average"]["model"])
            self.average.steps = shared["average"]["steps"]
        self._window.load_state_dict(own["window"], self.accelerator.device)
        self._new_bad_rows = [BadRow(**row) for row in own["bad_rows"]]
        _set_rng_state(own["rng"])
        self.metrics.rewind(self.progress.global_step)
        return True


def _due(step: int, every: int | None) -> bool:
    return every is not None and step % every == 0


def _rng_state() -> dict[str, Any]:
    return {"cpu": torch.get_rng_state(), "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []}


def _set_rng_state(state: Mapping[str, Any]) -> None:
    torch.set_rng_state(state["cpu"])
    if torch.cuda.is_available():
        torch.cuda.set_rng_state_all(state["cuda"])
