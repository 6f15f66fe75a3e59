"""Which caption is a positive of which picture: four rules, all expressed as integer keys.

Picture i carries the keys `image_keys[i]` (c of them, the rest of the row filled up with NO_KEY), text j carries
`text_keys[j]`; they are positives of each other when the text's key is among the picture's.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor
from torch.nn import functional

from mmcontrast.errors import DataError
from mmcontrast.negatives.known import equal_pairs
from mmcontrast.types import NO_KEY

PositiveRule = Literal["id", "caption", "group", "label"]
POSITIVE_RULES: tuple[PositiveRule, ...] = get_args(PositiveRule)


@dataclass(frozen=True)
class PositiveKeys:
    """Keys of n pictures and m texts.

    Attributes:
        image: (n, c) int64, NO_KEY where a picture has fewer than c keys.
        text: (m,) int64.
    """

    image: Tensor
    text: Tensor

    def image_queries(self, start: int, stop: int) -> Tensor:
        """(stop - start, m) bool: positives of the pictures start..stop among all texts."""
        return _matches(self.image[start:stop], self.text)

    def text_queries(self, start: int, stop: int) -> Tensor:
        """(stop - start, n) bool: positives of the texts start..stop among all pictures."""
        return _matches(self.image, self.text[start:stop]).T

    def pairs(self, limit: int) -> tuple[Tensor, Tensor] | None:
        """All pairs of positives, or None where there are more than `limit`.

        Returns:
            (p,) int64 pictures, ascending, and (p,) int64 texts; each pair once.
        """
        keys = self.image.sort(dim=1).values
        repeated = functional.pad(keys[:, 1:] == keys[:, :-1], (1, 0))
        keys = keys.masked_fill(repeated, NO_KEY)
        found = equal_pairs(keys.flatten(), self.text, limit, none=NO_KEY)
        return None if found is None else (found[0] // max(keys.shape[1], 1), found[1])


def _matches(image: Tensor, text: Tensor) -> Tensor:
    found = torch.zeros(len(image), len(text), dtype=torch.bool, device=text.device)
    for keys in image.T:  # one key of each picture at a time: (n, m) booleans, never (n, c, m)
        found |= (keys[:, None] == text) & (keys[:, None] != NO_KEY)
    return found


def id_keys(text_images: Tensor, num_images: int) -> PositiveKeys:
    """A caption is a positive of its own picture only.

    Args:
        text_images: (m,) int64, the picture (0..n-1) that each text belongs to.
        num_images: n.
    """
    own = torch.arange(1, num_images + 1)  # from 1: NO_KEY is 0
    return PositiveKeys(own[:, None], own[text_images])


def caption_keys(text_images: Tensor, captions: Sequence[str], num_images: int) -> PositiveKeys:
    """A caption is a positive of every picture that has the same caption.

    Args:
        text_images: (m,) int64, the picture that each text belongs to.
        captions: m, normalised.
        num_images: n.
    """
    text = _number(captions)
    of_image: list[list[int]] = [[] for _ in range(num_images)]
    for image, key in zip(text_images.tolist(), text.tolist(), strict=True):
        of_image[image].append(key)
    width = max(map(len, of_image), default=0)
    padded = [keys + [NO_KEY] * (width - len(keys)) for keys in of_image]
    return PositiveKeys(torch.tensor(padded, dtype=torch.int64).view(num_images, width), text)


def value_keys(text_images: Tensor, values: Sequence[Hashable | None]) -> PositiveKeys:
    """A caption is a positive of every picture whose value (group id or label) is that of its own picture.

    Args:
        text_images: (m,) int64, the picture that each text belongs to.
        values: n, None for a picture without group or label: it has only its own captions.
    """
    own = _number((position,) if value is None else value for position, value in enumerate(values))
    return PositiveKeys(own[:, None], own[text_images])


def _number(values: Iterable[Hashable]) -> Tensor:
    """Numbers from 1 for the distinct values, in order of their first appearance."""
    numbers: dict[Hashable, int] = {}
    return torch.tensor([numbers.setdefault(value, len(numbers) + 1) for value in values], dtype=torch.int64)


def check_rule(rule: str) -> None:
    """Raise DataError unless `rule` is one of POSITIVE_RULES."""
    if rule not in POSITIVE_RULES:
        raise DataError(f"positives: {rule!r} is unknown; choose one of {', '.join(POSITIVE_RULES)}")
