"""The written files in version 4 of transformers, which has an environment of its own."""

from __future__ import annotations

import json
import os
import subprocess
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from exported_tokenizers import bert_tokenizer, endless_tokenizer, ours, sentencepiece_model
from PIL import Image

from mmcontrast.export.processor_files import crops_alike, write_processor
from mmcontrast.export.tokenizer_files import write_tokenizer
from mmcontrast.export.tokenizer_probes import PROBES
from mmcontrast.models import ClipTokenizer, SentencePieceTokenizer, Tokenizer
from mmcontrast.preprocess import ImagePreprocess

# Told what lies where by work.json; imports nothing of ours.
READER = """
import json, sys
import numpy as np, transformers
from PIL import Image
work = json.load(open("work.json"))
assert transformers.__version__.startswith("4."), transformers.__version__
rows = {}
for folder in work["tokenizers"]:
    for cls in (transformers.AutoTokenizer, transformers.CLIPProcessor):
        loaded = cls.from_pretrained(folder)
        loaded = getattr(loaded, "tokenizer", loaded)
        batch = loaded(work["captions"], truncation=True, padding=True)
        assert sorted(batch) == ["attention_mask", "input_ids"], sorted(batch)
        pairs = zip(batch["input_ids"], batch["attention_mask"])
        rows[folder + cls.__name__] = [[i for i, real in zip(*pair) if real] for pair in pairs]
json.dump(rows, open("rows.json", "w"))
pixels = {}
for folder in work["processors"]:
    processor = transformers.AutoImageProcessor.from_pretrained(folder)
    pictures = [Image.open(name).convert("RGB") for name in work["pictures"]]
    pixels[folder] = processor(images=pictures, return_tensors="np")["pixel_values"]
np.savez("pixels.npz", **pixels)
"""


@pytest.fixture
def python() -> str:
    if not (python := os.environ.get("MMCONTRAST_TRANSFORMERS_4")):
        pytest.skip("MMCONTRAST_TRANSFORMERS_4 names no interpreter with version 4 of transformers")
    return python


def test_version_four_gives_the_same_ids_and_pixels(python: str, tmp_path: Path) -> None:
    tokenizers: dict[str, Tokenizer] = {
        "clip": ClipTokenizer(77),
        "sentencepiece": SentencePieceTokenizer(sentencepiece_model(byte_fallback=True), 77),
        "foreign": SentencePieceTokenizer(sentencepiece_model(normalization_rule_name="nmt_nfkc"), 77),
        "bert": bert_tokenizer(tmp_path / "bert_own", 77),
        "endless": endless_tokenizer(tmp_path / "endless_own", 77),
    }
    any_preprocess = ImagePreprocess(32)
    for name, tokenizer in tokenizers.items():
        (tmp_path / name).mkdir()
        write_tokenizer(tokenizer, tmp_path / name)
        write_processor(any_preprocess, tmp_path / name)
    ways = product(("shortest", "squash"), ("bicubic", "bilinear"))
    processors = {f"{a}_{b}": ImagePreprocess(33, resize=a, interpolation=b) for a, b in ways}  # type: ignore[arg-type]
    for name, preprocess in processors.items():
        (tmp_path / name).mkdir()
        write_processor(preprocess, tmp_path / name)
    rng = np.random.default_rng(0)
    shapes = [*product((9, 17, 33, 50, 200), repeat=2)]  # version 4 takes a height of 1 or 3 for colours
    shapes = [shape for shape in shapes if crops_alike(processors["shortest_bicubic"], *shape)]
    pictures = [Image.fromarray(rng.integers(0, 256, (h, w, 3), dtype=np.uint8)) for w, h in shapes]
    for number, picture in enumerate(pictures):
        picture.save(tmp_path / f"{number}.png")
    work = {
        "tokenizers": list(tokenizers),
        "processors": list(processors),
        "captions": list(PROBES),
        "pictures": [f"{number}.png" for number in range(len(pictures))],
    }
    (tmp_path / "work.json").write_text(json.dumps(work))
    run = subprocess.run(
        [python, "-c", READER],
        cwd=tmp_path,
        env={**os.environ, "HF_HUB_OFFLINE": "1", "PYTHONPATH": ""},
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stderr
    rows = json.loads((tmp_path / "rows.json").read_text())
    for name, tokenizer in tokenizers.items():
        for cls in ("AutoTokenizer", "CLIPProcessor"):
            assert rows[name + cls] == ours(tokenizer, PROBES), (name, cls)
    pixels = np.load(tmp_path / "pixels.npz")
    for name, preprocess in processors.items():
        expected = preprocess.normalise(preprocess.batch(pictures)).numpy()
        assert np.abs(pixels[name] - expected).max() <= 1e-6, name
