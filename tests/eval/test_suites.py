"""Suites load and run, and measure models of other libraries by the same ruler: as those libraries' features would."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import open_clip
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import transformers
import yaml
from foreign_fakes import hf_clip_folder, hf_dual_folder, hf_siglip_folder, open_clip_folder
from model_fakes import CORPUS, SIZE
from PIL import Image
from torch import Tensor

from mmcontrast.cli import app
from mmcontrast.config import load_suite
from mmcontrast.data import open_source
from mmcontrast.evaluation.positives import id_keys
from mmcontrast.evaluation.retrieval import retrieval_metrics
from mmcontrast.evaluation.zero_shot import class_weights, classify

SUITES = sorted((Path(__file__).parents[2] / "eval" / "suites").glob("*.yaml"))
TEMPLATES = ["a red {c}", "the {c} on the road"]
NAMES = ["car", "cat", "dog", "table", "tree"]
Features = tuple[Callable[[list[Image.Image]], Tensor], Callable[[list[str]], Tensor]]


def of_open_clip(folder: Path) -> Features:
    model, _, transform = open_clip.create_model_and_transforms(f"local-dir:{folder}", require_pretrained=True)
    tokenizer = open_clip.get_tokenizer(f"local-dir:{folder}")
    return (
        lambda pictures: model.eval().encode_image(torch.stack([transform(p) for p in pictures]), normalize=True),
        lambda texts: model.eval().encode_text(tokenizer(texts), normalize=True),
    )


def of_transformers(folder: Path) -> Features:
    model = transformers.AutoModel.from_pretrained(folder).eval()
    processor = transformers.AutoImageProcessor.from_pretrained(folder, backend="pil")
    words = transformers.AutoTokenizer.from_pretrained(folder)
    padding = "max_length" if model.config.model_type == "siglip" else True

    def text(texts: list[str]) -> Tensor:
        tokens = words(texts, return_tensors="pt", truncation=True, padding=padding)
        tokens.pop("token_type_ids", None)
        return model.get_text_features(**tokens).pooler_output

    return lambda pictures: model.get_image_features(**processor(pictures, return_tensors="pt")).pooler_output, text


PEERS: dict[str, tuple[Callable[[Path], Path], Callable[[Path], Features], str]] = {
    "open_clip": (open_clip_folder, of_open_clip, "local-dir:"),
    "CLIP": (hf_clip_folder, of_transformers, ""),
    "SigLIP": (hf_siglip_folder, of_transformers, ""),
    "VisionTextDualEncoder": (hf_dual_folder, of_transformers, ""),
}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twenty pictures of noise, with two captions and a class each."""
    draw = torch.Generator().manual_seed(0)
    rows = []
    folder = tmp_path_factory.mktemp("data")
    for i in range(20):
        pixels = torch.randint(0, 256, (SIZE, SIZE, 3), generator=draw, dtype=torch.uint8)
        Image.fromarray(pixels.numpy()).save(folder / f"{i}.png")
        rows.append({"image": f"{i}.png", "captions": CORPUS[6 + 2 * i : 8 + 2 * i], "label": NAMES[i % 5]})
    pq.write_table(pa.Table.from_pylist(rows), folder / "data.parquet")
    tasks = [
        {"name": "retrieval", "task": "retrieval", "data": str(folder / "data.parquet"), "ks": [1, 3]},
        {"name": "classes", "task": "zero_shot", "data": str(folder / "data.parquet"), "templates": TEMPLATES},
    ]
    (folder / "suite.yaml").write_text(yaml.safe_dump({"tasks": tasks}))
    return folder


@pytest.mark.parametrize("peer", PEERS)
def test_a_peer_has_the_numbers_of_its_own_library(
    peer: str, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make, library, prefix = PEERS[peer]
    name = f"{prefix}{make(tmp_path / 'peer')}"
    words = ["evaluate", name, "--suite", str(data / "suite.yaml"), "--workers", "0", "--batch-size", "7"]
    app([*words, "--output", str(tmp_path / "out.json")], standalone_mode=False)
    found = json.loads((tmp_path / "out.json").read_text())
    source = open_source(data / "data.parquet")
    captions = [source.captions(i) for i in range(20)]
    with torch.inference_mode():
        encode_image, encode_text = library(tmp_path / "peer")
        images = encode_image([Image.open(data / f"{i}.png") for i in range(20)])
        texts = encode_text([caption for own in captions for caption in own])
        weights = class_weights(encode_text, NAMES, TEMPLATES)
    owners = torch.tensor([i for i, own in enumerate(captions) for _ in own])
    expected = retrieval_metrics(images, texts, id_keys(owners, 20), ks=(1, 3))
    assert found["retrieval"] == pytest.approx(expected, abs=1e-5)
    labels = torch.tensor([i % 5 for i in range(20)])
    assert found["classes"] == pytest.approx(classify(images, labels, weights, NAMES).metrics, abs=1e-5)


@pytest.mark.parametrize("path", SUITES, ids=lambda path: path.stem)
def test_suites_of_the_repository(path: Path, shared_data: Path) -> None:
    assert path.read_text().startswith(f"# mmcontrast evaluate MODEL --suite eval/suites/{path.name}")
    for task in load_suite(path).tasks:
        for name in filter(None, (task.data, task.train_data)):
            file = shared_data / name.removeprefix("../shared/data/")
            source = open_source(file, rows=3, caption_columns=task.caption_columns, label_column=task.label_column)
            assert len(source) == 3
    assert SUITES
