"""Heat maps from a model's folder to a file, and what is refused."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from model_fakes import CONTEXT, CORPUS, tiny_model
from PIL import Image
from typer.testing import CliRunner

from mmcontrast import build
from mmcontrast.cli import app
from mmcontrast.errors import DataError, ModelError
from mmcontrast.models import SentencePieceTokenizer, train_sentencepiece
from mmcontrast.report.heat_maps import TextMap, heat_maps_page, overlay

EVIL = '<script>alert(1)</script> $x^2$ "犬"'


@pytest.fixture(scope="module")
def tokenizer() -> SentencePieceTokenizer:
    return SentencePieceTokenizer(train_sentencepiece(CORPUS, 330), CONTEXT)


@pytest.fixture(scope="module")
def folder(tokenizer: SentencePieceTokenizer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("vit") / "model"
    tiny_model(tokenizer, "open_clip_vit", "bag_of_words").save_pretrained(made)
    return made


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    pixels = np.random.default_rng(0).integers(0, 255, (40, 60, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "p.png")
    return tmp_path / "p.png"


def test_a_png_and_a_page_from_the_command(folder: Path, picture: Path, tmp_path: Path) -> None:
    texts = ["a red dog", EVIL]
    for name in ("maps/a.png", "a.html"):
        result = CliRunner().invoke(
            app, ["heatmap", str(folder), str(picture), *texts, "--output", str(tmp_path / name)]
        )
        assert result.exit_code == 0, result.output
        assert "of 4, 4" in result.output
    assert sorted(path.name for path in tmp_path.rglob("*.*")) == ["a.html", "a.png", "p.png"]  # nothing aside
    with Image.open(tmp_path / "maps/a.png") as drawn:
        assert drawn.width > 1000 > drawn.height
    page = (tmp_path / "a.html").read_text(encoding="utf-8")
    assert "&lt;script&gt;" in page
    assert "<script" not in page
    assert page.count("data:image/jpeg") == 1 + 2 * 2


def test_cosines_are_those_of_the_model(folder: Path, picture: Path, tmp_path: Path) -> None:
    model = build.jobs.load_encoder(folder)
    maps = build.heatmap(model, picture, ["a red dog", "grass"], tmp_path / "a.png")
    text = model.encode_text(["a red dog", "grass"])
    with Image.open(picture) as image:
        whole = text @ model.encode_image(image)[0]
    assert [found.whole for found in maps] == pytest.approx(whole.tolist(), abs=1e-5)
    assert [found.heat.shape for found in maps] == [(4, 4), (4, 4)]
    assert not model.training


def test_mistakes(folder: Path, picture: Path, tmp_path: Path, tokenizer: SentencePieceTokenizer) -> None:
    (tmp_path / "not.png").write_text("no picture")
    for file, output, message in (
        (picture, "a.gif", r"--output: .*a.gif is none of .png and .html"),
        (tmp_path / "absent.png", "a.png", r"absent.png: there is no such file"),
        (tmp_path / "not.png", "a.png", r"not.png: not a picture in a known format"),
    ):
        with pytest.raises(DataError, match=message):
            build.heatmap(folder, file, ["a"], tmp_path / output)
    for texts in ([], ["a", " "]):
        with pytest.raises(DataError, match="heat maps need at least one text, and none that is empty"):
            build.heatmap(folder, picture, texts, tmp_path / "a.png")
    with pytest.raises(ModelError, match=r"heat maps need an image tower of patches, .* this one is a ResNet"):
        build.heatmap(tiny_model(tokenizer, "timm_resnet", "bag_of_words"), picture, ["a"], tmp_path / "a.png")
    assert not (tmp_path / "a.png").exists()


def test_the_brightest_place_is_the_greatest_value() -> None:
    heat = np.zeros((4, 4), dtype=np.float32)
    heat[1, 3] = 0.5
    drawn = np.asarray(overlay(Image.new("RGB", (64, 64), (90, 90, 90)), heat), dtype=float).sum(axis=2)
    assert drawn[24, 56] == drawn.max() > 2 * drawn.min()
    flat = np.asarray(overlay(Image.new("RGB", (64, 64)), np.ones((2, 2), dtype=np.float32)))
    assert flat.std(axis=(0, 1)).max() == 0  # no scale, no colours


def test_the_page_says_the_range(tmp_path: Path) -> None:
    heat = torch.linspace(-0.25, 0.125, 4).view(2, 2).numpy()
    page = heat_maps_page(Image.new("RGB", (32, 32)), [TextMap("a", heat, 0.0625)], name="<i>", model="m")
    assert all(number in page for number in ("-0.250", "0.125", "whole picture 0.062", "&lt;i&gt;"))
    assert io.StringIO(page).readline() == "<!doctype html>\n"
