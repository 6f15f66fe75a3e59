"""What clusters and calibrated negatives cost: step time with and without them, everything included.

Example: python eval/benchmarks/overhead.py --config configs/quickstart.yaml --name quickstart

Two runs of the same config alternate in one process: rule duplicates, and duplicates + calibrated with guided batches
(observed features, evidence, the calibrator's own steps, weights, reserved captions, k-means and the order of the next
epoch). A measurement is a whole number of steps; the share of new clusters in it is that of an epoch. The ratio is that
of the medians. `--vit-b-32` takes a ViT-B/32 with CLIP's text tower at 224 px instead of the config's model.
"""

import argparse
import json
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from datetime import date
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from mmcontrast import load_config
from mmcontrast.build.run import Run, prepare
from mmcontrast.config import Config
from mmcontrast.types import PairBatch

VIT_B_32 = [
    "model.embed_dim=512",
    "model.image={library: open_clip, name: ViT-B-32, image_size: 224}",
    "model.text={library: open_clip, name: ViT-B-32, context_length: 77}",
    "model.tokenizer={kind: clip}",
]
SIDES = {
    "without": ["negatives.rule=duplicates"],
    "with": [
        "negatives.rule=[duplicates, calibrated]",
        "negatives.start=0.0",
        "negatives.ramp=0.0",
        "negatives.cluster.share=0.25",
        "negatives.cluster.start=0.0",
    ],
}


def side(config: Config) -> tuple[Run, Callable[[], None]]:
    """A run, and its next step; epochs follow each other as in training."""
    run = prepare(config, Console(quiet=True))
    trainer = run.trainer

    def batches() -> Iterator[PairBatch]:
        while True:
            for batch in trainer.batches.epoch(trainer.progress.epoch, 0):
                trainer.progress.batch_in_epoch += 1
                yield batch
            trainer.progress.epoch += 1

    stream = batches()
    return run, lambda: trainer.step(next(stream))


def seconds(step: Callable[[], None], steps: int) -> float:
    """Wall time a step."""
    start = time.perf_counter()
    for _ in range(steps):
        step()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return (time.perf_counter() - start) / steps


def measure(configs: dict[str, Config], steps: int, repeats: int, warmup: int) -> dict[str, Any]:
    """Alternate both runs after a warm-up that is long enough for clusters and calibrator to be at work."""
    runs = {name: side(config) for name, config in configs.items()}
    for _, step in runs.values():
        seconds(step, warmup)
    guided = runs["with"][0].trainer
    calibrator = guided.objective.weighting.calibrator
    assert calibrator is not None
    assert calibrator.ready, "take a longer --warmup: the calibrator has not learnt enough to be asked"
    assert guided.batches.diagnostics, "take a longer --warmup: there are no clusters yet"
    times: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(repeats):
        for name, (_, step) in runs.items():
            times[name].append(seconds(step, steps))
    medians = {name: statistics.median(values) for name, values in times.items()}
    return {
        "overhead": round(medians["with"] / medians["without"] - 1, 4),
        "seconds_per_step": {name: round(value, 4) for name, value in medians.items()},
        "range": {name: [round(min(values), 4), round(max(values), 4)] for name, values in times.items()},
        "batch": configs["with"].training.global_batch_size,
        "steps": steps,
        "repeats": repeats,
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, torch {torch.__version__}",
    }


def main() -> None:
    """Measure, print, write JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", default="configs/quickstart.yaml")
    parser.add_argument("--set", dest="overrides", action="append", default=[], metavar="A.B=VALUE")
    parser.add_argument("--vit-b-32", action="store_true")
    parser.add_argument("--name", default="quickstart", help="key in the results")
    parser.add_argument("--steps", type=int, default=62, help="steps of one measurement")
    parser.add_argument("--warmup", type=int, default=130, help="steps before")
    parser.add_argument("--repeats", type=int, default=5, help="measurements of each side, alternating")
    parser.add_argument("--output", default="eval/results/overhead.json")
    arguments = parser.parse_args()
    overrides = [*(VIT_B_32 if arguments.vit_b_32 else []), *arguments.overrides]
    with tempfile.TemporaryDirectory() as folder:
        configs = {
            name: load_config(
                arguments.config,
                [*overrides, *rules, f"output={json.dumps(f'{folder}/{name}')}", "training.trackers=[]"],
            )
            for name, rules in SIDES.items()
        }
        result = measure(configs, arguments.steps, arguments.repeats, arguments.warmup)
    result |= {"config": arguments.config, "overrides": overrides, "date": date.today().isoformat()}
    file = Path(arguments.output)
    results = json.loads(file.read_text()) if file.exists() else {}
    file.write_text(json.dumps(results | {arguments.name: result}, indent=2) + "\n")
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
