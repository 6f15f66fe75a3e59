"""CLIP_benchmark itself, in an environment of its own, measures what we measure, and reads what we write for it."""

from __future__ import annotations

import csv
import json
import subprocess
from pathlib import Path

import parity_environment
import pyarrow.parquet as pq
import pytest
from foreign_fakes import stir
from model_fakes import IMAGE_TOWERS, tiny_spec
from parity_compare import verdict
from parity_data import Task, write_all
from run import compare, table
from typer.testing import CliRunner

from mmcontrast.cli import app
from mmcontrast.export.to_open_clip import write
from mmcontrast.models import SentencePieceTokenizer, build_dual_encoder, train_sentencepiece

ROWS = 60
TEXT = {"width": 32, "heads": 2, "layers": 1}
# Many captions there stand with several pictures, so that their order is chance in CLIP_benchmark.
TIED = {("ucm_captions", f"text_retrieval_recall@{k}") for k in (1, 5, 10)}


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """CLIP_benchmark's interpreter; its packages, 30 MB, come from the package index."""
    try:
        return parity_environment.peer_python(tmp_path_factory.mktemp("peer"))
    except RuntimeError as error:
        pytest.skip(f"CLIP_benchmark's environment cannot be made here: {error}")


@pytest.fixture(scope="module")
def tasks(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Task]:
    return write_all(shared_data, tmp_path_factory.mktemp("data"), ROWS)


@pytest.fixture(scope="module")
def models(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Weights that were never trained, far from their start: our folder, and open_clip's."""
    folder = tmp_path_factory.mktemp("models")
    captions = pq.read_table(shared_data / "flickr8k" / "val.parquet", columns=["captions"])["captions"].to_pylist()
    words = train_sentencepiece([text for row in captions for text in row], 1000)
    spec = tiny_spec(IMAGE_TOWERS["open_clip_vit"], {"library": "open_clip", "context_length": 40, "kwargs": TEXT})
    model = build_dual_encoder(spec, SentencePieceTokenizer(words, 40), seed=0).eval()
    stir(model)
    model.save_pretrained(folder / "ours")
    (folder / "open_clip").mkdir()
    write(model, folder / "open_clip")
    return folder / "ours", folder / "open_clip"


def test_every_shared_metric(python: Path, tasks: list[Task], models: tuple[Path, Path], tmp_path: Path) -> None:
    rows, versions = compare(python, models, tasks, tmp_path, ["64:0", "7:3"])
    assert versions["clip-benchmark"] == "1.6.2"
    assert {row.metric for row in rows} == {
        *("acc1", "acc5", "mean_per_class_recall", "mean_average_precision", "acc", "image_acc", "text_acc"),
        *(f"{sought}_retrieval_recall@{k}" for sought in ("image", "text") for k in (1, 5, 10)),
    }
    for row in rows:
        assert len(set(row.ours)) == 1, f"{row.data}: {row.metric} depends on batches or workers"
        allowed = {"equal", "tie"} if (row.data, row.metric) in TIED else {"equal"}
        assert row.verdict in (allowed | {"rewritten"} if row.data == "emoji" else allowed), table([row])


def test_build_reads_our_json(python: Path, tasks: list[Task], models: tuple[Path, Path], tmp_path: Path) -> None:
    names = {"flickr8k": "retrieval", "cifar10": "zero_shot"}
    suite = [
        {"name": task.name, "task": task.ours, "data": str(task.data)}
        for task in tasks
        if names.get(task.name) == task.ours
    ]
    (tmp_path / "suite.yaml").write_text(json.dumps({"tasks": suite}))
    words = ["evaluate", str(models[0]), "--suite", str(tmp_path / "suite.yaml"), "--workers", "0"]
    done = CliRunner().invoke(app, [*words, "--clip-benchmark-json", str(tmp_path / "json")])
    assert done.exit_code == 0, done.output
    command = [str(python), "-m", "clip_benchmark.cli", "build", str(tmp_path / "json"), "--output"]
    subprocess.run([*command, str(tmp_path / "all.csv")], check=True, capture_output=True)
    with (tmp_path / "all.csv").open() as file:
        found = {row["dataset"]: row for row in csv.DictReader(file)}
    scores = json.loads(done.stdout)
    assert float(found["cifar10"]["acc5"]) == scores["cifar10"]["acc5"]
    assert float(found["flickr8k"]["image_retrieval_recall@5"]) == scores["flickr8k"]["text_to_image_recall@5"]
    assert found["flickr8k"]["model_fullname"] == f"{models[0]} "
    assert found["flickr8k"]["acc1"] == ""


def test_an_environment_that_cannot_be_made_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(parity_environment.VARIABLE, raising=False)
    monkeypatch.setattr(parity_environment, "REQUIREMENTS", tmp_path / "requirements.txt")
    (tmp_path / "requirements.txt").write_text(f"{tmp_path / 'absent.whl'}\n")
    with pytest.raises(RuntimeError, match=r"-m pip --python failed: .*absent\.whl"):
        parity_environment.peer_python(tmp_path / "env")
    assert not (tmp_path / "env" / "made_from").exists()


@pytest.mark.parametrize(
    ("ours", "theirs", "bounds", "expected"),
    [
        (0.5, 0.5 + 5e-7, (0.5, 0.5), "equal"),
        (0.5, 0.52, (0.5, 0.55), "tie"),
        (0.5, 0.56, (0.5, 0.55), "different"),
        (0.5, 0.51, (0.5, 0.5), "different"),
    ],
)
def test_verdicts(ours: float, theirs: float, bounds: tuple[float, float], expected: str) -> None:
    assert verdict(ours, theirs, bounds) == expected
