"""What the calibrator sees of a pair (picture i, caption j): similarities and their ranks, never who they are."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

SIGNALS = ("cross", "text", "words", "cross_rank", "text_rank")
"""cos(picture i, caption j), cosine and word overlap of the captions i and j, and the ranks of the two cosines.

The cosine of the two pictures, and that of picture j and caption i, are left out on purpose: where the calibrator
learns from further captions of the *same* picture they would only tell "same photo", and "own pair".
"""
LINKED_SIGNALS = (
    *("cross", "text", "reverse", "pictures", "words"),
    *("cross_rank", "text_rank", "reverse_rank", "pictures_rank"),
)
"""Where it learns from pairs of two pictures (see `negatives.evidence`) it may see these two cosines as well."""


TIE = 1e-6
LARGE = 1024
"""Pairs of a batch from which on signals are made cheaply: see `MOST_RANKED`, and `GlobalBatch.compared`."""
MOST_RANKED = 127
"""Pairs at equal distances that an anchor's similarities are ranked among in a large batch; elsewhere all of it."""
BLOCK = 1024
"""Anchors that are ranked at a time."""
Compared = tuple[Tensor, Tensor]
"""(a, m) cosines of anchors and candidates, and (a, r) those of the same kind with r other pairs, ascending; -inf in
the anchor's own place, so that a candidate among them and one beside them are ranked alike."""


def pair_signals(compared: Sequence[Compared], words: Tensor) -> Tensor:
    """Signals (a, m, 2 s + 1) of m candidates for each of a anchors: `SIGNALS` for s = 2, `LINKED_SIGNALS` for 4.

    Args:
        compared: anchor and candidate across the modalities, and their captions; for linked evidence then across the
            modalities the other way round, and their pictures.
        words: (a, m) word overlap of their captions.
    """
    ranks = [upper_rank(values, reference) for values, reference in compared]
    return torch.stack([*(values for values, _ in compared), words, *ranks], dim=-1)


def upper_rank(values: Tensor, reference: Tensor) -> Tensor:
    """-log of the share (1 + those of `reference` above) / r of `values` (a, m): 0 lowest, log r highest.

    Args:
        values: (a, m).
        reference: (a, r) ascending. A value that is itself among them has as many above it as one beside them.
    """
    size = reference.shape[-1]
    # A pair that is among the others itself must not be ranked by the last bit of two ways to compute one cosine.
    above = size - torch.searchsorted(reference.contiguous(), (values + TIE).contiguous(), right=True)
    return math.log(size) - (above + 1).clamp(max=size).to(values.dtype).log()


def without_own(similarity: Tensor, own: Tensor) -> Tensor:
    """Rows of (a, n) similarities in ascending order with -inf in place of the anchor's own column, `own` (a,).

    Of a large batch, a part of the columns: (a, r).
    """
    others = ranked_among(similarity.shape[1], similarity.device)
    return similarity[:, others].masked_fill(own[:, None] == others, -torch.inf).sort(dim=1).values


def ranked_among(count: int, device: torch.device) -> Tensor:
    """(r,) columns of n that similarities are ranked among."""
    return evenly(count, count if count < LARGE else MOST_RANKED, device)


def evenly(count: int, most: int, device: torch.device) -> Tensor:
    """`most` of the numbers under `count` at equal distances, or all."""
    if count <= most:
        return torch.arange(count, device=device)
    return torch.linspace(0, count - 1, most, device=device, dtype=torch.float64).long()


def upper_rank_at(values: Tensor, reference: Tensor, anchors: Tensor) -> Tensor:
    """`upper_rank` (k,) of single values (k,) among the rows `anchors` (k,) of `reference` (n, r)."""
    size = reference.shape[1]
    bits = size.bit_length()
    if missing := (1 << bits) - 1 - size:  # padding by nothing would copy
        reference = F.pad(reference, (0, missing), value=torch.inf)
    flat, values = reference.reshape(-1), values + TIE
    before = anchors.int().mul_(reference.shape[1]).sub_(1)  # 32 bits: half of the memory to walk through
    place = before.clone()  # of the last one of the row that is known not to be above
    for step in (1 << bit for bit in reversed(range(bits))):
        place.add_((flat.index_select(0, place + step) <= values).int(), alpha=step)
    above = before.add_(size).sub_(place)
    return math.log(size) - (above + 1).clamp(max=size).to(values.dtype).log()


@dataclass(frozen=True)
class Rankings:
    """What the similarities of each anchor of a batch are ranked among, (n, r) ascending each.

    Attributes:
        image_text, text_image, text_text, image_image: cosines of the anchor's first with the others' second; the last
            one for linked evidence only.
    """

    image_text: Tensor
    text_image: Tensor
    text_text: Tensor
    image_image: Tensor | None

    @classmethod
    def of(cls, image: Tensor, text: Tensor, compared: tuple[Tensor, Tensor], *, linked: bool) -> Rankings:
        """Of features (n, d), and of those (n, c) for all but the cosine of picture and caption."""
        others = ranked_among(len(image), image.device)

        def ranked(anchors: Tensor, candidates: Tensor) -> Tensor:
            some, found = candidates[others], anchors.new_empty(len(anchors), len(others))
            for start in range(0, len(anchors), BLOCK):  # sorting holds four times as much as it gives
                rows = slice(start, start + BLOCK)
                own = torch.arange(len(anchors), device=others.device)[rows, None] == others
                found[rows] = (anchors[rows] @ some.T).masked_fill_(own, -torch.inf).sort(dim=1).values
            return found

        pictures, captions = compared
        return cls(
            ranked(image, text),
            ranked(text, image),
            ranked(captions, captions),
            ranked(pictures, pictures) if linked else None,
        )


def tile_signals(
    compared: tuple[Tensor, Tensor],
    words: Tensor,
    place: tuple[slice | Tensor, slice | Tensor],
    cosines: Tensor,
    rankings: Rankings,
) -> tuple[Tensor, Tensor]:
    """Signals of a rectangle of pairs, from its pictures (r, c, f), and from its captions (c, r, f).

    "Caption j describes picture i" is one event, looked at from both sides: the ranks are the anchor's own.

    Args:
        compared: (n, c) of pictures and captions, for all but their own cosine.
        words: (r, c) overlap of captions.
        place: pictures r, and captions c.
        cosines: (r, c) of pictures and captions.
        rankings: of all n; `LINKED_SIGNALS` where it has those of pictures.
    """
    rows, columns = place
    image, text = compared
    same = text[rows] @ text[columns].T
    from_image = [(cosines, rankings.image_text[rows]), (same, rankings.text_text[rows])]
    from_text = [(cosines.T, rankings.text_image[columns]), (same.T, rankings.text_text[columns])]
    if rankings.image_image is not None:
        back, pictures = text[rows] @ image[columns].T, image[rows] @ image[columns].T
        from_image += [(back, rankings.text_image[rows]), (pictures, rankings.image_image[rows])]
        from_text += [(back.T, rankings.image_text[columns]), (pictures.T, rankings.image_image[columns])]
    return pair_signals(from_image, words), pair_signals(from_text, words.T)


def pair_signals_at(
    similarities: Sequence[Tensor], place: tuple[Tensor, Tensor], rankings: Rankings
) -> tuple[Tensor, Tensor]:
    """`tile_signals` of single pairs, (k, f) each.

    Args:
        similarities: (k,) each of picture and caption, the captions, [caption and picture, the pictures,] and words.
        place: pictures and captions (k,) in the batch.
        rankings: of the batch.
    """
    rows, columns = place
    from_image, from_text = [rankings.image_text, rankings.text_text], [rankings.text_image, rankings.text_text]
    if rankings.image_image is not None:
        from_image += [rankings.text_image, rankings.image_image]
        from_text += [rankings.image_text, rankings.image_image]
    views = []
    for anchors, references in ((rows, from_image), (columns, from_text)):
        ranks = [upper_rank_at(x, reference, anchors) for x, reference in zip(similarities, references, strict=False)]
        views.append(torch.stack([*similarities, *ranks], dim=-1))
    return views[0], views[1]
