"""`train` from config to folder: what it writes, that it repeats, goes on, and says what is wrong."""

from __future__ import annotations

import json
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from tiny_runs import (
    STEPS,
    TINY,
    CommandLines,
    assert_same_run,
    last_weights,
    metric_lines,
    tiny_config,
    train,
)

import mmcontrast
from mmcontrast.build import run as build_run
from mmcontrast.config import dump_config, load_config
from mmcontrast.data import open_source
from mmcontrast.errors import ConfigError, DataError, MMContrastError, ModelError, TrainingError

pytestmark = pytest.mark.usefixtures("one_thread")
SCENES = "synthetic://scenes"
# Three steps and no report: enough to see that an option works.
SHORT = ("training.max_steps=3", "training.log_every_steps=1", "training.warmup_share=0")


@pytest.fixture
def short(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """Train a few steps with overrides; returns the run folder."""
    monkeypatch.setattr(build_run, "write_run_report", lambda *_: None)

    def short(*overrides: str, name: str = "run", **options: Any) -> Path:
        return train(tiny_config(tmp_path / name, *SHORT, *overrides), **options).run_dir

    return short


def logged(run: Path) -> list[dict[str, Any]]:
    return [line for line in metric_lines(run) if "split" not in line]


def losses(run: Path) -> list[float]:
    return [line["loss"] for line in logged(run)]


def model_of(run: Path) -> mmcontrast.DualEncoder:
    return mmcontrast.DualEncoder.from_pretrained(run / "model")


# What a run leaves behind


def test_the_folder_holds_the_promised_names(tiny_run: Path) -> None:
    names = {path.name for path in tiny_run.iterdir()}
    promised = {"config.yaml", "metrics.jsonl", "results.json", "model", "checkpoints", "report.html", "bad_rows.jsonl"}
    assert names == promised | {"tokenizer", "intervals.json", "facts.json"}
    assert load_config(tiny_run) == tiny_config(tiny_run)
    assert (tiny_run / "bad_rows.jsonl").read_text() == ""
    assert sorted(path.name for path in (tiny_run / "checkpoints").iterdir()) == [
        f"step-{step:08d}" for step in (4, 8, 12, 16, STEPS)
    ]
    assert not list(tiny_run.rglob(".*"))  # nothing half written


def test_lines_of_metrics(tiny_run: Path) -> None:
    lines = [json.loads(line) for line in (tiny_run / "metrics.jsonl").read_text().splitlines()]
    steps = [line for line in lines if "split" not in line]
    wanted = {"global_step", "epoch", "samples_seen", "loss", "logit_scale", "lr", "pairs_per_second"}
    assert all(wanted <= line.keys() for line in steps)
    assert [line["global_step"] for line in steps] == list(range(3, STEPS + 1, 3))
    assert [line["epoch"] for line in steps] == [0, 0, 1, 1, 2, 2]
    assert [line["samples_seen"] for line in steps] == [20 * line["global_step"] for line in steps]
    assert all(line["pairs_per_second"] > 0 for line in steps)
    assert steps[-1]["lr"] == 0
    evaluations = [line for line in lines if "split" in line]
    assert [(line["global_step"], line["split"]) for line in evaluations] == [(n, "validation") for n in (6, 12, 18)]
    assert all({"text_to_image_recall@10", "map@r", "mean_recall", "acc1"} <= line.keys() for line in evaluations)


def test_results_are_those_of_the_best_model(tiny_run: Path) -> None:
    results = json.loads((tiny_run / "results.json").read_text())
    source = open_source(SCENES, split="validation", rows=40, seed=0)
    assert results == mmcontrast.evaluate(tiny_run / "model", source, ["retrieval", "zero_shot"])
    evaluations = [line for line in metric_lines(tiny_run) if "split" in line]
    assert results["retrieval"]["mean_recall"] == max(line["mean_recall"] for line in evaluations)
    assert results["zero_shot"].keys() == {"acc1", "acc5", "mean_per_class_recall"}
    assert {f"{way}_recall@{k}" for way in ("image_to_text", "text_to_image") for k in (1, 5, 10)} < results[
        "retrieval"
    ].keys()


def test_the_report_stands_alone(tiny_run: Path) -> None:
    page = (tiny_run / "report.html").read_text()
    assert all(text in page for text in ("mean_recall", "acc1", "<svg", "data:image/"))
    assert not any(f'{attribute}="http' in page for attribute in ("src", "href"))


def test_the_model_learns(short: Callable[..., Path]) -> None:
    run = short("training.max_steps=24", "training.learning_rate=3e-3", "data.augmentation=none")
    assert np.mean(losses(run)[-6:]) < np.mean(losses(run)[:6]) - 0.5


# The same numbers again


def test_the_same_seed_gives_the_same_run_with_any_workers(tiny_run: Path, tmp_path: Path) -> None:
    assert_same_run(tiny_run, train(tiny_config(tmp_path / "again", "data.workers=2")).run_dir)


def test_another_seed_gives_another_run(short: Callable[..., Path]) -> None:
    assert losses(short()) != losses(short("training.seed=1", name="other"))


@pytest.mark.parametrize(("number", "code", "saved"), [(signal.SIGTERM, 143, 10), (signal.SIGKILL, -9, 8)])
def test_a_stopped_run_goes_on_as_if_nothing_had_been(
    number: int, code: int, saved: int, tiny_run: Path, tmp_path: Path, mmcontrast_command: CommandLines
) -> None:
    run = tmp_path / "run"
    (tmp_path / "tiny.yaml").write_text(dump_config(tiny_config(run)))
    stopped = mmcontrast_command("train", tmp_path / "tiny.yaml", "--set", "data.workers=2", die=(10, number))
    assert stopped.code == code
    if number == signal.SIGTERM:
        assert stopped.error == "stopped by signal 15 after step 10; the checkpoint is saved, go on with --resume"
    assert max((run / "checkpoints").iterdir()).name == f"step-{saved:08d}"
    assert not (run / "results.json").exists()
    resumed = mmcontrast_command("train", tmp_path / "tiny.yaml", "--resume")
    assert resumed.code == 0, resumed.stderr
    assert_same_run(tiny_run, run)


def test_resuming_from_before_the_first_checkpoint_starts_over(
    tiny_run: Path, tmp_path: Path, mmcontrast_command: CommandLines
) -> None:
    run = tmp_path / "run"
    (tmp_path / "tiny.yaml").write_text(dump_config(tiny_config(run)))
    assert mmcontrast_command("train", tmp_path / "tiny.yaml", die=(4, signal.SIGKILL)).code == -9
    assert len(metric_lines(run)) == 1
    train(tiny_config(run), resume=True)
    assert_same_run(tiny_run, run)


def test_a_finished_run_stays_as_it_is(tiny_run: Path) -> None:
    before = (tiny_run / "metrics.jsonl").read_bytes(), (tiny_run / "results.json").read_bytes()
    with pytest.raises(TrainingError, match=r"holds a run already: pass --resume .* or another --output"):
        train(tiny_config(tiny_run))
    assert train(tiny_config(tiny_run), resume=True).results == json.loads(before[1])
    assert ((tiny_run / "metrics.jsonl").read_bytes(), (tiny_run / "results.json").read_bytes()) == before


@pytest.mark.parametrize(
    ("override", "key"),
    [
        ("training.learning_rate=0.01", "training.learning_rate is 0.01 but .* started with 0.001"),
        ("model.image.kwargs={channels: [8, 8, 8, 8]}", "model.image.kwargs"),
        ("data.train.rows=100", "data.train.rows"),
    ],
)
def test_another_config_is_no_resumption(tiny_run: Path, override: str, key: str) -> None:
    with pytest.raises(ConfigError, match=f"--resume: {key}"):
        train(tiny_config(tiny_run, override), resume=True)


def test_nothing_to_resume(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match=r"holds no run .*leave --resume out"):
        train(tiny_config(tmp_path / "new"), resume=True)
    assert not (tmp_path / "new").exists()


def test_overwrite_leaves_nothing_of_the_old_run(short: Callable[..., Path]) -> None:
    run = short("training.checkpoint_every_steps=1")
    short("training.max_steps=2", "data.train.rows=60", overwrite=True)
    assert [line["global_step"] for line in logged(run)] == [1, 2]
    assert max((run / "checkpoints").iterdir()).name == "step-00000002"


def test_a_run_that_never_began_is_no_run(short: Callable[..., Path]) -> None:
    with pytest.raises(MMContrastError):
        short("model.image.name=resnet10tt")
    short()  # the mended config, in the same folder


# Kinds of data


def test_stream(short: Callable[..., Path], tmp_path: Path) -> None:
    scenes = open_source(SCENES, rows=60)
    rows = [{"image": scenes.image(i), "captions": scenes.captions(i)} for i in range(60)]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "scenes.parquet", row_group_size=10)
    stream = ("data.streaming=true", f"data.train.path={tmp_path}/scenes.parquet", "data.shuffle_buffer=30")
    stream += ("data.train.rows=null", "evaluation.every_epochs=null", "evaluation.every_steps=2")
    run = short(*stream, "training.max_steps=7", name="stream")
    assert [line["samples_seen"] for line in logged(run)] == [20 * step for step in range(1, 8)]  # over 2 passes
    assert [line["global_step"] for line in metric_lines(run) if "split" in line] == [2, 4, 6, 7]
    again = short(*stream, "training.max_steps=7", name="again")
    assert losses(run) == losses(again)


def test_no_validation(short: Callable[..., Path]) -> None:
    run = short("data.validation=null")
    assert json.loads((run / "results.json").read_text()) == {}
    assert all("split" not in line for line in metric_lines(run))
    weights, saved = last_weights(run), model_of(run).state_dict()
    assert all(torch.equal(weights[name], saved[name]) for name in weights)


def picture_folder(folder: Path, count: int, bad: int = 0, empty: int = 0) -> Path:
    """Scenes as files with a .txt beside each: the first `bad` torn, the captions of the next `empty` blank."""
    folder.mkdir()
    scenes = open_source(SCENES, rows=count)
    for i in range(count):
        data = scenes.image(i)
        assert isinstance(data, bytes)
        (folder / f"{i:03}.jpg").write_bytes(data[: len(data) // 3] if i < bad else data)
        (folder / f"{i:03}.txt").write_text("" if bad <= i < bad + empty else "\n".join(scenes.captions(i)))
    return folder


def on_folder(folder: Path) -> tuple[str, ...]:
    return f"data.train={{path: {folder}}}", f"data.validation={{path: {folder}, rows: 20}}"


def test_data_without_labels_has_no_zero_shot(short: Callable[..., Path], tmp_path: Path) -> None:
    run = short(*on_folder(picture_folder(tmp_path / "pictures", 40)))
    assert json.loads((run / "results.json").read_text()).keys() == {"retrieval"}


def test_bad_rows_are_listed_and_replaced(short: Callable[..., Path], tmp_path: Path) -> None:
    folder = picture_folder(tmp_path / "pictures", 60, bad=2, empty=1)
    run = short(*on_folder(folder), "training.max_steps=9", "data.validation=null")
    bad = [json.loads(line) for line in (run / "bad_rows.jsonl").read_text().splitlines()]
    assert all(row.keys() == {"source", "row", "reason"} for row in bad)
    assert sorted(row["row"] for row in bad) == [0, 1, 2]
    assert "caption" in next(row["reason"] for row in bad if row["row"] == 2)
    assert [line["samples_seen"] for line in logged(run)][-1] == 180  # batches stay full


def test_too_many_torn_pictures_stop_the_run(short: Callable[..., Path], tmp_path: Path) -> None:
    folder = picture_folder(tmp_path / "pictures", 60, bad=20)
    with pytest.raises(DataError, match=r"bad, over the limit of 5%.*max_bad_row_share"):
        short(*on_folder(folder), "training.max_steps=20", "data.validation=null")
    assert len((tmp_path / "run" / "bad_rows.jsonl").read_text().splitlines()) >= 10


def test_too_many_empty_captions_stop_the_run_before_it_begins(short: Callable[..., Path], tmp_path: Path) -> None:
    folder = picture_folder(tmp_path / "pictures", 40, empty=10)
    with pytest.raises(DataError, match=r"10 of 40 rows cannot be used, over data.max_bad_row_share \(5%\)"):
        short(*on_folder(folder))
    assert not (tmp_path / "run").exists()


def test_few_bad_rows_of_a_large_file_stop_nothing(short: Callable[..., Path], tmp_path: Path) -> None:
    # 4 %, known before the first step: over the limit only if counted against the 100 rows seen by step 5.
    folder = picture_folder(tmp_path / "pictures", 250, empty=10)
    run = short(*on_folder(folder), "training.max_steps=6", "data.validation=null")
    assert len((run / "bad_rows.jsonl").read_text().splitlines()) == 10


# Ways to train


def test_every_caption_is_an_item(short: Callable[..., Path]) -> None:
    captions = sum(len(open_source(SCENES, rows=40).captions(i)) for i in range(40))
    run = short("data.train.rows=40", "data.caption_sampling=all", "training.max_steps=null", "training.epochs=1")
    assert logged(run)[-1]["global_step"] == captions // 20


def test_moving_average_is_what_is_saved(short: Callable[..., Path]) -> None:
    run = short("training.ema_decay=0.9", "data.validation=null")
    state = torch.load(max((run / "checkpoints").iterdir()) / "state.pt", weights_only=True)
    saved = model_of(run).state_dict()
    assert all(torch.equal(state["average"]["model"][name], saved[name]) for name in saved)
    assert any(not torch.equal(state["model"][name], saved[name]) for name in saved)
    assert losses(run) == losses(short("data.validation=null", name="plain"))


def test_sigmoid_loss(short: Callable[..., Path]) -> None:
    run = short("training.loss=sigmoid")
    model = model_of(run)
    assert model.logit_bias is not None
    assert model.logit_bias.item() == pytest.approx(-10, abs=0.5)
    assert all(0 < loss < 20 for loss in losses(run))


def test_negatives_change_the_loss(short: Callable[..., Path]) -> None:
    # A batch of 40 from 20 pictures: half of all pictures come twice.
    base = ("data.train.rows=20", "data.caption_sampling=all", "training.global_batch_size=40", "training.max_steps=1")
    first = {
        rule: losses(short(*base, f"negatives={{rule: {rule[0]}, known_positives: {rule[1]}}}", name="-".join(rule)))[0]
        for rule in (("duplicates", "mask"), ("duplicates", "positives"), ("none", "mask"))
    }
    assert len({round(loss, 4) for loss in first.values()}) == 3
    assert first["duplicates", "mask"] < first["none", "mask"]


def test_gradient_checkpointing_changes_no_number(short: Callable[..., Path]) -> None:
    plain, saving = short(name="plain"), short("training.gradient_checkpointing=true", name="saving")
    assert losses(plain) == pytest.approx(losses(saving), abs=1e-5)


def test_checkpointing_that_no_tower_can_do_is_an_error(short: Callable[..., Path]) -> None:
    towers = "model={image: {library: open_clip, image_size: 32, kwargs: {layers: [1, 1, 1, 1], width: 8}}, "
    words = "text: {library: bag_of_words, kwargs: {width: 16}}}"
    with pytest.raises(ConfigError, match=r"training\.gradient_checkpointing: neither tower can do it .*; turn it off"):
        short(towers + words, "training.gradient_checkpointing=true")
    short(towers + words)


VIT = "model.image={library: open_clip, image_size: 32, kwargs: {width: 32, layers: 1, head_width: 16, patch_size: 8}}"


def test_patch_dropout_is_part_of_training_only_and_may_begin_with_fine_tuning(short: Callable[..., Path]) -> None:
    plain, dropping = short(VIT, name="plain"), short(VIT, "model.image.patch_dropout=0.5", name="dropping")
    assert losses(plain) != losses(dropping)
    assert losses(dropping) == losses(short(VIT, "model.image.patch_dropout=0.5", name="again"))
    assert model_of(dropping).spec.image.patch_dropout == 0.5
    tuned = model_of(short(f"model={{init_from: {plain}/model, image: {{patch_dropout: 0.25}}}}", name="tuned"))
    assert tuned.spec.image.patch_dropout == 0.25


@pytest.mark.skipif(not (shutil.which("g++") or shutil.which("clang++")), reason="torch.compile needs a C++ compiler")
@pytest.mark.filterwarnings("ignore")  # of the compiler's own, which differ between versions of torch
def test_compiled_towers_change_no_name_and_no_number(short: Callable[..., Path]) -> None:
    still = (VIT, "model.text.dropout=0", "data.train.rows=40", "training.ema_decay=0.9")  # compiled dropout is another
    plain, fast = short(*still, name="plain"), short(*still, "training.compile=true", name="fast")
    assert losses(fast) == pytest.approx(losses(plain), abs=1e-5)
    ours, theirs = last_weights(fast), last_weights(plain)
    assert ours.keys() == theirs.keys()
    for name, value in ours.items():
        torch.testing.assert_close(value, theirs[name], atol=1e-4, rtol=0)


def test_compiling_without_a_compiler_says_so(short: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(ConfigError, match=r"training\.compile needs a C\+\+ compiler \(no-such-compiler\); install it"):
        short("training.compile=true")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there it runs")
def test_triton_without_a_gpu_says_so(short: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    with pytest.raises(ConfigError, match=r"^training\.loss_kernel triton needs (a GPU, and this is cpu|the package)"):
        short("training.loss_kernel=triton")


def test_fine_tuning_keeps_the_tokenizer(tiny_run: Path, short: Callable[..., Path]) -> None:
    rows = ("data.train.rows=60", "data.validation.rows=20")
    run = short(f"model={{init_from: {tiny_run}/model}}", "training.learning_rate=1e-8", *rows)
    old, new = model_of(tiny_run), model_of(run)
    assert new.tokenizer(["a red circle"]).input_ids.equal(old.tokenizer(["a red circle"]).input_ids)
    torch.testing.assert_close(old.logit_scale, new.logit_scale, atol=1e-5, rtol=0)
    assert new.spec == old.spec
    assert losses(run)[0] < losses(short(*rows, name="scratch"))[0]
    assert not (run / "tokenizer").exists()


def test_a_locked_tower_stays(tiny_run: Path, short: Callable[..., Path]) -> None:
    run = short(f"model={{init_from: {tiny_run}/model, image: {{locked: true}}}}", "training.learning_rate=0.01")
    old, new = model_of(tiny_run).state_dict(), model_of(run).state_dict()
    same = {name for name in old if torch.equal(old[name], new[name])}
    assert {name for name in old if name.startswith("image_encoder.")} <= same
    assert not any(name.startswith("text_projection.") for name in same)


def test_fine_tuning_with_another_loss(tiny_run: Path, short: Callable[..., Path]) -> None:
    run = short(f"model={{init_from: {tiny_run}/model}}", "training.loss=sigmoid")
    model = model_of(run)
    assert model.logit_bias is not None
    assert model.logit_bias.item() == pytest.approx(-10, abs=0.5)
    again = model_of(short(f"model={{init_from: {run}/model}}", "training.loss=sigmoid", name="again"))
    assert again.logit_bias is not None


def test_precision_may_change_between_runs_of_one_program(short: Callable[..., Path]) -> None:
    plain = short("training.max_steps=1", name="plain")
    half = short("training.max_steps=1", "training.precision=bf16", name="half")
    assert losses(plain) != losses(half)
    assert losses(plain) == pytest.approx(losses(half), rel=0.05)


def test_tensorboard(short: Callable[..., Path]) -> None:
    run = short("training.trackers=[tensorboard]", "training.max_steps=1")
    assert list((run / "tensorboard").rglob("events.out.tfevents*"))


def test_config_may_be_a_file_or_a_mapping(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(build_run, "write_run_report", lambda *_: None)
    values = load_config(
        {**TINY, "output": str(tmp_path / "mapping")}, ["training.max_steps=1", "training.warmup_share=0"]
    )
    assert build_run.train(values.model_dump()).run_dir == tmp_path / "mapping"
    (tmp_path / "tiny.yaml").write_text(dump_config(values))
    again = load_config(tmp_path / "tiny.yaml", [f"output={tmp_path}/file"])
    assert train(again).results == json.loads((tmp_path / "mapping" / "results.json").read_text())


# What can go wrong


@pytest.mark.parametrize(
    ("overrides", "kind", "message"),
    [
        (["training.global_batch_size=121"], ConfigError, "larger than the data set of 120 .*take 120 or less"),
        (["training.warmup_steps=18", "training.max_steps=null"], ConfigError, "18 steps of warm-up do not fit"),
        (["data.train.path=absent.parquet"], DataError, "absent.parquet: no such file or folder"),
        (["data.validation.path=absent.csv"], DataError, "absent.csv: no such file or folder"),
        (["data.validation.rows=1"], ConfigError, "data.validation.path: has 1 usable pairs"),
        (["model.image.name=resnet10tt"], ModelError, "resnet10tt"),
        (["model.image.kwargs={chanels: [8]}"], ModelError, "chanels"),
        (["model.text.kwargs={width: 30, heads: 4, layers: 1}"], MMContrastError, "heads"),
        (["model.tokenizer.name=absent.model"], ModelError, "absent.model"),
        (["model={init_from: absent/model/folder}"], ModelError, "absent/model/folder is not a folder"),
        (["training.precision=fp16"], ConfigError, "fp16 needs a GPU"),
        (["training.trackers=[nonsense]"], MMContrastError, "training.trackers.*nonsense"),
        (["evaluation.templates=absent.txt"], DataError, "absent.txt"),
        (["evaluation.classnames=[one, two]"], MMContrastError, "class"),
        (
            ["evaluation.best_metric=retrieval.text_to_image_recall@10", "data.validation.rows=5"],
            ConfigError,
            "among 5",
        ),
        (
            ["training.learning_rate=1e30", "training.gradient_clip_norm=null", "training.max_bad_steps=2"],
            TrainingError,
            "2 steps in a row, up to step 3, .*learning rate 2.5e[+]29.*fp32.*: lower training.learning_rate;",
        ),
    ],
    ids=lambda value: value[0].partition("=")[0] if isinstance(value, list) else "",
)
def test_one_clear_line(
    short: Callable[..., Path], overrides: list[str], kind: type[MMContrastError], message: str
) -> None:
    with pytest.raises(kind, match=message) as caught:
        short(*overrides)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("evaluation.positives=group", "evaluation.positives: group needs data.group_column"),
        ("evaluation.positives=label", "evaluation.positives: label needs data.label_column"),
        ("evaluation.best_metric=zero_shot.acc1", "evaluation.best_metric: 'zero_shot.acc1' needs labels"),
    ],
)
def test_what_cannot_be_measured_is_said_before_training(
    short: Callable[..., Path], tmp_path: Path, override: str, message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        short(*on_folder(picture_folder(tmp_path / "pictures", 20)), override)


def test_output_that_cannot_be_written(tmp_path: Path, short: Callable[..., Path]) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(TrainingError, match=r"output: cannot write to .*file/run"):
        short(name="file/run")
