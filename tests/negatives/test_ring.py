"""The memory of the newest signals."""

from __future__ import annotations

import torch

from mmcontrast.negatives.ring import Ring


def test_ring_keeps_the_newest() -> None:
    ring = Ring(4, 1, "cpu")
    for start in (0, 3, 6):
        ring.add(torch.arange(start, start + 3.0)[:, None])
    assert sorted(ring.filled().flatten().tolist()) == [5, 6, 7, 8]
    ring.add(torch.arange(100.0)[:, None])
    assert sorted(ring.filled().flatten().tolist()) == [96, 97, 98, 99]
