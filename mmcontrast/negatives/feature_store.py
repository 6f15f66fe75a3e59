"""The last features of a bounded number of items, in half precision."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


class FeatureStore:
    """Image and text features of the items that have a *slot*: all of them, or a fixed random part of many.

    Where there are more items than slots, one item out of each of `slots` equal stretches has one. Takes
    4 * embed_dim bytes a slot on the device. Nothing in `put` and `get` makes a GPU wait for the CPU.

    Args:
        num_items: items are 0..num_items - 1.
        embed_dim: of the features.
        slots: how many, at most num_items.
        seed: of the choice of items.
        device: where the features live.

    Attributes:
        items: (slots,) int64, item of each slot, ascending.
        image, text: (slots + 1, d) float16; the last row takes what has no slot, and is never read.
        seen: (slots + 1,) bool; the last one is False.
        drift: (2,) sum of the cosines between stored and fresh features of items that came again, and their number.
    """

    def __init__(self, num_items: int, embed_dim: int, slots: int, *, seed: int, device: torch.device) -> None:
        self.num_items, self.slots = num_items, slots
        self.items = _items(num_items, slots, seed).to(device)
        self.image = torch.zeros(slots + 1, embed_dim, dtype=torch.float16, device=device)
        self.text = torch.zeros_like(self.image)
        self.seen = torch.zeros(slots + 1, dtype=torch.bool, device=device)
        self.drift = torch.zeros(2, device=device)

    @property
    def complete(self) -> bool:
        """Whether every item has a slot."""
        return self.slots == self.num_items

    def slot(self, index: Tensor) -> Tensor:
        """Slot (n,) of each item (n,); `slots`, the row that nobody reads, where it has none."""
        if self.complete:
            return index
        slot = index * self.slots // self.num_items
        return torch.where(self.items[slot] == index, slot, self.slots)

    def put(self, index: Tensor, image: Tensor, text: Tensor, valid: Tensor) -> None:
        """Store float32 features (n, d) of items (n,), but for rows that are not `valid` (n,)."""
        slots = torch.where(valid, self.slot(index), self.slots)
        again = self.seen[slots].float()
        cosine = F.cosine_similarity(self.image[slots].float(), image) / 2
        cosine = cosine + F.cosine_similarity(self.text[slots].float(), text) / 2
        self.drift += torch.stack([(cosine.nan_to_num() * again).sum(), again.sum()])
        self.image[slots], self.text[slots] = image.half(), text.half()
        self.seen[slots] = True
        self.seen[-1] = False

    def get(self, index: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Image and text features (n, d) float32 of items (n,), zero where nothing is stored, and whether it is."""
        slots = self.slot(index)
        seen = self.seen[slots]
        zero = torch.zeros((), device=self.image.device)
        return (
            torch.where(seen[:, None], self.image[slots].float(), zero),
            torch.where(seen[:, None], self.text[slots].float(), zero),
            seen,
        )

    def coverage(self) -> float:
        """Share of the slots whose item was seen."""
        return float(self.seen.sum()) / self.slots

    def take_drift(self) -> float | None:
        """Mean cosine of stored and fresh features since the last call; None where no item came again."""
        total, count = self.drift.tolist()
        self.drift.zero_()
        return total / count if count else None

    def state_dict(self) -> dict[str, Tensor]:
        """What is stored, not copied."""
        stored = {"image": self.image[:-1], "text": self.text[:-1], "seen": self.seen[:-1]}
        return stored | {"items": self.items, "drift": self.drift}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Take over the features of `state_dict`.

        Raises:
            ValueError: they are of other slots or another embed_dim.
        """
        items = state["items"].to(self.items.device)
        if state["image"].shape != self.image[:-1].shape or not torch.equal(items, self.items):
            raise ValueError("the stored features are those of other data, another embed_dim or another seed")
        for name, mine in (("image", self.image), ("text", self.text), ("seen", self.seen)):
            mine[:-1].copy_(state[name])
        self.drift.copy_(state["drift"])


def _items(num_items: int, slots: int, seed: int) -> Tensor:
    if slots == num_items:
        return torch.arange(num_items)
    borders = (torch.arange(slots + 1) * num_items + slots - 1) // slots  # stretch s: items i with i * slots // n == s
    chance = torch.rand(slots, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return borders[:-1] + (chance * borders.diff()).long()
