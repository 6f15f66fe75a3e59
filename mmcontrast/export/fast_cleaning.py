"""open_clip's cleaning of captions, for the normalisers of `tokenizers`.

open_clip mends text with ftfy and resolves HTML entities. Of this all that concerns single characters is kept
(quotes, ligatures, full-width letters, control characters), and the usual entities. Text in a wrong encoding ("Ã©")
is not mended, and rare entities stay.
"""

from __future__ import annotations

import string
import unicodedata
from functools import lru_cache

import ftfy
from tokenizers import Regex, normalizers

from mmcontrast.export.charsmap import compiled

# Where the characters are that ftfy replaces.
_CLEANED = ((0x01, 0x20), (0x7F, 0xA0), (0x132, 0x1F4), (0x2BC, 0x2BD), (0x2000, 0x2070), (0x3000, 0x3001))
_CLEANED_FORMS = ((0xFB00, 0xFB07), (0xFE00, 0xFFFE))
# An accent may follow, which `compiled` would swallow.
_FULL_WIDTH = {chr(ord(letter) + 0xFEE0): letter for letter in string.ascii_letters}
_SPACES = r"[\t-\r\x{1c}-\x{20}\x{85}\x{a0}\x{1680}\x{2000}-\x{200a}\x{2028}\x{2029}\x{202f}\x{205f}\x{3000}]+"
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


def cleaning(kind: str) -> list[normalizers.Normalizer]:
    """What open_clip calls "whitespace", "lower" (with `str.lower`), or "canonicalize" (without punctuation, too)."""
    lower = kind != "whitespace"
    parts: list[normalizers.Normalizer] = [normalizers.Replace("\0", "")]  # compiled rules end there
    if lower:
        parts += [normalizers.Replace(Regex(r"(?<=\p{L})Σ(?!\p{L})"), "ς"), normalizers.Lowercase()]
    parts += [normalizers.Replace(name, text) for name, text in (("&amp;", "&"), *_ENTITIES.items())]
    letters = {wide: letter for wide, letter in _FULL_WIDTH.items() if letter.islower() or not lower}
    parts += [normalizers.Replace(wide, letter) for wide, letter in letters.items()]
    parts += [compiled(_single_characters(lower)), normalizers.NFC()]
    if kind == "canonicalize":
        punctuation = "".join(f"\\x{{{ord(c):x}}}" for c in string.punctuation)
        parts += [normalizers.Replace("_", " "), normalizers.Replace(Regex(f"[{punctuation}]"), "")]
    joined = normalizers.Replace(Regex(_SPACES), " ")
    return [*parts, joined, normalizers.Replace(Regex(r"\A | \z"), "")]


@lru_cache(maxsize=2)
def _single_characters(lower: bool) -> dict[str, str]:
    """What ftfy makes of single characters within a word; in lower case, if the text is by then."""
    rules = {}
    for first, end in (*_CLEANED, *_CLEANED_FORMS):
        for character in map(chr, range(first, end)):
            if unicodedata.combining(character) or character in _FULL_WIDTH:
                continue
            cleaned = ftfy.fix_text(f"x{character}x")[1:-1]
            if lower:
                character, cleaned = character.lower(), cleaned.lower()
            if cleaned != character:
                rules[character] = cleaned
    return rules
