"""What a linear probe learns from a few pictures of each class."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from mmcontrast.errors import DataError
from mmcontrast.evaluation import metrics
from mmcontrast.evaluation.logistic import fit_logistic
from mmcontrast.evaluation.metrics import Metrics
from mmcontrast.evaluation.probe import checked_units

SHOTS = (1, 2, 4, 8, 16)
DRAWS = 5
FEW_SHOT_STRENGTH = 10.0  # too few pictures to choose it by


def few_shot_probe(
    train_features: Tensor,
    train_labels: Tensor,
    features: Tensor,
    labels: Tensor,
    num_classes: int,
    *,
    shots: Sequence[int] = SHOTS,
    draws: int = DRAWS,
    seed: int = 0,
) -> Metrics:
    """Linear probes on k train pictures of each class, drawn several times; a class with fewer gives all it has.

    Arguments as `linear_probe`.

    Args:
        shots: the k.
        draws: how often k pictures of each class are drawn.
        seed: of the draws.

    Returns:
        `acc1@k_shots` and `acc1_sd@k_shots` for each k: mean and standard deviation (n - 1) over the draws, the
        latter None for a single draw. Both are None where no class has k pictures.
    """
    return few_shot_summary(
        few_shot_ranks(train_features, train_labels, features, labels, num_classes, shots=shots, draws=draws, seed=seed)
    )


def few_shot_summary(ranks: dict[int, Tensor | None]) -> Metrics:
    """The metrics of `few_shot_probe` from its ranks."""
    found: Metrics = {}
    for k, drawn in ranks.items():
        shares = None if drawn is None else (drawn <= 1).double().mean(dim=1)
        found[f"acc1@{k}_shots"] = None if shares is None else shares.mean().item()
        found[f"acc1_sd@{k}_shots"] = None if shares is None or len(shares) == 1 else shares.std().item()
    return found


def few_shot_ranks(
    train_features: Tensor,
    train_labels: Tensor,
    features: Tensor,
    labels: Tensor,
    num_classes: int,
    *,
    shots: Sequence[int] = SHOTS,
    draws: int = DRAWS,
    seed: int = 0,
) -> dict[int, Tensor | None]:
    """{k: (draws, m) int64 ranks of the true class}, None where no class has k pictures; as `few_shot_probe`."""
    train, test = checked_units(train_features, train_labels, features, labels, num_classes)
    if draws < 1 or any(k < 1 for k in shots):
        raise DataError(f"few shots: {draws} draws of {', '.join(map(str, shots))} pictures; take 1 or more of each")
    largest = int(train_labels.bincount().max())
    found: dict[int, Tensor | None] = dict.fromkeys(shots)
    for k in (k for k in shots if k <= largest):
        ranks = torch.empty(draws, len(labels), dtype=torch.int64)
        for draw in range(draws):
            drawn = draw_shots(train_labels, k, seed * draws + draw)
            classifier = fit_logistic(train[drawn], train_labels[drawn], num_classes, FEW_SHOT_STRENGTH)
            ranks[draw] = metrics.class_ranks(classifier.logits(test), labels)
        found[k] = ranks
    return found


def draw_shots(labels: Tensor, k: int, seed: int) -> Tensor:
    """Ascending int64 places of k pictures of each class, or all of a class that has fewer."""
    generator = torch.Generator().manual_seed(seed)
    drawn = []
    for label in sorted(set(labels.tolist())):
        own = (labels == label).nonzero().squeeze(1)
        drawn.append(own[torch.randperm(len(own), generator=generator)[:k]])
    return torch.cat(drawn).sort().values
