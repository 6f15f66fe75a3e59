"""A full memory becomes one line with a number to set."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from test_trainer import make_trainer
from torch import nn

from mmcontrast.errors import TrainingError
from mmcontrast.training.memory import is_out_of_memory, smaller_chunks


def really_too_much() -> None:
    torch.empty(1 << 52)


def gpu_is_full() -> None:
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")


@pytest.mark.parametrize("fail", [really_too_much, gpu_is_full])
@pytest.mark.parametrize(("micro", "advice"), [(None, "4 pairs .*micro_batch_size to 2 "), (2, "to 1 "), (1, "towers")])
def test_a_step_that_does_not_fit(tmp_path: Path, fail: Callable[[], None], micro: int | None, advice: str) -> None:
    trainer = make_trainer(tmp_path, micro=micro)

    def forward(*_: object) -> None:
        fail()

    trainer.accelerator.unwrap_model(trainer.model).image = nn.Sequential()
    trainer.accelerator.unwrap_model(trainer.model).image.register_forward_pre_hook(forward)
    with pytest.raises(TrainingError, match=rf"out of memory: .*{advice}"):
        trainer.fit()


def test_an_evaluation_that_does_not_fit(tmp_path: Path) -> None:
    def evaluator(_: nn.Module) -> dict[str, float | None]:
        really_too_much()
        return {}

    with pytest.raises(TrainingError, match=r"out of memory: .*evaluation\.batch_size"):
        make_trainer(tmp_path, evaluator=evaluator, evaluate_every=1).fit()


def test_other_errors_stay_as_they_are(tmp_path: Path) -> None:
    def evaluator(_: nn.Module) -> dict[str, float | None]:
        raise RuntimeError("shapes do not fit")

    with pytest.raises(RuntimeError, match="shapes do not fit"):
        make_trainer(tmp_path, evaluator=evaluator, evaluate_every=1).fit()
    assert not is_out_of_memory(ValueError("can't allocate memory"))
    assert is_out_of_memory(MemoryError())


def test_a_number_is_suggested() -> None:
    assert "micro_batch_size to 64 " in smaller_chunks(128, None)
    assert "micro_batch_size to 16 " in smaller_chunks(128, 32)
    assert "micro_batch_size" not in smaller_chunks(128, 1)
