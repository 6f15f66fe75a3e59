"""The loop on a tiny model: it learns, resumes bit for bit, keeps the best model, and stops when told."""

from __future__ import annotations

import io
import json
import os
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from rich.console import Console
from torch import nn
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from mmcontrast.errors import DataError, TrainingError, TrainingInterrupted
from mmcontrast.training import noting
from mmcontrast.training.checkpoint import Checkpointer
from mmcontrast.training.ema import WeightAverage
from mmcontrast.training.grad_cache import GradCache
from mmcontrast.training.log import BadRowLog, MetricsLog, ProgressDisplay, few_negatives
from mmcontrast.training.objective import ContrastiveObjective
from mmcontrast.training.odd_steps import OddStepLog
from mmcontrast.training.optim import adamw, scheduler
from mmcontrast.training.schedule import Schedule
from mmcontrast.training.trainer import Trainer
from mmcontrast.types import BadRow, Features, PairBatch

BATCHES_PER_EPOCH = 5


class TinyEncoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.image = nn.Sequential(nn.Linear(12, 8), nn.Dropout(0.2), nn.BatchNorm1d(8))
        self.text = nn.Embedding(20, 8)
        self.logit_scale = nn.Parameter(torch.tensor([1.0]))

    def forward(self, image: torch.Tensor, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> Features:
        return Features(
            F.normalize(self.image(image.flatten(1).float()), dim=1),
            F.normalize(self.text(input_ids).mean(dim=1), dim=1),
            self.logit_scale.exp().squeeze(),
        )

    def clamp_logit_scale(self) -> None:
        self.logit_scale.data.clamp_(0, 4.6)


class TinyBatches:
    """Epoch e, batch k, is a function of (e, k), as in the real thing."""

    def __init__(self, bad_rows: int = 0, poison: tuple[int, ...] = ()) -> None:
        self.bad_rows = bad_rows
        self.poison = poison
        self.diagnostics: dict[str, float] = {}
        self.elastic = True

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        assert state == {}

    def epoch(self, epoch: int, start_batch: int) -> Iterator[PairBatch]:
        for k in range(start_batch, BATCHES_PER_EPOCH):
            generator = torch.Generator().manual_seed(100 * epoch + k)
            ids = torch.randint(0, 20, (4, 3), generator=generator)
            image = torch.randint(0, 2, (4, 3, 2, 2), generator=generator).to(torch.uint8)
            key = torch.arange(4) + 1
            empty = torch.zeros(4, dtype=torch.long)
            batch = PairBatch(image, ids, torch.ones_like(ids), key, key, key[:, None], empty, empty)
            batch.bad_rows = [BadRow("toy", 1000 * epoch + 10 * k + i, "torn") for i in range(self.bad_rows)]
            if BATCHES_PER_EPOCH * epoch + k + 1 in self.poison:  # steps
                batch.image = torch.full((4, 3, 2, 2), float("nan"))
            yield batch


class NoBatches(TinyBatches):
    def epoch(self, epoch: int, start_batch: int) -> Iterator[PairBatch]:
        return iter(())


def make_trainer(folder: Path, *, batches: Any = None, steps: int = 12, **options: Any) -> Trainer:
    folder.mkdir(exist_ok=True)
    torch.manual_seed(0)
    accelerator = Accelerator(cpu=True)
    model = TinyEncoder()
    optimizer = adamw(model, learning_rate=0.05, weight_decay=0.1, betas=(0.9, 0.98))
    average = WeightAverage(model, 0.9) if options.pop("ema", False) else None
    micro: int | None = options.pop("micro", None)
    model, optimizer = accelerator.prepare(model, optimizer)
    evaluator: Callable[[nn.Module], dict[str, float | None]] | None = options.pop("evaluator", None)
    max_bad: int = options.pop("max_bad", 3)
    spike_factor: float | None = options.pop("spike_factor", None)
    clip_norm: float | None = options.pop("clip_norm", 1.0)
    return Trainer(
        model=model,
        objective=ContrastiveObjective(),
        batches=batches or TinyBatches(),
        optimizer=optimizer,
        scheduler=scheduler(optimizer, warmup_steps=2, total_steps=steps, schedule="cosine"),
        accelerator=accelerator,
        schedule=Schedule(steps, **{"log_every": 3, "checkpoint_every": 4, **options}),
        checkpointer=Checkpointer(folder / "checkpoints", keep=10),
        metrics=MetricsLog(folder / "metrics.jsonl", accelerator),
        bad_rows=BadRowLog(folder / "bad_rows.jsonl", 0.05, None),
        odd_steps=OddStepLog(folder / "bad_steps.jsonl", max_bad, "fp32"),
        display=ProgressDisplay(steps, Console(quiet=True)),
        evaluator=evaluator,
        best_metric="retrieval.mean_recall",
        save_best=lambda m: torch.save(m.state_dict(), folder / "best.pt"),
        clip_norm=clip_norm,
        average=average,
        spike_factor=spike_factor,
        grad_cache=GradCache(model, accelerator, micro) if micro else None,
    )


def lines(folder: Path) -> list[dict[str, Any]]:
    """Metric lines without the clock's numbers."""
    values = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if k not in ("pairs_per_second", "seconds_per_step")} for line in values]


def states(trainer: Trainer) -> dict[str, torch.Tensor]:
    return {**trainer.model.state_dict(), **{f"best.{k}": v for k, v in trainer.bare_model.state_dict().items()}}


def test_it_learns_and_logs(tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path, steps=60)
    progress = trainer.fit()
    assert (progress.global_step, progress.epoch, progress.samples_seen) == (60, 11, 240)
    logged = lines(tmp_path)
    assert [line["global_step"] for line in logged] == list(range(3, 61, 3))
    assert logged[-1].keys() >= {"epoch", "samples_seen", "loss", "logit_scale", "lr", "known_positive_share"}
    assert sum(x["loss"] for x in logged[-4:]) < sum(x["loss"] for x in logged[:4])


@pytest.mark.parametrize(("ema", "micro"), [(False, None), (True, None), (True, 2)])
@pytest.mark.parametrize("stop_at", [4, 10])  # in an epoch, and at the end of one
def test_resumed_equals_uninterrupted_bit_for_bit(tmp_path: Path, stop_at: int, ema: bool, micro: int | None) -> None:
    whole = make_trainer(tmp_path / "whole", ema=ema, micro=micro)
    whole.fit()
    first = make_trainer(tmp_path / "parts", ema=ema, micro=micro)
    first.schedule = Schedule(stop_at + 1, log_every=3, checkpoint_every=stop_at)  # runs on, then "dies"
    first.fit()
    for late in (tmp_path / "parts" / "checkpoints").glob(f"step-{stop_at + 1:08d}"):
        shutil.rmtree(late)
    second = make_trainer(tmp_path / "parts", ema=ema, micro=micro)
    assert second.load_checkpoint()
    assert second.progress.global_step == stop_at
    second.fit()
    expected, actual = states(whole), states(second)
    assert all(torch.equal(expected[name], actual[name]) for name in expected)
    assert lines(tmp_path / "whole") == lines(tmp_path / "parts")


def test_best_model_is_kept_and_patience_ends_the_run(tmp_path: Path) -> None:
    scores = iter([0.1, 0.5, 0.4, 0.3, 0.9])
    trainer = make_trainer(
        tmp_path, steps=50, evaluate_every=4, patience=2, evaluator=lambda _: {"retrieval.mean_recall": next(scores)}
    )
    progress = trainer.fit()
    assert (progress.global_step, progress.best_step, progress.best_metric) == (16, 8, 0.5)
    evaluations = [line for line in lines(tmp_path) if line.get("split") == "validation"]
    assert [line["mean_recall"] for line in evaluations] == [0.1, 0.5, 0.4, 0.3]
    checkpoint, _ = trainer.checkpointer.load(tmp_path / "checkpoints" / "step-00000008")
    best = torch.load(tmp_path / "best.pt")
    assert all(torch.equal(best[name], checkpoint["model"][name]) for name in best)
    again = make_trainer(tmp_path, steps=50, evaluate_every=4, patience=2, evaluator=lambda _: {})
    assert again.load_checkpoint()
    assert again.fit().global_step == 16  # a finished run stays finished


def test_unknown_best_metric_names_those_there_are(tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path, evaluate_every=1, evaluator=lambda _: {"retrieval.map@r": 0.1})
    with pytest.raises(TrainingError, match=r"no metric 'retrieval.mean_recall'.*retrieval.map@r"):
        trainer.fit()


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_signals_finish_the_step_and_save(tmp_path: Path, number: int, code: int) -> None:
    class Signalling(TinyBatches):
        def epoch(self, epoch: int, start_batch: int) -> Iterator[PairBatch]:
            for k, batch in enumerate(super().epoch(epoch, start_batch)):
                if (epoch, k) == (1, 1):
                    os.kill(os.getpid(), number)
                yield batch

    handler = signal.getsignal(number)
    with pytest.raises(TrainingInterrupted, match="--resume") as caught:
        make_trainer(tmp_path, batches=Signalling()).fit()
    assert caught.value.exit_code == code
    assert signal.getsignal(number) is handler
    assert (tmp_path / "checkpoints" / "step-00000007").is_dir()


def test_too_many_bad_rows_stop_the_run(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"bad, over the limit of 5%.*max_bad_row_share"):
        make_trainer(tmp_path, batches=TinyBatches(bad_rows=1), steps=60).fit()
    listed = [json.loads(line) for line in (tmp_path / "bad_rows.jsonl").read_text().splitlines()]
    assert listed[0] == {"source": "toy", "row": 0, "reason": "torn"}
    assert len({line["row"] for line in listed}) == len(listed)


class OneCaption(TinyBatches):
    def epoch(self, epoch: int, start_batch: int) -> Iterator[PairBatch]:
        for batch in super().epoch(epoch, start_batch):
            batch.caption_key = torch.ones_like(batch.caption_key)
            batch.caption_keys = batch.caption_key[:, None]
            yield batch


def test_nothing_to_tell_apart_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="every caption of a batch fits every picture"):
        make_trainer(tmp_path, batches=OneCaption()).fit()


def test_early_stopping_logs_its_open_window(tmp_path: Path) -> None:
    make_trainer(
        tmp_path,
        steps=50,
        evaluate_every=4,
        patience=1,
        log_every=3,
        evaluator=lambda _: {"retrieval.mean_recall": 0.5},
    ).fit()
    logged = [line["global_step"] for line in lines(tmp_path) if "split" not in line]
    assert logged == [3, 6, 8]


def test_no_batch_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="gave no full batch"):
        make_trainer(tmp_path, batches=NoBatches()).fit()


def test_average_is_what_is_evaluated(tmp_path: Path) -> None:
    seen: list[nn.Module] = []

    def evaluator(model: nn.Module) -> dict[str, float | None]:
        seen.append(model)
        return {"retrieval.mean_recall": 0.0}

    trainer = make_trainer(tmp_path, ema=True, evaluator=evaluator, steps=2)
    trainer.fit()
    assert trainer.average is not None
    assert seen == [trainer.average.model]


class ReadValues(TorchDispatchMode):
    """Counts how often a value of a tensor is read: on a GPU each time waits for all work before."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += function in (torch.ops.aten._local_scalar_dense.default, torch.ops.aten.nonzero.default)
        return function(*args, **(kwargs or {}))


def test_a_step_reads_no_value(tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path, ema=True)
    first, second, *_ = TinyBatches().epoch(0, 0)
    trainer.step(first)
    with ReadValues() as read:
        trainer.step(second)
        assert read.count == 0
        noting.log_step(trainer)
        assert read.count > 0  # the counter counts


class Alike(TinyBatches):
    """Three of four pairs have one caption, from a step on."""

    def __init__(self, step: int) -> None:
        super().__init__()
        self.since = step

    def epoch(self, epoch: int, start_batch: int) -> Iterator[PairBatch]:
        for k, batch in enumerate(super().epoch(epoch, start_batch)):
            if 5 * epoch + k >= self.since:
                batch.caption_key = torch.tensor([7, 7, 7, 8])
                batch.caption_keys = batch.caption_key[:, None]
            yield batch


def test_few_effective_negatives_are_warned_of_once(tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path, batches=Alike(6))
    console = Console(file=io.StringIO(), width=300)
    trainer.display = ProgressDisplay(12, console)
    trainer.fit()
    assert isinstance(console.file, io.StringIO)
    (line,) = [line for line in console.file.getvalue().splitlines() if line.startswith("warning:")]
    # Three anchors have one negative, the fourth has three.
    assert "only 2 of a batch's 4 pairs count as negatives (effective number at step 9)" in line
    assert [line["effective_negatives"] for line in lines(tmp_path)] == [3.0, 3.0, 1.5, 1.5]


def test_half_of_a_batch_is_enough() -> None:
    assert few_negatives({"global_step": 3, "effective_negatives": 32.0}, 64) is None
    assert few_negatives({"global_step": 3}, 64) is None
    assert "only 31 of a batch's 64" in str(few_negatives({"global_step": 3, "effective_negatives": 31.4}, 64))
