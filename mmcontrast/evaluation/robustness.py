"""How much a model's scores fall when its pictures are made worse."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from torch import Tensor

from mmcontrast.data.corruptions import CORRUPTIONS, SEVERITIES
from mmcontrast.embedding import EmbeddedImages
from mmcontrast.errors import DataError
from mmcontrast.evaluation.embedded import EmbeddedData
from mmcontrast.evaluation.metrics import Metrics
from mmcontrast.evaluation.outcomes import Details, Items, TaskResult

Score = Callable[[Tensor], TaskResult]
"""(n, d) picture features to metrics and their items."""


def robustness(
    data: EmbeddedData, embed: Callable[[str, int], EmbeddedImages], scores: Mapping[str, Score]
) -> TaskResult:
    """Scores of clean and of corrupted pictures; each corrupted set is embedded once, for all scores.

    Args:
        data: the clean pictures, embedded.
        embed: embeds them at a corruption and a severity; see `mmcontrast.data.corruptions`.
        scores: {metric: what computes it, and the items that stand behind it}.

    Returns:
        For each metric `clean/METRIC`, `CORRUPTION@SEVERITY/METRIC` and its `..._drop`, the share of the clean score
        that is lost (None where that is 0); `METRIC` and `METRIC_drop`, means over all corruptions and severities.

    Raises:
        DataError: there is nothing to score.
    """
    if not scores:
        raise DataError(f"{data.name}: robustness needs captions or labels, and it has neither")
    metrics: Metrics = {}
    items: dict[str, Items] = {}
    means: dict[str, list[str]] = {}

    def measure(prefix: str, features: Tensor) -> None:
        for metric, score in scores.items():
            found = score(features)
            metrics[f"{prefix}/{metric}"] = found.metrics[metric]
            needed = found.details.means.get(metric, [metric])
            items.update({f"{prefix}/{name}": found.details.items[name] for name in needed})
            if metric in found.details.means:
                means[f"{prefix}/{metric}"] = [f"{prefix}/{name}" for name in needed]
            if prefix != "clean":
                metrics[f"{prefix}/{metric}_drop"] = _drop(metrics[f"clean/{metric}"], found.metrics[metric])

    measure("clean", data.image_features)
    prefixes = []
    for name in CORRUPTIONS:
        for severity in SEVERITIES:
            embedded = embed(name, severity)
            assert embedded.positions.equal(data.positions)  # what can be decoded can be corrupted
            prefixes.append(f"{name}@{severity}")
            measure(prefixes[-1], embedded.features)
    for metric in scores:
        means[metric] = [f"{prefix}/{metric}" for prefix in prefixes]
        values = [value for name in means[metric] if (value := metrics[name]) is not None]
        metrics[metric] = sum(values) / len(values) if values else None
        metrics[f"{metric}_drop"] = _drop(metrics[f"clean/{metric}"], metrics[metric])
    return TaskResult(metrics, Details(items, means))


def _drop(clean: float | None, corrupted: float | None) -> float | None:
    return 1 - corrupted / clean if clean and corrupted is not None else None
