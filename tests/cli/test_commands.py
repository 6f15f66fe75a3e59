"""Commands against a stand-in for `build`: arguments in, tables and JSON out."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner, Result

import mmcontrast
from mmcontrast.cli import app
from mmcontrast.config import Config, load_config

SCORES = {"retrieval": {"mean_recall": 0.25, "map@r": None}}
CONFIG = "data:\n  train: {path: x.csv}\ntraining: {epochs: 3}\n"


class Build(ModuleType):
    """Notes every call instead of doing it."""

    def __init__(self) -> None:
        super().__init__("mmcontrast.build")
        self.calls: list[tuple[str, tuple[Any, ...], dict[str, Any]]] = []
        self.error: BaseException | None = None

    def note(self, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if progress := kwargs.pop("progress", None):
            progress(3)
        if expect := kwargs.pop("expect", None):
            expect(5)
        if say := kwargs.pop("say", None):
            say("a remark")
        self.calls.append((name, args, kwargs))
        if self.error:
            raise self.error

    def train(self, *args: Any, **kwargs: Any) -> SimpleNamespace:
        self.note("train", args, kwargs)
        return SimpleNamespace(run_dir=Path(args[0].output), results=SCORES)

    def run_evaluation(self, *args: Any, **kwargs: Any) -> SimpleNamespace:
        self.note("evaluate", args, kwargs)
        return SimpleNamespace(results={kwargs["task"]: {"value": float(len(self.calls))}})

    def scored_intervals(self, evaluation: SimpleNamespace) -> dict[str, dict[str, tuple[float, float]]]:
        return {task: dict.fromkeys(metrics, (0.25, 0.75)) for task, metrics in evaluation.results.items()}

    def interval_document(self, intervals: dict[str, Any]) -> dict[str, Any]:
        return {"level": 0.95, "intervals": intervals}

    def compare(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        self.note("compare", args, kwargs)
        moved = {"value": 0.25, "interval": [0.125, 0.5], "p": 0.01, "p_holm": 0.04, "test": "sign flips"}
        more = len(args[0]) - 1
        one = {
            "values": [0.5] + more * [0.75],
            "intervals": [(0.25, 0.625)] + more * [None],
            "differences": [None] + more * [moved],
        }
        return {"models": args[0], "data": {"val.csv": {"retrieval": {"mean_recall": one}}}}

    class SharedWork:
        """Handed to all evaluations of a suite."""

    def embed(self, *args: Any, **kwargs: Any) -> dict[str, int]:
        self.note("embed", args, kwargs)
        return {"images": 3, "captions": 6, "skipped_shards": 0}

    def merge(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        self.note("merge", args, kwargs)
        return {"models": args[0]}

    def sweep(self, *args: Any, **kwargs: Any) -> SimpleNamespace:
        self.note("sweep", args, kwargs)
        chosen = {"alpha": 0.5, "metric": "v.retrieval.mean_recall", "value": 0.25, "data": "v"}
        return SimpleNamespace(alphas=[0, 0.5], curves={"v.retrieval.mean_recall": [0.125, 0.25]}, chosen=chosen)

    def inspect_negatives(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        self.note("inspect_negatives", args, kwargs)
        pair = {"probability": 0.97, "cosine": 0.5, "caption": "a [red] dog", "other_caption": "one red dog"}
        return {"calibrated": True, "known_share": 0.02, "believed_share": 0.1, "truth": None, "true_share": None,
                "false_negatives": [pair]}  # fmt: skip

    def train_tokenizer(self, *args: Any, **kwargs: Any) -> dict[str, int]:
        self.note("train_tokenizer", args, kwargs)
        return {"vocab_size": 100}

    def quickstart_config(self) -> Config:
        return load_config({"output": "runs/quickstart", "data": {"train": {"path": "synthetic://scenes"}}})

    def holds_quickstart(self, folder: str) -> bool:
        return folder == "again"


@pytest.fixture
def build(monkeypatch: pytest.MonkeyPatch) -> Build:
    stand_in = Build()
    monkeypatch.setitem(sys.modules, "mmcontrast.build", stand_in)
    monkeypatch.setattr(mmcontrast, "build", stand_in, raising=False)
    return stand_in


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my.yaml").write_text(CONFIG)

    def run(*words: str, code: int = 0) -> Result:
        result = CliRunner().invoke(app, list(words))
        assert result.exit_code == code, result.output
        return result

    return run


def test_train(build: Build, run: Callable[..., Result]) -> None:
    result = run("train", "my.yaml", "--set", "training.epochs=1", "--set", "training.seed=4", "--resume")
    ((name, (config,), options),) = build.calls
    assert (name, options) == ("train", {"resume": True})
    assert (config.training.epochs, config.training.seed, config.output) == (1, 4, "runs/my")
    assert "mean_recall" in result.stdout
    assert "0.25" in result.stdout
    assert "results: runs/my/results.json" in result.stdout


def test_output_wins_over_the_config_whatever_its_name(build: Build, run: Callable[..., Result]) -> None:
    run("train", "my.yaml", "--output", "runs/a: b #1")
    assert build.calls[0][1][0].output == "runs/a: b #1"
    run("quickstart", "--output", "123", "--set", "training.loss=sigmoid")
    _, (config,), options = build.calls[1]
    assert options == {"overwrite": False}
    assert (config.output, config.model.logit_bias, config.data.train.path) == ("123", -10.0, "synthetic://scenes")


def test_only_the_first_of_several_processes_speaks(
    build: Build, run: Callable[..., Result], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RANK", "1")
    assert run("train", "my.yaml").stdout == ""


def test_quickstart_may_replace_an_earlier_one(build: Build, run: Callable[..., Result]) -> None:
    run("quickstart", "--output", "again")
    assert build.calls[0][2] == {"overwrite": True}


def test_evaluate_writes_json_or_prints_it(build: Build, run: Callable[..., Result], tmp_path: Path) -> None:
    words = ["evaluate", "m", "--data", "val.csv", "--task", "zero_shot", "--label-column", "name", "--templates", "t"]
    result = run(*words, "--output", "deep/out.json")
    ((_, (model,), options),) = build.calls
    assert model == "m"
    assert isinstance(options.pop("shared"), Build.SharedWork)
    assert options == {
        "data": "val.csv",
        "task": "zero_shot",
        "split": None,
        "image_column": None,
        "caption_columns": None,
        "label_column": "name",
        "group_column": None,
        "templates": "t",
        "classnames": None,
        "positives": "id",
        "train_data": None,
        "train_split": None,
        "batch_size": 256,
        "workers": 2,
        "ks": None,
    }
    assert json.loads((tmp_path / "deep/out.json").read_text()) == {"zero_shot": {"value": 1.0}}
    assert "results: deep/out.json" in result.stdout
    assert "0.25 to 0.75" in result.stdout
    printed = run(*words, "--intervals", "deep/intervals.json")
    written = json.loads((tmp_path / "deep/intervals.json").read_text())
    assert written == {"level": 0.95, "intervals": {"zero_shot": {"value": [0.25, 0.75]}}}
    assert json.loads(printed.stdout) == {"zero_shot": {"value": 2.0}}
    assert "a remark\n" in printed.stderr


def test_evaluate_passes_repeated_caption_columns(build: Build, run: Callable[..., Result]) -> None:
    run("evaluate", "m", "--data", "d", "--caption-column", "en", "--caption-column", "de", "--positives", "group")
    options = build.calls[0][2]
    assert (options["caption_columns"], options["positives"], options["task"]) == (["en", "de"], "group", "retrieval")


def test_every_task_that_is_named_can_be_run() -> None:
    from mmcontrast.evaluation.task_table import TABLE
    from mmcontrast.task_names import CAPTION_TASKS, PROBE_TASKS, TASKS

    assert set(TABLE) == set(TASKS)
    assert {*CAPTION_TASKS, *PROBE_TASKS} < set(TASKS)


def test_suite_runs_every_task(build: Build, run: Callable[..., Result], tmp_path: Path) -> None:
    tasks = [
        {"name": "plain", "task": "retrieval", "data": "a.csv", "positives": "label"},
        {"name": "classes", "task": "zero_shot", "data": "b.csv", "templates": ["a {}"], "label_column": "l"},
    ]
    (tmp_path / "suite.yaml").write_text(yaml.safe_dump({"tasks": tasks}))
    run("evaluate", "m", "--suite", "suite.yaml", "--output", "out.json", "--intervals", "intervals.json")
    assert json.loads((tmp_path / "out.json").read_text()) == {"plain": {"value": 1.0}, "classes": {"value": 2.0}}
    assert json.loads((tmp_path / "intervals.json").read_text())["intervals"].keys() == {"plain", "classes"}
    assert [call[2]["data"] for call in build.calls] == ["a.csv", "b.csv"]
    assert build.calls[0][2]["positives"] == "label"
    assert build.calls[1][2]["templates"] == ["a {}"]
    assert set(build.calls[0][2]) == set(build.calls[1][2])
    assert isinstance(build.calls[0][2]["shared"], Build.SharedWork)
    assert build.calls[0][2]["shared"] is build.calls[1][2]["shared"]


def test_compare(build: Build, run: Callable[..., Result], tmp_path: Path) -> None:
    measured = ["--data", "d/val.csv", "--task", "zero_shot", "--task", "knn", "--train-data", "t"]
    result = run("compare", "a", "b", *measured, "--output", "p.html", "--output", "p.md", "--json", "c.json")
    ((_, (models, evaluations), options),) = build.calls
    assert models == ["a", "b"]
    wanted = {"batch_size": 256, "data": "d/val.csv", "task": ["zero_shot", "knn"], "train_data": "t"}
    assert evaluations == {"val.csv": wanted}
    assert options == {"outputs": [Path("p.html"), Path("p.md")], "seed": 0}
    for shown in ("+0.25", "0.12 to 0.5", "0.040", "mean recall", "written to c.json"):
        assert shown in result.stdout
    assert json.loads((tmp_path / "c.json").read_text())["models"] == ["a", "b"]
    shown = run("compare", "a", "b", "c").stdout
    assert "B - A" in shown
    assert "C - A" in shown
    assert build.calls[1][1] == (["a", "b", "c"], None)  # as the runs' configs say


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["a"], "give two models"),
        (["a", "b", "--task", "zero_shot"], "without --data"),
        (["a", "b", "--data", "d", "--task", "nonsense"], "unknown"),
        (["a", "b", "--data", "d", "--suite", "s.yaml"], "leave out data"),
    ],
)
def test_compare_usage(build: Build, run: Callable[..., Result], words: list[str], message: str) -> None:
    assert message in " ".join(run("compare", *words, code=2).stderr.split())
    assert not build.calls


def test_embed_and_tokenizer(build: Build, run: Callable[..., Result], tmp_path: Path) -> None:
    result = run("embed", "m", "photos", "--output", "features", "--batch-size", "8")
    assert result.stdout == "images 3  captions 6  skipped_shards 0\nwritten to features\n"
    run("tokenizer", "train", "d.csv", "--vocab-size", "100", "--output", "tok", "--caption-column", "c")
    (_, embed_args, embed_options), (_, tokenizer_args, tokenizer_options) = build.calls
    assert embed_args == ("m", "photos", Path("features"))
    assert embed_options == {"split": None, "batch_size": 8, "image_column": None, "caption_columns": None} | {
        "format": "npy",
        "shard_rows": 16384,
        "half": False,
        "stream": False,
        "index": False,
    }
    assert tokenizer_args == ("d.csv", Path("tok"), 100)
    assert tokenizer_options == {"split": None, "image_column": None, "caption_columns": ["c"]}
    assert json.loads((tmp_path / "tok/summary.json").read_text()) == {"vocab_size": 100}


def test_negatives(build: Build, run: Callable[..., Result], tmp_path: Path) -> None:
    words = ["negatives", "d.csv", "--model", "m", "--output", "deep/n.html", "--rows", "500", "--label-column", "kind"]
    result = run(*words, "--caption-column", "c", "--json", "n.json")
    ((name, args, options),) = build.calls
    assert (name, args) == ("inspect_negatives", ("m", "d.csv", Path("deep/n.html")))
    assert options == {
        "rows": 500,
        "split": None,
        "image_column": None,
        "caption_columns": ["c"],
        "label_column": "kind",
        "group_column": None,
        "batch_size": 256,
        "seed": 0,
    }
    assert "2.00 %" in result.stdout
    assert "5.1" in result.stdout  # .02 of 255
    assert "9.80 %" in result.stdout  # .1 of the other .98
    assert "a [red] dog" in result.stdout  # captions are no markup
    assert "None" not in result.stdout
    assert "page: deep/n.html  results: n.json" in result.stdout
    assert json.loads((tmp_path / "n.json").read_text())["believed_share"] == 0.1
    assert "a remark\n" in result.stderr


def test_negatives_says_before_the_work_what_cannot_be_written(
    build: Build, run: Callable[..., Result], tmp_path: Path
) -> None:
    (tmp_path / "folder").mkdir()
    assert "--output: folder is a folder" in run("negatives", "d", "--model", "m", "--output", "folder", code=1).stderr
    assert "--json: folder is a folder" in run("negatives", "d", "--model", "m", "--json", "folder", code=1).stderr
    assert "--model" in run("negatives", "d", code=2).stderr
    assert "--rows" in run("negatives", "d", "--model", "m", "--rows", "0", code=2).stderr
    assert build.calls == []


def test_merge(build: Build, run: Callable[..., Result]) -> None:
    assert "written to m" in run("merge", "a", "b", "--alpha", "0.5", "--output", "m").stdout
    run("merge", "a", "b", "c", "--weight", "1", "--weight", "2", "--weight", "1", "--output", "m")
    (_, first, options), (_, second, weighted) = build.calls
    assert (first, options) == ((["a", "b"], Path("m")), {"alpha": 0.5, "weights": None})
    assert (second[0], weighted["weights"]) == (["a", "b", "c"], [1, 2, 1])


def test_sweep(build: Build, run: Callable[..., Result], tmp_path: Path) -> None:
    data = ["--data", "x/val.csv", "--data", "synthetic://scenes", "--task", "zero_shot", "--label-column", "kind"]
    result = run("merge", "a", "b", "--sweep", "0,0.25,...,1", *data, "--choose", "mean_recall", "--output", "m")
    assert "0.5 *" in result.stdout
    assert "chosen: alpha 0.5, by v.retrieval.mean_recall = 0.25 on v; report its scores on other data" in result.stdout
    ((_, (first, second, alphas, evaluations, output), options),) = build.calls
    assert (first, second, alphas, output) == ("a", "b", [0, 0.25, 0.5, 0.75, 1], Path("m"))
    assert list(evaluations) == ["x/val", "scenes"]
    assert evaluations["x/val"]["data"] == "x/val.csv"
    assert evaluations["scenes"]["task"] == ["zero_shot"]
    assert evaluations["scenes"]["label_column"] == "kind"
    assert options["choose"] == "mean_recall"
    tasks = [{"name": name, "task": "retrieval", "data": f"{name}.csv"} for name in ("a", "b")]
    (tmp_path / "suite.yaml").write_text(yaml.safe_dump({"tasks": tasks}))
    run("merge", "a", "b", "--sweep", "0,1", "--suite", "suite.yaml", "--output", "m")
    assert [entry["data"] for entry in build.calls[1][1][3].values()] == ["a.csv", "b.csv"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--data", "d"], "--data goes with --sweep"),
        (["--sweep", "0,1"], "--sweep needs --data FILE, or --suite FILE"),
        (["--sweep", "0,one", "--data", "d"], "give numbers, as in 0,0.5,1 or 0,0.1,...,1"),
        (["--sweep", "0,0,...,1", "--data", "d"], "give numbers"),
        (["--sweep", "0,1", "--data", "d", "--alpha", "0.5"], "leave out --alpha and --weight"),
        (["c", "--sweep", "0,1", "--data", "d"], "--sweep mixes two models, not 3"),
    ],
)
def test_merge_usage(build: Build, run: Callable[..., Result], words: list[str], message: str) -> None:
    assert message in run("merge", "a", "b", *words, "--output", "m", code=2).stderr
    assert build.calls == []


def test_config_check_prints_the_resolved_config(run: Callable[..., Result], tmp_path: Path) -> None:
    expected = load_config("my.yaml", ["training.epochs=2"])
    assert (
        load_config(yaml.safe_load(run("config", "check", "my.yaml", "--set", "training.epochs=2").stdout)) == expected
    )
    printed = run("config", "check", "my.yaml", "--set", "training.epochs=2", "--json", "--output", "c.json").stdout
    assert load_config(json.loads(printed)) == expected
    assert json.loads((tmp_path / "c.json").read_text()) == json.loads(printed)


def test_config_schema(run: Callable[..., Result], tmp_path: Path) -> None:
    schema = json.loads(run("config", "schema").stdout)
    assert schema["required"] == ["data"]
    run("config", "schema", "--output", "schema.json")
    assert json.loads((tmp_path / "schema.json").read_text()) == schema


@pytest.mark.parametrize(
    "words",
    [
        ["quickstart"],
        ["train"],
        ["evaluate"],
        ["compare"],
        ["embed"],
        ["merge"],
        ["negatives"],
        ["tokenizer", "train"],
        ["config", "check"],
        ["config", "schema"],
    ],
)
def test_every_command_has_an_example(run: Callable[..., Result], words: list[str]) -> None:
    assert f"Example: mmcontrast {' '.join(words)}" in run(*words, "--help").stdout


def test_start_is_quick_and_without_torch() -> None:
    code = (
        "import sys, time, mmcontrast\n"
        "from mmcontrast.cli import app\n"
        "for words in (['--version'], ['--help'], ['train', '--help'], ['config', 'schema']):\n"
        "    app(words, standalone_mode=False)\n"
        "heavy = {'torch', 'numpy', 'transformers', 'open_clip', 'datasets', 'matplotlib'} & sys.modules.keys()\n"
        "print('HEAVY', sorted(heavy), 'SECONDS', time.process_time())\n"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    heavy, seconds = result.stdout.splitlines()[-1].removeprefix("HEAVY ").split(" SECONDS ")
    assert heavy == "[]"
    assert float(seconds) < 1.5  # four commands, in processor time: a busy machine does not count
    assert result.stdout.startswith("mmcontrast ")


def test_bare_command_shows_help(run: Callable[..., Result]) -> None:
    assert "quickstart" in run(code=2).stdout


def test_module_form() -> None:
    command = [sys.executable, "-m", "mmcontrast", "--version"]
    result = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    assert result.stdout == f"mmcontrast {mmcontrast.__version__}\n"
