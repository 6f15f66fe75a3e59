"""What open_clip computes from an export: python probe_open_clip.py FOLDER EXAMPLES RESULT.npz

Beside the features: `rewritten`, captions that get other ids because open_clip repairs text (HTML entities, curly
quotes, ...) before it hands it to any tokenizer but CLIP's.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import torch
from PIL import Image, ImageOps


def main(folder: Path, examples: Path, result: Path) -> None:
    """Write image_features, text_features, zero_shot, input_ids and rewritten to `result`."""
    name = f"local-dir:{folder}"
    model, _, preprocess = open_clip.create_model_and_transforms(name, require_pretrained=True)
    model.eval()
    tokenizer: Any = open_clip.get_tokenizer(name)
    wanted = json.loads((examples / "captions.json").read_text(encoding="utf-8"))
    pictures = [as_rgb(path) for path in sorted((examples / "pictures").iterdir())]
    ids = tokenizer(wanted["captions"])
    with torch.no_grad():
        image = torch.cat([model.encode_image(preprocess(picture)[None], normalize=True) for picture in pictures])
        text = torch.cat([model.encode_text(row[None], normalize=True) for row in ids])
        classes = text[: wanted["classes"]]
        scores = (model.logit_scale.exp() * image @ classes.T).softmax(dim=1)
    np.savez(
        result,
        image_features=image.numpy(),
        text_features=text.numpy(),
        zero_shot=scores.numpy(),
        input_ids=ids.numpy(),
        rewritten=(ids != as_written(tokenizer, wanted["captions"])).any(dim=1).numpy(),
    )


def as_rgb(path: Path) -> Image.Image:
    """8-bit RGB and upright, as open_clip wants pictures: it resizes before it looks at the mode."""
    image: Image.Image = ImageOps.exif_transpose(Image.open(path))
    if image.mode.startswith("I"):  # 16 bits, which Pillow would clip to white
        grey = np.asarray(image).astype(np.int64).clip(0, 65535)
        grey = grey >> 8 if image.mode != "I" or grey.max(initial=0) > 255 else grey
        image = Image.fromarray(grey.astype(np.uint8))
    if image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")
    return image.convert("RGB")


def as_written(tokenizer: Any, captions: list[str]) -> torch.Tensor:
    """The ids of captions as they stand."""
    if not isinstance(tokenizer, open_clip.tokenizer.HFTokenizer):
        return torch.as_tensor(tokenizer(captions))
    clean, tokenizer.clean_fn = tokenizer.clean_fn, str
    try:
        return torch.as_tensor(tokenizer(captions))
    finally:
        tokenizer.clean_fn = clean


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:4]))
