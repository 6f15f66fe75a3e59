"""Strangers' text in Markdown: shown to the letter, interpreted never."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Sequence

MAX_TEXT = 300
_SPECIAL = re.compile(r"[\\`*_{}\[\]()<>#|~$&!^=@:\"']|(?<=www)\.", re.IGNORECASE)


def plain(text: str, limit: int = MAX_TEXT) -> str:
    """Text on one line without control characters and marks that turn the direction of writing; cut at `limit`."""
    one_line = " ".join(str(text).split())
    kept = "".join(c for c in one_line if unicodedata.category(c) not in ("Cc", "Cs") and not _turns_direction(c))
    return kept if len(kept) <= limit else kept[: limit - 1].rstrip() + "…"


def escape(text: str, limit: int = MAX_TEXT) -> str:
    """Text for a paragraph, a table's cell or an HTML element or attribute.

    Every character that Markdown or HTML could read as more than itself becomes a character reference, which both
    show as the character, and neither interprets.
    """
    return _SPECIAL.sub(lambda found: f"&#{ord(found[0])};", plain(text, limit))


def code(text: str) -> str:
    """The same in the type of code; not in backticks, which a text could end."""
    return f"<code>{escape(text)}</code>"


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table of cells that are escaped already; numbers stand to the right by `head` names that end in a blank."""
    lines = [head, ["---:" if name.endswith(" ") else "---" for name in head], *rows]
    return "\n".join(f"| {' | '.join(cell.strip() or ' ' for cell in line)} |" for line in lines)


def _turns_direction(character: str) -> bool:
    return unicodedata.bidirectional(character) in ("LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI")
