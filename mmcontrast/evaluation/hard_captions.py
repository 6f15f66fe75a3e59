"""Captions that are almost right, made from right ones by small rules: what is swapped decides what they ask for.

The rules know English only: they look for "a [modifiers] noun" and for number and colour words. A rule that finds
nothing to change in a caption, or nothing that surely makes it wrong, gives nothing.
"""

from __future__ import annotations

import itertools
import random
import re
from collections.abc import Callable, Sequence
from typing import NamedTuple

from mmcontrast.data.keys import normalise_caption

_WORD = re.compile(r"\w+(?:['’-]\w+)*|[^\w\s]")
_ARTICLES = {"a", "an", "the", "this", "that", "these", "those", "his", "her", "its", "their", "some", "another"}
_NUMBERS = ["two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"]
_COLOURS = ["red", "orange", "yellow", "green", "blue", "purple", "pink", "brown", "black", "white", "gray"]
_KINDS = (
    _COLOURS,
    ["big", "small"],
    ["large", "little"],
    ["old", "young"],
    ["tall", "short"],
    ["empty", "crowded"],
    ["wet", "dry"],
    ["open", "closed"],
)
_RELATIONS = {
    "in", "on", "at", "of", "to", "for", "from", "by", "with", "without", "near", "beside", "between", "behind",
    "under", "over", "above", "below", "through", "across", "into", "onto", "around", "along", "against", "next",
    "front", "inside", "outside", "and", "or", "while", "as", "that", "who", "which", "is", "are", "was", "were",
    "be", "has", "have", "down", "up", "off", "out", "toward", "towards", "during", "after", "before", "past",
    "about", "there", "where", "it",
}  # fmt: skip
# Between two things that may change places without a change of meaning: "a man and a woman", "a dog near a cat".
_SYMMETRIC = _ARTICLES | {"and", "or", "with", "near", "beside", "next", "to", "by", "both", "together", ",", "&"}
_TRIES = 8


class HardCaption(NamedTuple):
    """A wrong caption.

    Attributes:
        place: of the right caption that it was made from, 0..m-1.
        kind: of KINDS.
        text: itself.
    """

    place: int
    kind: str
    text: str


class _Phrase(NamedTuple):
    """Places in "a small red boat": of the noun, and of its first modifier, or the noun's again without any."""

    start: int
    noun: int


def hard_captions(captions: Sequence[str], owners: Sequence[int], *, seed: int = 0) -> list[HardCaption]:
    """At most one wrong caption of each kind for each right one, the same for the same seed.

    Args:
        captions: m right ones.
        owners: m, the picture of each: nothing is made that is a right caption of the same picture.
        seed: of what is swapped where there is a choice.
    """
    right: dict[int, set[str]] = {}
    for caption, owner in zip(captions, owners, strict=True):
        right.setdefault(owner, set()).add(normalise_caption(caption))
    found = []
    for place, (caption, owner) in enumerate(zip(captions, owners, strict=True)):
        for kind, change in _RULES.items():
            chance = random.Random(f"{seed} {kind} {caption}")  # whatever stands before it in the data
            for _ in range(_TRIES):
                text = _changed(caption, change, chance)
                if text is None:
                    break
                if normalise_caption(text) not in right[owner]:
                    found.append(HardCaption(place, kind, text))
                    break
    return found


def _changed(caption: str, change: Callable[[list[str], random.Random], bool], chance: random.Random) -> str | None:
    """The caption with its words changed; what stands between the words stays, and so does a first capital letter."""
    matches = list(_WORD.finditer(caption))
    words = [match.group() for match in matches]
    capital = bool(words) and words[0][:1].isupper() and words[0][1:].islower()
    if capital:
        words[0] = words[0][0].lower() + words[0][1:]
    elif words[:1] == ["A"]:
        capital, words[0] = True, "a"
    before = list(words)
    if not change(words, chance):
        return None
    _fit_articles(words, before)
    if capital:
        words[0] = words[0][:1].upper() + words[0][1:]
    ends = [0, *(match.end() for match in matches)]
    gaps = [caption[end : match.start()] for end, match in zip(ends, matches, strict=False)]
    return "".join(itertools.chain.from_iterable(zip(gaps, words, strict=True))) + caption[ends[-1] :]


def _swap_nouns(words: list[str], chance: random.Random) -> bool:
    nouns = [phrase.noun for phrase in _phrases(words)]
    pairs = [pair for pair in itertools.combinations(nouns, 2) if _can_swap(words, *pair)]
    return _swap(words, pairs, chance)


def _swap_order(words: list[str], chance: random.Random) -> bool:
    content = [
        place
        for place, word in enumerate(words)
        if len(word) > 1 and word[0].isalpha() and word.lower() not in _FUNCTION
    ]
    nouns = {phrase.noun for phrase in _phrases(words)}
    pairs = [
        pair
        for pair in itertools.combinations(content, 2)
        if _can_swap(words, *pair) and not set(pair) <= nouns  # that is another kind
    ]
    return _swap(words, pairs, chance)


def _change_adjective(words: list[str], chance: random.Random) -> bool:
    modified = [phrase.noun for phrase in _phrases(words) if phrase.start < phrase.noun]
    pairs = [
        (first - 1, second - 1)  # the modifiers next to both nouns
        for first, second in itertools.combinations(modified, 2)
        if words[first].lower() != words[second].lower() and words[first - 1].lower() != words[second - 1].lower()
    ]
    if _swap(words, pairs, chance):
        return True
    known = [(at, kind) for at, word in enumerate(words) for kind in _KINDS if word.lower() in kind]
    if not known:
        return False
    at, kind = chance.choice(known)
    words[at] = chance.choice([word for word in kind if word != words[at].lower()])
    return True


def _change_number(words: list[str], chance: random.Random) -> bool:
    numbers = [at for at, word in enumerate(words) if word.lower() in _NUMBERS or (word.isdecimal() and word != "1")]
    if not numbers:
        return False
    at = chance.choice(numbers)
    if words[at].isdecimal():
        words[at] = str(chance.choice([number for number in range(2, 11) if number != int(words[at])]))
    else:
        words[at] = chance.choice([number for number in _NUMBERS if number != words[at].lower()])
    return True


_RULES: dict[str, Callable[[list[str], random.Random], bool]] = {
    "noun": _swap_nouns,
    "adjective": _change_adjective,
    "number": _change_number,
    "order": _swap_order,
}
KINDS = tuple(_RULES)
_FUNCTION = _ARTICLES | _RELATIONS | set(_NUMBERS)


def _phrases(words: list[str]) -> list[_Phrase]:
    """An article or a number, at most two modifiers, and the noun: the last word before what cannot be one."""
    found = []
    for at, word in enumerate(words):
        if word.lower() not in _ARTICLES and word.lower() not in _NUMBERS:
            continue
        end, single = at + 1, word.lower() in ("a", "an", "another")
        while end < len(words) and _may_be_noun(words[end]) and not (single and end > at + 1 and _is_verb(words[end])):
            end += 1
        if 1 <= end - at - 1 <= 3 and words[end - 1].lower() not in _COLOURS:
            found.append(_Phrase(at + 1, end - 1))
    return found


def _may_be_noun(word: str) -> bool:
    return word[0].isalpha() and word.lower() not in _FUNCTION and not word.lower().endswith(("ing", "ed"))


def _is_verb(word: str) -> bool:
    """Whether a word after "a dog" looks like one: "chases", but not "bus" or "dress"."""
    return word.endswith("s") and not word.endswith(("ss", "us"))


def _can_swap(words: list[str], first: int, second: int) -> bool:
    if words[first].lower() == words[second].lower():
        return False
    between = set(_lower(words[first + 1 : second]))
    return not between <= _SYMMETRIC


def _swap(words: list[str], pairs: list[tuple[int, int]], chance: random.Random) -> bool:
    if not pairs:
        return False
    first, second = chance.choice(pairs)
    words[first], words[second] = words[second], words[first]
    return True


def _fit_articles(words: list[str], before: list[str]) -> None:
    """ "a" or "an" before what was changed, lest the article give it away."""
    for at in range(1, len(words)):
        if words[at] != before[at] and words[at - 1].lower() in ("a", "an"):
            words[at - 1] = words[at - 1][0] + ("n" if words[at][0].lower() in "aeiou" else "")


def _lower(words: list[str]) -> list[str]:
    return [word.lower() for word in words]
