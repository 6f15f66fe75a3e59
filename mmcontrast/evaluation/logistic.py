"""Multinomial logistic regression on features, by L-BFGS in float64: scikit-learn's optimum, without its copies."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from mmcontrast.errors import DataError
from mmcontrast.evaluation.metrics import check_labels

MAX_ITERATIONS = 1000
_TOLERANCE = 1e-7  # of the largest entry of the gradient of the mean loss


class Classifier(NamedTuple):
    """A linear classifier.

    Attributes:
        weight: (c, d) float64.
        bias: (c,) float64.
    """

    weight: Tensor
    bias: Tensor

    def logits(self, features: Tensor) -> Tensor:
        """(n, d) features to (n, c) float64 logits."""
        return features.double() @ self.weight.T + self.bias


def fit_logistic(
    features: Tensor, labels: Tensor, num_classes: int, strength: float, *, start: Classifier | None = None
) -> Classifier:
    """Minimise `strength` * (sum of cross entropies) + |weight|^2 / 2; the biases are free.

    That is scikit-learn's `LogisticRegression(C=strength)` for three classes or more. For two it penalises the
    difference of both weights instead: its `C` is twice our `strength` there.

    Args:
        features: (n, d).
        labels: (n,) int64 in 0..c-1.
        num_classes: c.
        strength: inverse of the regularisation.
        start: where to begin, e.g. the optimum of another strength; the optimum does not depend on it.

    Raises:
        DataError: fewer than two classes have pictures, or a label is out of range.
    """
    check_train_labels(labels, len(features), num_classes)
    features = features.double()
    centre = features.mean(dim=0)  # free biases: the optimum stays, and it is found in far fewer steps
    centred = features - centre
    weight = features.new_zeros(num_classes, features.shape[1]) if start is None else start.weight.clone()
    bias = features.new_zeros(num_classes) if start is None else start.bias + start.weight @ centre
    weight.requires_grad_()
    bias.requires_grad_()
    penalty = 1 / (2 * strength * len(labels))
    optimizer = torch.optim.LBFGS(
        [weight, bias],
        max_iter=MAX_ITERATIONS,
        max_eval=2 * MAX_ITERATIONS,
        history_size=20,
        tolerance_grad=_TOLERANCE,
        tolerance_change=1e-14,
        line_search_fn="strong_wolfe",
    )

    def loss() -> float:
        optimizer.zero_grad()
        value = cross_entropy(centred @ weight.T + bias, labels) + penalty * weight.square().sum()
        value.backward()  # type: ignore[no-untyped-call]
        return value.item()

    with torch.inference_mode(False), torch.enable_grad():
        optimizer.step(loss)  # type: ignore[no-untyped-call]
    weight, bias = weight.detach(), bias.detach()
    return Classifier(weight, bias - weight @ centre)


def check_train_labels(labels: Tensor, pictures: int, num_classes: int) -> None:
    """Raise DataError unless there is one label a picture, all in range, of two classes at least."""
    check_labels(labels, pictures, num_classes, "train picture")
    if len(set(labels.tolist())) < 2:
        raise DataError("the train data has pictures of fewer than two classes: there is nothing to tell apart")
