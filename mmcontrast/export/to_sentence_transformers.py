"""A model for sentence-transformers: a few files that tell it how to use the folder's transformers model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from mmcontrast.errors import ModelError
from mmcontrast.export import to_transformers
from mmcontrast.export.packages import need
from mmcontrast.models import DualEncoder

_MODULES = [
    ("", "sentence_transformers.models.Transformer"),
    ("1_Normalize", "sentence_transformers.models.Normalize"),
]


def write(model: DualEncoder, folder: Path) -> None:
    """Write modules.json and the like beside the transformers model, which is written too if it is not there yet.

    `SentenceTransformer(folder).encode(...)` then gives our features of pictures or of strings. The library takes a
    list of both only one by one (batch_size=1).

    Raises:
        ModelError: the package is missing, or transformers cannot express the model.
    """
    need("sentence_transformers", "sentence_transformers")
    if not (folder / "config.json").is_file():
        try:
            to_transformers.write(model, folder)
        except ModelError as error:
            raise ModelError(f"sentence_transformers needs the model in transformers' format: {error}") from error
    modules = [
        {"idx": number, "name": str(number), "path": path, "type": kind} for number, (path, kind) in enumerate(_MODULES)
    ]
    _write_json(folder / "modules.json", modules)
    _write_json(folder / "sentence_bert_config.json", _transformer(model, folder))
    values = {"model_type": "SentenceTransformer", "similarity_fn_name": "cosine"}
    _write_json(folder / "config_sentence_transformers.json", values)


def _transformer(model: DualEncoder, folder: Path) -> dict[str, Any]:
    """How the library prepares and calls the model; what it would guess pads and cuts captions in other ways."""
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    text: dict[str, Any] = {"max_length": model.tokenizer.context_length}
    if config["model_type"].startswith("siglip"):  # it reads its padding, and pools behind it
        text = {"max_length": config["text_config"]["max_position_embeddings"], "padding": "max_length"}
    return {
        "transformer_task": "feature-extraction",
        "modality_config": {
            kind: {"method": f"get_{kind}_features", "method_output_name": "pooler_output"}
            for kind in ("text", "image")
        },
        "module_output_name": "sentence_embedding",
        "processing_kwargs": {"text": text},
    }


def _write_json(path: Path, values: object) -> None:
    path.write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")
