"""What the calibrator learns from in a batch: matching pairs that are not trained as such, and pairs as they come."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from mmcontrast.negatives.batch import GlobalBatch, Siblings
from mmcontrast.negatives.calibrator import Calibrator
from mmcontrast.negatives.known import MatchKeys, known_positives, share_a_caption
from mmcontrast.negatives.signals import LINKED_SIGNALS, SIGNALS, Compared, pair_signals, without_own
from mmcontrast.negatives.words import WordStatistics, overlap

LINKED = 0.002
HELD_OUT_ONE_IN = 8
"""Every so many pictures the evidence of one is held out, to measure calibration on."""


@dataclass(frozen=True)
class Evidence:
    """Signals of (p, f) matching pairs and of (u, f) pairs as they come, all of pictures on one side of the split."""

    positives: Tensor
    unlabelled: Tensor
    held_out: bool


def new_calibrator(linked: bool, **settings: Any) -> Calibrator:
    """A calibrator of linked evidence only, or of siblings as well; `settings` as for `Calibrator`."""
    return Calibrator(len(LINKED_SIGNALS if linked else SIGNALS), linked=linked, **settings)


def linked_share(keys: MatchKeys) -> float:
    """Share of the random pairs of n pictures that share a caption without being known to match by their drawn ones.

    From `LINKED` on they are all the evidence there is need of: two captions of one photo are more alike than captions
    of two photos, and would make the prior too small.
    """
    return float((share_a_caption(keys, keys) & ~known_positives(keys, keys)).float().mean())


def anchor_signals(
    batch: GlobalBatch, words: WordStatistics, rows: Tensor, *, linked: bool = False
) -> tuple[Tensor, Tensor]:
    """Signals (r, n, f) of some rows' pictures against all captions, and of their captions against all pictures.

    "Caption j describes picture i" is one event, looked at from both sides: the cosines across the modalities and the
    ranks are the anchor's own.

    Args:
        batch: all pairs.
        words: of the captions so far.
        rows: (r,) the anchors.
        linked: `LINKED_SIGNALS` instead of `SIGNALS`.
    """
    vectors = words.vectors(batch.input_ids, batch.attention_mask)
    alike = overlap(vectors[rows], vectors)
    pictures, captions = batch.compared

    def compare(anchors: Tensor, candidates: Tensor) -> Compared:
        cosines = anchors[rows] @ candidates.T  # r n
        return cosines, without_own(cosines, rows)

    to_text, to_image = compare(batch.image, batch.text), compare(batch.text, batch.image)
    of_text = compare(captions, captions)
    from_image, from_text = [to_text, of_text], [to_image, of_text]
    if linked:
        of_image = compare(pictures, pictures)
        back_to_image = captions[rows] @ pictures.T, to_image[1]
        back_to_text = pictures[rows] @ captions.T, to_text[1]
        from_image, from_text = [*from_image, back_to_image, of_image], [*from_text, back_to_text, of_image]
    return pair_signals(from_image, alike), pair_signals(from_text, alike)


def evidence(batch: GlobalBatch, words: WordStatistics, rows: Tensor, *, linked: bool = False) -> Iterator[Evidence]:
    """Both sides of the split, from the anchors `rows` (r,) and the batch's siblings.

    Matching pairs are found without labels and never trained as positives: linked pairs (the pictures i and j share
    a caption, and caption j is another one) and, where these are few, siblings (picture i and its reserved caption).
    Linked pairs come first because they are of two pictures, as the pairs in question are; siblings are more alike.
    Pairs that are known to match are no unlabelled pairs either: nothing asks about them.

    Args:
        batch: all pairs, and the siblings of some.
        words: of the captions so far.
        rows: (r,) the anchors.
        linked: linked pairs only, which may tell how alike two pictures are.
    """
    known = batch.known(rows)
    sharing = share_a_caption(batch.keys.take(rows), batch.keys)
    own = batch.own(rows)
    held = held_out(batch.keys.index[rows])
    found = [
        (signals, sharing & ~known_here & ~own, ~known_here & ~own)
        for signals, known_here in zip(anchor_signals(batch, words, rows, linked=linked), known, strict=True)
    ]
    siblings = None if linked or batch.siblings is None else sibling_signals(batch, words, batch.siblings)
    for side in (False, True):
        anchors = (held == side)[:, None]
        positives = [signals[match & anchors] for signals, match, _ in found]
        if siblings is not None and batch.siblings is not None:
            further = siblings[held_out(batch.keys.index[batch.siblings.rows]) == side].flatten(0, 1)
            positives.append(further[: max(0, len(further) - sum(map(len, positives)))])
        yield Evidence(torch.cat(positives), torch.cat([s[open_ & anchors] for s, _, open_ in found]), held_out=side)


def share_of_matches(batch: GlobalBatch, rows: Tensor) -> float:
    """Share of the pairs of some rows (r,) with all others that are known to match, or linked by a shared caption."""
    keys = batch.keys.take(rows)
    matches = (batch.known(rows)[0] | share_a_caption(keys, batch.keys)) & ~batch.own(rows)
    return float(matches.sum()) / max(1, len(rows) * (len(batch) - 1))


def sibling_signals(batch: GlobalBatch, words: WordStatistics, siblings: Siblings) -> Tensor:
    """Signals (s, 2, f) of pictures and further captions of theirs, seen from the picture and from the caption."""
    rows, text, image = siblings.rows, batch.text, batch.image
    alike = words.similarity(
        (siblings.input_ids, siblings.attention_mask), (batch.input_ids, batch.attention_mask)
    ).gather(1, rows[:, None])
    cross = (image[rows] * siblings.text).sum(dim=1, keepdim=True)  # s 1
    same = (text[rows] * siblings.text).sum(dim=1, keepdim=True)
    of_image = without_own(image[rows] @ text.T, rows), without_own(text[rows] @ text.T, rows)
    of_text = without_own(siblings.text @ image.T, rows), without_own(siblings.text @ text.T, rows)
    from_image, from_text = (pair_signals([(cross, x), (same, y)], alike) for x, y in (of_image, of_text))
    return torch.cat([from_image, from_text], dim=1)


def held_out(index: Tensor) -> Tensor:
    """(r,) bool of pictures (r,): by picture, so that no picture's pairs stand on both sides.

    Hashed, since rows of a file follow patterns: captions are kept from training in one row of four.
    """
    mixed = (index & 0xFFFF_FFFF) * 0x9E37_79B1 & 0xFFFF_FFFF
    return (mixed >> 16) % HELD_OUT_ONE_IN == 0
