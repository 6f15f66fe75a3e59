"""The time of day may jump in the middle of a run, by an hour or a year: nothing that is timed notices."""

from __future__ import annotations

import ast
import io
import itertools
import json
import re
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from rich.console import Console
from test_trainer import make_trainer

import mmcontrast
from mmcontrast.data.steady import Patience, Unit, steady_rows
from mmcontrast.errors import ReadError
from mmcontrast.training.log import ProgressDisplay

ROOT = Path(mmcontrast.__file__).parent


@pytest.fixture
def jumping(monkeypatch: pytest.MonkeyPatch) -> None:
    """A time of day that is set on by an hour, then back by two, whenever somebody looks."""
    offsets = itertools.cycle([0.0, 3600.0, -3600.0, 3e7])
    now = time.time
    monkeypatch.setattr(time, "time", lambda: now() + next(offsets))


@pytest.mark.usefixtures("jumping")
def test_speed_and_eta(tmp_path: Path) -> None:
    text = io.StringIO()
    begin = time.monotonic()
    trainer = make_trainer(tmp_path, steps=12)
    trainer.display = ProgressDisplay(12, Console(file=text, width=200))
    trainer.fit()
    elapsed = time.monotonic() - begin
    found = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert len(found) == 4
    assert all(0 < line["seconds_per_step"] < elapsed for line in found)
    etas = [float(eta) for eta in re.findall(r"eta (\S+) min", text.getvalue())]
    assert len(etas) == 4
    assert all(0 <= eta <= 12 * elapsed / 60 + 0.1 for eta in etas)


@pytest.mark.usefixtures("jumping")
def test_checkpoints_by_minutes(tmp_path: Path) -> None:
    make_trainer(tmp_path, steps=6, checkpoint_every=100, checkpoint_minutes=59).fit()
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["step-00000006"]


@pytest.mark.usefixtures("jumping")
def test_waits_for_shards() -> None:
    def silent() -> Iterator[None]:
        time.sleep(0.4)
        yield None

    begin = time.monotonic()
    (skipped,) = steady_rows(Unit(silent, "f"), Patience(retries=1, first_wait=0.1, timeout=0.1))  # type: ignore[arg-type]
    assert "2 tries: f: stalled" in skipped.reason  # type: ignore[union-attr]
    assert 0.3 <= time.monotonic() - begin < 3

    def failing() -> Iterator[None]:
        raise ReadError("f: reset by peer")
        yield None

    begin = time.monotonic()
    list(steady_rows(Unit(failing, "f"), Patience(retries=2, first_wait=0.05, timeout=30)))  # type: ignore[arg-type]
    assert 0.15 <= time.monotonic() - begin < 3


def test_nobody_asks_for_the_time_of_day() -> None:
    """It is for dates; what takes time is measured by a clock that nobody sets."""
    asked = set()
    for path in ROOT.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Attribute) and ast.unparse(node) in ("time.time", "time.time_ns", "datetime.now"):
                asked.add(str(path.relative_to(ROOT)))
            if isinstance(node, ast.ImportFrom) and node.module == "time" and {"time"} & {n.name for n in node.names}:
                asked.add(str(path.relative_to(ROOT)))
    assert asked == set()
