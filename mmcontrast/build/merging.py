"""Averages of trained models, and what each mixture of two of them scores."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from mmcontrast.build.folder import write_text
from mmcontrast.build.jobs import SharedWork, evaluate, load_encoder
from mmcontrast.embedding import Advance
from mmcontrast.errors import ModelError
from mmcontrast.models import DualEncoder
from mmcontrast.models.merging import check_mergeable, has_batch_norm, merge_models, shares
from mmcontrast.report.sweep import sweep_png

SWEEP, PLOT, MODEL = "sweep.json", "sweep.png", "model"
KEEP_PICTURES_MB = 2000
"""Memory for the decoded pictures of each data set, which serve all mixtures."""
_HEADLINES = ("retrieval.mean_recall", "zero_shot.acc1")
BATCH_NORM = (
    "batch norm's running means and variances are averaged too: they are only close to what the data would give, so "
    "measure the merged model"
)

Model = DualEncoder | str | Path
Say = Callable[[str], object]


@dataclass(frozen=True)
class Sweep:
    """What each mixture scores; sweep.json.

    Attributes:
        models: the first (alpha 0) and the second (alpha 1).
        alphas: shares of the second.
        scores: for each alpha {"NAME.TASK": {metric: value}}.
        chosen: {"alpha", "metric", "value", "data"}, or None where none was asked for.
    """

    models: tuple[str, str]
    alphas: list[float]
    scores: list[dict[str, dict[str, float | None]]]
    chosen: dict[str, Any] | None = None

    @property
    def curves(self) -> dict[str, list[float]]:
        """The metric of each evaluation that stands for it, over the alphas; and the one that was chosen by."""
        also = None if self.chosen is None else self.chosen["metric"]
        names = [f"{name}.{metric}" for name, metrics in self.scores[0].items() for metric in metrics]
        curves = {}
        for key in names:
            if key.endswith(_HEADLINES) or key == also:
                name, _, metric = key.rpartition(".")
                values = [found[name][metric] for found in self.scores]
                curves[key] = [float("nan") if value is None else value for value in values]
        return curves


def merge(
    models: Sequence[Model],
    output: str | Path,
    *,
    alpha: float | None = None,
    weights: Sequence[float] | None = None,
    say: Say | None = None,
) -> dict[str, Any]:
    """Average models of one architecture and save the result as a model.

    Args:
        models: two or more; models, folders or Hub names.
        output: folder of the merged model.
        alpha: share of the second of two models, in [0, 1], as in WiSE-FT: the first is the one before fine-tuning.
        weights: of any number of models, in any unit; without them and alpha all count alike.
        say: told what the user should know.

    Returns:
        A summary: the models and their shares.

    Raises:
        ModelError: the models are not alike, or the weights cannot be used.
    """
    names = _names(models)
    parts = _mixture(len(names), alpha, weights)
    loaded = [load_encoder(model) for model in models]
    merged = merge_models(loaded, parts, names)
    if say and has_batch_norm(merged):
        say(BATCH_NORM)
    merged.save_pretrained(output)
    return {"models": names, "weights": [round(part, 6) for part in parts]}


def sweep(
    first: Model,
    second: Model,
    alphas: Sequence[float],
    evaluations: Mapping[str, Mapping[str, Any]],
    output: str | Path,
    *,
    choose: str | None = None,
    keep_pictures_mb: int = KEEP_PICTURES_MB,
    progress: Advance | None = None,
    say: Say | None = None,
) -> Sweep:
    """Evaluate mixtures (1 - alpha) first + alpha second; write sweep.json, sweep.png and, if one is chosen, model/.

    WiSE-FT trades what fine-tuning gained for what it forgot, so evaluate on both: data like those of the fine-tuning
    and others. Pictures are decoded once for all alphas where they fit into `keep_pictures_mb`.

    Args:
        first, second: as for `merge`.
        alphas: in [0, 1].
        evaluations: {name: options of `evaluate`: data, task, ...}.
        output: new, empty, or of an earlier sweep.
        choose: NAME.METRIC (or METRIC, if only one has it) whose highest value decides which mixture is saved.
        keep_pictures_mb: for each data set.
        progress: told how many more pictures or captions are done.
        say: told what the user should know.

    Raises:
        ModelError: the models are not alike, an alpha is out of range, or no such metric was computed.
        DataError: as `evaluate`.
    """
    names = _names([first, second])
    alphas = sorted(set(alphas))
    if not alphas or not 0 <= alphas[0] <= alphas[-1] <= 1:
        raise ModelError(f"alphas must lie in [0, 1]: {', '.join(f'{alpha:g}' for alpha in alphas) or 'there is none'}")
    folder = Path(output).expanduser()
    if folder.exists() and not (folder / SWEEP).is_file() and (not folder.is_dir() or any(folder.iterdir())):
        raise ModelError(f"{folder} holds other files than a sweep; choose a new or empty folder")
    models = [load_encoder(first), load_encoder(second)]
    check_mergeable(models, names)
    if say and has_batch_norm(models[0]):
        say(BATCH_NORM)
    shared = SharedWork(keep_pictures_mb)
    scores: list[dict[str, dict[str, float | None]]] = []
    for alpha in alphas:
        mixture = merge_models(models, [1 - alpha, alpha], names)
        found: dict[str, dict[str, float | None]] = {}
        for name, options in evaluations.items():
            once = say if not scores else None  # the same remarks for each alpha would say nothing
            results = evaluate(mixture, progress=progress, say=once, shared=shared, **options)
            found |= {f"{name}.{task}": metrics for task, metrics in results.items()}
        if choose and not scores:
            _metric(found, choose)  # a misspelt one should not cost the other alphas
        scores.append(found)
    chosen = _choose(alphas, scores, choose) if choose else None
    result = Sweep((names[0], names[1]), list(alphas), scores, chosen)
    folder.mkdir(parents=True, exist_ok=True)
    write_text(folder / SWEEP, json.dumps(asdict(result), indent=2, allow_nan=False) + "\n")
    png = sweep_png(alphas, result.curves, ends=result.models, chosen=None if chosen is None else chosen["alpha"])
    (folder / PLOT).write_bytes(png)
    if chosen is not None:
        share = chosen["alpha"]
        merge_models(models, [1 - share, share], names).save_pretrained(folder / MODEL)
    return result


def _choose(alphas: Sequence[float], scores: Sequence[dict[str, Any]], metric: str) -> dict[str, Any]:
    """The alpha of the highest value; of equal ones the smallest, which is nearest to the first model."""
    full = _metric(scores[0], metric)
    name, _, own = full.rpartition(".")
    values = [found[name][own] for found in scores]
    if any(value is None for value in values):
        raise ModelError(f"--choose {metric}: it is not defined on these data; choose another metric")
    best = max(range(len(values)), key=lambda i: (values[i], -i))
    return {"alpha": alphas[best], "metric": full, "value": values[best], "data": name.rpartition(".")[0]}


def _metric(found: Mapping[str, Mapping[str, Any]], wanted: str) -> str:
    """The full name NAME.TASK.METRIC of a metric of the first mixture, of which NAME or TASK or both were left out."""
    hits = []
    for name, metrics in found.items():
        data, _, task = name.rpartition(".")
        for metric in metrics:
            names = (metric, f"{task}.{metric}", f"{data}.{metric}", f"{name}.{metric}")
            if wanted in names and "rank" not in metric:
                hits.append(f"{name}.{metric}")
    if len(hits) == 1:
        return hits[0]
    if hits:
        raise ModelError(f"--choose {wanted} is ambiguous: take {' or '.join(hits)}")
    known = dict.fromkeys(metric for metrics in found.values() for metric in metrics if "rank" not in metric)
    both = f"{', '.join(found)} has no such metric of which the highest is best, but {', '.join(known)}"
    raise ModelError(f"--choose {wanted}: {both}")


def _mixture(count: int, alpha: float | None, weights: Sequence[float] | None) -> list[float]:
    if count < 2:
        raise ModelError("merging takes two models at least")
    if alpha is None:
        return shares([1.0] * count if weights is None else _one_each(weights, count))
    if weights is not None:
        raise ModelError("give alpha or weights, not both")
    if count != 2:
        raise ModelError(f"alpha mixes two models, not {count}: give a weight for each")
    if not 0 <= alpha <= 1:
        raise ModelError(f"alpha must lie in [0, 1], not {alpha:g}")
    return [1 - alpha, alpha]


def _one_each(weights: Sequence[float], count: int) -> Sequence[float]:
    if len(weights) != count:
        raise ModelError(f"{len(weights)} weights for {count} models: give one for each")
    return weights


def _names(models: Sequence[Model]) -> list[str]:
    return [f"model {i}" if isinstance(model, DualEncoder) else str(model) for i, model in enumerate(models, start=1)]
