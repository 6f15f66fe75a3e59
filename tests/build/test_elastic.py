"""A run that goes on with another number of processes: the same global batches, the same losses but for rounding."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from rank_runs import rows_of, run_with
from tiny_runs import metric_lines, tiny_config, train

from mmcontrast.config import Config
from mmcontrast.errors import TrainingError
from mmcontrast.training.checkpoint import Checkpointer
from mmcontrast.training.manifest import write_state

pytestmark = pytest.mark.usefixtures("one_thread")

# As in test_distributed_run: no batch norm, no dropout. At the checkpoint of step 8, the second epoch is being carried
# out as clusters planned it, and a window of the log is open.
OVERRIDES = (
    "model.image={library: open_clip, image_size: 32, kwargs: {width: 32, layers: 1, head_width: 16, patch_size: 8}}",
    "model.text.dropout=0",
    "training.epochs=2",
    "training.log_every_steps=3",
    "training.checkpoint_every_steps=4",
    "negatives.cluster={share: 0.25, start: 0.4, items_per_cluster: 12}",
    "evaluation.every_epochs=2",
    "evaluation.inspect_negatives=0",
)
STEPS = 12


def config_of(folder: Path, *overrides: str) -> Config:
    return tiny_config(folder, *OVERRIDES, *overrides)


def go_back(run: Path, step: int) -> None:
    """As if the run had been killed soon after the checkpoint of `step`."""
    for checkpoint in (run / "checkpoints").iterdir():
        if int(checkpoint.name.removeprefix("step-")) > step:
            shutil.rmtree(checkpoint)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    """A whole run with one process, and one with two."""
    made = {}
    for ranks in (1, 2):
        made[ranks] = tmp_path_factory.mktemp(f"with-{ranks}")
        run_with(ranks, made[ranks], config_of(made[ranks] / "run"))
    return made


@pytest.mark.parametrize(("before", "after"), [(2, 1), (1, 2)])
def test_another_number_of_processes(folders: dict[int, Path], tmp_path: Path, before: int, after: int) -> None:
    whole = folders[before]
    shutil.copytree(whole / "run", tmp_path / "run")
    go_back(tmp_path / "run", 8)
    run_with(after, tmp_path, config_of(tmp_path / "run"), resume=True)
    expected, found = rows_of(whole, "first", before), rows_of(tmp_path, "second", after)
    assert sorted(expected) == list(range(STEPS))
    assert any("clusters" in line for line in metric_lines(whole / "run"))
    assert sorted(found) == list(range(8, STEPS))
    assert all(found[step] == expected[step] for step in found)
    ours, theirs = metric_lines(tmp_path / "run"), metric_lines(whole / "run")
    assert [line["global_step"] for line in ours] == [line["global_step"] for line in theirs]
    for mine, other in zip(ours, theirs, strict=True):
        assert mine.get("loss") == pytest.approx(other.get("loss"), abs=1e-5)
        assert mine.get("samples_seen") == other.get("samples_seen")


def test_as_many_processes_go_on_bit_for_bit(folders: dict[int, Path], tmp_path: Path) -> None:
    shutil.copytree(folders[2] / "run", tmp_path / "run")
    go_back(tmp_path / "run", 8)
    run_with(2, tmp_path, config_of(tmp_path / "run"), resume=True)
    assert metric_lines(tmp_path / "run") == metric_lines(folders[2] / "run")


STREAM = (
    "data.streaming=true",
    "data.shuffle_buffer=12",
    "training.epochs=10",
    "training.max_steps=6",
    "training.log_every_steps=1",
    "training.checkpoint_every_steps=2",
    "negatives.cluster.share=0",
    "evaluation.every_epochs=null",
    "evaluation.every_steps=6",
)
MIXTURE = "data.train=[{path: synthetic://scenes, rows: 90, weight: 2}, {path: synthetic://scenes, split: validation}]"


def test_a_mixture_goes_on_with_another_number_of_processes(tmp_path: Path) -> None:
    options = (*STREAM, MIXTURE, "data.stream_readers=4")
    whole, other = tmp_path / "whole", tmp_path / "other"
    whole.mkdir()
    run_with(2, whole, config_of(whole / "run", *options))
    shutil.copytree(whole / "run", other / "run")
    go_back(other / "run", 2)
    run_with(1, other, config_of(other / "run", *options), resume=True)
    expected, found = rows_of(whole, "first", 2), rows_of(other, "second", 1)
    assert sorted(found) == [2, 3, 4, 5]
    assert all(found[step] == expected[step] for step in found)
    ours, theirs = metric_lines(other / "run"), metric_lines(whole / "run")
    for mine, line in zip(ours, theirs, strict=True):
        assert mine.get("loss") == pytest.approx(line.get("loss"), abs=1e-5)
        assert mine.get("pairs_of_source_1") == line.get("pairs_of_source_1")
    last = [line for line in theirs if "loss" in line][-1]
    assert (last["pairs_of_source_0"], last["pairs_of_source_1"]) == (80, 40)


def test_a_guided_stream_goes_on_with_as_many_only(tmp_path: Path) -> None:
    config = config_of(tmp_path / "run", *STREAM, "negatives.cluster.share=0.25")
    train(config)
    checkpointer = Checkpointer(tmp_path / "run" / "checkpoints")
    path, _ = checkpointer.newest()
    assert path is not None
    shared, (own,) = checkpointer.load(path)
    path = checkpointer.save(6, shared | {"world_size": 2}, own)
    write_state(path / "rank-1.pt", own)
    with pytest.raises(TrainingError, match=r"by 2 processes and this run has 1: each puts .* as many only"):
        train(config, resume=True)
