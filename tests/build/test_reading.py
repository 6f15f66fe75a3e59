"""Captions tokenized beforehand and cached pictures, in whole runs."""

from __future__ import annotations

import io
import json
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from rich.console import Console
from test_distributed_run import OVERRIDES, torchrun
from tiny_runs import CommandLines, assert_same_run, metric_lines, tiny_config, train

from mmcontrast.build import reading, run
from mmcontrast.config import dump_config
from mmcontrast.data import image_cache_build, open_source
from mmcontrast.data.image_cache import PICTURES, SEAL
from mmcontrast.errors import ConfigError, DataError

pytestmark = pytest.mark.usefixtures("one_thread")
SCENES = "synthetic://scenes"


@pytest.fixture
def pairs(tmp_path: Path) -> Path:
    """60 scenes in a file, two of them broken, enlarged so that the cache makes them smaller."""
    scenes = open_source(SCENES, rows=60)
    images = [scenes.image(i) if i not in (7, 20) else b"broken" for i in range(60)]
    table = pa.table({"image": images, "captions": [scenes.captions(i) for i in range(60)]})
    pq.write_table(table, tmp_path / "scenes.parquet")
    return tmp_path / "scenes.parquet"


def cached(pairs: Path, *more: str) -> list[str]:
    """A run over few epochs whose pictures, 64 pixels, are kept at 48."""
    cache = pairs.parent / "cache"
    options = [f"data.train.path={pairs}", "data.train.rows=null", "data.max_bad_row_share=0.2", "training.epochs=3"]
    return [*options, f"data.image_cache={cache}", "data.image_cache_size=48", *more]


@pytest.mark.parametrize("setting", ["true", "false"])
def test_tokenizing_beforehand_changes_nothing(
    tiny_run: Path, tmp_path: Path, setting: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    tables: list[Any] = []
    make = reading.tokenize_source
    monkeypatch.setattr(reading, "tokenize_source", lambda *a, **k: tables.append(make(*a, **k)) or tables[-1])
    assert_same_run(tiny_run, train(tiny_config(tmp_path / "run", f"data.pretokenize={setting}")).run_dir)
    assert len(tables) == (setting == "true")


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        ([], False),  # 360 draws of more captions
        (["training.epochs=5"], True),
        (["training.epochs=5", "data.pretokenize=false"], False),
        (["data.pretokenize=true"], True),
    ],
)
def test_auto_tokenizes_beforehand_where_it_is_worth_it(tmp_path: Path, overrides: list[str], expected: bool) -> None:
    config = tiny_config(tmp_path / "run", *overrides)
    prepared = run.prepare(config, Console(quiet=True))
    assert 360 < reading.num_captions(prepared.source) < 600  # type: ignore[arg-type]
    table = prepared.trainer.batches.loader.collate_fn.keywords["table"]  # type: ignore[union-attr]
    assert (table is not None) == expected


def test_a_cached_run_lists_the_same_bad_rows_and_goes_on_like_any_other(
    pairs: Path, tmp_path: Path, mmcontrast_command: CommandLines
) -> None:
    one = train(tiny_config(tmp_path / "one", *cached(pairs))).run_dir
    plain = train(
        tiny_config(tmp_path / "plain", *cached(pairs, "data.image_cache=null", "data.image_cache_size=null"))
    )
    rows = [sorted((folder / "bad_rows.jsonl").read_text().splitlines()) for folder in (one, plain.run_dir)]
    assert rows[0] == rows[1]
    assert sorted(json.loads(line)["row"] for line in rows[0]) == [7, 20]
    losses = [[line["loss"] for line in metric_lines(folder) if "loss" in line] for folder in (one, plain.run_dir)]
    assert losses[0] != losses[1]
    assert losses[0] == pytest.approx(losses[1], abs=0.2)
    two = tmp_path / "two"
    (tmp_path / "two.yaml").write_text(dump_config(tiny_config(two, *cached(pairs))))
    stopped = mmcontrast_command("train", tmp_path / "two.yaml", "--set", "data.workers=2", die=(6, signal.SIGKILL))
    assert stopped.code == -9
    assert "pictures, about" not in stopped.stderr  # built by the first run
    resumed = mmcontrast_command("train", tmp_path / "two.yaml", "--resume", "--set", "data.pretokenize=false")
    assert resumed.code == 0, resumed.stderr
    assert_same_run(one, two)


def test_two_processes_build_one_cache(pairs: Path, tmp_path: Path) -> None:
    options = [*OVERRIDES, *cached(pairs, "training.epochs=1", "data.pretokenize=true", "data.workers=1")]
    folder = tmp_path / "two" / "run"
    folder.parent.mkdir()
    finished = torchrun(tiny_config(folder, *options))
    assert finished.returncode == 0, finished.stderr
    assert finished.stderr.count("60 pictures, about") == 1
    (place,) = (tmp_path / "cache").iterdir()
    built = (place / SEAL).stat().st_mtime_ns
    one = train(tiny_config(tmp_path / "one", *options)).run_dir
    assert (place / SEAL).stat().st_mtime_ns == built
    ours, theirs = ([line["loss"] for line in metric_lines(f) if "loss" in line] for f in (folder, one))
    assert ours == pytest.approx(theirs, abs=1e-4)


def test_evaluation_reads_the_originals(pairs: Path, tmp_path: Path) -> None:
    """The cache of the validation file, if it is the training file as well, is not used."""
    finished = train(tiny_config(tmp_path / "run", *cached(pairs, f"data.validation={{path: {pairs}}}")))
    results = json.loads((finished.run_dir / "results.json").read_text())
    import mmcontrast

    assert mmcontrast.evaluate(finished.run_dir / "model", pairs, ["retrieval"])["retrieval"] == results["retrieval"]


def test_progress_in_lines(pairs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "LINE_EVERY", 0.0)
    file = io.StringIO()
    run.prepare(tiny_config(tmp_path / "run", *cached(pairs, "data.pretokenize=true")), Console(file=file, width=200))
    shown = file.getvalue()
    assert "image cache 16/60  eta" in shown
    assert "tokenize" in shown


# What is wrong


def test_a_size_below_the_models(pairs: Path, tmp_path: Path) -> None:
    message = r"data.image_cache_size: 24 is below the model's image_size of 32, .* take 59, or leave it out"
    with pytest.raises(ConfigError, match=message):
        run.prepare(tiny_config(tmp_path / "run", *cached(pairs, "data.image_cache_size=24")), Console(quiet=True))


def test_too_little_room(pairs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_room(place: Path, needed: int) -> None:
        raise DataError(f"data.image_cache: {place} needs {needed}")

    monkeypatch.setattr(image_cache_build, "_check_room", no_room)
    with pytest.raises(DataError, match="needs 4"):
        run.prepare(tiny_config(tmp_path / "run", *cached(pairs)), Console(quiet=True))


def test_damage_is_one_line_for_the_user(pairs: Path, tmp_path: Path, mmcontrast_command: CommandLines) -> None:
    config = tiny_config(tmp_path / "run", *cached(pairs, "data.workers=2"))
    run.prepare(config, Console(quiet=True))
    (place,) = (tmp_path / "cache").iterdir()
    size = (place / PICTURES).stat().st_size
    (place / PICTURES).write_bytes(np.zeros(size, dtype=np.uint8).tobytes())
    (tmp_path / "run.yaml").write_text(dump_config(config))
    finished = mmcontrast_command("train", tmp_path / "run.yaml")
    assert finished.code != 0
    assert finished.error.startswith(f"image cache {place}: row ")
    assert finished.error.endswith("of pictures.bin is not what was written; remove the folder, and it is built anew")


def test_the_default_size_fits_the_augmentation(pairs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Any] = []
    real: Callable[..., Any] = reading.open_image_cache
    monkeypatch.setattr(reading, "open_image_cache", lambda *a, **k: seen.append(a[2]) or real(*a, **k))
    for more in (["data.augmentation=strong"], ["data.augmentation=none"], ["data.draft_decoding=false"]):
        options = cached(pairs, "data.image_cache_size=null", *more)
        run.prepare(tiny_config(tmp_path / "run", *options), Console(quiet=True), overwrite=True)
    assert [(settings.side, settings.draft_side) for settings in seen] == [(59, 71), (32, None), (59, None)]
