"""Small batches of which everything about negatives can be computed by hand."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from mmcontrast.negatives.batch import GlobalBatch, Siblings
from mmcontrast.negatives.known import MatchKeys
from mmcontrast.types import NO_KEY, Features, PairBatch

VOCABULARY = 40
WIDTH = 6


def random_batch(
    n: int = 12, *, seed: int = 0, classes: int = 4, first_index: int = 0, siblings: int = 0
) -> tuple[Features, PairBatch, Tensor | None]:
    """Features with gradient, their batch, and features of its siblings.

    Pairs of a class are alike; the captions of 1 and 2, 4 and 5, ... are the same; odd rows share one that was
    not drawn with a row of their class; and picture 3 has the caption of 0, but not the other way round.
    """
    generator = torch.Generator().manual_seed(seed)
    label = torch.arange(n) % classes
    centres = torch.randn(classes, WIDTH, generator=torch.Generator().manual_seed(99))

    def features(rows: Tensor) -> Tensor:
        noise = torch.randn(len(rows), WIDTH, generator=generator)
        return F.normalize(centres[label[rows]] + 0.8 * noise, dim=1)

    rows = torch.arange(n)
    # Places 0 and 9 are marks that every caption has; the last words say the class.
    words = torch.randint(2, VOCABULARY - classes, (n, 4), generator=generator)
    ids = torch.column_stack([torch.zeros(n, dtype=torch.long), words, VOCABULARY - classes + label])
    mask = torch.ones_like(ids)
    mask[::3, 2] = 0
    key = first_index + rows + 1
    drawn = torch.where(rows % 3 == 2, key - 1, key)
    own = torch.stack([drawn, 10_000 + key, 20_000 + rows // (2 * classes) * classes + label], dim=1)
    own[3, 1] = drawn[0]
    own[:, 2][rows % 2 == 0] = NO_KEY
    batch = PairBatch(
        image=torch.zeros(n, 3, 2, 2, dtype=torch.uint8),
        input_ids=ids,
        attention_mask=mask,
        index=first_index + rows,
        caption_key=drawn,
        caption_keys=own,
        group_key=torch.full((n,), NO_KEY),
        label=label,
    )
    sibling_text = None
    if siblings:
        of = torch.arange(siblings) * 2
        of[-1] = -1
        batch.sibling_ids, batch.sibling_mask = ids[of].roll(1, dims=1), torch.ones_like(ids[of])
        batch.sibling_rows = of
        sibling_text = features(of)
    found = Features(
        features(rows).requires_grad_(), features(rows).requires_grad_(), torch.tensor(8.0, requires_grad=True)
    )
    return found, batch, sibling_text


def seen(batch: PairBatch, features: Features, **changes: Any) -> GlobalBatch:
    """The whole batch of one process."""
    values: dict[str, Any] = {
        "image": features.image.detach(),
        "text": features.text.detach(),
        "scale": features.logit_scale.detach(),
        "keys": MatchKeys.of(batch),
        "label": batch.label,
        "input_ids": batch.input_ids,
        "attention_mask": batch.attention_mask,
        "local": slice(0, len(batch)),
    }
    return GlobalBatch(**values | changes)


def permuted(batch: GlobalBatch, order: Tensor) -> GlobalBatch:
    """The same pairs in another order."""
    siblings = batch.siblings
    if siblings is not None:
        siblings = Siblings(siblings.text, siblings.input_ids, siblings.attention_mask, order.argsort()[siblings.rows])
    return GlobalBatch(
        image=batch.image[order],
        text=batch.text[order],
        scale=batch.scale,
        keys=batch.keys.take(order),
        label=batch.label[order],
        input_ids=batch.input_ids[order],
        attention_mask=batch.attention_mask[order],
        local=batch.local,
        siblings=siblings,
    )
