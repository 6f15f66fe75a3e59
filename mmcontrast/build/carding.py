"""From a run's folder to what the card of its model says."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mmcontrast
from mmcontrast.build.folder import RunFolder
from mmcontrast.config import Config, DataConfig, SourceConfig, load_config
from mmcontrast.errors import MMContrastError
from mmcontrast.export.card_facts import CardAnswers, CardFacts, DataFacts, RunFacts, Score, model_facts, public_name
from mmcontrast.models import DualEncoder

Say = Callable[[str], object]
_HUB_NAME = re.compile(r"[\w-][\w.-]*/[\w.-]+(:[\w.-]+)?")
# What says where things lie, and how to watch and compute, teaches nothing.
_NOT_RECIPE = (
    "output",
    "data.image_cache",
    "data.pretokenize",
    "data.train",
    "data.validation",
    "data.workers",
    "evaluation.batch_size",
    "evaluation.every",
    "evaluation.inspect_negatives",
    "evaluation.keep_pictures_mb",
    "training.checkpoint",
    "training.keep_checkpoints",
    "training.log_every_steps",
    "training.process_timeout_seconds",
    "training.trackers",
)
_SHOWN = ("loss", "global_batch_size", "learning_rate", "weight_decay", "seed", "precision")
_LOGGED = {
    "known_positive_share": "Known to match, in the batches of the training",
    "false_negative_share": "Believed to match, in the batches of the training",
    "prior": "Share that matches after all, as estimated while training",
}


@dataclass(frozen=True)
class FoundRun:
    """The run that a model came from: its folder and config."""

    folder: RunFolder
    config: Config


def find_run(model: DualEncoder | str | Path, say: Say | None = None) -> FoundRun | None:
    """The finished run whose RUN/model this is, or None."""
    if isinstance(model, DualEncoder) or not Path(model).expanduser().is_dir():
        return None
    path = Path(model).expanduser().resolve()
    folder = RunFolder(path.parent)
    if path != folder.model.resolve() or not (folder.config.is_file() and folder.results.is_file()):
        return None
    try:
        return FoundRun(folder, load_config(folder.config))
    except MMContrastError as error:
        if say is not None:
            say(f"the card says nothing of the run: {error}")
        return None


def card_facts(
    model: DualEncoder, formats: Sequence[str], run: FoundRun | None, answers: CardAnswers, fallback: str
) -> CardFacts:
    """What the card says, but for its pictures; `fallback` is the name where neither answers nor run have one."""
    return CardFacts(
        name=answers.name or (fallback if run is None else run.folder.path.resolve().name),
        model=model_facts(model),
        formats=tuple(formats),
        run=None if run is None else run_of(run),
        answers=answers,
        version=mmcontrast.__version__,
    )


def run_of(run: FoundRun) -> RunFacts:
    """What the files of a run say; what an older version did not write down is left open."""
    folder, config = run.folder, run.config
    facts, history = _read(folder.facts), folder.history()
    bad_rows = folder.bad_rows.read_text(encoding="utf-8").count("\n") if folder.bad_rows.is_file() else 0
    validation = config.data.validation
    at = facts.get("best_step")
    return RunFacts(
        train=_training_data(config.data, facts.get("train") or {}, bad_rows),
        validation=None if validation is None else _data(validation, facts.get("validation")),
        recipe=recipe(config, facts),
        negatives=[*map(_three, facts.get("negatives") or []), *_logged(history)],
        scores=_scores(_read(folder.results), _read(folder.intervals), facts.get("chance") or {}),
        level=float(_read(folder.intervals).get("level", 0.95)),
        chosen_by=None if at is None else config.evaluation.best_metric,
        chosen_at=at,
        notes=facts.get("notes") or [],
        seconds=training_seconds(history),
        device=facts.get("device"),
        processes=int(facts.get("processes") or 1),
        finished=facts.get("finished"),
    )


def recipe(config: Config, facts: Mapping[str, Any]) -> dict[str, str]:
    """Settings that were changed, and those that everybody asks for; paths are cut to their last part."""
    plain: Config = Config.model_validate({"data": {"train": {"path": "x"}}})
    default = _flat(plain.model_dump())
    chosen = {
        name: _shown(value)
        for name, value in _flat(config.model_dump()).items()
        if not name.startswith(_NOT_RECIPE)
        and (default.get(name) != value or name in [f"training.{field}" for field in _SHOWN])
    }
    for label, name in (("steps", "steps"), ("pairs seen", "samples_seen")):
        if facts.get(name) is not None:
            chosen[label] = f"{facts[name]:,}"
    return chosen


def training_seconds(history: Sequence[Mapping[str, Any]]) -> float | None:
    """Time of all steps, by the log; None where a line lacks it."""
    seconds, before = 0.0, 0
    for line in history:
        if "split" in line:
            continue
        if line.get("seconds_per_step") is None:
            return None
        seconds += float(line["seconds_per_step"]) * (line["global_step"] - before)
        before = line["global_step"]
    return seconds if before else None


def _training_data(data: DataConfig, sizes: Mapping[str, Any], bad_rows: int) -> DataFacts:
    """The one source, or the mixture with the share of each."""
    if not isinstance(data.train, list):
        return _data(data.train, sizes, bad_rows)
    total = sum(source.weight for source in data.train)
    names = [f"{public_name(source.path)} ({source.weight / total:.0%})" for source in data.train]
    return DataFacts(name=" + ".join(names), left_out=bad_rows)


def _data(source: SourceConfig, sizes: Mapping[str, Any] | None, bad_rows: int = 0) -> DataFacts:
    sizes = sizes or {}
    on_hub = _HUB_NAME.fullmatch(source.path) and not Path(source.path).exists() and source.format in (None, "datasets")
    return DataFacts(
        name=public_name(source.path),
        split=source.split,
        pictures=sizes.get("pictures"),
        captions=sizes.get("captions"),
        left_out=bad_rows or sizes.get("left_out") or 0,
        hub_id=source.path.partition(":")[0] if on_hub and not Path(source.path).suffix else None,
    )


def _scores(results: Mapping[str, Any], intervals: Mapping[str, Any], chance: Mapping[str, Any]) -> list[Score]:
    found = []
    for task, metrics in results.items():
        for metric, value in metrics.items():
            low, high = (intervals.get("intervals") or {}).get(task, {}).get(metric) or (None, None)
            found.append(Score(task, metric, value, low, high, chance.get(task, {}).get(metric)))
    return found


def _logged(history: Sequence[Mapping[str, Any]]) -> list[tuple[str, str, str]]:
    """Means over the log of what the batches of the training were like."""
    rows = []
    for name, label in _LOGGED.items():
        values = [float(line[name]) for line in history if line.get(name) is not None]
        if values:
            rows.append((label, f"{100 * sum(values) / len(values):.2g} %", f"mean of {len(values)} lines of the log"))
    return rows


def _three(card: Sequence[str]) -> tuple[str, str, str]:
    label, value, hint = card
    return label, value, hint


def _read(path: Path) -> dict[str, Any]:
    """A JSON file of the run; empty where there is none, or none that can be read."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return values if isinstance(values, dict) else {}


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, dict) and key not in ("kwargs", "classnames"):
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def _shown(value: Any) -> str:
    return public_name(value) if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
