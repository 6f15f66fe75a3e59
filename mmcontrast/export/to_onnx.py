"""A model as ONNX graphs, with all that running them without torch takes."""

from __future__ import annotations

import json
import math
import shutil
from dataclasses import asdict
from pathlib import Path

from mmcontrast.export.onnx_graphs import write_graphs
from mmcontrast.export.onnx_int8 import write_int8
from mmcontrast.export.packages import need
from mmcontrast.export.tokenizer_files import write_tokenizer
from mmcontrast.models import DualEncoder

FOLDER = "onnx"


def write(model: DualEncoder, folder: Path) -> None:
    """Write `folder`/onnx: graphs of both encoders in fp32 and int8, preprocess.json, tokenizer.json, example.py.

    vision_model.onnx takes pixel_values (b, 3, h, w) float32, and gives image_embeds (b, embed_dim) of length 1;
    text_model.onnx takes input_ids and attention_mask (b, t) int64, and gives text_embeds. b and t are free.

    Raises:
        ModelError: a package is missing, or a tower or the tokenizer cannot be expressed.
    """
    need("onnx", "onnx", "onnxscript", "onnxruntime")
    place = folder / FOLDER
    place.mkdir(exist_ok=True)
    try:
        _write(model, place)
    except BaseException:
        shutil.rmtree(place)  # the formats beside it stay
        raise


def _write(model: DualEncoder, place: Path) -> None:
    tokenizer = write_tokenizer(model.tokenizer, place)
    write_graphs(model, place)
    write_int8(place)
    values = _preprocess(model, tokenizer.pad_id)
    (place / "preprocess.json").write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")
    shutil.copyfile(Path(__file__).with_name("onnx_example.py"), place / "example.py")


def _preprocess(model: DualEncoder, pad_id: int) -> dict[str, object]:
    return {
        **asdict(model.preprocess),
        "context_length": model.tokenizer.context_length,
        "pad_id": pad_id,
        "embed_dim": model.embed_dim,
        "logit_scale": math.exp(model.logit_scale.item()),
        "logit_bias": None if model.logit_bias is None else model.logit_bias.item(),
    }
