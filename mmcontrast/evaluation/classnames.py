"""Class names, spelled as a caption would: "storageTanks" -> "storage tanks", "tenniscourt" -> "tennis court"."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping, Sequence

from mmcontrast.errors import DataError

_CAMEL = re.compile(r"(?<=[a-z])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")
_MIN_PART = 3
# Vocabularies are full of pieces that happen to stand alone ("cha par ral", "spars ere sid ential"): few and long
# parts are evidence.
_MIN_MEAN_PART = 3.5
_MAX_PARTS = 3
_JOINERS = {"of", "in", "on", "at", "to", "by"}


def prompt_classnames(
    names: Sequence[str], given: Mapping[str, str] | Sequence[str] | None, words: set[str]
) -> list[str]:
    """How each class is called in the prompts, in the order of `names`.

    Args:
        names: as the data set has them.
        given: the user's own spellings: a mapping of some of the names, or a list of all; None for none.
        words: whole words that the tokenizer knows, for names that the user does not give.

    Raises:
        DataError: a mapping's key is no class of the data set, or the list has another length.
    """
    if given is None:
        return spelled_classnames(names, words)
    if isinstance(given, Mapping):
        _check_keys(given, names)
        spelled = spelled_classnames(names, words)
        return [given.get(name, spelling) for name, spelling in zip(names, spelled, strict=True)]
    if len(given) != len(names):
        raise DataError(f"evaluation.classnames lists {len(given)} names, the data set has {len(names)} classes")
    return list(given)


def _check_keys(given: Mapping[str, str], names: Sequence[str]) -> None:
    for name in given:
        if name not in names:
            near = difflib.get_close_matches(name, names, n=1) or names[:5]
            raise DataError(f"evaluation.classnames: the data set has no class {name!r}, but {', '.join(near)}")


def spelled_classnames(names: Sequence[str], words: set[str]) -> list[str]:
    """Split underscores, camelCase and glued words; what cannot be split completely stays as it is.

    Args:
        names: as data sets have them, e.g. "golf_course", "storageTanks", "mobilehomepark".
        words: the vocabulary's whole words; only names made of nothing but these are split.
    """
    known = {word.lower() for word in words}
    return [_spell(name, known) for name in names]


def _spell(name: str, known: set[str]) -> str:
    if name.lower() in known:  # also "iPhone", where the tokenizer has it
        return name
    tokens = name.replace("_", " ").split()
    return " ".join(part for token in tokens for part in _split_token(token, known)) or name


def _split_token(token: str, known: set[str]) -> list[str]:
    if not token.isalpha():  # "T-shirt/top", "3d"
        return [token]
    parts = _CAMEL.split(token)
    if len(parts) > 1:
        parts = [part if part.isupper() and len(part) > 1 else part.lower() for part in parts]
    return [word for part in parts for word in _unglue(part, known)]


def _unglue(token: str, known: set[str]) -> list[str]:
    """The fewest known words that make up the token, the most even ones where several splits are as short.

    Of the words of two letters only prepositions count, and only between others ("portofcall").
    """
    lower = token.lower()
    if len(lower) != len(token) or _is_word(lower, known):
        return [token]
    best: list[list[str] | None] = [[], *[None] * len(lower)]
    for stop in range(1, len(lower) + 1):
        for start in range(stop):
            before, word = best[start], lower[start:stop]
            joins = word in _JOINERS and start > 0 and stop < len(lower)
            if before is None or (len(word) < _MIN_PART and not joins) or not _is_word(word, known):
                continue
            found, kept = [*before, word], best[stop]
            if kept is None or _cost(found) < _cost(kept):
                best[stop] = found
    return best[-1] if best[-1] and _is_plausible(best[-1]) else [token]


def _is_plausible(parts: list[str]) -> bool:
    lengths = [len(part) for part in parts if part not in _JOINERS]
    return len(lengths) <= _MAX_PARTS and sum(lengths) / len(lengths) >= _MIN_MEAN_PART


def _is_word(word: str, known: set[str]) -> bool:
    """Whether the vocabulary has the word or, for a plural, its singular."""
    return word in known or (len(word) > 3 and word.endswith("s") and word[:-1] in known)


def _cost(parts: list[str]) -> tuple[int, int]:
    return len(parts), sum(len(part) ** 2 for part in parts)
