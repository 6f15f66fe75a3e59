"""What tells a model from any other."""

from __future__ import annotations

import hashlib
import json
import tempfile
from pathlib import Path

import torch

from mmcontrast.models.dual_encoder import DualEncoder
from mmcontrast.models.tokenizers import Tokenizer, save_tokenizer


def model_digest(model: DualEncoder) -> str:
    """Hexadecimal digest of all that features depend on: architecture, weights, preprocessing and tokenizer."""
    key = hashlib.blake2b(digest_size=16)
    key.update(json.dumps([model.spec.to_dict(), model.preprocess.to_dict()], sort_keys=True).encode())
    for name, value in sorted(model.state_dict().items()):
        key.update(f"|{name}|{value.dtype}|{tuple(value.shape)}|".encode())
        key.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    key.update(tokenizer_digest(model.tokenizer).encode())
    return key.hexdigest()


def tokenizer_digest(tokenizer: Tokenizer) -> str:
    """Hexadecimal digest of the files that the tokenizer is saved in."""
    key = hashlib.blake2b(digest_size=16)
    with tempfile.TemporaryDirectory() as folder:
        save_tokenizer(tokenizer, folder)
        for file in sorted(Path(folder).rglob("*")):
            if file.is_file():
                key.update(f"|{file.name}|".encode() + file.read_bytes())
    return key.hexdigest()
