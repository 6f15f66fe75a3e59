"""The normalisation rules compiled into a SentencePiece model, for the normalisers of `tokenizers`.

`tokenizers` can read such rules itself (`normalizers.Precompiled`), but applies them to whole grapheme clusters by
the shortest match: of "A" with a combining accent it keeps "a". So the rules are rebuilt: as Unicode's normal form
(and lower case), which knows all combining marks, with those single characters put right that it treats otherwise.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache

import sentencepiece
from sentencepiece import sentencepiece_model_pb2
from tokenizers import normalizers

from mmcontrast.errors import ModelError

_PLACEHOLDERS = 0xA0000  # of a plane that Unicode leaves empty
_ACCENTED = 0x600  # below: Latin, Greek, Cyrillic and their like, whose letters may carry further marks, and \r\n
_TOLERATED = 0.005  # of all rules; those that remain are of letters of formulas with rare Greek marks


def rules_of(charsmap: bytes) -> dict[str, str]:
    """The rules: longest match first, the text on the left becomes the one on the right.

    Args:
        charsmap: `normalizer_spec.precompiled_charsmap` of a model; empty for none.

    Raises:
        ModelError: the bytes are damaged.
    """
    if not charsmap:
        return {}
    spec = sentencepiece_model_pb2.NormalizerSpec(name="user_defined", precompiled_charsmap=charsmap)
    try:
        return dict(sentencepiece.SentencePieceNormalizer(normalizer_spec=spec).Decompile())
    except (RuntimeError, ValueError) as error:
        raise ModelError(f"the normalisation rules of the SentencePiece model are damaged: {error}") from None


def compiled(rules: Mapping[str, str]) -> normalizers.Normalizer:
    """A normaliser that replaces single characters, all in one pass.

    A character of at most three bytes takes a combining mark behind it along, if it has a rule.
    """
    sentencepiece.set_min_log_level(1)  # its notes of progress would go to the terminal
    normalizer = sentencepiece.SentencePieceNormalizer(norm_map=[rule for rule in rules.items() if rule[0] != rule[1]])
    model = sentencepiece_model_pb2.ModelProto.FromString(normalizer.serialized_model_proto())
    return normalizers.Precompiled(model.normalizer_spec.precompiled_charsmap)


@lru_cache(maxsize=8)  # seconds of work, and most models share their rules
def normalizers_of(charsmap: bytes) -> tuple[normalizers.Normalizer, ...]:
    """Normalisers with the effect of a model's rules.

    Raises:
        ModelError: the rules are neither of single characters nor a variation of NFC, NFKC, or NFKC with case folding.
    """
    rules = rules_of(charsmap)
    if not rules:
        return ()
    folded: list[normalizers.Normalizer] = [normalizers.NFKC(), normalizers.Lowercase()]
    bases: list[list[normalizers.Normalizer]] = [[], [normalizers.NFC()], folded[:1], folded]
    single = {source: target for source, target in rules.items() if len(source) == 1}
    base = min(bases, key=lambda base: _wrong(single, base))
    result = _put_right(single, base)
    if _wrong(rules, result) > _TOLERATED * len(rules):
        raise ModelError(
            "the SentencePiece model has normalisation rules of its own, which tokenizer.json cannot express; "
            "train it with normalization_rule_name nfkc_cf, nfkc, nmt_nfkc or identity"
        )
    return tuple(result)


def _wrong(rules: Mapping[str, str], parts: Sequence[normalizers.Normalizer]) -> int:
    whole = normalizers.Sequence(list(parts))
    return sum(whole.normalize_str(source) != target for source, target in rules.items())


def _put_right(rules: Mapping[str, str], base: Sequence[normalizers.Normalizer]) -> list[normalizers.Normalizer]:
    """`base`, with the characters that it treats otherwise replaced before it, or behind it if it would undo that."""
    whole = normalizers.Sequence(list(base))
    letters: list[normalizers.Normalizer] = []
    before: dict[str, str] = {}
    after: dict[str, str] = {}
    for number, (character, target) in enumerate(_differences(rules, whole)):
        if unicodedata.combining(character):
            after[character] = target  # `base` composes it first, as the rules for longer texts do
            continue
        if whole.normalize_str(target) != target:
            placeholder = chr(_PLACEHOLDERS + number)
            after[placeholder], target = target, placeholder
        if ord(character) < _ACCENTED and (character.isprintable() or character in "\r\n"):
            letters.append(normalizers.Replace(character, target))
        else:
            before[character] = target
    ends = [[compiled(part)] if part else [] for part in (before, after)]
    composed = [normalizers.NFC()] if letters else []  # a letter may come in two parts
    return [*composed, *letters, *ends[0], *base, *ends[1]]


def _differences(rules: Mapping[str, str], whole: normalizers.Normalizer) -> Iterator[tuple[str, str]]:
    """The characters that `whole` does not treat as the rules do, and what these make of them."""
    for code in range(1, 0x110000):
        if not 0xD800 <= code < 0xE000:  # surrogates
            character = chr(code)
            target = rules.get(character, character)
            if whole.normalize_str(character) != target:
                yield character, target
