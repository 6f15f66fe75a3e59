"""Averages of two runs' models, and sweeps over them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from tiny_runs import tiny_config, train

import mmcontrast
from mmcontrast import build
from mmcontrast.data import open_source
from mmcontrast.errors import MMContrastError, ModelError

pytestmark = pytest.mark.usefixtures("one_thread")
SOURCE = open_source("synthetic://scenes", split="validation", rows=40)
SCENES = {"data": SOURCE}


@pytest.fixture(scope="module")
def tuned(tiny_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The model of a short run that starts from the tiny one."""
    output = tmp_path_factory.mktemp("tuned") / "run"
    start = {"init_from": str(tiny_run / "model")}
    config = tiny_config(output, "training.epochs=1", "data.train.rows=60", "evaluation.inspect_negatives=0")
    config = config.model_validate({**config.model_dump(exclude={"model"}), "model": start})
    return train(config).run_dir / "model"


def test_merge_writes_a_model(tiny_run: Path, tuned: Path, tmp_path: Path) -> None:
    said: list[str] = []
    start = tiny_run / "model"
    summary = build.merge([start, tuned], tmp_path / "mixed", alpha=0.25, say=said.append)
    assert summary == {"models": [str(start), str(tuned)], "weights": [0.75, 0.25]}
    assert said == [build.merging.BATCH_NORM]
    states = [mmcontrast.DualEncoder.from_pretrained(path).state_dict() for path in (start, tuned, tmp_path / "mixed")]
    for name, value in states[2].items():
        expected = 0.75 * states[0][name] + 0.25 * states[1][name] if value.is_floating_point() else states[0][name]
        torch.testing.assert_close(value, expected)
    assert build.merge([start, tuned, start], tmp_path / "soup")["weights"] == [0.333333] * 3
    assert build.merge([start, tuned], tmp_path / "two", weights=[1, 3])["weights"] == [0.25, 0.75]


def test_a_sweep_measures_plots_and_chooses(
    tiny_run: Path, tuned: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoded, said, done = [], [], []
    open_picture = Image.open
    monkeypatch.setattr(Image, "open", lambda *given, **named: decoded.append(1) or open_picture(*given, **named))
    monkeypatch.setattr(build.jobs, "WORKERS", 0)
    start, folder = tiny_run / "model", tmp_path / "sweep"
    found = build.sweep(
        start,
        tuned,
        [1, 0, 0.5],
        {
            "val": {**SCENES, "task": ["retrieval", "zero_shot"]},
            "other": {"data": open_source("synthetic://scenes", rows=30)},
        },
        folder,
        choose="val.retrieval.mean_recall",
        progress=done.append,
        say=said.append,
    )
    assert len(decoded) == 40 + 30  # the pictures of each data set once, for three alphas and two tasks
    assert found.alphas == [0, 0.5, 1]
    assert [set(scores) for scores in found.scores] == [{"val.retrieval", "val.zero_shot", "other.retrieval"}] * 3
    ends = [mmcontrast.evaluate(model, SOURCE)["retrieval"] for model in (start, tuned)]
    assert [found.scores[0]["val.retrieval"], found.scores[2]["val.retrieval"]] == ends
    recalls = [scores["val.retrieval"]["mean_recall"] for scores in found.scores]
    best = max(recalls)  # type: ignore[type-var]
    alpha = found.alphas[recalls.index(best)]
    metric = "val.retrieval.mean_recall"
    assert found.chosen == {"alpha": alpha, "metric": metric, "value": best, "data": "val"}
    written = json.loads((folder / "sweep.json").read_text())
    assert written["scores"] == found.scores
    assert written["models"] == [str(start), str(tuned)]
    with Image.open(folder / "sweep.png") as picture:
        picture.load()
        assert picture.format == "PNG"
    chosen = mmcontrast.evaluate(folder / "model", SOURCE)["retrieval"]
    assert chosen["mean_recall"] == pytest.approx(best)
    assert said.count("retrieval: a picture and a caption belong together by id") == 2  # not once an alpha
    before = (folder / "model" / "model.safetensors").read_bytes()
    again = build.sweep(start, tuned, [0, 1], {"val": {**SCENES}}, folder)  # an earlier sweep may go
    assert again.chosen is None
    assert (folder / "model" / "model.safetensors").read_bytes() == before


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda a, b, out: build.merge([a], out), "merging takes two models at least"),
        (lambda a, b, out: build.merge([a, b], out, alpha=1.5), r"alpha must lie in \[0, 1\], not 1.5"),
        (lambda a, b, out: build.merge([a, b, a], out, alpha=0.5), "alpha mixes two models, not 3"),
        (lambda a, b, out: build.merge([a, b], out, weights=[1]), "1 weights for 2 models"),
        (lambda a, b, out: build.merge([a, b], out, weights=[-1, 2]), "none may be negative"),
        (lambda a, b, out: build.merge([a, b], out, alpha=0.5, weights=[1, 1]), "alpha or weights, not both"),
        (lambda a, b, out: build.merge([a, out / "absent"], out), "absent is not a folder"),
        (lambda a, b, out: build.sweep(a, b, [0, 2], {"v": SCENES}, out), r"alphas must lie in \[0, 1\]: 0, 2"),
        (lambda a, b, out: build.sweep(a, b, [], {"v": SCENES}, out), "there is none"),
        (
            lambda a, b, out: build.sweep(a, b, [0], {"v": SCENES}, out, choose="recal"),
            r"--choose recal: v.retrieval has no such metric of which the highest is best, but .*, mean_recall$",
        ),
        (
            lambda a, b, out: build.sweep(a, b, [0], {"v": SCENES, "w": SCENES}, out, choose="mean_recall"),
            "is ambiguous: take v.retrieval.mean_recall or w.retrieval.mean_recall",
        ),
        (lambda a, b, out: build.sweep(a, b, [0], {"v": SCENES}, out, choose="median_rank"), "no such metric"),
        (lambda a, b, out: build.sweep(a, b, [0], {"v": SCENES}, a), "holds other files than a sweep"),
    ],
)
def test_errors_are_one_line_and_leave_nothing(
    tiny_run: Path, tuned: Path, tmp_path: Path, call: Callable[..., Any], message: str
) -> None:
    with pytest.raises(MMContrastError, match=message) as caught:
        call(tiny_run / "model", tuned, tmp_path / "out")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_models_of_another_kind_are_refused_before_anything_is_measured(
    tiny_run: Path, tuned: Path, tmp_path: Path
) -> None:
    other = mmcontrast.DualEncoder.from_pretrained(tuned)
    other.preprocess = other.preprocess.__class__(image_size=32, resize="squash")
    other.save_pretrained(tmp_path / "other")
    with pytest.raises(ModelError, match=r"preprocess.resize is 'shortest' in the first and 'squash' in the second"):
        build.sweep(tiny_run / "model", tmp_path / "other", [0, 1], {"v": {"data": "absent.csv"}}, tmp_path / "out")
