"""Tokenizers of all kinds, small, and what transformers makes of their files."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import sentencepiece
import transformers
from tokenizers import Tokenizer as RustTokenizer
from tokenizers import models, normalizers, pre_tokenizers, processors

from mmcontrast.export.tokenizer_files import write_tokenizer
from mmcontrast.models import Tokenizer, TransformersTokenizer

CORPUS = [
    f"a {adjective} {colour} {thing} is on the {place}."
    for adjective in ("small", "large")
    for colour in ("red", "green", "blue")
    for thing in ("dog", "cat", "car", "tree", "tennis ball")
    for place in ("grass", "road", "table")
] + ["ein roter Hund läuft über die Wiese", "一只狗在草地上跑", "犬が芝生の上を走っている", "smiling face 🙂"]


def sentencepiece_model(**values: Any) -> bytes:
    """A tiny model with the marks that mmcontrast wants."""
    model = io.BytesIO()
    defaults = {"vocab_size": 420, "hard_vocab_limit": False, "pad_id": 0, "unk_id": 1, "bos_id": 2, "eos_id": 3}
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(CORPUS), model_writer=model, minloglevel=2, **{**defaults, **values}
    )
    return model.getvalue()


def bert_tokenizer(folder: Path, context_length: int = 24, cleaning: Any = None) -> TransformersTokenizer:
    """Word pieces between [CLS] and [SEP]."""
    letters = [chr(code) for code in range(ord("a"), ord("z") + 1)]
    words = sorted({word.strip(".").lower() for caption in CORPUS for word in caption.split()})
    entries = dict.fromkeys(["[PAD]", "[UNK]", "[CLS]", "[SEP]", *words, *letters, *(f"##{c}" for c in letters)])
    fast = RustTokenizer(models.WordPiece({entry: i for i, entry in enumerate(entries)}, unk_token="[UNK]"))
    fast.normalizer = normalizers.BertNormalizer()
    fast.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    fast.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=fast, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]"
    ).save_pretrained(folder)
    return TransformersTokenizer(folder, context_length, cleaning)


def endless_tokenizer(folder: Path, context_length: int = 24) -> TransformersTokenizer:
    """Words without padding, and with an end mark that the tokenizer does not set itself."""
    words = sorted({word.strip(".") for caption in CORPUS for word in caption.split()})
    vocabulary = {word: i for i, word in enumerate(["<unk>", "<end>", *words])}
    fast = RustTokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    fast.pre_tokenizer = pre_tokenizers.Whitespace()
    transformers.PreTrainedTokenizerFast(tokenizer_object=fast, unk_token="<unk>", eos_token="<end>").save_pretrained(
        folder
    )
    return TransformersTokenizer(folder, context_length)


def ours(tokenizer: Tokenizer, captions: Sequence[str]) -> list[list[int]]:
    """Ids without padding."""
    tokens = tokenizer(captions)
    return [row[mask.bool()].tolist() for row, mask in zip(tokens.input_ids, tokens.attention_mask, strict=True)]


def exported(tokenizer: Tokenizer, folder: Path) -> Any:
    """What transformers loads of the written files."""
    folder.mkdir()
    write_tokenizer(tokenizer, folder)
    return transformers.AutoTokenizer.from_pretrained(folder)
