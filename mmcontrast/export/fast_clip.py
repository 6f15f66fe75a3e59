"""CLIP's byte-pair encoding, as open_clip computes it, in the form of `tokenizers` (tokenizer.json)."""

from __future__ import annotations

import unicodedata
from functools import lru_cache

import ftfy
from open_clip.tokenizer import SimpleTokenizer
from tokenizers import AddedToken, Regex, Tokenizer, decoders, normalizers, pre_tokenizers, processors
from tokenizers.models import BPE

from mmcontrast.export.charsmap import compiled

_END_OF_WORD = "</w>"
_WORDS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|\p{L}+|\p{N}|[^\s\p{L}\p{N}]+"
# Whatever else ftfy changes of a text, it is not character by character.
_CLEANED = ((0x01, 0x20), (0x7F, 0xA0), (0x132, 0x1F4), (0x2BC, 0x2BD), (0x2000, 0x2070), (0x3000, 0x3001))
_CLEANED_FORMS = ((0xFB00, 0xFB07), (0xFE00, 0xFFFE))
_FULL_WIDTH = range(0xFF41, 0xFF5B)  # a to z; an accent may follow, which `compiled` would swallow
_ENTITIES = {
    "&amp;": "&",
    "&quot;": '"',
    "&#34;": '"',
    "&apos;": "'",
    "&#39;": "'",
    "&#039;": "'",
    "&#x27;": "'",
    "&lsquo;": "'",
    "&rsquo;": "'",
    "&ldquo;": '"',
    "&rdquo;": '"',
    "&lt;": "<",
    "&gt;": ">",
    "&nbsp;": " ",
    "&hellip;": "...",
    "&ndash;": "–",
    "&mdash;": "—",
    "&eacute;": "é",
    "&deg;": "°",
}


def clip_to_fast() -> tuple[Tokenizer, dict[str, str]]:
    """The tokenizer that gives a text the ids of open_clip's, between two marks; and its marks by their names.

    open_clip cleans a text with ftfy first. Of this all that concerns single characters is kept (quotes, ligatures,
    full-width letters, control characters), and the usual HTML entities; text in a wrong encoding ("Ã©") is not
    mended, rare entities stay.
    """
    bpe = SimpleTokenizer()
    fast = Tokenizer(BPE(bpe.encoder, list(bpe.bpe_ranks), end_of_word_suffix=_END_OF_WORD))
    fast.normalizer = _normalizer()
    fast.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_WORDS), "removed", invert=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    bos_id, eos_id = bpe.all_special_ids
    bos, eos = bpe.decoder[bos_id], bpe.decoder[eos_id]
    fast.post_processor = processors.TemplateProcessing(
        single=[bos, "$A", eos], pair=[bos, "$A", eos, "$B", eos], special_tokens=[(bos, bos_id), (eos, eos_id)]
    )
    fast.decoder = decoders.Sequence([decoders.ByteLevel(), decoders.Replace(_END_OF_WORD, " ")])
    # open_clip takes the marks for themselves where a text spells them, in capitals too.
    fast.add_special_tokens([AddedToken(mark, special=True, normalized=True) for mark in (bos, eos)])
    return fast, {"bos_token": bos, "eos_token": eos, "unk_token": eos, "pad_token": eos}


def _normalizer() -> normalizers.Normalizer:
    final_sigma = normalizers.Replace(Regex(r"(?<=\p{L})Σ(?!\p{L})"), "ς")
    entities = [normalizers.Replace(name, text) for name, text in (("&amp;", "&"), *_ENTITIES.items())]
    letters = [normalizers.Replace(chr(code), chr(code - 0xFEE0)) for code in _FULL_WIDTH]
    null = normalizers.Replace("\0", "")  # compiled rules end there
    return normalizers.Sequence(
        [null, final_sigma, normalizers.Lowercase(), *entities, *letters, compiled(_cleaning()), normalizers.NFC()]
    )


@lru_cache(maxsize=1)
def _cleaning() -> dict[str, str]:
    """What ftfy makes of single lower-case characters within a word."""
    rules = {}
    for first, end in (*_CLEANED, *_CLEANED_FORMS):
        for character in map(chr, range(first, end)):
            # Combining marks are composed with the letter, full-width letters replaced before.
            if unicodedata.combining(character) or ord(character) in _FULL_WIDTH:
                continue
            cleaned = ftfy.fix_text(f"x{character}x")[1:-1].lower()
            if cleaned != character.lower():
                rules[character] = cleaned
    return rules
