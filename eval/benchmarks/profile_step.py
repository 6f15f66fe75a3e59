"""Where a training step's time goes, by stage and by operator (torch.profiler), and how near it comes to the machine.

Example: python eval/benchmarks/profile_step.py --model small
         python eval/benchmarks/profile_step.py --model quickstart

The step is the trainer's own. "small" is the vision transformer of `step_time.py` on Flickr8k, "quickstart" the config
of that name on synthetic scenes. Stages are medians over steps of the time spent in them, without stages inside them;
on a GPU the device is waited for at their ends. "data wait" is what the loader's workers have not made in time.
"""

import argparse
import functools
import json
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from datetime import date
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from accelerate import Accelerator
from accelerate.optimizer import AcceleratedOptimizer
from rich.console import Console
from step_time import SETUPS, write_pairs
from step_time_sides import config_of
from torch.profiler import ProfilerActivity, profile, record_function
from torch.utils.flop_counter import FlopCounterMode

from mmcontrast import load_config
from mmcontrast.build.run import Run, prepare
from mmcontrast.config import Config
from mmcontrast.models import DualEncoder
from mmcontrast.negatives.clustering import Clusters
from mmcontrast.negatives.weighting import Weighting
from mmcontrast.training.ema import WeightAverage
from mmcontrast.training.objective import ContrastiveObjective
from mmcontrast.types import PairBatch

STAGES: dict[str, list[tuple[type, str]]] = {
    "image forward": [(DualEncoder, "_image_features")],
    "text forward": [(DualEncoder, "_text_features")],
    "loss": [(ContrastiveObjective, "__call__")],
    "negatives": [(Weighting, "__call__"), (Clusters, "observe")],
    "backward": [(Accelerator, "backward")],
    "clip": [(Accelerator, "clip_grad_norm_")],
    "optimiser": [(AcceleratedOptimizer, "step"), (AcceleratedOptimizer, "zero_grad")],
    "average": [(WeightAverage, "update")],
}
INSIDE = {"negatives": "loss"}
"""Stages that are part of another one."""


def synchronize() -> None:
    """Wait for the device, where there is one to wait for."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


class Stages:
    """Seconds of each stage in the current step; each is also a range of the profiler."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Time what is inside."""
        start = time.perf_counter()
        with record_function(name):
            yield
            synchronize()
        self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - start

    def wrap(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """The same function as a stage."""

        @functools.wraps(function)
        def timed(*args: Any, **kwargs: Any) -> Any:
            with self.stage(name):
                return function(*args, **kwargs)

        return timed

    @contextmanager
    def watching(self) -> Iterator[None]:
        """The program's own methods, timed."""
        with ExitStack() as stack:
            for name, places in STAGES.items():
                for owner, method in places:
                    stack.enter_context(patch.object(owner, method, self.wrap(name, getattr(owner, method))))
            yield

    def flush(self) -> dict[str, float]:
        """Seconds of this step by stage, without those inside others; begins the next step."""
        seconds, self.seconds = self.seconds, {}
        for part, whole in INSIDE.items():
            seconds[whole] -= seconds.get(part, 0.0)
        total = seconds.pop("step")
        waited = seconds.get("data wait", 0.0)
        return {**seconds, "other": total - sum(seconds.values()) + waited}


def endless(run: Run) -> Iterator[PairBatch]:
    """Batches of one epoch after the other."""
    trainer = run.trainer
    while True:
        yield from trainer.batches.epoch(trainer.progress.epoch, 0)
        trainer.progress.epoch += 1


def measure(run: Run, steps: int, warmup: int) -> dict[str, Any]:
    """Stages of some steps, then operators of some under the profiler, then the operations of one."""
    stages, batches, step = Stages(), endless(run), run.trainer.step

    def one() -> None:
        with stages.stage("data wait"):
            batch = next(batches)
        with stages.stage("step"):
            step(batch)

    with stages.watching():
        for _ in range(warmup):
            one()
        stages.seconds = {}
        found = []
        for _ in range(steps):
            one()
            found.append(stages.flush())
        activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if torch.cuda.is_available() else [])]
        with profile(activities=activities) as profiled:
            for _ in range(2):
                one()
        counter = FlopCounterMode(display=False)
        with counter:
            one()
    names = sorted({name for values in found for name in values})
    medians = {name: statistics.median(values.get(name, 0.0) for values in found) for name in names}
    total = statistics.median(sum(values.values()) for values in found)
    ordered = sorted(medians, key=lambda name: -medians[name])
    return {
        "seconds_per_step": round(total, 4),
        "stages": {name: round(medians[name], 5) for name in ordered},
        "shares": {name: round(medians[name] / sum(medians.values()), 4) for name in ordered},
        "operators": operator_shares(profiled),
        "gflop_per_step": round(counter.get_total_flops() / 1e9, 2),
        "gflop_per_second": round(counter.get_total_flops() / 1e9 / total, 1),
    }


def operator_shares(profiled: profile, most: int = 12) -> dict[str, float]:
    """Share of the time that each of torch's operators itself takes."""
    device = torch.cuda.is_available()
    averages = [event for event in profiled.key_averages() if event.key.startswith("aten::")]

    def own(event: Any) -> float:
        return float(event.self_device_time_total if device else event.self_cpu_time_total)

    total = sum(own(event) for event in averages)
    ordered = sorted(averages, key=own, reverse=True)[:most]
    return {event.key.removeprefix("aten::"): round(own(event) / total, 4) for event in ordered}


def matmul_speed(dtype: torch.dtype) -> float:
    """GFLOP/s of large square matrix products here, the best of some."""
    device, side = ("cuda", 8192) if torch.cuda.is_available() else ("cpu", 2048)
    x = torch.randn(side, side, device=device, dtype=dtype)
    best = float("inf")
    for _ in range(8):
        synchronize()
        start = time.perf_counter()
        x @ x
        synchronize()
        best = min(best, time.perf_counter() - start)
    return 2 * side**3 / best / 1e9


def config_for(model: str, data: Path, folder: Path, steps: int) -> Config:
    """The run to profile."""
    if model == "quickstart":
        overrides = [f"output={json.dumps(str(folder / 'run'))}", "training.trackers=[]"]
        return load_config(Path(__file__).parents[2] / "configs" / "quickstart.yaml", overrides)
    job = {**SETUPS[model], "folder": str(folder), "workers": 2, "steps": steps, "warmup_steps": 1}
    return config_of(job | {"pairs": str(write_pairs(data, folder, job["batch"] * 8))})


def main() -> None:
    """Measure, print, write JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=["quickstart", *SETUPS], default="small")
    parser.add_argument("--data", type=Path, default=Path("../shared/data/flickr8k/train.parquet"))
    parser.add_argument("--steps", type=int, default=15, help="measured steps")
    parser.add_argument("--warmup", type=int, default=3, help="steps before")
    parser.add_argument("--output", type=Path, default=Path("eval/results/profile_step.json"))
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        config = config_for(arguments.model, arguments.data, Path(name), arguments.steps + arguments.warmup + 3)
        run = prepare(config, Console(quiet=True))
        result = measure(run, arguments.steps, arguments.warmup)
    device = run.trainer.accelerator.device.type
    dtype = torch.bfloat16 if run.trainer.accelerator.mixed_precision == "bf16" else torch.float32
    result |= {
        "matmul_gflop_per_second": round(matmul_speed(dtype), 1),
        "batch": config.training.global_batch_size,
        "steps": arguments.steps,
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, torch {torch.__version__}, {device}",
        "date": date.today().isoformat(),
    }
    results = json.loads(arguments.output.read_text()) if arguments.output.exists() else {}
    arguments.output.write_text(json.dumps(results | {arguments.model: result}, indent=2) + "\n")
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
