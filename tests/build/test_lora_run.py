"""Runs whose towers learn by adapters: chunks, averages, resuming, two processes, and the model that is left."""

from __future__ import annotations

import json
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from test_distributed_run import torchrun
from tiny_runs import CommandLines, assert_same_run, last_weights, metric_lines, tiny_config, train

import mmcontrast
from mmcontrast.config import Config, dump_config, load_config
from mmcontrast.data import open_source
from mmcontrast.errors import ConfigError

pytest.importorskip("peft")
pytestmark = pytest.mark.usefixtures("one_thread")
IMAGE = (
    "model.image={library: open_clip, image_size: 32, kwargs: {width: 32, layers: 1, head_width: 16, patch_size: 8}}"
)
LORA = {"image": {"lora": {"rank": 2, "dropout": 0.1}}, "text": {"lora": {"rank": 4, "targets": ["attn", "c_fc"]}}}


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of transformers to start from."""
    short = ("training.epochs=1", "data.train.rows=40", "evaluation.inspect_negatives=0")
    return train(tiny_config(tmp_path_factory.mktemp("start") / "run", IMAGE, *short)).run_dir / "model"


def adapted(start: Path, output: Path, *overrides: str, lora: dict[str, Any] = LORA) -> Config:
    short = ("training.max_steps=10", "evaluation.inspect_negatives=0")
    values = tiny_config(output, *short).model_dump(exclude={"model"})
    return load_config({**values, "model": {"init_from": str(start), **lora}}, overrides)


def test_only_adapters_and_heads_learn_and_the_model_is_an_ordinary_one(start: Path, tmp_path: Path) -> None:
    run = train(adapted(start, tmp_path / "run", "training.learning_rate=0.01")).run_dir
    before = mmcontrast.DualEncoder.from_pretrained(start).state_dict()
    for name, value in last_weights(run).items():
        own = name.replace(".base_layer", "").replace(".in_proj.", ".in_proj_")  # as before they got adapters
        if "encoder" in name and ".lora_" not in name:
            assert torch.equal(value, before[own]), name
    model = mmcontrast.DualEncoder.from_pretrained(run / "model")
    assert "lora" not in (run / "model" / "config.json").read_text()
    after = model.state_dict()
    assert after.keys() == before.keys()
    moved = {name for name in before if not torch.equal(after[name], before[name])}
    assert {name.rpartition("resblocks.0.")[2] for name in moved if "text_encoder" in name} == {
        "attn.in_proj_weight",
        "attn.out_proj.weight",
        "mlp.c_fc.weight",
    }
    source = open_source("synthetic://scenes", split="validation", rows=40)
    results = json.loads((run / "results.json").read_text())["retrieval"]
    assert mmcontrast.evaluate(model, source)["retrieval"] == pytest.approx(results)


def test_a_killed_run_goes_on_as_if_nothing_had_been(
    start: Path, tmp_path: Path, mmcontrast_command: CommandLines
) -> None:
    options = ("training.micro_batch_size=6", "training.ema_decay=0.9")
    whole = train(adapted(start, tmp_path / "whole", *options)).run_dir
    (tmp_path / "lora.yaml").write_text(dump_config(adapted(start, tmp_path / "run", *options)))
    assert mmcontrast_command("train", tmp_path / "lora.yaml", die=(6, signal.SIGKILL)).code == -9
    resumed = mmcontrast_command("train", tmp_path / "lora.yaml", "--resume")
    assert resumed.code == 0, resumed.stderr
    assert_same_run(whole, tmp_path / "run")
    ours, theirs = (
        mmcontrast.DualEncoder.from_pretrained(run / "model").state_dict() for run in (whole, tmp_path / "run")
    )
    assert all(torch.equal(value, theirs[name]) for name, value in ours.items())


def test_two_processes_in_chunks_train_what_one_trains_in_whole(start: Path, tmp_path: Path) -> None:
    same = ("training.max_steps=3", "training.log_every_steps=1", "training.checkpoint_every_steps=3")
    # Neither dropout nor batch norm, which differ between one process and two; init_from keeps the start's dropout.
    lora = {"image": {"lora": {"rank": 2}}, "text": {"lora": {"rank": 2}}}
    plain = mmcontrast.DualEncoder.from_pretrained(start)
    for head in (plain.image_projection, plain.text_projection):
        for module in head.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.0
    spec = plain.spec
    plain.spec = replace(spec, image=replace(spec.image, dropout=0.0), text=replace(spec.text, dropout=0.0))
    plain.save_pretrained(tmp_path / "start")
    run = tmp_path / "two" / "run"
    run.parent.mkdir()
    rows = "data.train.rows=20"
    config = adapted(tmp_path / "start", run, *same, rows, "data.caption_sampling=all", lora=lora)
    finished = torchrun(load_config({**config.model_dump()}, ["training.micro_batch_size=4"]))
    assert finished.returncode == 0, finished.stderr
    config = adapted(tmp_path / "start", tmp_path / "one", *same, rows, "data.caption_sampling=all", lora=lora)
    one = train(config).run_dir
    for ours, theirs in zip(metric_lines(run), metric_lines(one), strict=True):
        assert ours.get("loss") == pytest.approx(theirs.get("loss"), abs=1e-5)
    weights = last_weights(one)
    for name, value in last_weights(run).items():
        torch.testing.assert_close(value, weights[name], atol=1e-4, rtol=0, msg=name)


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ({"image": {"lora": {"rank": 0}}}, "model.image.lora.rank"),
        (
            {"image": {"lora": {"rank": 2}}},
            "model.image.lora: would adapt random weights; set model.image.pretrained or",
        ),
        (
            {"init_from": "m", "text": {"locked": True, "lora": {}}},
            "model.text.lora: keeps the tower's own weights as they are by itself; leave model.text.locked out",
        ),
        ({"init_from": "m", "text": {"lora": {"targets": []}}}, "model.text.lora.targets"),
        ({"init_from": "m", "text": {"lora": {"r": 2}}}, "model.text.lora.r"),
    ],
)
def test_configs_that_cannot_be(model: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_config({"model": model, "data": {"train": {"path": "synthetic://scenes"}}})
