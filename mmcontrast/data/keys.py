"""Integer keys by which a batch knows that two captions, or two groups, are the same."""

from __future__ import annotations

import hashlib
import unicodedata

from mmcontrast.types import NO_KEY

_TRAILING = ".,;:!?\u3001\u3002\u060c\u061f\u0964"  # Latin, Japanese, Arabic and Devanagari stops


def normalise_caption(caption: str) -> str:
    """The caption without the differences that carry no meaning.

    NFKC, case folded, white space collapsed, trailing punctuation stripped: "A dog ." equals "a dog". A caption
    of nothing but punctuation is kept, so that "!" and "?" stay apart.
    """
    folded = caption.lower() if caption.isascii() else unicodedata.normalize("NFKC", caption).casefold()
    text = " ".join(folded.split())
    return text.rstrip(_TRAILING + " ") or text


def text_key(text: str) -> int:
    """64-bit hash of a text as a signed integer, the same on every machine and in every run; never NO_KEY."""
    digest = hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    key = int.from_bytes(digest, "little", signed=True)
    return key if key != NO_KEY else 1


def caption_key(caption: str) -> int:
    """Key of a caption: equal for captions that differ only in case, spacing or final punctuation."""
    return text_key(normalise_caption(caption))
