"""A small network that says how probably a "negative" matches after all, learnt from matches and unlabelled pairs."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mmcontrast.negatives.prior import estimate_prior
from mmcontrast.negatives.ring import Ring

FIRST_PRIOR = 0.02
LEAST_POSITIVES = 64
MOST_PER_KNOWN, MOST_UNKNOWN = 3.0, 0.005
"""Cap on the estimated prior: so many times the share of pairs that captions or groups show to match, and a little.

Where scores hardly tell matches from the rest, the tails' ratio says far too much, and the duplicates know better.
"""
MOST_PRIOR = 0.5
CENTRED_ON = 8192
"""Unlabelled pairs whose mean probability is kept at the prior from step to step."""
BISECTIONS = 30
REFIT_EVERY = 20
FIRST_STEPS = 4
"""Steps at a time until it is ready."""
SCALES = (0.2, 3.0)
"""Bounds of the correction of the network's logits; a prior that is far too large would ask for infinity."""


def pu_risk(positive: Tensor, unlabelled: Tensor, prior: float, *, least: float = 0.0) -> Tensor:
    """Non-negative risk of logits from positive and unlabelled data (Kiryo et al. 2017, eq. 6), logistic loss.

    prior * E_P[l(g, 1)] + max(0, E_U[l(g, 0)] - prior * E_P[l(g, 0)]). The logistic loss is proper, so the
    minimiser is the log-odds of a match among the unlabelled pairs.

    Args:
        positive: (p,) logits of pairs that match.
        unlabelled: (u,) logits of pairs as they come.
        prior: share of matches among the unlabelled.
        least: the bound of the second term, in place of 0. In a small sample the term is often below 0 by chance alone,
            and a bound of 0 would then drop the gradient of one side and blow the logits up.
    """
    negative_risk = F.softplus(unlabelled).mean() - prior * F.softplus(positive).mean()
    return prior * F.softplus(-positive).mean() + negative_risk.clamp(min=least)


class MonotoneNetwork(nn.Module):
    """Two layers whose output never falls when a signal rises.

    Matches known without labels are not a fair sample of all matches: captions of one picture share more words, say.
    A free network learns to tell the sample from the rest; one that can only ask for "more alike" cannot.
    """

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.inner, self.outer, self.direct = nn.Linear(width, hidden), nn.Linear(hidden, 1), nn.Linear(width, 1)

    def forward(self, signals: Tensor) -> Tensor:
        """(...) logits of signals (..., width)."""
        inner = F.linear(signals, self.inner.weight.abs(), self.inner.bias).tanh()
        logits = F.linear(inner, self.outer.weight.abs(), self.outer.bias)
        return (logits + F.linear(signals, self.direct.weight.abs())).squeeze(-1)


class Calibrator:
    """Learns p(match | signals of a pair) with its own optimiser; never through the contrastive loss.

    The contrastive loss falls whenever a weight falls (dL/dw_ij = e^s_ij / Z_i > 0), so a network trained by it would
    call everything a match. This one learns from pairs that match and are not trained as such against pairs as they
    come; a part of both is held out to measure calibration.

    Args:
        width: number of signals.
        prior: share of matches among the unlabelled pairs; None takes the estimate.
        prior_factor: multiplies the estimate.
        hidden: width of the hidden layer.
        learning_rate: of Adam.
        seed: of weights and samples.
        device: where the signals are.
        linked: whether it learns from pairs of two pictures only; then it is asked with `LINKED_SIGNALS`.

    Attributes:
        typical: probability of the median pair that is known to match. What is less like a match should not become a
            target, whatever a prior that is too large makes of its probability.
    """

    def __init__(
        self,
        width: int,
        *,
        prior: float | None = None,
        prior_factor: float = 1.0,
        hidden: int = 16,
        learning_rate: float = 0.02,
        seed: int = 0,
        device: torch.device | str = "cpu",
        linked: bool = False,
    ) -> None:
        self.linked = linked
        self._fixed_prior, self._factor = prior, prior_factor
        self.estimate = FIRST_PRIOR
        self.scale, self.shift, self.typical = 1.0, 0.0, 1.0
        self._generator = torch.Generator().manual_seed(seed)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.network = MonotoneNetwork(width, hidden).to(device)
        self._optimizer = torch.optim.Adam(self.network.parameters(), lr=learning_rate, weight_decay=1e-4)
        self._mean, self._std = torch.zeros(width, device=device), torch.ones(width, device=device)
        self._rings = {
            "positives": Ring(4096, width, device),
            "unlabelled": Ring(16384, width, device),
            "held_positives": Ring(2048, width, device),
            "held_unlabelled": Ring(8192, width, device),
        }
        self._steps = 0
        self._negative_risk = 0.0
        self._quality: dict[str, float] = {}
        self._known_share: float | None = None

    @property
    def prior(self) -> float:
        """Share of matches among the unlabelled pairs that probabilities go by."""
        return self._factor * self.estimate if self._fixed_prior is None else self._fixed_prior

    @property
    def ready(self) -> bool:
        """Whether it has learnt from enough pairs to be asked."""
        return self._steps >= 2 * REFIT_EVERY

    def observe(self, positives: Tensor, unlabelled: Tensor, *, held_out: bool = False) -> None:
        """Keep the signals of (p, width) matching pairs and (u, width) pairs as they come, if they are finite."""
        prefix = "held_" if held_out else ""
        for kind, rows in (("positives", positives.detach()), ("unlabelled", unlabelled.detach())):
            self._rings[f"{prefix}{kind}"].add(rows[torch.isfinite(rows).all(dim=1)])

    def observe_known(self, share: float) -> None:
        """Keep a running mean of the share of pairs that captions or groups show to match; it caps the prior."""
        self._known_share = share if self._known_share is None else 0.95 * self._known_share + 0.05 * share

    def step(self) -> Tensor | None:
        """One step of the calibrator's own optimiser; None while there are too few positives."""
        positives, unlabelled = self._rings["positives"], self._rings["unlabelled"]
        if len(positives) < LEAST_POSITIVES or len(unlabelled) < LEAST_POSITIVES:
            return None
        if self._steps % REFIT_EVERY == 0:
            values = unlabelled.filled()
            self._mean, self._std = values.mean(dim=0), values.std(dim=0).clamp(min=1e-3)
        for _ in range(1 if self.ready else FIRST_STEPS):
            risk = self._descend(positives, unlabelled)
            self._steps += 1
            if self._steps % REFIT_EVERY == 0:
                self._refit()
        self._recentre()
        return risk

    @torch.enable_grad()
    def _descend(self, positives: Ring, unlabelled: Ring) -> Tensor:
        positive = self._logits(positives.sample(256, self._generator))
        some = self._logits(unlabelled.sample(2048, self._generator))
        # What has to be non-negative is the expected risk of the negatives, not that of every small sample.
        negative_risk = float((F.softplus(some).mean() - self.estimate * F.softplus(positive).mean()).detach())
        self._negative_risk = 0.9 * self._negative_risk + 0.1 * negative_risk
        risk = pu_risk(positive, some, self.estimate, least=-math.inf if self._negative_risk > 0 else 0.0)
        self._optimizer.zero_grad()
        torch.autograd.backward(risk)
        self._optimizer.step()
        return risk.detach()

    @torch.no_grad()
    def probability(self, signals: Tensor) -> Tensor:
        """(...) probability that a pair matches, of its signals (..., width).

        The network is fitted with the estimated prior: one that is too large would make it call pairs matches that are
        not. Another prior moves all log-odds by as much as makes it the mean probability, so that what is certain
        stays so, as when the share of a class changes between data sets (Saerens et al. 2002).
        """
        return (self.scale * self._logits(signals) + self.shift).sigmoid()

    def diagnostics(self) -> dict[str, float]:
        """Prior, and Brier score and calibration error on held-out pairs, once there are any."""
        return {"prior": self.prior, **self._quality}

    def _logits(self, signals: Tensor) -> Tensor:
        logits: Tensor = self.network((signals - self._mean) / self._std)
        return logits

    @torch.no_grad()
    def _refit(self) -> None:
        """Prior, scale and shift anew, and how well they fit pairs that the network was not trained on."""
        positive, unlabelled = (self._logits(self._all(kind)) for kind in ("positives", "unlabelled"))
        estimate = estimate_prior(positive, unlabelled)
        if self._known_share is not None:
            estimate = min(estimate, MOST_PER_KNOWN * self._known_share + MOST_UNKNOWN)
        self.estimate = estimate if self._steps <= REFIT_EVERY else 0.8 * self.estimate + 0.2 * estimate
        self.scale = fit_scale(positive, unlabelled, self.estimate)
        self._recentre()
        held = [self._rings[kind].filled() for kind in ("held_positives", "held_unlabelled")]
        if min(map(len, held)) >= LEAST_POSITIVES:
            p, u = (self.probability(signals) for signals in held)
            self._quality = {
                "calibrator_brier": pu_brier(p, u, self.prior),
                "calibrator_ece": pu_ece(p, u, self.prior),
            }

    @torch.no_grad()
    def _recentre(self) -> None:
        """Let the mean probability be the prior again: a few steps move all logits of so small a network."""
        logits = self._logits(self._rings["unlabelled"].filled()[:CENTRED_ON])
        self.shift = _shift(self.scale * logits.double(), min(self.prior, MOST_PRIOR))
        typical = self._logits(self._rings["positives"].filled()).median()
        self.typical = float((self.scale * typical + self.shift).sigmoid())

    def _all(self, kind: str) -> Tensor:
        return torch.cat([self._rings[kind].filled(), self._rings[f"held_{kind}"].filled()])

    def state_dict(self) -> dict[str, Any]:
        """For the checkpoint."""
        return {
            "network": self.network.state_dict(),
            "optimizer": self._optimizer.state_dict(),
            "generator": self._generator.get_state(),
            "rings": {name: ring.state_dict() for name, ring in self._rings.items()},
            "scaling": [self._mean.cpu(), self._std.cpu()],
            "numbers": [self.estimate, self.scale, self.shift, self.typical, self._steps, self._negative_risk],
            "quality": dict(self._quality),
            "known_share": self._known_share,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The inverse of `state_dict`."""
        self.network.load_state_dict(state["network"])
        self._optimizer.load_state_dict(state["optimizer"])
        self._generator.set_state(state["generator"])
        for name, ring in self._rings.items():
            ring.load_state_dict(state["rings"][name])
        self._mean, self._std = (value.to(self._mean.device) for value in state["scaling"])
        self.estimate, self.scale, self.shift, self.typical, self._steps, self._negative_risk = state["numbers"]
        self._quality = dict(state["quality"])
        self._known_share = state["known_share"]


def fit_scale(positive: Tensor, unlabelled: Tensor, prior: float, steps: int = 15) -> float:
    """Scale a so that sigmoid(a g + b) is calibrated (Platt 1999), from positive and unlabelled logits g.

    The shift b that goes with it is renewed more often, see `Calibrator._recentre`.
    Newton's method on the logistic risk E_U[log(1 + e^(a g + b))] - prior * E_P[a g + b], which is convex in a, b.
    """
    p, u = positive.double(), unlabelled.double()
    found = torch.tensor([1.0, 0.0], dtype=torch.float64, device=u.device)
    features = torch.stack([u, torch.ones_like(u)])  # 2 u
    wanted = prior * torch.stack([p.mean(), torch.ones((), dtype=torch.float64, device=u.device)])
    ridge = 1e-6 * torch.eye(2, dtype=torch.float64, device=u.device)
    for _ in range(steps):
        said = (found @ features).sigmoid()
        gradient = features @ said / len(u) - wanted
        curvature = (features * (said * (1 - said))) @ features.T / len(u) + ridge
        move = torch.linalg.solve(curvature, gradient)
        found = found - move / move.norm().clamp(min=1)  # short steps: far from the minimum Newton overshoots
    return float(found[0].clamp(*SCALES))


def _shift(logits: Tensor, mean: float) -> float:
    """What to add to logits for a mean probability, by bisection; on the device, which is waited for only once."""
    low, high = -40.0 - logits.max(), 40.0 - logits.min()
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        below = (logits + middle).sigmoid().mean() < mean
        low, high = torch.where(below, middle, low), torch.where(below, high, middle)
    return float(low)


def pu_brier(positive: Tensor, unlabelled: Tensor, prior: float) -> float:
    """Brier score among the unlabelled, whose truth is unknown: E_U[p^2] + prior * E_P[1 - 2 p].

    Args:
        positive: (p,) probabilities given to matching pairs.
        unlabelled: (u,) to pairs as they come.
        prior: share of matches among these.
    """
    return float(unlabelled.square().mean() + prior * (1 - 2 * positive).mean())


def pu_ece(positive: Tensor, unlabelled: Tensor, prior: float, bins: int = 10) -> float:
    """Expected calibration error among the unlabelled: |said - true| matches, summed over bins of the probability."""
    edges = torch.linspace(0, 1, bins + 1, device=positive.device)[1:-1]
    where_p, where_u = torch.bucketize(positive, edges), torch.bucketize(unlabelled, edges)
    said = torch.zeros(bins, device=positive.device).index_add_(0, where_u, unlabelled / len(unlabelled))
    true = prior * torch.bincount(where_p, minlength=bins) / len(positive)
    return float((said - true).abs().sum())
