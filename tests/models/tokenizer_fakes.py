"""Small transformers tokenizers, sound and broken, saved as folders."""

from __future__ import annotations

from pathlib import Path

from model_fakes import CORPUS
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

WORDS = sorted({word.strip("!").lower() for caption in CORPUS for word in caption.split() if word.isascii()})


def _words(extra: list[str]) -> dict[str, int]:
    letters = [chr(i) for i in range(ord("a"), ord("z") + 1)] + ["##" + chr(i) for i in range(ord("a"), ord("z") + 1)]
    return {token: i for i, token in enumerate(dict.fromkeys([*extra, *WORDS, *letters]))}


def bert_folder(folder: Path) -> Path:
    vocabulary = _words(["[PAD]", "[UNK]", "[CLS]", "[SEP]"])
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]"
    )
    fast.save_pretrained(folder)
    return folder


def gpt_folder(folder: Path) -> Path:
    """No padding, and no end mark set by the post-processor."""
    tokenizer = Tokenizer(models.WordLevel(_words(["<unk>", "<end>"]), unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>", eos_token="<end>").save_pretrained(folder)
    return folder


def broken_folder(folder: Path) -> Path:
    """Marks only: what remains when the vocabulary file was not understood."""
    tokenizer = Tokenizer(models.WordLevel({"<pad>": 0, "</s>": 1, "<unk>": 2}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>", eos_token="</s>", pad_token="<pad>")
    fast.save_pretrained(folder)
    return folder
