"""Every failure: one line on stderr, a code that says what kind it was, and no traceback unless asked for."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import typer
from typer.testing import CliRunner

import mmcontrast
from mmcontrast.cli import app
from mmcontrast.errors import ConfigError, DataError, TrainingInterrupted


@pytest.fixture
def config(tmp_path: Path) -> str:
    path = tmp_path / "c.yaml"
    path.write_text("data:\n  train: {path: x}\n")
    return str(path)


def fail_with(error: BaseException, monkeypatch: pytest.MonkeyPatch) -> None:
    def train(*args: object, **kwargs: object) -> None:
        raise error

    stand_in = SimpleNamespace(train=train)
    monkeypatch.setitem(sys.modules, "mmcontrast.build", stand_in)  # type: ignore[arg-type]
    monkeypatch.setattr(mmcontrast, "build", stand_in, raising=False)


class OutOfMemoryError(RuntimeError):
    """Named as torch's."""


@pytest.mark.parametrize(
    ("error", "code", "lines"),
    [
        (DataError("a.csv: row 3: empty caption"), 1, ["error: a.csv: row 3: empty caption"]),
        (ConfigError("a.yaml:1: x\na.yaml:2: y"), 1, ["error: a.yaml:1: x", "error: a.yaml:2: y"]),
        (DataError(), 1, ["error: DataError"]),
        (TrainingInterrupted("saved at step 3", 143), 143, ["error: saved at step 3"]),
        (TrainingInterrupted("saved at step 3", 130), 130, ["error: saved at step 3"]),
        (KeyboardInterrupt(), 130, ["error: interrupted"]),
        (PermissionError(13, "Permission denied", "/x"), 1, ["error: /x: Permission denied"]),
        (OSError(28, "No space left on device"), 1, ["error: No space left on device"]),
        (
            RuntimeError("shapes\n  differ"),
            70,
            ["error: unexpected RuntimeError: shapes differ (add --debug for the traceback)"],
        ),
        (
            OutOfMemoryError("tried to allocate"),
            1,
            [
                "error: memory is full: set training.micro_batch_size or training.gradient_checkpointing, "
                "or lower training.global_batch_size (evaluate, embed: --batch-size)"
            ],
        ),
        (
            RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"),
            1,
            [
                "error: memory is full: set training.micro_batch_size or training.gradient_checkpointing, "
                "or lower training.global_batch_size (evaluate, embed: --batch-size)"
            ],
        ),
        (typer.BadParameter("no"), 2, ["error: Invalid value: no (see --help)"]),
    ],
)
def test_errors_of_a_command(
    error: BaseException, code: int, lines: list[str], config: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    fail_with(error, monkeypatch)
    result = CliRunner().invoke(app, ["train", config])
    assert result.stderr.splitlines() == lines
    assert result.exit_code == code
    assert result.stdout == ""


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["trian"], "No such command 'trian'"),
        (["train"], "Missing argument"),
        (["train", "x.yaml", "--epochs", "3"], "No such option"),
        (["evaluate", "m"], "give --data FILE, or --suite FILE"),
        (["evaluate", "m", "--data", "d", "--task", "probe"], "'probe' is not one of"),
        (
            ["evaluate", "m", "--suite", "s", "--data", "d", "--label-column", "l"],
            "--suite says what to do: leave out data, label_column",
        ),
        (["embed", "m", "d", "--output", "o", "--batch-size", "0"], "Invalid value for '--batch-size'"),
        (["config"], "Missing command"),
    ],
)
def test_wrong_usage_is_one_line(words: list[str], line: str) -> None:
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 2
    assert result.stdout == ""
    (told,) = result.stderr.splitlines()
    assert told.startswith("error: ")
    assert told.endswith(" (see --help)")
    assert line in told


@pytest.mark.parametrize("words", [["config", "check", "no.yaml"], ["evaluate", "m", "--suite", "no.yaml"]])
def test_missing_files(words: list[str]) -> None:
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 1
    assert result.stderr == "error: no.yaml: no such file; give the path of a YAML config\n"


@pytest.mark.parametrize("place", [0, 2])
def test_debug_anywhere_shows_the_traceback(place: int, config: str, monkeypatch: pytest.MonkeyPatch) -> None:
    fail_with(RuntimeError("broken"), monkeypatch)
    words = ["train", config]
    assert "Traceback" not in CliRunner().invoke(app, words).stderr
    result = CliRunner().invoke(app, [*words[:place], "--debug", *words[place:]])
    assert "Traceback" in result.stderr
    assert result.exit_code == 70
