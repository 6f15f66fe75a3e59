"""What transformers computes from an export, as its reader would: probe FOLDER EXAMPLES RESULT.npz."""

from __future__ import annotations

import json
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from PIL import Image
from transformers.image_utils import load_image

LONG = 400
"""Tokens of the longest label that the pipeline is tried with."""


def main(folder: str, examples: Path, result: str) -> None:
    """Features and zero-shot scores of the examples; the pipeline must run and agree."""
    transformers.logging.set_verbosity_error()
    values = json.loads((examples / "captions.json").read_text(encoding="utf-8"))
    pictures = [load_image(str(path)) for path in sorted((examples / "pictures").iterdir())]
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    processor = transformers.AutoImageProcessor.from_pretrained(folder)
    model = transformers.AutoModel.from_pretrained(folder).eval()
    padding = {"padding": "max_length", "max_length": 64} if "siglip" in model.config.model_type else {"padding": True}
    with torch.inference_mode():
        pixels = torch.cat([processor(images=picture, return_tensors="pt")["pixel_values"] for picture in pictures])
        tokens = tokenizer(values["captions"], truncation=True, return_tensors="pt", **padding)
        image = _features(model.get_image_features(pixel_values=pixels))
        text = _features(model.get_text_features(**tokens))
        classes = values["captions"][: values["classes"]]
        few = {name: ids[: len(classes)] for name, ids in tokens.items()}
        scores = model(pixel_values=pixels, **few).logits_per_image.softmax(dim=1)
    _check_pipeline(folder, tokenizer, pictures[0], classes, scores[0])
    np.savez(result, image_features=image.numpy(), text_features=text.numpy(), zero_shot=scores.numpy())


def _features(output: Any) -> torch.Tensor:
    """Normalised; transformers 5 gives an object, 4 the tensor."""
    features = output if isinstance(output, torch.Tensor) else output.pooler_output
    return torch.nn.functional.normalize(features, dim=-1)


def _check_pipeline(
    folder: str, tokenizer: Any, picture: Image.Image, classes: list[str], scores: torch.Tensor
) -> None:
    pipe = transformers.pipeline("zero-shot-image-classification", model=folder)
    long = classes[0]  # the pipeline does not cut it
    while len(tokenizer(long, verbose=False)["input_ids"]) <= min(tokenizer.model_max_length, LONG):
        long += f" {classes[0]}"
    found = pipe(picture, candidate_labels=[*classes, long], hypothesis_template="{}")
    if len(found) != len(classes) + 1:
        raise SystemExit("the pipeline loses labels")
    if any(len(tokenizer(label, verbose=False)["input_ids"]) > tokenizer.model_max_length for label in classes):
        return  # read whole by the pipeline, but cut above
    found = pipe(picture, candidate_labels=classes, hypothesis_template="{}")
    if "siglip" in pipe.model.config.model_type:
        return  # each label by itself, not one of all
    theirs = {entry["label"]: entry["score"] for entry in found}
    worst = max(abs(theirs[label] - float(score)) for label, score in zip(classes, scores, strict=True))
    if not worst <= 1e-5:
        raise SystemExit(f"the pipeline's scores differ by {worst:.1e} from the model's")


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    main(sys.argv[1], Path(sys.argv[2]), sys.argv[3])
