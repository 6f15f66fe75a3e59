"""The two encoders as ONNX graphs, for batches of any size and captions of any length up to the model's."""

from __future__ import annotations

import copy
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from mmcontrast.errors import ModelError
from mmcontrast.models import DualEncoder
from mmcontrast.models.towers import one_line

VISION, TEXT = "vision_model", "text_model"
"""Names of files, inputs and outputs are those that other tools look for in ONNX exports of CLIP."""
_LARGEST = 1_900_000_000  # bytes of weights; a file of ONNX ends at 2 GB, above it they stand in a second file
_KNOWN_WARNINGS: tuple[tuple[str, type[Warning]], ...] = (
    ("# The axis name: .* will not be used, since it shares the same shape constraints", UserWarning),  # ids and mask
    ("While compiling, we found certain side effects happened in the model.forward", UserWarning),  # kept arguments
)


class _VisionGraph(nn.Module):
    def __init__(self, model: DualEncoder) -> None:
        super().__init__()
        self.encoder, self.projection = model.image_encoder, model.image_projection

    def forward(self, pixel_values: Tensor) -> Tensor:
        """(b, 3, h, w) normalised -> (b, embed_dim) of length 1."""
        return functional.normalize(self.projection(self.encoder(pixel_values)), dim=-1)


class _TextGraph(nn.Module):
    def __init__(self, model: DualEncoder) -> None:
        super().__init__()
        self.encoder, self.projection = model.text_encoder, model.text_projection

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """(b, t), (b, t) int64 -> (b, embed_dim) of length 1."""
        return functional.normalize(self.projection(self.encoder(input_ids, attention_mask)), dim=-1)


def write_graphs(model: DualEncoder, folder: Path) -> None:
    """Write vision_model.onnx and text_model.onnx, in fp32, into an existing folder.

    Raises:
        ModelError: a tower does something that ONNX cannot express.
    """
    model = _plain_copy(model)
    side = model.preprocess.image_size
    pixels = {"pixel_values": torch.randn(2, 3, side, side, generator=torch.Generator().manual_seed(0))}
    _write(_VisionGraph(model), pixels, "image_embeds", folder / f"{VISION}.onnx", "image")
    tokens = model.tokenizer(["a photo of a dog", "a cat"])  # of two lengths: one of them is padded
    ids = {"input_ids": tokens.input_ids, "attention_mask": tokens.attention_mask}
    _write(_TextGraph(model), ids, "text_embeds", folder / f"{TEXT}.onnx", "text")


def _plain_copy(model: DualEncoder) -> DualEncoder:
    """On the CPU, in fp32, in evaluation mode, every weight in the order of its dimensions."""
    plain = copy.deepcopy(model).cpu().float().eval().requires_grad_(False)
    for parameter in plain.parameters():
        parameter.data = parameter.data.contiguous()
    return plain


def _write(graph: nn.Module, inputs: dict[str, Tensor], output: str, path: Path, tower: str) -> None:
    axes = {0: "batch", 1: "length"}
    shapes = {name: {0: "batch"} if name == "pixel_values" else axes for name in inputs}
    weights = sum(value.numel() * value.element_size() for value in graph.state_dict().values())
    try:
        with torch.no_grad(), _quiet():
            torch.onnx.export(
                graph.eval(),
                tuple(inputs.values()),
                path,
                input_names=list(inputs),
                output_names=[output],
                dynamic_shapes=shapes,
                external_data=weights > _LARGEST,
                dynamo=True,
                verbose=False,
            )
    except Exception as error:  # the exporter raises of all kinds
        raise ModelError(
            f"ONNX cannot express the {tower} tower ({type(error).__name__}: {one_line(error)}); take the format "
            "mmcontrast, which can express any model"
        ) from error


@contextmanager
def _quiet() -> Iterator[None]:
    """Without what the exporter says of its own work, and without torch's fused attention, which ONNX lacks."""
    fused = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    folding = logging.getLogger("onnxscript")
    level = folding.level
    folding.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            for message, category in _KNOWN_WARNINGS:
                warnings.filterwarnings("ignore", message, category)
            yield
    finally:
        folding.setLevel(level)
        torch.backends.mha.set_fastpath_enabled(fused)
