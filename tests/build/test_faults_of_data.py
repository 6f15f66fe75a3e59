"""Whole runs on data of which a twentieth is broken, each picture in another way: all are listed, the run goes on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from broken_pictures import BROKEN, write_broken
from tiny_runs import CommandLines, metric_lines, tiny_config, train

from mmcontrast.config import dump_config
from mmcontrast.data import open_source
from mmcontrast.errors import DataError

pytestmark = pytest.mark.usefixtures("one_thread")

ROWS = 20 * len(BROKEN)
OPTIONS = (
    "data.validation=null",
    "data.max_bad_row_share=0.06",
    "training.epochs=4",  # what does not fill a batch is left out of an epoch
    "training.global_batch_size=20",
    "evaluation.every_epochs=null",
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pictures with a table; one in twenty is broken, each kind once."""
    place = tmp_path_factory.mktemp("broken")
    scenes = open_source("synthetic://scenes", rows=ROWS)
    rows = []
    for i in range(ROWS):
        name = f"{i:03}.jpg"
        data = scenes.image(i)
        assert isinstance(data, bytes)
        if i % 20 == 7:
            write_broken(list(BROKEN)[i // 20], place / name, data)
        else:
            (place / name).write_bytes(data)
        rows.append({"image": name, "caption": scenes.captions(i)[0]})
    (place / "data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return place


def in_tar(folder: Path, path: Path) -> Path:
    import tarfile

    with tarfile.open(path, "w") as tar:
        for line in (folder / "data.jsonl").read_text().splitlines():
            row = json.loads(line)
            (path.parent / "caption.txt").write_text(row["caption"])
            picture = folder / row["image"]
            if picture.is_file():
                tar.add(picture, row["image"])
            tar.add(path.parent / "caption.txt", row["image"].replace(".jpg", ".txt"))
    return path


def in_parquet(folder: Path, path: Path) -> Path:
    rows = [json.loads(line) for line in (folder / "data.jsonl").read_text().splitlines()]
    files = [folder / row["image"] for row in rows]
    cells = [file.read_bytes() if file.is_file() else None for file in files]
    table = pa.table({"image": pa.array(cells, pa.binary()), "caption": [row["caption"] for row in rows]})
    pq.write_table(table, path, row_group_size=32)
    return path


@pytest.mark.parametrize("kind", ["jsonl", "tar", "parquet", "stream", "cache"])
def test_each_is_listed_once_with_its_reason(kind: str, folder: Path, tmp_path: Path) -> None:
    path = folder / "data.jsonl"
    if kind in ("tar", "parquet", "stream"):
        make = in_parquet if kind == "parquet" else in_tar
        path = make(folder, tmp_path / f"data.{kind.replace('stream', 'tar')}")
    options = [*OPTIONS, f"data.train={{path: {path}}}"]
    if kind == "stream":
        options += ["data.streaming=true", f"training.max_steps={ROWS // 20 + 2}"]
    if kind == "cache":
        options.append(f"data.image_cache={tmp_path / 'cache'}")
    run = train(tiny_config(tmp_path / "run", *options)).run_dir
    bad = [json.loads(line) for line in (run / "bad_rows.jsonl").read_text().splitlines()]
    assert sorted(row["row"] for row in bad) == [20 * i + 7 for i in range(len(BROKEN))]
    for row in bad:
        assert row["source"] == str(path)
        name, (_, reason) = list(BROKEN.items())[row["row"] // 20]
        # In a table or a tar there is no folder, and an empty file is an empty cell.
        nothing = name in ("a folder", "empty file") and ("no picture" in row["reason"] or "empty" in row["reason"])
        assert nothing or reason in row["reason"], row
    logged = [line for line in metric_lines(run) if "loss" in line]
    assert logged[-1]["samples_seen"] == 20 * logged[-1]["global_step"]  # batches stay full
    assert all(line["loss"] is not None for line in logged)


def test_evaluation_and_features_leave_them_out(
    tiny_run: Path, folder: Path, tmp_path: Path, mmcontrast_command: CommandLines
) -> None:
    data = folder / "data.jsonl"
    finished = mmcontrast_command("evaluate", tiny_run / "model", "--data", data, "--output", tmp_path / "out.json")
    assert finished.code == 0, finished.stderr
    assert "Traceback" not in finished.stderr
    finished = mmcontrast_command("embed", tiny_run / "model", data, "--output", tmp_path / "features")
    assert finished.code == 0, finished.stderr
    bad = [json.loads(line) for line in (tmp_path / "features" / "bad_rows.jsonl").read_text().splitlines()]
    assert sorted(row["row"] for row in bad) == [20 * i + 7 for i in range(len(BROKEN))]


def cut_tar(folder: Path, path: Path) -> None:
    whole = in_tar(folder, path).read_bytes()
    path.write_bytes(whole[: len(whole) // 2 + 700])


def test_a_tar_that_was_cut_off(folder: Path, tmp_path: Path) -> None:
    """Half of a download: its whole pairs are used, and the row where it ends says that more is missing."""
    cut_tar(folder, tmp_path / "data.tar")
    options = [*OPTIONS, f"data.train={{path: {tmp_path / 'data.tar'}}}", "data.max_bad_row_share=0.2"]
    run = train(tiny_config(tmp_path / "run", *options)).run_dir
    bad = [json.loads(line) for line in (run / "bad_rows.jsonl").read_text().splitlines()]
    assert next(row["reason"] for row in bad if "cut off" in row["reason"]).startswith("the tar is cut off at member ")
    assert (run / "model" / "model.safetensors").is_file()


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("data.parquet", b"", r"data.parquet: not a readable Parquet file: \S"),
        ("data.parquet", b"PAR1" + bytes(100) + b"PAR1", r"data.parquet: not a readable Parquet file: \S"),
        ("data.tar", b"", r"there is no whole file in .*data.tar: it is empty or cut off"),
        ("data.tar", b"\x1f\x8b" + bytes(600), r"not a tar file \(packed tars cannot be read in place"),
        ("data.csv", b"", r"data.csv: there is no row in it"),
        ("data.csv", bytes(1000), r"data.csv: no column looks like pictures"),
        ("data.jsonl", b"\xff\xfe\x00", r"data.jsonl: not UTF-8 text"),
        ("data.json", b"[]", r"no column looks like pictures|there is no row"),
    ],
)
@pytest.mark.parametrize("streaming", [False, True])
def test_files_that_are_nothing(name: str, data: bytes, message: str, streaming: bool, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(data)
    options: list[Any] = [*OPTIONS, f"data.train={{path: {tmp_path / name}}}", f"data.streaming={streaming}".lower()]
    options += ["training.max_steps=3"] if streaming else []
    with pytest.raises(DataError, match=message) as caught:
        train(tiny_config(tmp_path / "run", *options))
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists()


def test_output_that_is_read_only_or_full(tiny_run: Path, tmp_path: Path, mmcontrast_command: CommandLines) -> None:
    """Every command that writes says in one line where it could not."""
    (tmp_path / "file").touch()
    here = tmp_path / "file" / "x"
    (tmp_path / "c.yaml").write_text(dump_config(tiny_config(tmp_path / "run")))
    scenes = "synthetic://scenes"
    for words in (
        ["embed", tiny_run / "model", scenes, "--output", here],
        ["tokenizer", "train", scenes, "--vocab-size", "300", "--output", here],
        ["config", "check", tmp_path / "c.yaml", "--output", here],
        ["merge", tiny_run / "model", tiny_run / "model", "--output", here],
    ):
        finished = mmcontrast_command(*words)
        assert finished.code in (1, 2), (words, finished.stderr)
        assert finished.error
    if Path("/dev/full").exists():
        for words in (["config", "schema"], ["config", "check", tmp_path / "c.yaml"]):
            finished = mmcontrast_command(*words, "--output", "/dev/full")
            assert finished.code == 1
            assert finished.error.endswith("No space left on device")
