"""What mmcontrast itself computes from an export, in a process that knows nothing of the model it was written from.

Run as: probe_mmcontrast.py FOLDER EXAMPLES RESULT.npz
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from mmcontrast.models import DualEncoder


def main(folder: Path, examples: Path, result: Path) -> None:
    """Encode the examples and classify the pictures."""
    model = DualEncoder.from_pretrained(folder)
    given = json.loads((examples / "captions.json").read_text(encoding="utf-8"))
    pictures = [Image.open(path) for path in sorted((examples / "pictures").iterdir())]
    image, text = model.encode_image(pictures), model.encode_text(given["captions"])
    with torch.no_grad():
        logits = model.logit_scale.exp() * image @ text[: given["classes"]].T
    np.savez(result, image_features=image, text_features=text, zero_shot=logits.softmax(dim=1))


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:4]))
