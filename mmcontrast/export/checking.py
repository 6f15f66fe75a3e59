"""Whether another library gets the same numbers from an export: it is asked in a fresh, offline process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from mmcontrast.errors import ModelError
from mmcontrast.export.processor_files import crops_alike
from mmcontrast.models import DualEncoder

TOLERANCE = 1e-5
"""Of each value of an L2-normalised feature, and of each zero-shot probability, in fp32."""

_CROP_OTHERWISE = ("transformers", "sentence_transformers")
"""They read transformers' processor: see `crops_alike`."""


@dataclass(frozen=True)
class Examples:
    """What an export is checked with.

    Attributes:
        pictures: in any mode and size.
        captions: of any length; the first `classes` of them serve as the classes of zero-shot scores.
        classes: how many.
    """

    pictures: Sequence[Image.Image]
    captions: Sequence[str]
    classes: int = 10


@dataclass(frozen=True)
class Agreement:
    """The greatest absolute differences between a library's results and ours.

    Attributes:
        image, text: of L2-normalised features.
        zero_shot: of probabilities over the classes.
        rewritten: captions left out, since the library repairs them before any tokenizer sees them.
        squared: pictures handed over as squares, since the library crops them a pixel further to the left or top.
    """

    image: float
    text: float
    zero_shot: float
    rewritten: int = 0
    squared: int = 0

    @property
    def worst(self) -> float:
        """The greatest of all."""
        return max(self.image, self.text, self.zero_shot)


def check(model: DualEncoder, name: str, folder: Path, examples: Examples, tolerance: float = TOLERANCE) -> Agreement:
    """Load `folder` with the library `name` and compare; the folder is read where it lies.

    Raises:
        ModelError: the library is missing, cannot load the folder, or differs by more than `tolerance`.
    """
    squared = 0
    if name in _CROP_OTHERWISE:
        pictures = [_square(model, picture) for picture in examples.pictures]
        squared = sum(new is not old for new, old in zip(pictures, examples.pictures, strict=True))
        examples = replace(examples, pictures=pictures)
    theirs = ask(name, folder, examples)
    image, text = model.encode_image(examples.pictures).cpu(), model.encode_text(examples.captions).cpu()
    with torch.no_grad():
        scale = float(model.logit_scale.exp())
    kept = ~theirs.get("rewritten", np.zeros(len(text), dtype=bool))
    classes = np.flatnonzero(kept[: examples.classes])
    if not len(classes):
        raise ModelError(f"{name} rewrites all captions that the export would be checked with; take others")
    scores = theirs["zero_shot"][:, classes]
    agreement = Agreement(
        image=_difference(theirs["image_features"], image.numpy()),
        text=_difference(theirs["text_features"][kept], text.numpy()[kept]),
        zero_shot=_difference(
            scores / scores.sum(axis=1, keepdims=True), zero_shot(image, text[classes], scale).numpy()
        ),
        rewritten=int((~kept).sum()),
        squared=squared,
    )
    worst = max(agreement.image, agreement.text, agreement.zero_shot)
    if not worst <= tolerance:  # NaN is refused too
        raise ModelError(f"{name} gives other numbers than mmcontrast: {agreement} is over {tolerance:g}")
    return agreement


def _square(model: DualEncoder, picture: Image.Image) -> Image.Image:
    """The picture, or its middle where transformers would take another cut out of it."""
    if crops_alike(model.preprocess, *picture.size):
        return picture
    side = min(picture.size)
    left, top = (picture.width - side) // 2, (picture.height - side) // 2
    return picture.crop((left, top, left + side, top + side))


def zero_shot(image: torch.Tensor, classes: torch.Tensor, scale: float) -> torch.Tensor:
    """Softmax over classes: (n, d), (c, d) -> (n, c)."""
    return (scale * image @ classes.T).softmax(dim=1)


def ask(
    name: str, folder: Path, examples: Examples, python: str = sys.executable, timeout: float = 600
) -> dict[str, np.ndarray]:
    """What the library `name` computes from an export: image_features, text_features, zero_shot, logits_scale...

    `probe_NAME.py`, which imports nothing of ours, is run as FOLDER EXAMPLES RESULT.npz.

    Args:
        name: of the format.
        folder: the export.
        examples: as for `check`.
        python: the interpreter; another one has another version of the library.
        timeout: seconds.
    """
    probe = Path(__file__).with_name(f"probe_{name}.py")
    with tempfile.TemporaryDirectory() as temporary:
        work = Path(temporary)
        save_examples(examples, work / "examples")
        command = [python, str(probe), str(folder), str(work / "examples"), str(work / "result.npz")]
        quiet = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
        run = subprocess.run(
            command, env={**os.environ, **quiet}, cwd=work, capture_output=True, text=True, timeout=timeout
        )
        if run.returncode:
            last = (run.stderr.strip().splitlines() or ["no message"])[-1]
            raise ModelError(f"{name} cannot load the export: {last}")
        with np.load(work / "result.npz", allow_pickle=False) as result:
            return {key: result[key] for key in result.files}


def save_examples(examples: Examples, folder: Path) -> None:
    """pictures/NNNNN.png (or .tiff where PNG has no such mode) and captions.json."""
    pictures = folder / "pictures"
    pictures.mkdir(parents=True)
    for number, picture in enumerate(examples.pictures):
        suffix = "png" if picture.mode in ("1", "L", "LA", "P", "RGB", "RGBA", "I", "I;16") else "tiff"
        picture.save(pictures / f"{number:05}.{suffix}", exif=picture.getexif())
    values = {"captions": list(examples.captions), "classes": examples.classes}
    (folder / "captions.json").write_text(json.dumps(values, ensure_ascii=False), encoding="utf-8")


def _difference(theirs: np.ndarray, ours: np.ndarray) -> float:
    if theirs.shape != ours.shape:
        raise ModelError(f"an export gives {theirs.shape} values, mmcontrast {ours.shape}")
    return float(np.abs(theirs - ours).max())
