"""Names, captions and errors of others cannot command the terminal, nor be read as markup."""

from __future__ import annotations

import io
import json
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from making_hostile import ESCAPES, hostile_table
from rich.console import Console
from tiny_runs import CommandLines, tiny_config
from typer.testing import CliRunner

from mmcontrast.build.remarks import show_line
from mmcontrast.cli import app, exit_codes, output
from mmcontrast.config import dump_config
from mmcontrast.errors import DataError, MMContrastError, printable
from mmcontrast.training.log import ProgressDisplay

# What rich itself writes for colours and cursors begins with ESC [; nothing of ours may lead to others.
RAW = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")


def test_control_characters_are_spelt_out() -> None:
    assert printable("a\x1b[31mb\x07\x9b\x85") == "a\\x1b[31mb\\x07\\x9b\\x85"
    assert printable("\u202eabc\u2069\ud800") == "\\u202eabc\\u2069\\ud800"
    kept = "plain, tab\t, line\n, ü, 漢字, كلب أحمر, 👩‍👩‍👧 é \u200f"
    assert printable(kept) == kept


@pytest.mark.parametrize("error", [DataError(ESCAPES), RuntimeError(ESCAPES), OSError(2, ESCAPES, ESCAPES)])
def test_errors(error: Exception, capsys: pytest.CaptureFixture[str]) -> None:
    exit_codes.explain(error)
    shown = capsys.readouterr().err
    assert not RAW.search(shown)
    assert "\\x1b" in shown
    assert shown.startswith("error: ")


def test_errors_of_any_length_stay_readable(capsys: pytest.CaptureFixture[str]) -> None:
    exit_codes.explain(DataError("x" * 10**6))
    assert len(capsys.readouterr().err) < 2100
    exit_codes.explain(MMContrastError("\n".join(f"line {i}" for i in range(5000))))
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 101
    assert lines[-1] == "error: and 4900 more of the kind"


def test_the_traceback_of_debug(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text("data: {train: {path: 'x\\e[2J'}}\nodd\x85: 1\n")
    result = CliRunner().invoke(app, ["--debug", "config", "check", f"{tmp_path}/\x1b]0;x.yaml"])
    assert "Traceback" in result.stderr
    assert not RAW.search(result.stderr)


def test_lines_beside_the_progress() -> None:
    for terminal in (True, False):
        stream = io.StringIO()
        console = Console(file=stream, force_terminal=terminal, color_system=None)
        display = ProgressDisplay(10, console)
        text = f"{ESCAPES} [red]no colour[/] [/x] :smile:"
        show_line(console, text)
        display.warn(text)
        shown = stream.getvalue()
        assert not RAW.search(shown)
        assert shown.count("[red]no colour[/] [/x] :smile:") == 2


def test_tables_and_summaries(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    evil = f"{ESCAPES}[/x][bold]"
    pair = {"probability": 0.9, "cosine": 0.5, "caption": evil, "other_caption": "b" * 10**6}
    shares = {"known_share": 0.1, "believed_share": 0.1, "true_share": 0.1, "truth": "label", "calibrated": True}
    output.show_negatives({**shares, "false_negatives": [pair]}, Path(evil), None)
    output.show_scores({evil: {evil: 0.5}}, None)
    output.show_summary({evil: evil}, Path(evil))
    output.show_remark(evil)
    sweep: Any = SimpleNamespace(alphas=[0.5], curves={evil: [1.0]}, chosen=None)
    output.show_sweep(sweep, Path(evil))
    with output.progress(evil) as advance:
        advance(1)
    shown = capsys.readouterr()
    assert not RAW.search(shown.out)
    assert not RAW.search(shown.err)
    assert "[/x][bold]" in shown.out
    assert len(shown.out) < 50_000


def test_json_says_the_same_without_raw_characters() -> None:
    values = {ESCAPES: ["\u202e\x9b\ud800", "ü 🙂"]}
    text = output.as_json_text(values)
    assert not RAW.search(text)
    assert "ü 🙂" in text
    assert json.loads(text) == values
    text.encode()


def test_a_whole_run_on_hostile_data(tmp_path: Path, mmcontrast_command: CommandLines) -> None:
    """Right-to-left and emoji captions, one of a megabyte, and control characters in captions, names and columns."""
    table = hostile_table(tmp_path)
    data = [f"data.train={{path: {json.dumps(str(table))}}}", "data.validation={path: synthetic://scenes, rows: 20}"]
    options = [*data, "data.max_bad_row_share=0.5", "training.epochs=1", "training.global_batch_size=8"]
    options.append("model.tokenizer.vocab_size=3000")
    (tmp_path / "c.yaml").write_text(dump_config(tiny_config(tmp_path / "run", *options)))
    finished = mmcontrast_command("train", tmp_path / "c.yaml")
    assert finished.code == 0, finished.stderr
    assert not RAW.search(finished.stdout + finished.stderr)
    bad = [json.loads(line) for line in (tmp_path / "run" / "bad_rows.jsonl").read_text().splitlines()]
    assert len(bad) == 2
    assert not RAW.search("".join(row["reason"] for row in bad))
    page = (tmp_path / "run" / "report.html").read_text()
    assert "<script>alert" not in page
    finished = mmcontrast_command(
        "evaluate", tmp_path / "run" / "model", "--data", table, "--output", tmp_path / "out.json"
    )
    assert finished.code == 0, finished.stderr
    assert not RAW.search(finished.stdout + finished.stderr)
