"""Run by `checking.ask`: what onnxruntime gives for an export. It reads the export's own example, nothing of ours."""

from __future__ import annotations

import json
import runpy
import sys
from pathlib import Path

import numpy as np
from PIL import Image


def main(folder: Path, examples: Path, result: Path) -> None:
    """Encode the examples in batches of one and of many, which have captions of other lengths."""
    encoder = runpy.run_path(str(folder / "onnx" / "example.py"))["Encoder"](folder / "onnx")
    pictures = [Image.open(path) for path in sorted((examples / "pictures").iterdir())]
    values = json.loads((examples / "captions.json").read_text(encoding="utf-8"))
    captions = values["captions"]
    image = np.concatenate([encoder.encode_image(part) for part in (pictures[:1], pictures[1:]) if part])
    text = np.concatenate([encoder.encode_text(part) for part in (captions[:1], captions[1:]) if part])
    logits = encoder.info["logit_scale"] * image @ text[: values["classes"]].T
    shares = np.exp(logits - logits.max(axis=1, keepdims=True))
    np.savez(result, image_features=image, text_features=text, zero_shot=shares / shares.sum(axis=1, keepdims=True))


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
