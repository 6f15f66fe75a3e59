"""Whole runs on streams: killed in the middle of a pool of guided batches, and with shards that are no good."""

from __future__ import annotations

import io
import json
import signal
import tarfile
from pathlib import Path

import pytest
from tiny_runs import CommandLines, assert_same_run, metric_lines, tiny_config, train

from mmcontrast.config import dump_config
from mmcontrast.data import open_source

pytestmark = pytest.mark.usefixtures("one_thread")

STREAM = (
    "data.streaming=true",
    "data.shuffle_buffer=24",
    "data.workers=2",
    "data.train.rows=null",
    "data.validation.rows=20",
    "training.max_steps=16",
    "training.log_every_steps=1",
    "training.checkpoint_every_steps=5",
    "negatives.cluster={share: 0.4, start: 0.2, items_per_cluster: 12, refresh_every_steps: 4}",
    "evaluation.every_epochs=null",
    "evaluation.every_steps=16",
)


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six tars of 20 scenes; in the third, three pictures are torn."""
    folder: Path = tmp_path_factory.mktemp("shards")
    scenes = open_source("synthetic://scenes", rows=120)
    for shard in range(6):
        with tarfile.open(folder / f"{shard}.tar", "w") as tar:
            for i in range(20 * shard, 20 * shard + 20):
                data = scenes.image(i)
                assert isinstance(data, bytes)
                data = data[:50] if i in (41, 47, 55) else data
                for suffix, content in (("jpg", data), ("txt", "\n".join(scenes.captions(i)).encode())):
                    member = tarfile.TarInfo(f"{i:05}.{suffix}")
                    member.size = len(content)
                    tar.addfile(member, io.BytesIO(content))
    return folder


def test_a_killed_stream_goes_on_as_if_nothing_had_been(
    shards: Path, tmp_path: Path, mmcontrast_command: CommandLines
) -> None:
    overrides = (*STREAM, f"data.train.path={shards}")
    whole = train(tiny_config(tmp_path / "whole", *overrides)).run_dir
    assert any(line.get("clusters") for line in metric_lines(whole))
    file = tmp_path / "run.yaml"
    file.write_text(dump_config(tiny_config(tmp_path / "run", *overrides)))
    killed = mmcontrast_command("train", file, die=(13, signal.SIGKILL))  # saved at 10, in the second pass
    assert killed.code == -signal.SIGKILL, killed.stderr
    resumed = mmcontrast_command("train", file, "--resume")
    assert resumed.code == 0, resumed.stderr
    assert_same_run(whole, tmp_path / "run")


def test_a_bad_shard_is_recorded_and_the_run_goes_on(shards: Path, tmp_path: Path) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    for shard in sorted(shards.iterdir()):
        data = bytearray(shard.read_bytes())
        if shard.name == "4.tar":
            data = data[:3000]
        (folder / shard.name).write_bytes(data)
    options = (*STREAM, f"data.train.path={folder}", "data.max_bad_row_share=0.2", "negatives.cluster.share=0")
    run = train(tiny_config(tmp_path / "run", *options, "training.max_steps=8")).run_dir
    bad = [json.loads(line) for line in (run / "bad_rows.jsonl").read_text().splitlines()]
    (shard_line,) = {row["reason"] for row in bad if row["source"].endswith("4.tar") and "cut off" in row["reason"]}
    assert "rows after it are missing" in shard_line
    assert metric_lines(run)[-1]["global_step"] == 8


def test_a_killed_mixture_goes_on_as_if_nothing_had_been(
    shards: Path, tmp_path: Path, mmcontrast_command: CommandLines
) -> None:
    """Guided and with workers; one source is shorter than a batch, and one has a shard that is no good."""
    few = tmp_path / "few.tar"
    with tarfile.open(shards / "0.tar") as whole_tar, tarfile.open(few, "w") as tar:
        for member in whole_tar.getmembers()[:14]:
            tar.addfile(member, whole_tar.extractfile(member))
    torn = tmp_path / "torn.tar"
    torn.write_bytes((shards / "1.tar").read_bytes()[:20_000])
    sources = f"data.train=[{{path: '{shards}/{{2..5}}.tar', weight: 3}}, {{path: {few}}}, {{path: {torn}}}]"
    overrides = (*STREAM, sources, "data.max_bad_row_share=0.3")
    run = train(tiny_config(tmp_path / "whole", *overrides)).run_dir
    last = [line for line in metric_lines(run) if "loss" in line][-1]
    counts = [last[f"pairs_of_source_{source}"] for source in range(3)]
    assert sum(counts) == 16 * 20
    assert counts == pytest.approx([192, 64, 64], abs=1)
    facts = json.loads((run / "facts.json").read_text())
    assert [source["pairs"] for source in facts["train"]["sources"]] == counts
    bad = [json.loads(line) for line in (run / "bad_rows.jsonl").read_text().splitlines()]
    assert str(torn) in {row["source"] for row in bad}
    file = tmp_path / "run.yaml"
    file.write_text(dump_config(tiny_config(tmp_path / "run", *overrides)))
    killed = mmcontrast_command("train", file, die=(13, signal.SIGKILL))
    assert killed.code == -signal.SIGKILL, killed.stderr
    assert "a mixture of 3 streams: 60.0% " in killed.stderr
    resumed = mmcontrast_command("train", file, "--resume")
    assert resumed.code == 0, resumed.stderr
    assert_same_run(run, tmp_path / "run")
