"""Are the calibrator's probabilities true? Held against labels on pairs that no training saw.

Example: python eval/benchmarks/calibration.py --seeds 0 1 2

Trains the cell `calibrated` of the negatives benchmark (labels unseen), embeds the validation split with the last
model, asks the run's calibrator about all pairs of a picture and a caption that are not known to match, and compares
with the truth: equal class, or for the scenes whether the caption is true of the picture. Writes
eval/results/calibration.json.
"""

import argparse
import json
import os
import platform
import statistics
import tempfile
from dataclasses import asdict
from datetime import date
from pathlib import Path
from typing import Any

import torch
from negatives_cells import Plan, data_of, trained
from negatives_encoder import missing_tower
from negatives_methods import DEFAULT_SCALE, Cell
from negatives_setups import SETUPS
from negatives_truth import TruthKeys

from mmcontrast import open_source
from mmcontrast.data.scenes import SceneSource
from mmcontrast.evaluation.embedded import embed_data
from mmcontrast.evaluation.pair_judge import CaptionedRows, PairJudge
from mmcontrast.evaluation.reliability import Reliability, reliability
from mmcontrast.models import DualEncoder

RESULTS = Path(__file__).resolve().parents[1] / "results"
ROWS = 1000
ENOUGH = 0.01
"""A bin with less than this share of the pairs does not count for the largest gap."""


def judged(cell: Cell, plan: Plan, cache: Path) -> Reliability:
    """Train a cell, and hold its calibrator against the truth."""
    setup = SETUPS[cell.dataset]
    train, validation = data_of(cell, setup, cache)
    with tempfile.TemporaryDirectory() as folder:
        run = trained(cell, plan, setup, train, Path(folder), cache)
    model, weighting = run.trainer.bare_model, run.trainer.objective.weighting
    assert isinstance(model, DualEncoder)
    source = open_source(**{"rows": ROWS, **validation}, seed=cell.seed)
    data = embed_data(model.eval(), source)
    rows = CaptionedRows(data, model.tokenizer, cell.seed)
    judge = PairJudge(
        rows,
        model.tokenizer.vocab_size,
        seed=cell.seed,
        calibrator=weighting.calibrator,
        words=weighting.words,
        reference=cell.batch,
    )
    everyone = torch.arange(len(rows))
    if isinstance(source, SceneSource):
        truth = TruthKeys.of(source).truth[:, rows.captions]
    else:
        labels = torch.tensor([-1 if label is None else label for label in data.labels])
        truth = labels[:, None] == labels
    asked = ~rows.known(everyone)
    return reliability(judge.scores(everyone)[asked], truth[asked])


def summary(runs: list[Reliability]) -> dict[str, Any]:
    """Means over seeds, and the curve of the first."""
    gaps = [
        max(abs(b - o) for b, o, n in zip(run.believed, run.observed, run.counts, strict=True) if n >= ENOUGH * total)
        for run in runs
        for total in [sum(run.counts)]
    ]
    return {
        "seeds": len(runs),
        "base_rate": round(statistics.fmean(run.base_rate for run in runs), 4),
        "auroc": round(statistics.fmean(run.auroc or 0.0 for run in runs), 4),
        "brier_against_constant": round(statistics.fmean(run.brier / run.brier_constant for run in runs), 3),
        "ece": round(statistics.fmean(run.ece for run in runs), 4),
        "largest_gap": round(statistics.fmean(gaps), 4),
        "curve": {name: value for name, value in asdict(runs[0]).items() if name in ("believed", "observed", "counts")},
    }


def main() -> None:
    """Measure, print, write JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--datasets", nargs="+", default=["ucm_captions", "cifar10", "scenes"])
    parser.add_argument(
        "--setting", help="of the negatives benchmark; the pretrained one unless given, where there is one"
    )
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--cache", type=Path, default=Path(tempfile.gettempdir()) / "mmcontrast-negatives")
    parser.add_argument("--output", type=Path, default=RESULTS / "calibration.json")
    arguments = parser.parse_args()
    machine = f"{platform.machine()}, {os.cpu_count()} cores, torch {torch.__version__}"
    results: dict[str, Any] = json.loads(arguments.output.read_text()) if arguments.output.exists() else {}
    for name in arguments.datasets:
        settings = SETUPS[name].settings
        first = "pretrained" if "pretrained" in settings and not missing_tower() else next(iter(settings))
        setting = arguments.setting or first
        cells = [Cell(name, setting, SETUPS[name].batches[0], "calibrated", seed) for seed in arguments.seeds]
        runs = [judged(cell, Plan(DEFAULT_SCALE), arguments.cache) for cell in cells]
        results[name] = {"setting": setting, **summary(runs), "machine": machine, "date": date.today().isoformat()}
        print(name, json.dumps(results[name]), flush=True)
        arguments.output.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
