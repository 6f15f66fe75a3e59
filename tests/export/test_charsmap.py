from __future__ import annotations

from typing import Any

import pytest
import sentencepiece
from sentencepiece import sentencepiece_model_pb2
from tokenizers import normalizers

from mmcontrast.errors import ModelError
from mmcontrast.export.charsmap import compiled, normalizers_of, rules_of


def charsmap(rule: str) -> bytes:
    spec: Any = sentencepiece_model_pb2.NormalizerSpec.FromString(
        sentencepiece.SentencePieceNormalizer(rule_name=rule).serialized_normalizer_spec()
    )
    return bytes(spec.precompiled_charsmap)


def test_every_rule_and_every_character_is_treated_as_sentencepiece_does() -> None:
    blob = charsmap("nfkc_cf")
    rules = rules_of(blob)
    whole = normalizers.Sequence(list(normalizers_of(blob)))
    assert len(rules) > 200_000
    other = [source for source, target in rules.items() if whole.normalize_str(source) != target]
    # Letters that Unicode's tables in tokenizers do not know yet, with an accent, and "I with dot" in disguise.
    assert len(other) < 60
    assert not [source for source in other if source < "\u0300"]
    # Neither surrogates nor the plane that Unicode leaves empty, of which stand-ins are taken.
    codes = [*range(1, 0xD800), *range(0xE000, 0xA0000), *range(0xB0000, 0x110000)]
    characters = map(chr, codes)
    assert [c for c in characters if whole.normalize_str(c) != rules.get(c, c)] == []


def test_an_accent_behind_a_letter_stays() -> None:
    blob = charsmap("nfkc_cf")
    whole = normalizers.Sequence(list(normalizers_of(blob)))
    assert whole.normalize_str("A\u0301 X\u0301 ς\u0301 I\u0307") == "á x\u0301 σ\u0301 İ"
    assert normalizers.Precompiled(blob).normalize_str("A\u0301 X\u0301") == "a x"  # why rules are rebuilt


def test_no_rules_and_damaged_rules() -> None:
    assert normalizers_of(b"") == ()
    with pytest.raises(ModelError, match="rules of the SentencePiece model are damaged"):
        normalizers_of(b"\xff\xff\xff\x7f123")


def test_compiled_rules_replace_single_characters() -> None:
    assert compiled({"a": "bc", "\x01": "", "🙂": ":)"}).normalize_str("aXa\x01🙂") == "bcXbc:)"
