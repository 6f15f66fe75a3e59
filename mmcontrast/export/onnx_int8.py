"""The ONNX graphs with weights of 8 bits, and what that costs in accuracy."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from importlib import import_module
from pathlib import Path

import numpy as np

from mmcontrast.export.checking import Examples
from mmcontrast.export.onnx_graphs import TEXT, VISION

INT8 = "_int8"
ACCURACY = "accuracy.json"


@dataclass(frozen=True)
class Int8Loss:
    """How far features of the int8 graphs are from those in fp32.

    Attributes:
        pictures, captions: how many were compared.
        image_cosine, text_cosine: of each with itself in fp32; their mean.
        least_image_cosine, least_text_cosine: the smallest.
        top1_agreement: share of the pictures whose nearest caption is the same.
    """

    pictures: int
    captions: int
    image_cosine: float
    least_image_cosine: float
    text_cosine: float
    least_text_cosine: float
    top1_agreement: float

    def __str__(self) -> str:
        return (
            f"int8 against fp32: cosine of pictures {self.image_cosine:.4f}, of captions {self.text_cosine:.4f}; "
            f"{self.top1_agreement:.0%} of {self.pictures} pictures keep their nearest of {self.captions} captions"
        )


def write_int8(folder: Path) -> None:
    """Write beside each fp32 graph of `folder` one with weights of 8 bits; activations are quantised as they come."""
    quantization = import_module("onnxruntime.quantization")
    for name in (VISION, TEXT):
        with _quiet_root_logger():
            quantization.quantize_dynamic(
                folder / f"{name}.onnx",
                folder / f"{name}{INT8}.onnx",
                weight_type=quantization.QuantType.QUInt8,  # of signed ones onnxruntime knows no convolution on CPUs
                use_external_data_format=(folder / f"{name}.onnx.data").exists(),
            )


def measure_int8(folder: Path, examples: Examples) -> Int8Loss:
    """Compare the int8 graphs in `folder` with those in fp32, and write accuracy.json there."""
    encoder = import_module("mmcontrast.export.onnx_example").Encoder
    (image, text), (image8, text8) = (
        (model.encode_image(list(examples.pictures)), model.encode_text(list(examples.captions)))
        for model in (encoder(folder), encoder(folder, INT8))
    )
    cosines = [(full * small).sum(axis=1) for full, small in ((image, image8), (text, text8))]
    same = np.argmax(image @ text.T, axis=1) == np.argmax(image8 @ text8.T, axis=1)
    loss = Int8Loss(
        pictures=len(image),
        captions=len(text),
        image_cosine=float(cosines[0].mean()),
        least_image_cosine=float(cosines[0].min()),
        text_cosine=float(cosines[1].mean()),
        least_text_cosine=float(cosines[1].min()),
        top1_agreement=float(same.mean()),
    )
    (folder / ACCURACY).write_text(json.dumps(asdict(loss), indent=2) + "\n", encoding="utf-8")
    return loss


@contextmanager
def _quiet_root_logger() -> Iterator[None]:
    """The quantiser gives advice on the root logger."""
    root = logging.getLogger()
    level = root.level
    root.setLevel(logging.ERROR)
    try:
        yield
    finally:
        root.setLevel(level)
