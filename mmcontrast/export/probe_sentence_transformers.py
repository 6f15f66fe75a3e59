"""Run by `checking.ask`: what sentence-transformers gives for an export; nothing of ours is imported."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
from PIL import Image
from sentence_transformers import SentenceTransformer


def main(folder: Path, examples: Path, result: Path) -> None:
    """Encode pictures and captions as a user would; both in one list, one by one, give the same."""
    model = SentenceTransformer(str(folder), device="cpu", local_files_only=True)
    pictures = [Image.open(path) for path in sorted((examples / "pictures").iterdir())]
    values = json.loads((examples / "captions.json").read_text(encoding="utf-8"))
    image, text = model.encode(pictures), model.encode(values["captions"])
    both = model.encode([pictures[0], values["captions"][0]], batch_size=1)
    if not np.allclose(both, [image[0], text[0]], atol=1e-6):
        raise SystemExit("a picture and a caption in one list are encoded differently than alone")
    logits = float(model[0].model.logit_scale.exp()) * image @ text[: values["classes"]].T
    shares = np.exp(logits - logits.max(axis=1, keepdims=True))
    np.savez(result, image_features=image, text_features=text, zero_shot=shares / shares.sum(axis=1, keepdims=True))


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
