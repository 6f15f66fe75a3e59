"""A step whose loss or gradient is not finite changes nothing, is counted and named; too many in a row end the run."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from test_trainer import TinyBatches, TinyEncoder, lines, make_trainer, states

from mmcontrast.errors import TrainingError
from mmcontrast.training.guard import LEAST_REMEMBERED, StepGuard
from mmcontrast.training.odd_steps import SHOWN_SPIKES, OddStep, blame
from mmcontrast.training.optim import adamw
from mmcontrast.training.schedule import Schedule
from mmcontrast.types import Features, PairBatch


def odd_lines(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "bad_steps.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("options", [{}, {"clip_norm": None}, {"ema": True}, {"micro": 2}])
def test_a_bad_batch_leaves_everything_as_it_was(tmp_path: Path, options: dict[str, Any]) -> None:
    trainer = make_trainer(tmp_path, batches=TinyBatches(poison=(3,)), **options)
    batches = trainer.batches.epoch(0, 0)
    for _ in range(2):
        trainer.step(next(batches))
    before = {name: value.clone() for name, value in states(trainer).items()}
    optimizer: Any = trainer.optimizer
    moments = [{k: v.clone() for k, v in state.items()} for state in optimizer.state.values()]
    trainer.step(next(batches))
    after = states(trainer)
    # Integer buffers count batches; they change no number with a fixed momentum. An average goes on to follow.
    still = [name for name in after if after[name].is_floating_point() and not (trainer.average and "best." in name)]
    assert all(torch.equal(after[name], before[name]) for name in still)
    for state, kept in zip(optimizer.state.values(), moments, strict=True):
        assert all(torch.equal(state[k], kept[k]) for k in kept)
    trainer.step(next(batches))
    assert not any(torch.equal(after[k], before[k]) for k in ("text.weight", "image.0.weight", "image.2.running_mean"))
    assert all(torch.isfinite(value).all() for value in states(trainer).values())


def test_bad_steps_are_counted_listed_and_in_no_mean(tmp_path: Path) -> None:
    progress = make_trainer(tmp_path, batches=TinyBatches(poison=(2, 3, 7))).fit()
    assert (progress.global_step, progress.bad_steps, progress.bad_in_a_row) == (12, 3, 0)
    logged = lines(tmp_path)
    assert [line["bad_steps"] for line in logged] == [2, 2, 3, 3]
    assert all(0 < line["loss"] < 10 for line in logged)
    found = odd_lines(tmp_path)
    assert [line["global_step"] for line in found] == [2, 3, 7]
    first = found[0]
    assert (first["kind"], first["loss"], first["grad_norm"]) == ("not finite", "nan", "nan")
    assert first["rows"] == first["broken"] == [1, 2, 3, 4]  # batch norm hands one row's NaN to all
    assert first["logit_scale"] == pytest.approx(2.718, abs=0.2)
    assert first["lr"] == pytest.approx(0.05)


def test_too_many_in_a_row_end_the_run_with_a_diagnosis(tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path, batches=TinyBatches(poison=(2, 5, 6, 7)), checkpoint_every=1)
    with pytest.raises(TrainingError) as caught:
        trainer.fit()
    text = str(caught.value)
    assert text.startswith("3 steps in a row, up to step 7, had a loss or gradient that is not finite")
    for part in (
        "no features of its 4 rows",
        "rows 1, 2, 3, 4",
        "learning rate 0.0",
        "logit scale 2.",
        "precision fp32",
    ):
        assert part in text
    assert str(tmp_path / "bad_steps.jsonl") in text
    assert "\n" not in text
    assert len(odd_lines(tmp_path)) == 4
    assert trainer.checkpointer.last == tmp_path / "checkpoints" / "step-00000004"  # the last good step


def test_a_checkpoint_waits_for_a_good_step(tmp_path: Path) -> None:
    """Weights that every batch fails on must not push the good ones out of the kept checkpoints."""
    make_trainer(tmp_path, batches=TinyBatches(poison=(4, 5))).fit()
    steps = sorted(int(path.name[-8:]) for path in (tmp_path / "checkpoints").iterdir())
    assert steps == [6, 8, 12]


def test_a_window_of_bad_steps_only_has_no_mean(tmp_path: Path) -> None:
    make_trainer(tmp_path, batches=TinyBatches(poison=(4, 5, 6)), max_bad=4).fit()
    assert [line["loss"] is None for line in lines(tmp_path)] == [False, True, False, False]


def test_a_run_that_goes_on_counts_on(tmp_path: Path) -> None:
    poison = TinyBatches(poison=(2, 5, 6, 7))
    first = make_trainer(tmp_path, batches=poison, checkpoint_every=5)
    first.schedule = Schedule(5, log_every=3)  # as if it was told to stop then
    first.fit()
    second = make_trainer(tmp_path, batches=poison, checkpoint_every=5)
    assert second.load_checkpoint()
    assert (second.progress.bad_steps, second.progress.bad_in_a_row) == (2, 1)
    assert [line["global_step"] for line in odd_lines(tmp_path)] == [2, 5]
    with pytest.raises(TrainingError, match="3 steps in a row, up to step 7"):
        second.fit()
    assert [line["global_step"] for line in odd_lines(tmp_path)] == [2, 5, 6, 7]


def test_rows_are_named_where_only_some_are_broken() -> None:
    model = TinyEncoder()
    guard = StepGuard(model, adamw(model, learning_rate=0.1, weight_decay=0.1, betas=(0.9, 0.98)))
    batch: PairBatch = next(TinyBatches().epoch(0, 0))
    image = torch.ones(4, 8)
    image[2, 3] = float("inf")
    guard.begin()
    guard.features(Features(image, torch.ones(4, 8), torch.tensor(1.0)))
    loss, good = guard.judge(torch.tensor(float("nan")), torch.tensor(1.0))
    guard.note(1, batch, 0.1, loss, torch.tensor(1.0), torch.tensor(14.0), good)
    ((_, odd),) = guard.read()
    assert odd is not None
    assert (odd.rows, odd.broken) == ([1, 2, 3, 4], [3])
    assert blame(odd) == "not finite are the features of row 3"


def test_a_diagnosis_says_if_no_row_is_to_blame() -> None:
    odd = OddStep("not finite", 1, 1.0, float("inf"), 100.0, 0.1, list(range(20)), [])
    assert blame(odd) == "all features of its 20 rows are finite"
    many = OddStep("not finite", 1, 1.0, float("inf"), 100.0, 0.1, list(range(20)), list(range(12)))
    assert blame(many) == "not finite are the features of rows 0, 1, 2, 3, 4, 5, 6, 7 and 4 more"


class Spiky(TinyBatches):
    """From a step on, each picture has the caption that fits it worst."""

    def epoch(self, epoch: int, start_batch: int) -> Iterator[PairBatch]:
        for k, batch in enumerate(super().epoch(0, start_batch)):
            if epoch >= 30 and k == 0:
                batch.input_ids = batch.input_ids.flip(0)
            yield batch


def test_spikes_are_listed_and_warned_of(tmp_path: Path) -> None:
    warnings: list[str] = []
    trainer = make_trainer(tmp_path, batches=Spiky(), steps=190, spike_factor=2.0)
    trainer.display.warn = warnings.append  # type: ignore[method-assign]
    progress = trainer.fit()
    found = odd_lines(tmp_path)
    assert {line["kind"] for line in found} == {"spike"}
    assert {line["global_step"] for line in found} >= {151, 156, 161}
    assert all(line["global_step"] > LEAST_REMEMBERED for line in found)
    assert progress.bad_steps == 0
    assert warnings[0].startswith(f"the loss jumped to {found[0]['loss']:.3g} at step {found[0]['global_step']}, with ")
    assert len(warnings) == min(SHOWN_SPIKES, len(found))
