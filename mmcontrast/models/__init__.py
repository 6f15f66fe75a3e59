"""Dual encoders: towers of open_clip, timm and transformers, freely paired, and their tokenizers.

The names below load on first use: a loader's worker that only tokenizes need not import every library.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .build import build_dual_encoder as build_dual_encoder
    from .clip_tokenizer import ClipTokenizer as ClipTokenizer
    from .dual_encoder import DualEncoder as DualEncoder
    from .sentencepiece_tokenizer import SentencePieceTokenizer as SentencePieceTokenizer
    from .sentencepiece_tokenizer import train_sentencepiece as train_sentencepiece
    from .spec import ImageTowerSpec as ImageTowerSpec
    from .spec import LoraSpec as LoraSpec
    from .spec import ModelSpec as ModelSpec
    from .spec import TextTowerSpec as TextTowerSpec
    from .tokenizers import Tokenizer as Tokenizer
    from .tokenizers import load_tokenizer as load_tokenizer
    from .tokenizers import save_tokenizer as save_tokenizer
    from .transformers_tokenizer import TransformersTokenizer as TransformersTokenizer

_FILES = {
    "ClipTokenizer": "clip_tokenizer",
    "DualEncoder": "dual_encoder",
    "ImageTowerSpec": "spec",
    "LoraSpec": "spec",
    "ModelSpec": "spec",
    "SentencePieceTokenizer": "sentencepiece_tokenizer",
    "TextTowerSpec": "spec",
    "Tokenizer": "tokenizers",
    "TransformersTokenizer": "transformers_tokenizer",
    "build_dual_encoder": "build",
    "load_tokenizer": "tokenizers",
    "save_tokenizer": "tokenizers",
    "train_sentencepiece": "sentencepiece_tokenizer",
}

__all__ = [
    "ClipTokenizer",
    "DualEncoder",
    "ImageTowerSpec",
    "LoraSpec",
    "ModelSpec",
    "SentencePieceTokenizer",
    "TextTowerSpec",
    "Tokenizer",
    "TransformersTokenizer",
    "build_dual_encoder",
    "load_tokenizer",
    "save_tokenizer",
    "train_sentencepiece",
]


def __getattr__(name: str) -> Any:
    if name not in _FILES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f".{_FILES[name]}", __name__), name)
    globals()[name] = value
    return value
