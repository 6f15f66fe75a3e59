"""The training loop: backward, clip, step, log, evaluate, checkpoint."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import torch
from accelerate import Accelerator
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from mmcontrast import distributed
from mmcontrast.errors import TrainingError, TrainingInterrupted
from mmcontrast.training.checkpoint import Checkpointer, rng_state, set_rng_state
from mmcontrast.training.ema import WeightAverage
from mmcontrast.training.grad_cache import GradCache
from mmcontrast.training.log import BadRowLog, MetricsLog, ProgressDisplay, few_negatives
from mmcontrast.training.objective import ContrastiveObjective, ObjectiveOutput
from mmcontrast.training.schedule import EpochBatches, Progress, Schedule, due
from mmcontrast.training.signals import StopRequest, stop_on_signals
from mmcontrast.training.window import StepWindow
from mmcontrast.types import BadRow, Features, PairBatch

Evaluator = Callable[[nn.Module], dict[str, float | None]]


ALL_KNOWN = 0.999
ASK_RANKS_EVERY = 5
"""Steps between two times that the ranks ask each other whether to stop: the answer waits for their devices."""


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
        grad_cache: for batches that the device cannot take at once, or None.
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
        grad_cache: GradCache | None = None,
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
        self.grad_cache = grad_cache
        self.progress = Progress()
        self._window = StepWindow()
        self._new_bad_rows: list[BadRow] = []

    @property
    def bare_model(self) -> nn.Module:
        """The model without DDP around it, and its moving average where there is one."""
        return self.average.model if self.average else self.accelerator.unwrap_model(self.model)

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
                    self.step(batch)
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

    def step(self, batch: PairBatch) -> None:
        """One optimiser step on this rank's share of a global batch."""
        self.model.train()
        bad_rows, truncated = batch.bad_rows, batch.truncated
        batch = batch.to(self.accelerator.device, images=self.grad_cache is None)
        self.objective.progress = self.progress.global_step / self.schedule.total_steps
        output = self._backward(batch)
        observed = {"loss": output.loss.detach(), **output.diagnostics}
        if self.clip_norm is not None:
            observed["grad_norm"] = self.accelerator.clip_grad_norm_(self.model.parameters(), self.clip_norm)
        self.optimizer.step()
        self.scheduler.step()
        self.optimizer.zero_grad()
        self.accelerator.unwrap_model(self.model).clamp_logit_scale()
        if self.average:
            self.average.update(self.accelerator.unwrap_model(self.model))
        # Filled there, not copied there: a copy would wait until the device has done the whole step.
        observed["truncated_share"] = torch.full((), truncated / len(batch), device=self.accelerator.device)
        self._window.add(observed)
        self._new_bad_rows += bad_rows
        self.progress.global_step += 1
        self.progress.batch_in_epoch += 1
        self.progress.samples_seen += len(batch) * distributed.world_size()

    def _backward(self, batch: PairBatch) -> ObjectiveOutput:
        def objective(features: Features) -> ObjectiveOutput:
            return self.objective(features, batch, self._sibling_text(batch))

        if self.grad_cache is not None:
            return self.grad_cache.backward(batch, objective)
        output = objective(self.model(batch.image, batch.input_ids, batch.attention_mask))
        self.accelerator.backward(output.loss)
        return output

    @torch.no_grad()
    def _sibling_text(self, batch: PairBatch) -> torch.Tensor | None:
        """Features of the batch's further captions, under the same dropout as the others."""
        if batch.sibling_ids is None or not self.objective.learns:
            return None
        assert batch.sibling_mask is not None
        bare = self.accelerator.unwrap_model(self.model)
        size = len(batch.sibling_ids) if self.grad_cache is None else self.grad_cache.micro_batch_size
        chunks = zip(torch.split(batch.sibling_ids, size), torch.split(batch.sibling_mask, size), strict=True)
        with self.accelerator.autocast():
            return torch.cat([bare.encode_text(ids, mask) for ids, mask in chunks])

    def _after_step(self, stop: StopRequest) -> None:
        step, when = self.progress.global_step, self.schedule
        last = step == when.total_steps
        self.display.step(step)
        if last or due(step, when.log_every):
            self._log()
        evaluate = self.evaluator is not None and (last or due(step, when.evaluate_every))
        if evaluate:
            self._evaluate()
        stopping = self._stopping(stop)
        save = evaluate if when.checkpoint_every is None else due(step, when.checkpoint_every)
        if self._finished() and not (last or due(step, when.log_every)):  # stopped early, within a window
            self._log()
        if save or stopping or self._finished():
            self.save_checkpoint()
        if stopping and not self._finished():
            number = stop.signal_number or 15
            raise TrainingInterrupted(
                f"stopped by signal {number} after step {step}; the checkpoint is saved, go on with --resume",
                exit_code=128 + number,
            )

    def _stopping(self, stop: StopRequest) -> bool:
        """Whether any rank was told to stop; a rank that is not alone asks the others only every few steps."""
        if distributed.world_size() > 1 and not due(self.progress.global_step, ASK_RANKS_EVERY):
            return False
        return distributed.any_rank(stop.signal_number is not None, self.accelerator.device)

    def _log(self) -> None:
        means, seconds = self._window.flush()
        pairs_per_step = self.progress.samples_seen // self.progress.global_step
        bare = self.accelerator.unwrap_model(self.model)
        values = {
            "global_step": self.progress.global_step,
            "epoch": self.progress.epoch,
            "samples_seen": self.progress.samples_seen,
            **means,
            **self.batches.diagnostics,
            "logit_scale": bare.logit_scale.exp().item(),
            "lr": self.scheduler.get_last_lr()[0],
            "pairs_per_second": pairs_per_step / seconds,
            "seconds_per_step": seconds,
        }
        self.metrics.write(values)
        self.display.values(values)
        if warning := few_negatives(values, pairs_per_step):
            self.display.warn_once("few negatives", warning)
        self.bad_rows.add(self._new_bad_rows, self.progress.samples_seen)
        self._new_bad_rows = []
        self._check_finite(means["loss"])
        if means.get("known_positive_share", 0.0) > ALL_KNOWN:
            raise TrainingError(
                "every caption of a batch fits every picture of it (same caption or group), so there is nothing to "
                "tell apart: check data.caption_column and data.group_column"
            )

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
        names = ("global_step", "epoch", "samples_seen")
        line = {name: getattr(self.progress, name) for name in names} | {"split": "validation"}
        # TASK.METRIC is how configs name a metric; lines of the log carry the metric's own name.
        self.metrics.write(line | {name.partition(".")[2]: value for name, value in values.items()})
        self.display.evaluation(self.progress.global_step, values, self.best_metric, better)
        self._window.exclude(time.perf_counter() - start)

    def save_checkpoint(self) -> None:
        """Everything that a resumed run needs to go on as if nothing had happened."""
        self._check_finite(self._window.total("loss"))
        shared: dict[str, Any] = {
            "progress": asdict(self.progress),
            "world_size": distributed.world_size(),
            "model": self.accelerator.unwrap_model(self.model).state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scheduler": self.scheduler.state_dict(),
            "objective": self.objective.state_dict(),
            "batches": self.batches.state_dict(),
        }
        if self.average:
            shared["average"] = {"model": self.average.model.state_dict(), "steps": self.average.steps}
        own: dict[str, Any] = {
            "rng": rng_state(),
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
        self.objective.load_state_dict(shared["objective"])
        self.batches.load_state_dict(shared["batches"])
        if self.average:
            self.average.model.load_state_dict(shared["average"]["model"])
            self.average.steps = shared["average"]["steps"]
        self._window.load_state_dict(own["window"], self.accelerator.device)
        self._new_bad_rows = [BadRow(**row) for row in own["bad_rows"]]
        set_rng_state(own["rng"])
        self.metrics.rewind(self.progress.global_step)
        return True
