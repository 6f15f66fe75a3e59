"""The launch scripts are valid bash, and what they start is understood by the real launchers' own parsers."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
from accelerate.commands.launch import launch_command_parser
from tiny_runs import ROOT
from torch.distributed.run import get_args_parser

SCRIPTS = ROOT / "recipes" / "launch"
SLURM = {"SLURM_JOB_NODELIST": "n[1-2]", "SLURM_JOB_NUM_NODES": "2", "SLURM_JOB_ID": "7"}
RUN = ["my.yaml", "--set", "data.train.path=a b.csv"]


def started(script: str, folder: Path, **environment: str) -> list[str]:
    """The command that a script ends in, by programs of the launchers' names that only write down their arguments."""
    for name in ("torchrun", "accelerate"):
        (folder / name).write_text('#!/bin/sh\nprintf "%s\\0" "$@" > "$NOTED"\n')
    (folder / "srun").write_text('#!/bin/sh\nshift\nexec "$@"\n')
    (folder / "scontrol").write_text("#!/bin/sh\nprintf 'n1\\nn2\\n'\n")
    for program in folder.iterdir():
        program.chmod(0o755)
    noted = folder / "noted"
    path = f"{folder}{os.pathsep}{os.environ['PATH']}"
    finished = subprocess.run(
        ["bash", str(SCRIPTS / script), *RUN],
        env=os.environ | environment | {"PATH": path, "NOTED": str(noted)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert finished.returncode == 0, finished.stderr
    return noted.read_text().split("\0")[:-1]


@pytest.mark.parametrize(
    ("script", "environment", "expected"),
    [
        ("torchrun.sh", {"PROCESSES": "2"}, {"nproc_per_node": "2", "standalone": True}),
        ("multi_node.sh", {"HEAD": "host:1", "NODES": "4"}, {"nnodes": "4", "rdzv_endpoint": "host:1"}),
        ("slurm.sbatch", SLURM, {"nnodes": "2", "rdzv_endpoint": "n1:29500", "rdzv_id": "7", "nproc_per_node": "gpu"}),
    ],
)
def test_torchrun(tmp_path: Path, script: str, environment: dict[str, str], expected: dict[str, object]) -> None:
    arguments = get_args_parser().parse_args(started(script, tmp_path, **environment))
    assert {name: getattr(arguments, name) for name in expected} == expected
    assert arguments.module
    assert arguments.training_script == "mmcontrast"
    assert arguments.training_script_args == ["train", *RUN]


def test_a_requeued_job_goes_on(tmp_path: Path) -> None:
    assert started("slurm.sbatch", tmp_path, **SLURM, SLURM_RESTART_COUNT="1")[-1] == "--resume"


def test_accelerate(tmp_path: Path) -> None:
    command, *rest = started("accelerate.sh", tmp_path, PROCESSES="8")
    arguments = launch_command_parser().parse_args(rest)
    assert command == "launch"
    assert arguments.num_processes == 8
    assert arguments.module
    assert [arguments.training_script, *arguments.training_script_args] == ["mmcontrast", "train", *RUN]


def test_what_is_missing_is_named() -> None:
    for script, name in (("accelerate.sh", "PROCESSES"), ("multi_node.sh", "NODES")):
        clean = {key: value for key, value in os.environ.items() if key != name}
        finished = subprocess.run(
            ["bash", str(SCRIPTS / script), "my.yaml"], env=clean, capture_output=True, text=True, check=False
        )
        assert finished.returncode != 0
        assert name in finished.stderr
