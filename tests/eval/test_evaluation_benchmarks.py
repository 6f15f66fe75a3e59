"""The benchmarks of evaluation, tiny; the one against CLIP_benchmark without CLIP_benchmark."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import open_clip
import pytest
import retrieval_scale
import torch
from evaluation import TASKS, main, metrics_of, our_command, peer_command, run
from evaluation_data import write_classification, write_retrieval
from evaluation_model import SIZES, write_models
from PIL import Image

from mmcontrast import DualEncoder


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    write_models(folder, SIZES["tiny"])
    return folder


def test_both_models_are_the_same_function(models: Path) -> None:
    theirs, _, transform = open_clip.create_model_and_transforms(
        f"local-dir:{models / 'open_clip'}", require_pretrained=True
    )
    ours = DualEncoder.from_pretrained(models / "ours")
    pictures = [Image.linear_gradient("L").rotate(angle).convert("RGB") for angle in (0, 90, 200)]
    captions = ["a dog", "two dogs run over a wide green meadow", "a house"]
    with torch.inference_mode():
        images = theirs.eval().encode_image(torch.stack([transform(picture) for picture in pictures]), normalize=True)
        texts = theirs.encode_text(open_clip.tokenize(captions), normalize=True)
    torch.testing.assert_close(ours.encode_image(pictures), images, rtol=0, atol=1e-5)
    torch.testing.assert_close(ours.encode_text(captions), texts, rtol=0, atol=1e-5)


@pytest.mark.parametrize("task", TASKS)
def test_our_side_reads_what_is_written(task: str, models: Path, shared_data: Path, tmp_path: Path) -> None:
    write = {"zero_shot": write_classification, "retrieval": write_retrieval}[task]
    write(shared_data / {"zero_shot": "cifar10", "retrieval": "flickr8k"}[task], tmp_path / task, 40)
    wall, loop = run(our_command(task, models, tmp_path, tmp_path / "out.json", 16))
    assert wall > loop > 0
    found = metrics_of(tmp_path / "out.json", task)
    assert len(found) == (3 if task == "zero_shot" else 6)
    assert all(0 <= value <= 1 for value in found.values())
    command = " ".join(peer_command(Path("python"), task, models, tmp_path, tmp_path / "p.json", 16))
    assert f"--dataset_root {tmp_path / task} " in command
    assert "--no_amp" in command


def test_the_peers_names_are_ours(tmp_path: Path) -> None:
    values = {f"{way}_retrieval_recall@{k}": k / 10 for way in ("image", "text") for k in (1, 5, 10)}
    (tmp_path / "peer.json").write_text(json.dumps({"metrics": values}))
    found = metrics_of(tmp_path / "peer.json", "retrieval")
    assert found == {f"{way}_recall@{k}": k / 10 for way in ("text_to_image", "image_to_text") for k in (1, 5, 10)}


def test_missing_peer_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["evaluation.py", "--peer-env", str(tmp_path)])
    with pytest.raises(SystemExit):
        main()
    assert "--peer-env: no " in capsys.readouterr().err


@pytest.mark.parametrize("part", [None, 2048])
def test_retrieval_at_scale(
    part: int | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["retrieval_scale.py", "--rows", "3000", "--dim", "8", "--sample", "300", "--repeats", "1"]
    words += ["--output", str(tmp_path / "out.json"), *([] if part is None else ["--part", str(part)])]
    monkeypatch.setattr(sys, "argv", words)
    retrieval_scale.main()
    found = json.loads((tmp_path / "out.json").read_text())["3000 x 8"]
    assert found["scale"]["pictures"] == (part or 3000)
    assert found["scale"]["captions"] == 3000
    assert ("seconds_for_all_extrapolated" in found["scale"]) == (part is not None)
    assert 0 < found["scale"]["metrics"]["image_to_text_recall@1"] < 1
    assert set(found["comparison"]["seconds"]) == {"tiles", "rows", "plain", "product"}
    assert f"{part or 3000:,} of {part or 3000:,} pictures, 0 s left" in capsys.readouterr().err


def test_time_left_follows_the_pace_after_the_first_tiles() -> None:
    progress = retrieval_scale.Progress(100)
    progress.ticks = [(10, 5.0), (20, 6.0), (40, 8.0)]  # 4 s once, then 0.1 s a picture
    assert progress.seconds_for(100) == pytest.approx(14.0)
