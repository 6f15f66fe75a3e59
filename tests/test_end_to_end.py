"""The command line as people type it, and the shipped configs on the real data sets."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import yaml
from tiny_runs import ROOT, CommandLines, Finished, tiny_config

from mmcontrast.config import dump_config, load_config
from mmcontrast.data import open_source

SCENES = "synthetic://scenes"


@pytest.fixture(scope="module")
def user(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A user's folder with a space in its name: pictures, a table of them with German umlauts, a config."""
    folder = tmp_path_factory.mktemp("a user")
    (folder / "my pictures").mkdir()
    scenes = open_source(SCENES, rows=40)
    lines = ["image,caption,label_name"]
    for i in range(len(scenes)):
        data = scenes.image(i)
        assert isinstance(data, bytes)
        assert scenes.label_names is not None
        (folder / "my pictures" / f"{i}.jpg").write_bytes(data)
        lines += [f'my pictures/{i}.jpg,"für {scenes.captions(i)[0]}",{scenes.label_names[scenes.label(i) or 0]}']
    (folder / "pairs.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    config = tiny_config(
        folder / "unused", "data.train={path: pairs.csv}", "data.validation={path: pairs.csv, rows: 20}"
    )
    values = yaml.safe_load(dump_config(load_config(config, ["training.max_steps=3"])))
    del values["output"]
    (folder / "my config.yaml").write_text(yaml.safe_dump(values))
    return folder


def typed(command: CommandLines, *words: str | Path, cwd: Path | None = None) -> Finished:
    """A command that has to succeed without a word of warning."""
    finished = command(*words, cwd=cwd)
    assert finished.code == 0, finished.stderr
    assert not any(word in finished.stderr for word in ("Traceback", "Warning", "error:")), finished.stderr
    return finished


def test_train(user: Path, mmcontrast_command: CommandLines) -> None:
    finished = typed(mmcontrast_command, "train", "my config.yaml", "--set", "data.workers=2", cwd=user)
    run = user / "runs" / "my config"
    assert (
        "pairs.csv: 40 rows; image = image (guessed), captions = caption (guessed), label = label_name (guessed)"
        in (finished.stderr)
    )
    assert "step 3/3  loss " in finished.stderr
    assert "results: runs/my config/results.json" in finished.stdout
    assert {"retrieval", "zero_shot"} == json.loads((run / "results.json").read_text()).keys()
    again = mmcontrast_command("train", "my config.yaml", cwd=user)
    assert (again.code, again.error.partition(": ")[0]) == (1, "runs/my config holds a run already")


def test_evaluate(user: Path, tiny_run: Path, mmcontrast_command: CommandLines) -> None:
    model = tiny_run / "model"
    words = ["evaluate", model, "--task", "retrieval", "--data", "pairs.csv", "--output", "deep/out.json"]
    finished = typed(mmcontrast_command, *words, cwd=user)
    scores = json.loads((user / "deep" / "out.json").read_text())
    assert scores.keys() == {"retrieval"}
    assert scores["retrieval"]["text_to_image_recall@1"] is not None
    assert "results: deep/out.json" in finished.stdout
    assert "retrieval: a picture and a caption belong together by id" in finished.stderr

    (user / "templates.txt").write_text("ein Bild: {}\n{c}\n")
    words = ["evaluate", model, "--task", "zero_shot", "--data", "pairs.csv", "--label-column", "label_name"]
    printed = typed(mmcontrast_command, *words, "--templates", "templates.txt", cwd=user)
    assert json.loads(printed.stdout).keys() == {"zero_shot"}  # nothing but JSON on stdout


def test_embed(user: Path, tiny_run: Path, mmcontrast_command: CommandLines) -> None:
    finished = typed(mmcontrast_command, "embed", tiny_run / "model", "pairs.csv", "--output", "features", cwd=user)
    assert finished.stdout.splitlines()[-1] == "written to features"
    assert np.load(user / "features" / "image_features-00000.npy").shape == (40, 16)
    assert json.loads((user / "features" / "embed.json").read_text())["texts"] == 40


def test_tokenizer_train(user: Path, mmcontrast_command: CommandLines) -> None:
    words = ["tokenizer", "train", "pairs.csv", "--vocab-size", "300", "--output", "tok"]
    typed(mmcontrast_command, *words, cwd=user)
    assert json.loads((user / "tok" / "summary.json").read_text())["vocab_size"] <= 300
    words = ["--set", "model.tokenizer.name=tok", "--set", "training.max_steps=1", "--set", "training.warmup_share=0"]
    typed(mmcontrast_command, "train", "my config.yaml", "--output", "with tok", *words, cwd=user)
    saved = json.loads((user / "with tok" / "model" / "config.json").read_text())
    assert saved["tokenizer"]["vocab_size"] <= 300


def test_config_check_and_schema(user: Path, mmcontrast_command: CommandLines) -> None:
    finished = typed(mmcontrast_command, "config", "check", "my config.yaml", "--set", "training.epochs=7", cwd=user)
    assert yaml.safe_load(finished.stdout)["training"]["epochs"] == 7
    schema = json.loads(typed(mmcontrast_command, "config", "schema").stdout)
    assert schema["properties"].keys() == {"output", "model", "data", "training", "negatives", "evaluation"}


ERRORS = {
    "no such config": (["train", "absent.yaml"], 1, "absent.yaml"),
    "unknown key": (
        ["train", "my config.yaml", "--set", "training.learning_rte=1"],
        1,
        "did you mean training.learning_rate?",
    ),
    "wrong value": (["train", "my config.yaml", "--set", "training.epochs=many"], 1, "'many' must be a whole number"),
    "no equals": (["train", "my config.yaml", "--set", "training.epochs"], 1, "not of the form a.b=value"),
    "no such data": (["train", "my config.yaml", "--set", "data.train.path=absent.csv"], 1, "absent.csv: no such file"),
    "no such column": (
        ["train", "my config.yaml", "--set", "data.caption_column=text"],
        1,
        "no column 'text'; columns found: 'image', 'caption', 'label_name'",
    ),
    "batch too large": (
        ["train", "my config.yaml", "--set", "training.global_batch_size=100"],
        1,
        "100 is larger than the data set of 40 training pairs",
    ),
    "nothing to resume": (["train", "my config.yaml", "--resume", "--output", "new"], 1, "holds no run"),
    "no such model": (["evaluate", "./absent", "--data", "pairs.csv"], 1, "absent is not a folder"),
    "no model": (["evaluate", ".", "--data", "pairs.csv"], 1, "has no config.json"),
    "no model to embed by": (["embed", ".", "pairs.csv", "--output", "x"], 1, "has no config.json"),
    "unknown task": (["evaluate", "MODEL", "--data", "pairs.csv", "--task", "retrievl"], 2, "'retrievl' is not one of"),
    "no data": (["evaluate", "MODEL"], 2, "give --data FILE, or --suite FILE"),
    "no such labels": (
        ["evaluate", "MODEL", "--data", "pairs.csv", "--task", "zero_shot", "--label-column", "kind"],
        1,
        "no column 'kind'; columns found: 'image', 'caption', 'label_name'",
    ),
    "no such templates": (
        ["evaluate", "MODEL", "--data", "pairs.csv", "--task", "zero_shot", "--templates", "absent.txt"],
        1,
        "absent.txt: cannot read templates",
    ),
    "no such suite": (["evaluate", "MODEL", "--suite", "absent.yaml"], 1, "absent.yaml"),
    "output is a folder": (["evaluate", "MODEL", "--data", "pairs.csv", "--output", "my pictures"], 1, "my pictures"),
    "output under a file": (["embed", "MODEL", "pairs.csv", "--output", "pairs.csv/x"], 1, "pairs.csv"),
    "vocabulary too small": (
        ["tokenizer", "train", "pairs.csv", "--vocab-size", "8", "--output", "y"],
        2,
        "--vocab-size",
    ),
    "unknown option": (["train", "my config.yaml", "--resum"], 2, "No such option"),
    "unknown command": (["trian"], 2, "No such command 'trian'"),
}


@pytest.mark.parametrize(("words", "code", "message"), ERRORS.values(), ids=list(ERRORS))
def test_an_error_is_one_line(
    words: list[str], code: int, message: str, user: Path, tiny_run: Path, mmcontrast_command: CommandLines
) -> None:
    before = {path.name for path in user.iterdir()}
    words = [str(tiny_run / "model") if word == "MODEL" else word for word in words]
    finished = mmcontrast_command(*words, cwd=user)
    assert finished.code == code
    assert message in finished.error
    assert finished.stdout == ""
    assert {path.name for path in user.iterdir()} == before  # and nothing was made


REAL = {
    "flickr8k": [],
    "ucm_captions": [],
    "emoji_multilingual": ["--set", "model.tokenizer.vocab_size=2000"],
    "quickstart": [],
}


@pytest.mark.parametrize("name", REAL)
def test_shipped_configs_train(
    name: str, request: pytest.FixtureRequest, tmp_path: Path, mmcontrast_command: CommandLines
) -> None:
    """Each as it is, but for the number of rows and steps."""
    config = load_config(ROOT / "configs" / f"{name}.yaml")
    changes = {"data.train.rows": 64, "data.validation.rows": 32, "data.workers": 0, "training.max_steps": 2}
    changes |= {
        "training.global_batch_size": 16,
        "training.log_every_steps": 1,
        "training.early_stopping_patience": None,
    }
    changes |= {"evaluation.every_epochs": None}
    words = [f"--set={key}={json.dumps(value)}" for key, value in changes.items()]
    for part, source in (("train", config.data.sources[0]), ("validation", config.data.validation)):
        assert source is not None
        if "://" not in source.path:
            data: Path = request.getfixturevalue("shared_data")
            words.append(f"--set=data.{part}.path={data / source.path.removeprefix('../shared/data/')}")
    finished = mmcontrast_command(
        "train", ROOT / "configs" / f"{name}.yaml", "--output", tmp_path / "run", *words, *REAL[name]
    )
    assert finished.code == 0, finished.stderr
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    assert results.keys() == {task for task in config.evaluation.tasks if name != "flickr8k" or task == "retrieval"}
    task, _, metric = config.evaluation.best_metric.partition(".")
    assert 0 <= results[task][metric] <= 1
