"""SentencePiece's unigram vocabularies in the form of `tokenizers` (tokenizer.json), with the same ids.

transformers drops the pieces of a `.model` file without a message, so they are written out. Four things differ
between the two libraries and are put right here: the rules of normalisation (`charsmap`), when a dummy space is put
in front, marks and bytes that are spelt out in a text ("<s>", "<0x41>"), and symbols of the user.
"""

from __future__ import annotations

import re
from typing import Any

from sentencepiece import sentencepiece_model_pb2
from tokenizers import AddedToken, Regex, Tokenizer, decoders, normalizers, pre_tokenizers, processors
from tokenizers.models import Unigram

from mmcontrast.errors import ModelError
from mmcontrast.export.charsmap import normalizers_of

_SPACE = "▁"
_UNIGRAM = 1  # of TrainerSpec.ModelType
_NORMAL, _UNKNOWN, _USER_DEFINED = 1, 2, 4  # of SentencePiece.Type


def sentencepiece_to_fast(model: bytes, pad_id: int, bos_id: int, eos_id: int) -> tuple[Tokenizer, dict[str, str]]:
    """The tokenizer that gives a text the ids of the model, between begin and end marks; and its marks by their names.

    Two pieces of the same probability may be chosen in another order where a character is repeated many times, since
    SentencePiece adds up in single precision.

    Args:
        model: the bytes of a model file, that SentencePiece has loaded.
        pad_id, bos_id, eos_id: the marks, which the tokenizer knows as special tokens.

    Raises:
        ModelError: the model is no unigram model, or has rules that cannot be expressed.
    """
    proto = _parsed(model)
    pieces = [piece.piece for piece in proto.pieces]
    unknown = [i for i, piece in enumerate(proto.pieces) if piece.type == _UNKNOWN]
    if len(unknown) != 1:
        raise ModelError(f"the SentencePiece model has {len(unknown)} pieces for unknown text, not one")
    fast = Tokenizer(
        Unigram(
            list(zip(pieces, _scores(proto), strict=True)),
            unk_id=unknown[0],
            byte_fallback=proto.trainer_spec.byte_fallback,
        )
    )
    fast.normalizer = _normalizer(proto.normalizer_spec)
    if spelt := _spelt_out(proto):
        fast.pre_tokenizer = pre_tokenizers.Split(Regex(spelt), "merged_with_previous")
    bos, eos = pieces[bos_id], pieces[eos_id]
    fast.post_processor = processors.TemplateProcessing(
        single=[bos, "$A", eos],
        pair=[bos, "$A", eos, "$B", eos],
        special_tokens=[(bos, bos_id), (eos, eos_id)],
    )
    fast.decoder = decoders.Sequence(
        [
            decoders.Replace(_SPACE, " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", left=int(proto.normalizer_spec.add_dummy_prefix), right=0),
        ]
    )
    marks = {"bos_token": bos, "eos_token": eos, "unk_token": pieces[unknown[0]], "pad_token": pieces[pad_id]}
    fast.add_special_tokens(
        [AddedToken(mark, special=True, normalized=False) for mark in dict.fromkeys(marks.values())]
    )
    return fast, marks


def _parsed(model: bytes) -> Any:
    proto = sentencepiece_model_pb2.ModelProto.FromString(model)
    if proto.trainer_spec.model_type != _UNIGRAM:
        raise ModelError(
            "only SentencePiece models of type unigram can be expressed as tokenizer.json; this one is of type "
            f"{proto.trainer_spec.ModelType.Name(proto.trainer_spec.model_type).lower()}"
        )
    if proto.trainer_spec.treat_whitespace_as_suffix:
        raise ModelError("a SentencePiece model with treat_whitespace_as_suffix cannot be expressed as tokenizer.json")
    if proto.HasField("denormalizer_spec") and proto.denormalizer_spec.precompiled_charsmap:
        raise ModelError("a SentencePiece model with a denormalizer cannot be expressed as tokenizer.json")
    return proto


def _scores(proto: Any) -> list[float]:
    """Log-probabilities; a symbol of the user gets one that always wins, as in SentencePiece."""
    best = max((piece.score for piece in proto.pieces if piece.type == _NORMAL), default=0.0)
    return [
        len(piece.piece.encode()) * best - 0.1 if piece.type == _USER_DEFINED else piece.score for piece in proto.pieces
    ]


def _normalizer(spec: Any) -> normalizers.Normalizer:
    """The model's rules, and its treatment of spaces."""
    rules = normalizers_of(spec.precompiled_charsmap)
    dummy = [normalizers.Prepend(_SPACE)] if spec.add_dummy_prefix else []
    escape = normalizers.Replace(" ", _SPACE)
    if not spec.remove_extra_whitespaces:  # the dummy comes even before a text of which nothing remains
        return normalizers.Sequence([*dummy, *rules, escape])
    squeeze = [normalizers.Replace(Regex(" +"), " "), normalizers.Replace(Regex(r"\A "), "")]
    return normalizers.Sequence([*rules, *squeeze, escape, normalizers.Replace(Regex(rf"{_SPACE}+\z"), ""), *dummy])


def _spelt_out(proto: Any) -> str | None:
    """A pattern for the beginnings of marks and bytes where a text spells them out.

    SentencePiece never takes a text for one of them; cut in two, `tokenizers` cannot either. They are not cut between
    two unknown characters, which count as one.
    """
    known = {piece.piece for piece in proto.pieces if piece.type in (_NORMAL, _USER_DEFINED)}
    heads: dict[str, list[str]] = {}
    for piece in proto.pieces:
        name = piece.piece
        if name in known or len(name) == 1:
            continue
        cuts = (
            cut for cut in range(1, len(name)) if proto.trainer_spec.byte_fallback or known & {*name[cut - 1 : cut + 1]}
        )
        cut = next(cuts, 1)
        heads.setdefault(name[:cut], []).append(re.escape(name[cut:]))
    return "|".join(f"{re.escape(head)}(?={'|'.join(tails)})" for head, tails in heads.items()) or None
