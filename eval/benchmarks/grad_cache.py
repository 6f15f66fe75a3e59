"""What a step in chunks costs and saves: `training.micro_batch_size` against the whole batch at once, equal batch.

Example: python eval/benchmarks/grad_cache.py --model vit --batch 512 --micro 64

Both sides are our trainer's whole step (towers, loss, clipping, AdamW) on the same pairs, which are drawn and decoded
beforehand. They alternate in one process and the ratio is that of the medians, of wall time and, since others may be
at work on the machine, of the process's own CPU time. Memory is measured in a process of its own for each side: how far
its peak (resident set, or allocated by torch on a GPU) rises above what it had before its first step, with model and
batch in place.
"""

import argparse
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from datetime import date
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from mmcontrast import load_config
from mmcontrast.build.run import prepare
from mmcontrast.config import Config
from mmcontrast.training.trainer import Trainer
from mmcontrast.types import PairBatch

TEXT = "model.text={library: open_clip, context_length: 40, kwargs: {width: 192, heads: 3, layers: 4}}"
MODELS = {
    "vit": [
        "model.image={library: open_clip, image_size: 64, "
        "kwargs: {layers: 6, width: 192, head_width: 64, patch_size: 16}}",
        TEXT,
    ],
    "resnet": [
        "model.image={library: timm, name: resnet18d, image_size: 64, "
        "kwargs: {channels: [24, 48, 96, 128], stem_width: 16}}",
        TEXT,
    ],
    "config": [],
}
SIDES = ("whole", "chunks")


def side_of(config: Config) -> tuple[Trainer, PairBatch]:
    """A trainer, and a batch to step on again and again."""
    trainer = prepare(config, Console(quiet=True)).trainer
    return trainer, next(iter(trainer.batches.epoch(0, 0)))


def seconds(trainer: Trainer, batch: PairBatch, steps: int) -> tuple[float, float]:
    """Wall and CPU time a step."""
    start, start_cpu = time.perf_counter(), time.process_time()
    for _ in range(steps):
        trainer.step(batch)
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return (time.perf_counter() - start) / steps, (time.process_time() - start_cpu) / steps


def resident(field: str) -> float:
    """MB of this process's memory: VmRSS now, or VmHWM at most; the latter of its whole life where Linux tells none."""
    status = Path("/proc/self/status")
    if status.exists():
        (line,) = [line for line in status.read_text().splitlines() if line.startswith(f"{field}:")]
        return int(line.split()[1]) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1024**2 if sys.platform == "darwin" else 1024)


def extra_memory(config: Config, steps: int) -> dict[str, float]:
    """MB that the steps take above what was there before, and before them."""
    trainer, batch = side_of(config)
    if torch.cuda.is_available():
        before = torch.cuda.memory_allocated() / 2**20
        torch.cuda.reset_peak_memory_stats()
    else:
        if os.access("/proc/self/clear_refs", os.W_OK):
            Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
        before = resident("VmRSS")
    seconds(trainer, batch, steps)
    peak = torch.cuda.max_memory_allocated() / 2**20 if torch.cuda.is_available() else resident("VmHWM")
    return {"before": round(before), "extra": round(peak - before)}


def memory_of_all(steps: int) -> dict[str, dict[str, float]]:
    """`extra_memory` of each side, in a process of its own with this one's arguments."""
    found = {}
    for side in SIDES:
        command = [sys.executable, *sys.argv, "--memory-of", side, "--steps", str(steps)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise SystemExit(f"side {side} ended with {done.returncode}: {done.stderr.strip()[-500:]}")
        found[side] = json.loads(done.stdout.splitlines()[-1])
    return found


def time_of_all(configs: dict[str, Config], steps: int, repeats: int) -> dict[str, list[tuple[float, float]]]:
    """Wall and CPU seconds a step of each side, alternating after a warm-up."""
    sides = {name: side_of(config) for name, config in configs.items()}
    for trainer, batch in sides.values():
        seconds(trainer, batch, 1)
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in sides}
    for _ in range(repeats):
        for name, (trainer, batch) in sides.items():
            times[name].append(seconds(trainer, batch, steps))
    return times


def main() -> None:
    """Measure, print, write JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", default="configs/quickstart.yaml")
    parser.add_argument("--model", choices=list(MODELS), default="vit", help="config: the one of --config")
    parser.add_argument("--set", dest="overrides", action="append", default=[], metavar="A.B=VALUE")
    parser.add_argument("--batch", type=int, default=512)
    parser.add_argument("--micro", type=int, default=64, help="pairs at a time on the side in chunks")
    parser.add_argument("--steps", type=int, default=1, help="steps of one measurement")
    parser.add_argument("--threads", type=int, help="of torch; its own choice unless given")
    parser.add_argument("--repeats", type=int, default=9, help="measurements of each side, alternating")
    parser.add_argument("--name", help="key in the results; --model, batch and micro unless given")
    parser.add_argument("--output", default="eval/results/grad_cache.json")
    parser.add_argument("--memory-of", choices=SIDES, help="only print the memory of one side")
    arguments = parser.parse_args()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    overrides = [
        *MODELS[arguments.model],
        f"training.global_batch_size={arguments.batch}",
        f"data.train.rows={arguments.batch}",
        *("data.validation=null", "evaluation.every_epochs=null", "data.workers=0", "training.trackers=[]"),
        *("training.max_steps=1000000", "training.learning_rate=1e-5"),
        *arguments.overrides,
    ]
    micro = {"whole": "null", "chunks": arguments.micro}
    with tempfile.TemporaryDirectory() as folder:
        configs = {
            name: load_config(
                arguments.config,
                [*overrides, f"training.micro_batch_size={value}", f"output={json.dumps(f'{folder}/{name}')}"],
            )
            for name, value in micro.items()
        }
        if arguments.memory_of:
            print(json.dumps(extra_memory(configs[arguments.memory_of], arguments.steps)))
            return
        times = time_of_all(configs, arguments.steps, arguments.repeats)
    result = summary(times, memory_of_all(2)) | {
        "batch": arguments.batch,
        "micro": arguments.micro,
        "threads": torch.get_num_threads(),
        "steps": arguments.steps,
        "repeats": arguments.repeats,
        "model": arguments.model,
        "overrides": arguments.overrides,
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, torch {torch.__version__}",
        "date": date.today().isoformat(),
    }
    file, key = Path(arguments.output), arguments.name or f"{arguments.model}-{arguments.batch}-{arguments.micro}"
    results = json.loads(file.read_text()) if file.exists() else {}
    file.write_text(json.dumps(results | {key: result}, indent=2) + "\n")
    print(json.dumps(result, indent=2))


def summary(times: dict[str, list[tuple[float, float]]], memory: dict[str, dict[str, float]]) -> dict[str, Any]:
    """Ratios of the medians, and what they are made of."""
    wall = {name: [value for value, _ in values] for name, values in times.items()}
    medians = {name: statistics.median(values) for name, values in wall.items()}
    cpu = {name: statistics.median(value for _, value in values) for name, values in times.items()}
    return {
        "time_ratio": round(medians["chunks"] / medians["whole"], 3),
        "cpu_time_ratio": round(cpu["chunks"] / cpu["whole"], 3),
        "memory_ratio": round(memory["chunks"]["extra"] / memory["whole"]["extra"], 3),
        "seconds_per_step": {name: round(value, 4) for name, value in medians.items()},
        "range": {name: [round(min(values), 4), round(max(values), 4)] for name, values in wall.items()},
        "cpu_seconds_per_step": {name: round(value, 4) for name, value in cpu.items()},
        "megabytes": memory,
    }


if __name__ == "__main__":
    main()
