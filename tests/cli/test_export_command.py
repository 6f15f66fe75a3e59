"""Words of the command export that do not fit together."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from mmcontrast.cli import app
from mmcontrast.export.marker import mark


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "give --output FOLDER, or --push-to-hub ORG/NAME"),
        (["--output", "new", "--private"], "--private goes with --push-to-hub"),
        (["--output", "new", "--revision", "v2"], "--revision goes with --push-to-hub"),
        (["--dry-run"], "--dry-run goes with --push-to-hub"),
        (["--overwrite"], "--overwrite goes with --push-to-hub"),
    ],
)
def test_wrong_usage(words: list[str], message: str) -> None:
    result = CliRunner().invoke(app, ["export", "model", *words])
    assert (result.exit_code, result.output) == (2, f"error: Invalid value: {message} (see --help)\n")


@pytest.mark.parametrize("words", [["--format", "onnx"], ["--output", "new"], ["--license", "mit"]])
def test_an_export_is_pushed_as_it_is(tmp_path: Path, words: list[str]) -> None:
    mark(tmp_path, ["onnx"], "a" * 32)
    result = CliRunner().invoke(app, ["export", str(tmp_path), "--push-to-hub", "org/name", *words])
    assert result.exit_code == 1
    assert result.output == f"error: {tmp_path} is an export already: it is pushed as it is, {LEAVE_OUT}\n"


LEAVE_OUT = "without formats, output and card"
