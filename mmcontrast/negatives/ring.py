"""A memory of bounded size: the newest signals of pairs."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


class Ring:
    """The newest `capacity` rows of (n, width) values."""

    def __init__(self, capacity: int, width: int, device: torch.device | str) -> None:
        self.values = torch.zeros(capacity, width, device=device)
        self.seen = 0

    def __len__(self) -> int:
        return min(self.seen, len(self.values))

    def add(self, rows: Tensor) -> None:
        """Put (r, width) rows in place of the oldest ones."""
        rows = rows[-len(self.values) :]
        places = (torch.arange(len(rows), device=rows.device) + self.seen) % len(self.values)
        self.values[places] = rows.to(self.values.dtype)
        self.seen += len(rows)

    def filled(self) -> Tensor:
        """(n, width) what there is."""
        return self.values[: len(self)]

    def sample(self, count: int, generator: torch.Generator) -> Tensor:
        """(count, width) drawn with replacement."""
        return self.values[torch.randint(len(self), (count,), generator=generator).to(self.values.device)]

    def state_dict(self) -> dict[str, Any]:
        """For the checkpoint."""
        return {"values": self.filled().cpu(), "seen": self.seen}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The inverse of `state_dict`."""
        self.values[: len(state["values"])] = state["values"].to(self.values)
        self.seen = state["seen"]
