"""A long run watched from outside: memory, open files, threads and processes, and what is left when it is stopped.

Example: python eval/benchmarks/soak.py --minutes 60

Trains the quickstart's model with guided batches, a calibrator, loader workers, evaluations and checkpoints until the
time is over, stops it with SIGTERM, and goes on with --resume for a little. Memory is what the run and all its children
have for themselves, pages that they share counted once (anonymous and shared memory of the proportional set size, by
/proc on Linux). Pages of files are told apart: hundreds of MB of libraries, whose share in the run varies with
the other programs on the machine that have loaded them too. Growth is the median slope between all pairs of samples
(Theil and Sen) after the first fifth of the time, so that neither caches that fill nor peaks of evaluations count.
"""

import argparse
import json
import os
import platform
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from datetime import date
from pathlib import Path
from typing import Any

import torch

from mmcontrast.build import quickstart_config

SETTINGS = (
    "training.max_steps=10000000",
    "training.schedule=constant",
    "training.checkpoint_every_minutes=1",
    "training.ema_decay=0.99",
    "negatives.rule=[duplicates, calibrated]",
    "negatives.start=0.000001",
    "negatives.cluster={share: 0.25, start: 0.000001}",
    "evaluation.every_steps=100",
    "data.workers=2",
)
STOPPED = 128 + signal.SIGTERM
Sample = dict[str, float]


def processes(root: int) -> list[int]:
    """A process and all its descendants."""
    children: dict[int, list[int]] = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
        except OSError:  # gone meanwhile
            continue
        children.setdefault(parent, []).append(int(folder.name))
    found, new = [], [root]
    while new:
        found += new
        new = [child for parent in new for child in children.get(parent, [])]
    return found


def look(root: int) -> Sample:
    """Memory in MB, open files and threads of a process and its descendants, and how many these are."""
    sample: Sample = {"mb": 0.0, "mb_of_files": 0.0, "files": 0, "threads": 0, "processes": 0}
    for number in processes(root):
        folder = Path(f"/proc/{number}")
        try:
            lines = [line.split() for line in (folder / "smaps_rollup").read_text().splitlines()]
            memory = {words[0].rstrip(":"): int(words[1]) / 1024 for words in lines if words[-1] == "kB"}
            sample["mb"] += memory["Pss_Anon"] + memory["Pss_Shmem"]
            sample["mb_of_files"] += memory["Pss_File"]
            sample["files"] += len(list((folder / "fd").iterdir()))
            sample["threads"] += len(list((folder / "task").iterdir()))
            sample["processes"] += 1
        except (OSError, KeyError):  # gone meanwhile
            continue
    return sample


def growth(samples: list[Sample], name: str) -> float:
    """Median slope of a quantity over all pairs of samples, per hour."""
    points = [(sample["seconds"], sample[name]) for sample in samples]
    slopes = [(b - a) / (t - s) for i, (s, a) in enumerate(points) for t, b in points[i + 1 :] if t > s]
    return 3600 * statistics.median(slopes)


def run(command: list[str], minutes: float, every: float) -> tuple[list[Sample], int, int]:
    """Start it, sample it, stop it; returns the samples, the exit code, and how many of its processes live on."""
    start = time.monotonic()
    with subprocess.Popen(
        command, start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as process:
        samples = []
        while process.poll() is None and time.monotonic() - start < 60 * minutes:
            time.sleep(every)
            samples.append({"seconds": time.monotonic() - start, **look(process.pid)})
        family = processes(process.pid)
        process.send_signal(signal.SIGTERM)
        code = process.wait(300)
    time.sleep(2)
    return samples, code, sum(Path(f"/proc/{number}").exists() for number in family)


def summary(samples: list[Sample], lines: list[dict[str, Any]]) -> dict[str, Any]:
    """What the samples and the run's own log say."""
    settled = samples[len(samples) // 5 :]
    steps = [line for line in lines if "loss" in line]
    return {
        "minutes": round(samples[-1]["seconds"] / 60, 1),
        "steps": steps[-1]["global_step"],
        "evaluations": sum(line.get("split") == "validation" for line in lines),
        "refreshes": len({line["epoch"] for line in steps if "cluster_inertia" in line}),
        "mb_settled": round(statistics.median(sample["mb"] for sample in settled[: len(settled) // 4 or 1])),
        "mb_at_the_end": round(statistics.median(sample["mb"] for sample in settled[-(len(settled) // 4 or 1) :])),
        "mb_of_files": [round(pick(sample["mb_of_files"] for sample in settled)) for pick in (min, max)],
        **{f"{name}_an_hour": round(growth(settled, name), 2) for name in ("mb", "files", "threads", "processes")},
        "files": [min(sample["files"] for sample in settled), max(sample["files"] for sample in settled)],
        "processes": [min(sample["processes"] for sample in settled), max(sample["processes"] for sample in settled)],
    }


def main() -> None:
    """Run, watch, write JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--every", type=float, default=10.0, help="seconds between samples")
    parser.add_argument("--resume-minutes", type=float, default=1.0)
    parser.add_argument("--set", dest="settings", action="append", default=[], help="further overrides of the config")
    parser.add_argument("--output", default="eval/results/soak.json")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / "run"
        command = [sys.executable, "-m", "mmcontrast", "train", str(quickstart_config()), "--output", str(target)]
        command += [part for setting in (*SETTINGS, *options.settings) for part in ("--set", setting)]
        samples, code, left = run(command, options.minutes, options.every)
        _, second_code, second_left = run([*command, "--resume"], options.resume_minutes, options.every)
        lines = [json.loads(line) for line in (target / "metrics.jsonl").read_text().splitlines()]
    found = summary(samples, lines)
    found |= {
        "exit_codes": [code, second_code],
        "expected_exit_code": STOPPED,
        "left_over_processes": left + second_left,
    }
    found |= {"machine": f"{platform.machine()}, {os.cpu_count()} cores, torch {torch.__version__}"}
    found |= {
        "date": date.today().isoformat(),
        "samples": [{k: round(v, 1) for k, v in s.items()} for s in samples[::6]],
    }
    Path(options.output).write_text(json.dumps(found, indent=1) + "\n")
    print(json.dumps({name: value for name, value in found.items() if name != "samples"}, indent=1))


if __name__ == "__main__":
    main()
