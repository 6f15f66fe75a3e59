"""A model's tokenizer as the files that transformers, open_clip, sentence-transformers and `tokenizers` read."""

from __future__ import annotations

import copy
import json
import logging
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import transformers
from tokenizers import Tokenizer as RustTokenizer
from tokenizers import normalizers, processors

from mmcontrast.errors import ModelError
from mmcontrast.export.fast_cleaning import cleaning
from mmcontrast.export.fast_clip import clip_to_fast
from mmcontrast.export.fast_sentencepiece import sentencepiece_to_fast
from mmcontrast.export.tokenizer_probes import COMMON, ODD, PLAIN, first_difference
from mmcontrast.models import ClipTokenizer, SentencePieceTokenizer, Tokenizer, TransformersTokenizer

log = logging.getLogger(__name__)

FILES = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json")
_MARKS = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
_WIDE = 4_096  # tokens; long probes should not be cut before they differ


@dataclass(frozen=True)
class FastTokenizer:
    """What a model's configuration has to say of the tokenizer that was written.

    Attributes:
        pad_id, eos_id: of the written files. The padding of CLIP's vocabulary is its end mark here, for our own, 0, is
            also the exclamation mark, which must not become a special token; the mask leaves padding out anyway.
        bos_id: begin mark, or None.
        vocab_size: ids.
        max_length: tokens of the longest text, marks included.
    """

    pad_id: int
    eos_id: int
    bos_id: int | None
    vocab_size: int
    max_length: int


def write_tokenizer(tokenizer: Tokenizer, folder: Path, max_length: int | None = None) -> FastTokenizer:
    """Write tokenizer.json, tokenizer_config.json and special_tokens_map.json into an existing folder.

    Written again, they have the same bytes. They are loaded and compared with `tokenizer` on difficult texts.

    Args:
        tokenizer: of any kind.
        folder: of the export.
        max_length: tokens that `truncation=True` cuts to; None for the tokenizer's context length.

    Raises:
        ModelError: the tokenizer has no equivalent, and why; or the equivalent gives other ids.
    """
    fast, marks, split = _converted(tokenizer)
    longest = max_length or tokenizer.context_length
    values = {
        "tokenizer_class": "PreTrainedTokenizerFast",  # the name that versions 4 and 5 of transformers both know
        **marks,
        "model_max_length": longest,
        "model_input_names": _inputs(folder),
        "padding_side": "right",
        "truncation_side": "right",
        "clean_up_tokenization_spaces": False,
        "split_special_tokens": split,
    }
    fast.save(str(folder / "tokenizer.json"))
    _write_json(folder / "tokenizer_config.json", values)
    _write_json(folder / "special_tokens_map.json", marks)
    _check(tokenizer, folder)
    vocabulary = fast.get_vocab(with_added_tokens=True)
    return FastTokenizer(
        pad_id=vocabulary[marks["pad_token"]],
        eos_id=vocabulary[marks["eos_token"]],
        bos_id=tokenizer.bos_id,
        vocab_size=max(vocabulary.values()) + 1,
        max_length=longest,
    )


def _inputs(folder: Path) -> list[str]:
    """Those of the file that another format has written, if any: transformers' SigLIP must not be given a mask."""
    try:
        names: list[str] = json.loads((folder / FILES[1]).read_text(encoding="utf-8"))["model_input_names"]
    except OSError:
        return ["input_ids", "attention_mask"]
    return names


def _converted(tokenizer: Tokenizer) -> tuple[RustTokenizer, dict[str, str], bool]:
    """The equivalent, its marks by their names, and whether marks that a text spells out are plain text."""
    if isinstance(tokenizer, ClipTokenizer):
        return *clip_to_fast(), False
    if isinstance(tokenizer, SentencePieceTokenizer):
        ids = (tokenizer.pad_id, tokenizer.bos_id, tokenizer.eos_id)
        return *sentencepiece_to_fast(tokenizer.model_bytes(), *ids), True
    if isinstance(tokenizer, TransformersTokenizer):
        return _of_transformers(tokenizer)
    raise ModelError(f"a tokenizer of kind {tokenizer.kind!r} cannot be expressed as tokenizer.json")


def _of_transformers(tokenizer: TransformersTokenizer) -> tuple[RustTokenizer, dict[str, str], bool]:
    """Its own tokenizer.json, with an end mark and padding where it sets none."""
    with tempfile.TemporaryDirectory() as temporary:
        tokenizer.save(Path(temporary))
        try:
            fast = RustTokenizer.from_file(f"{temporary}/tokenizer.json")
        except Exception:  # the library's errors have no class of their own
            raise ModelError(
                "this transformers tokenizer has no fast form (tokenizer.json), which exports need"
            ) from None
        config = json.loads(Path(temporary, "tokenizer_config.json").read_text(encoding="utf-8"))
    fast.no_padding()
    fast.no_truncation()
    if tokenizer.cleaning is not None:
        own = [fast.normalizer] if fast.normalizer is not None else []
        fast.normalizer = normalizers.Sequence([*cleaning(tokenizer.cleaning), *own])
    marks = {name: _content(config[name]) for name in _MARKS if config.get(name)}
    marks["eos_token"] = str(fast.id_to_token(tokenizer.eos_id))
    marks["pad_token"] = str(fast.id_to_token(tokenizer.pad_id))
    if fast.encode(PLAIN[0]).ids[-1:] != [tokenizer.eos_id]:
        eos = marks["eos_token"]
        ending = processors.TemplateProcessing(
            single=["$A", eos], pair=["$A", eos, "$B", eos], special_tokens=[(eos, tokenizer.eos_id)]
        )
        before = [fast.post_processor] if fast.post_processor is not None else []
        fast.post_processor = processors.Sequence([*before, ending])
    return fast, marks, bool(config.get("split_special_tokens", False)) or _hides(tokenizer.cleaning, marks)


def _hides(kind: str | None, marks: dict[str, str]) -> bool:
    """Whether cleaning changes the marks that a text spells out, so that they are plain text."""
    return kind == "canonicalize" or (kind == "lower" and any(mark != mark.lower() for mark in marks.values()))


def _content(mark: Any) -> str:
    return str(mark["content"] if isinstance(mark, dict) else mark)


def _write_json(path: Path, values: dict[str, Any]) -> None:
    path.write_text(json.dumps(values, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _check(tokenizer: Tokenizer, folder: Path) -> None:
    """Compare with what transformers loads from `folder`."""
    loaded = transformers.PreTrainedTokenizerFast.from_pretrained(str(folder))
    wide = copy.copy(tokenizer)
    wide.context_length = _WIDE

    def ours(captions: Sequence[str]) -> list[list[int]]:
        tokens = wide(captions)
        pairs = zip(tokens.input_ids, tokens.attention_mask, strict=True)
        return [row[mask.bool()].tolist() for row, mask in pairs]

    def theirs(captions: Sequence[str]) -> list[list[int]]:
        rows: list[list[int]] = loaded(list(captions), truncation=True, max_length=_WIDE)["input_ids"]
        return rows

    if difference := first_difference(ours, theirs, COMMON):
        raise ModelError(f"tokenizer.json would give other ids than the model's tokenizer: {difference}")
    if difference := first_difference(ours, theirs, ODD):
        log.warning("tokenizer.json gives odd texts other ids than the model's tokenizer: %s", difference)
