"""The training loop: backward, clip, step, log, evaluate, checkpoint."""

from __future__ import annotations

from collections.abc import Callable

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from mmcontrast import distributed
from mmcontrast.errors import TrainingError, TrainingInterrupted
from mmcontrast.training import evaluating, noting, resuming
from mmcontrast.training.asking import RankQuestions
from mmcontrast.training.checkpoint import Checkpointer
from mmcontrast.training.ema import WeightAverage
from mmcontrast.training.grad_cache import GradCache
from mmcontrast.training.guard import StepGuard
from mmcontrast.training.lines import LineFile
from mmcontrast.training.log import BadRowLog, MetricsLog, ProgressDisplay
from mmcontrast.training.memory import reworded, smaller_chunks
from mmcontrast.training.objective import ContrastiveObjective, ObjectiveOutput
from mmcontrast.training.odd_steps import OddStepLog
from mmcontrast.training.schedule import EpochBatches, Progress, Schedule, due
from mmcontrast.training.sharding import Shards
from mmcontrast.training.signals import StopRequest, stop_on_signals
from mmcontrast.training.window import StepWindow
from mmcontrast.types import BadRow, Features, PairBatch

Evaluator = Callable[[nn.Module], dict[str, float | None]]


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
        shards: of a sharded model, or None.
        spike_factor: see `StepGuard`.
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
        odd_steps: OddStepLog,
        display: ProgressDisplay,
        evaluator: Evaluator | None,
        best_metric: str,
        save_best: Callable[[nn.Module], None],
        clip_norm: float | None = 1.0,
        average: WeightAverage | None = None,
        grad_cache: GradCache | None = None,
        shards: Shards | None = None,
        spike_factor: float | None = None,
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
        self.odd_steps = odd_steps
        self.display = display
        self.evaluator = evaluator
        self.best_metric = best_metric
        self.save_best = save_best
        self.clip_norm = clip_norm
        self.average = average
        self.grad_cache = grad_cache
        self.shards = shards
        self.guard = StepGuard(
            accelerator.unwrap_model(model),
            optimizer,
            scaled=accelerator.scaler is not None,
            spike_factor=spike_factor,
        )
        self.questions = RankQuestions(accelerator.device, schedule.checkpoint_minutes)
        self.progress = Progress()
        self.window = StepWindow()
        self.new_bad_rows: list[BadRow] = []
        self._overdue = False  # a checkpoint that was due amid bad steps

    @property
    def bare_model(self) -> nn.Module:
        """The model without DDP around it, and its moving average where there is one."""
        return self.average.model if self.average else self.accelerator.unwrap_model(self.model)

    def fit(self) -> Progress:
        """Train to the end of the schedule, or to early stopping.

        Raises:
            TrainingInterrupted: SIGINT or SIGTERM came; a checkpoint was saved.
            TrainingError: too many steps in a row were not finite, memory is full, the first checkpoint could not be
                written, or the data gave no batch.
        """
        with stop_on_signals() as stop, self.display:
            while not self._finished():
                start = self.progress.batch_in_epoch
                for batch in self.batches.epoch(self.progress.epoch, start):
                    try:
                        self.step(batch)
                    except (RuntimeError, MemoryError) as error:
                        micro = None if self.grad_cache is None else self.grad_cache.micro_batch_size
                        raise reworded(error, smaller_chunks(len(batch), micro)) from error
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
        """One optimiser step on this rank's share of a global batch; one that would spoil the weights is skipped."""
        self.model.train()
        host_batch = batch
        bare = self.accelerator.unwrap_model(self.model)
        batch = batch.to(self.accelerator.device, images=self.grad_cache is None)
        self.objective.progress = self.progress.global_step / self.schedule.total_steps
        self.guard.begin()
        output = self._backward(batch)
        norm = self._gradient_norm()
        loss, good = self.guard.judge(output.loss, norm)
        rate = float(self.scheduler.get_last_lr()[0])
        self.guard.note(self.progress.global_step + 1, host_batch, rate, loss, norm, bare.logit_scale.exp(), good)
        observed = {"loss": output.loss, **output.diagnostics}
        if self.clip_norm is not None:
            observed["grad_norm"] = norm
        self.optimizer.step()
        self.scheduler.step()
        self.optimizer.zero_grad()
        if self.shards is not None:
            self.shards.end_step()
        bare.clamp_logit_scale()
        if self.average:
            self.average.update(bare)
        # Filled there, not copied there: a copy would wait until the device has done the whole step.
        share = host_batch.truncated / len(batch)
        observed["truncated_share"] = torch.full((), share, device=self.accelerator.device)
        self.window.add(observed, good)
        self.new_bad_rows += host_batch.bad_rows
        self.progress.global_step += 1
        self.progress.batch_in_epoch += 1
        self.progress.samples_seen += len(batch) * distributed.world_size()

    def _gradient_norm(self) -> Tensor:
        """Length of the whole gradient, a scalar on the device; longer ones are clipped."""
        if self.shards is not None:
            length = self.shards.gather_gradients()
            if self.clip_norm is not None:
                self.shards.clip(length, self.clip_norm)
            return length
        if self.clip_norm is not None:
            norm: Tensor = self.accelerator.clip_grad_norm_(self.model.parameters(), self.clip_norm)
            return norm
        gradients = [parameter.grad for parameter in self.model.parameters() if parameter.grad is not None]
        return nn.utils.get_total_norm(gradients)

    def _backward(self, batch: PairBatch) -> ObjectiveOutput:
        def objective(features: Features) -> ObjectiveOutput:
            self.guard.features(features)
            return self.objective(features, batch, self._sibling_text(batch))

        if self.grad_cache is not None:
            return self.grad_cache.backward(batch, objective)
        output = objective(self.model(batch.image, batch.input_ids, batch.attention_mask))
        self.accelerator.backward(output.loss)
        return output

    @torch.no_grad()
    def _sibling_text(self, batch: PairBatch) -> Tensor | None:
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
        noting.read_steps(self)
        if last or due(step, when.log_every):
            noting.log_step(self)
        evaluate = self.evaluator is not None and (last or due(step, when.evaluate_every))
        if evaluate:
            evaluating.evaluate(self)
        stopping, save = self.questions.ask(step, stop.signal_number is not None)
        save |= evaluate if when.checkpoint_every is None else due(step, when.checkpoint_every)
        if self._finished() and not (last or due(step, when.log_every)):  # stopped early, within a window
            noting.log_step(self)
        saved = self._save_if_good(save, must=stopping or self._finished())
        if stopping and not self._finished():
            number = stop.signal_number or 15
            state = "the checkpoint is saved" if saved else f"the last checkpoint is {self.checkpointer.last}"
            raise TrainingInterrupted(
                f"stopped by signal {number} after step {step}; {state}, go on with --resume", exit_code=128 + number
            )

    def _save_if_good(self, due_now: bool, *, must: bool) -> bool:
        """Save a checkpoint that is due, but not amid bad steps: spoilt weights would push the good ones out."""
        self._overdue |= due_now
        if not (self._overdue or must):
            return False
        noting.read_steps(self, all_steps=True)
        if self.progress.bad_in_a_row and not must:
            return False
        self._overdue = False
        return self.save_checkpoint()

    @property
    def line_files(self) -> list[LineFile]:
        """The files that grow with the run."""
        return [self.metrics.file, self.bad_rows.file, self.odd_steps.file]

    def save_checkpoint(self) -> bool:
        """See `resuming.save`."""
        return resuming.save(self)

    def load_checkpoint(self) -> bool:
        """Go back to the newest whole checkpoint; False where there is none."""
        return resuming.load(self)
