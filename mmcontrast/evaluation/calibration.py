"""Whether zero-shot probabilities can be believed, as they are and with one temperature fitted on half the pictures."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from mmcontrast.errors import DataError
from mmcontrast.evaluation import metrics
from mmcontrast.evaluation.metrics import Metrics
from mmcontrast.evaluation.outcomes import Confidences, Details, Items, TaskResult
from mmcontrast.evaluation.reliability import reliability

BINS = 15
_LOWEST, _HIGHEST = 1e-4, 1e4  # temperatures


def calibration(logits: Tensor, labels: Tensor, *, bins: int = BINS, seed: int = 0) -> Metrics:
    """Calibration of (n, c) logits against (n,) labels, on one half of the pictures; see `calibration_metrics`.

    Args:
        logits: of the classes, whose softmax is the probability that the model states.
        labels: int64 in 0..c-1.
        bins: of the calibration error.
        seed: of the halves.

    Returns:
        `ece`, `brier`, `nll`; `temperature`, which lowers the nll of the other half most; and
        `ece_calibrated`, `brier_calibrated`, `nll_calibrated` with the logits divided by it.

    Raises:
        DataError: fewer than two pictures or classes, or a label out of range.
    """
    return calibration_task(logits, labels, torch.arange(len(logits)), bins=bins, seed=seed).metrics


def calibration_task(
    logits: Tensor, labels: Tensor, pictures: Tensor, *, bins: int = BINS, seed: int = 0
) -> TaskResult:
    """As `calibration`, with what became of each measured picture; (n,) numbers of the `pictures`."""
    metrics.check_labels(labels, len(logits), logits.shape[1])
    if len(logits) < 2 or logits.shape[1] < 2:
        raise DataError(
            f"calibration of {len(logits)} pictures and {logits.shape[1]} classes: take at least two of each"
        )
    order = torch.randperm(len(logits), generator=torch.Generator().manual_seed(seed))
    fitted, measured = order[: len(order) // 2], order[len(order) // 2 :]
    temperature = fit_temperature(logits[fitted], labels[fitted])
    found: Metrics = {}
    items: dict[str, Items] = {}
    confidences = {}
    for suffix, scale in (("", 1.0), ("_calibrated", temperature)):
        values, (probabilities, right) = _by_picture(logits[measured] / scale, labels[measured])
        found |= {f"ece{suffix}": reliability(probabilities, right, bins).ece}
        found |= {f"{name}{suffix}": value.mean().item() for name, value in values.items()}
        items |= {f"{name}{suffix}": Items(value, pictures[measured]) for name, value in values.items()}
        confidences[f"ece{suffix}"] = Confidences(probabilities, right, pictures[measured])
        found.setdefault("temperature", temperature)
    return TaskResult(found, Details(items, confidences=confidences))


def calibration_metrics(logits: Tensor, labels: Tensor, *, bins: int = BINS) -> Metrics:
    """Of (n, c) logits and (n,) labels.

    Returns:
        `ece`: expected calibration error of the best class's probability (Guo et al. 2017), in bins of equal width.
        `brier`: squared distance between the probabilities and the truth, summed over the classes: 0 to 2.
        `nll`: negative log-likelihood of the labels.
    """
    values, (probabilities, right) = _by_picture(logits, labels)
    means: Metrics = {name: value.mean().item() for name, value in values.items()}
    return {"ece": reliability(probabilities, right, bins).ece} | means


def _by_picture(logits: Tensor, labels: Tensor) -> tuple[dict[str, Tensor], tuple[Tensor, Tensor]]:
    """(n,) brier and nll, and the (n,) probability of the best class and whether it is right."""
    logs = logits.double().log_softmax(dim=1)
    probabilities = logs.exp()
    right = metrics.predicted_classes(logits, labels) == labels
    own = probabilities.gather(1, labels[:, None]).squeeze(1)
    # |p - truth|^2 = |p|^2 - 2 p(label) + 1
    brier = probabilities.square().sum(dim=1) - 2 * own + 1
    nll = -logs.gather(1, labels[:, None]).squeeze(1)
    return {"brier": brier, "nll": nll}, (probabilities.amax(dim=1), right)


def fit_temperature(logits: Tensor, labels: Tensor) -> float:
    """The temperature of lowest negative log-likelihood of (n,) labels under softmax((n, c) logits / temperature).

    Between 1e-4, where every picture is right, and 1e4, where logits say nothing or less.
    """
    logits = logits.double()
    own = logits.gather(1, labels[:, None]).squeeze(1)

    def slope(inverse: float) -> float:
        """Of the nll, which is convex in the inverse temperature."""
        expected = ((inverse * logits).softmax(dim=1) * logits).sum(dim=1)
        return (expected - own).mean().item()

    low, high = math.log(1 / _HIGHEST), math.log(1 / _LOWEST)
    for _ in range(60):
        middle = (low + high) / 2
        if slope(math.exp(middle)) > 0:
            high = middle
        else:
            low = middle
    return math.exp(-(low + high) / 2)
