"""One cell of the negatives benchmark: a config, a training run of the package, and what its last model reaches."""

from __future__ import annotations

import hashlib
import json
import statistics
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from negatives_data import HELD_OUT_SHARE, VERSION, TwinSampler, features_file, prepared
from negatives_encoder import read_features
from negatives_methods import METHODS, Cell, merged
from negatives_setups import SCENES, Setup
from negatives_truth import TruthKeys
from rich.console import Console
from torch.utils.data import DataLoader

from mmcontrast import load_config, open_source
from mmcontrast.build.captions import known_words
from mmcontrast.build.run import Run, prepare
from mmcontrast.data import PairSource
from mmcontrast.data.scenes import SceneSource
from mmcontrast.evaluation.retrieval import retrieval_metrics
from mmcontrast.evaluation.tasks import run_tasks
from mmcontrast.models import DualEncoder


@dataclass(frozen=True)
class Plan:
    """What a cell trains with besides its own name.

    Attributes:
        scale: initial logit scale.
        share_of_steps: less than 1 where a slower method gets no more time than InfoNCE.
    """

    scale: float
    share_of_steps: float = 1.0


def training_rows(setup: Setup, tuning: bool) -> int:
    """Rows to train on; see `split_rows`, which holds out whole pictures."""
    if not tuning or setup.label_column is None:
        return setup.rows
    pictures = setup.rows // 2 if setup.label_column == "twin" else setup.rows
    return (pictures - round(HELD_OUT_SHARE * pictures)) * (setup.rows // pictures)


def steps_of(cell: Cell, setup: Setup, plan: Plan) -> int:
    """Optimiser steps: of the same samples for all methods, or fewer."""
    epochs = setup.pretrained_epochs if setup.settings[cell.setting].pretrained else setup.epochs
    steps = epochs * training_rows(setup, cell.tuning) // cell.batch
    return max(1, round(steps * plan.share_of_steps))


def cell_config(cell: Cell, plan: Plan, setup: Setup, train: Mapping[str, Any], output: Path) -> dict[str, Any]:
    """The config of a run; `train` is its data.train."""
    base: dict[str, Any] = {
        "output": str(output),
        "model": {"logit_scale": plan.scale},
        "data": {"train": dict(train), "workers": 0},
        "training": {
            "seed": cell.seed,
            "max_steps": steps_of(cell, setup, plan),
            "global_batch_size": cell.batch,
            "log_every_steps": 10,
            "precision": "fp32",  # the same on every machine
            "trackers": [],
        },
        "evaluation": {"every_epochs": None},
    }
    if setup.label_column is not None:
        base["data"]["label_column"] = setup.label_column
    base = merged(base, setup.config)
    if setup.settings[cell.setting].pretrained:
        del base["model"]["image"]
        base = merged(base, setup.pretrained)
    return merged(base, METHODS[cell.method])


def fingerprint(cell: Cell, plan: Plan, setup: Setup) -> str:
    """Equal for runs that give equal results: data, config, and what is injected, but not the name of the budget."""
    config = cell_config(cell, plan, setup, {}, Path())
    data = [cell.dataset, cell.tuning, setup.settings[cell.setting].twins, setup.rows, setup.validation_rows, VERSION]
    return hashlib.sha256(json.dumps([config, data, setup.templates], sort_keys=True).encode()).hexdigest()[:16]


def data_of(cell: Cell, setup: Setup, cache: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """data.train and the measured pairs.

    Tuning never sees the validation split: it trains on 85% of the training rows and is measured on the rest. Scenes
    are made anew for each seed, so for them a split of its own does the same.
    """
    if cell.dataset != SCENES:
        pretrained = setup.settings[cell.setting].pretrained
        train, validation = prepared(cell.dataset, cache, tuning=cell.tuning, pretrained=pretrained)
        return {"path": str(train)}, {"path": str(validation)}
    path, split = f"synthetic://{SCENES}", "test" if cell.tuning else "validation"
    return {"path": path, "rows": setup.rows}, {"path": path, "split": split, "rows": setup.validation_rows}


def run_cell(cell: Cell, plan: Plan, cache: Path, setup: Setup) -> dict[str, Any]:
    """Train a cell, measure its last model, and describe both as one JSON object."""
    start = time.perf_counter()
    train, validation = data_of(cell, setup, cache)
    with tempfile.TemporaryDirectory() as folder:
        run = trained(cell, plan, setup, train, Path(folder), cache)
        history = run.folder.history()
    model = run.trainer.bare_model
    assert isinstance(model, DualEncoder)
    source = open_source(**validation, seed=cell.seed)
    metrics = measure(model, source, setup)
    return {
        "cell": cell.key,
        "fingerprint": fingerprint(cell, plan, setup),
        "metrics": metrics,
        "steps": run.trainer.progress.global_step,
        "logit_scale": plan.scale,
        "seconds": round(time.perf_counter() - start, 1),
        "seconds_per_step": round(median_seconds(history), 5),
        "logged": last_logged(history),
        "device": str(run.trainer.accelerator.device),
        "torch": torch.__version__,
    }


def trained(cell: Cell, plan: Plan, setup: Setup, train: Mapping[str, Any], folder: Path, cache: Path) -> Run:
    """A run to its last step; nothing is chosen by validation pairs."""
    values, setting = cell_config(cell, plan, setup, train, folder), setup.settings[cell.setting]
    run = prepare(load_config(values), Console(quiet=True))
    if setting.twins:
        inject_twins(run, setting.twins, cell.seed)
    if setting.pretrained:
        read_features(run.trainer.bare_model, features_file(cell.dataset, cache))
    run.trainer.fit()
    return run


def inject_twins(run: Run, share: float, seed: int) -> None:
    """Put known false negatives into the batches, whichever sampler makes them."""
    loader: DataLoader[Any] = run.trainer.batches.loader  # type: ignore[attr-defined]
    sampler = TwinSampler(loader.batch_sampler, share, seed)  # type: ignore[arg-type]
    # A loader refuses another sampler once it is made; it asks for this attribute at the begin of each epoch.
    object.__setattr__(loader, "batch_sampler", sampler)


def measure(model: DualEncoder, source: PairSource, setup: Setup) -> dict[str, float]:
    """Metrics of the last model: mean_recall by picture, map@r by label or by the truth, acc1."""
    by_label = "map@r" in setup.metrics and not isinstance(source, SceneSource)
    evaluation = run_tasks(
        model,
        source,
        ["retrieval", "zero_shot"] if "acc1" in setup.metrics else ["retrieval"],
        positives="label" if by_label else "id",
        templates=setup.templates or None,
        words=known_words(model),
    )
    data, found = evaluation.data, dict(evaluation.results["retrieval"])
    if by_label:
        own = retrieval_metrics(data.image_features, data.text_features, data.positive_keys("id"), strict=False)
        found["mean_recall"] = own["mean_recall"]
    if isinstance(source, SceneSource):
        truth = retrieval_metrics(data.image_features, data.text_features, TruthKeys.of(source), strict=False)
        found |= {name: value for name, value in truth.items() if "map@r" in name}
    found |= evaluation.results.get("zero_shot", {})
    return {name: float(found[name] or 0.0) for name in setup.metrics}


def training_lines(history: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The lines of metrics.jsonl that tell of steps."""
    return [line for line in history if "seconds_per_step" in line]


def median_seconds(history: list[dict[str, Any]]) -> float:
    """Seconds a step: median over the windows of the log, without the first, in which caches fill."""
    lines = training_lines(history)
    return float(statistics.median(line["seconds_per_step"] for line in lines[1:] or lines))


def mean_seconds(history: list[dict[str, Any]]) -> float:
    """Seconds a step in the second half of a run: a mean, so that what happens now and then counts."""
    lines = training_lines(history)
    return statistics.fmean(line["seconds_per_step"] for line in lines[len(lines) // 2 :])


def last_logged(history: list[dict[str, Any]]) -> dict[str, float]:
    """What the rules said of themselves in the last window: shares, prior, calibration."""
    clock = {"global_step", "epoch", "samples_seen", "lr", "pairs_per_second", "seconds_per_step"}
    line = training_lines(history)[-1]
    return {k: round(v, 5) for k, v in line.items() if k not in clock and isinstance(v, int | float)}
