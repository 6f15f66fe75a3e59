"""Two processes under torchrun train what one process trains, and only the first of them writes."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from tiny_runs import ROOT, last_weights, metric_lines, tiny_config, train

from mmcontrast.config import Config, dump_config

pytestmark = pytest.mark.usefixtures("one_thread")

# Layer norm only: batch norm would see half a batch in each process. And no dropout, which differs between ranks.
OVERRIDES = (
    "model.image={library: open_clip, image_size: 32, kwargs: {width: 32, layers: 1, head_width: 16, patch_size: 8}}",
    "model.text.dropout=0",
    "training.epochs=1",
    "training.log_every_steps=1",
    "training.checkpoint_every_steps=3",
    # A rank sees half the batch's known positives: they have to match across the ranks' border, too.
    "data.train.rows=20",
    "data.caption_sampling=all",
    "negatives.known_positives=positives",
)


def config_of(output: Path) -> Config:
    return tiny_config(output, *OVERRIDES)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def torchrun(config: Config) -> subprocess.CompletedProcess[str]:
    file = Path(config.output).with_suffix(".yaml")
    file.write_text(dump_config(config))
    launcher = ["-m", "torch.distributed.run", "--nproc_per_node=2", "--master_addr=127.0.0.1"]
    launcher += [f"--master_port={free_port()}", "-m", "mmcontrast", "train", str(file)]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": ""}
    return subprocess.run(
        [sys.executable, *launcher], capture_output=True, text=True, timeout=200, env=environment, check=False
    )


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, subprocess.CompletedProcess[str]]:
    folder = tmp_path_factory.mktemp("two") / "run"
    return folder, torchrun(config_of(folder))


def test_two_processes_train_what_one_trains(
    two: tuple[Path, subprocess.CompletedProcess[str]], tmp_path: Path
) -> None:
    run, finished = two
    assert finished.returncode == 0, finished.stderr
    one = train(config_of(tmp_path / "one")).run_dir
    steps, expected = metric_lines(run), metric_lines(one)
    assert [line["global_step"] for line in steps] == [line["global_step"] for line in expected]
    assert [line["samples_seen"] for line in steps if "loss" in line] == [
        line["samples_seen"] for line in expected if "loss" in line
    ]
    for ours, theirs in zip(steps, expected, strict=True):
        assert ours.get("loss") == pytest.approx(theirs.get("loss"), abs=1e-5)
        assert ours.get("known_positive_share") == pytest.approx(theirs.get("known_positive_share"), abs=1e-6)
    assert any(line.get("known_positive_share", 0) > 0 for line in steps)
    weights = last_weights(one)
    for name, value in last_weights(run).items():
        torch.testing.assert_close(value, weights[name], atol=1e-4, rtol=0)


def test_only_the_first_process_writes_and_speaks(two: tuple[Path, subprocess.CompletedProcess[str]]) -> None:
    run, finished = two
    checkpoint = max((run / "checkpoints").iterdir())
    assert sorted(path.name for path in checkpoint.iterdir()) == [
        "manifest.json",
        "rank-0.pt",
        "rank-1.pt",
        "state.pt",
    ]
    steps = [line["global_step"] for line in metric_lines(run) if "split" not in line]
    assert steps == sorted(set(steps))
    assert finished.stderr.count("report.html") == 1, finished.stderr
    assert finished.stdout.count("results:") == 1, finished.stdout
    assert json.loads((run / "results.json").read_text()).keys() == {"retrieval", "zero_shot"}
    assert not list(run.glob(".*"))


GUIDED = (
    *OVERRIDES,
    "data.caption_sampling=random",
    "data.train.rows=120",
    "training.epochs=4",
    "negatives.rule=[duplicates, calibrated]",
    "negatives.known_positives=mask",
    "negatives.start=0.3",
    "negatives.cluster={share: 0.25, start: 0.3, items_per_cluster: 12, correction: 0.5}",
)


def test_two_processes_guide_and_calibrate_as_one_does(tmp_path: Path) -> None:
    """The order, the clusters and the calibrator are the global batch's, whoever computes them."""
    run = tmp_path / "two" / "run"
    run.parent.mkdir()
    finished = torchrun(tiny_config(run, *GUIDED))
    assert finished.returncode == 0, finished.stderr
    one = train(tiny_config(tmp_path / "one", *GUIDED)).run_dir
    ours, theirs = ([line for line in metric_lines(r) if "loss" in line] for r in (run, one))
    assert len(ours) == len(theirs) == 24
    assert all("cluster_inertia" in line for line in ours[12:])
    for mine, other in zip(ours[:8], theirs[:8], strict=True):  # before the first plan: the same up to rounding
        assert mine.keys() == other.keys()
        assert mine["loss"] == pytest.approx(other["loss"], abs=1e-4)
    # Two clusterings of features that differ in a last bit may differ: from here on it only has to work.
    assert all(line["loss"] == pytest.approx(other["loss"], abs=1.0) for line, other in zip(ours, theirs, strict=True))
    assert all(line["samples_seen"] == 20 * line["global_step"] for line in ours)
