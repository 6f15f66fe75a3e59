"""Pairs per second of our training and of open_clip's own loop, `open_clip_train.main`, and their loss curves.

Example: python eval/benchmarks/step_time.py --setup small
         python eval/benchmarks/step_time.py --setup small --curve

Same architecture, batch, precision, pictures, captions, crop, learning rates, optimiser and workers. Both read the
same CSV of picture files (Flickr8k, one caption each). A side is a process of its own; the sides alternate. The time
of a step is from one step to the next, waiting for data included, after some steps of warm-up; a measurement is the
median of its steps, and the ratio is that of the medians of the measurements. Processor time (of the training process
only; with `--threads 1` nobody waits in it) says the same on a machine that others use, too.

`--curve` trains both on the very same batches (pixels of ours, replayed to open_clip's loop, which tokenizes the
captions itself to its full context) from the same weights, and compares the loss of each step.
"""

import argparse
import csv
import importlib.util
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
from datetime import date
from pathlib import Path
from typing import Any

SIDES = Path(__file__).with_name("step_time_sides.py")
PEERS = ("open_clip_train", "webdataset", "braceexpand", "pandas")
TEXT = {"context_length": 77, "vocab_size": 49408}
SETUPS: dict[str, dict[str, Any]] = {
    "small": {
        "batch": 256,
        "model": {
            "embed_dim": 192,
            "vision_cfg": {"image_size": 64, "patch_size": 16, "width": 192, "head_width": 64, "layers": 6},
            "text_cfg": {**TEXT, "width": 192, "heads": 3, "layers": 4},
        },
    },
    "vit_b_32": {
        "batch": 32,
        "model": {
            "embed_dim": 512,
            "vision_cfg": {"image_size": 224, "patch_size": 32, "width": 768, "head_width": 64, "layers": 12},
            "text_cfg": {**TEXT, "width": 512, "heads": 8, "layers": 12},
        },
    },
    "tiny": {  # for tests
        "batch": 16,
        "model": {
            "embed_dim": 16,
            "vision_cfg": {"image_size": 32, "patch_size": 16, "width": 16, "head_width": 16, "layers": 1},
            "text_cfg": {**TEXT, "width": 16, "heads": 1, "layers": 1},
        },
    },
}


def check_peers() -> None:
    """Say what is missing before anything is done."""
    if missing := [name for name in PEERS if importlib.util.find_spec(name) is None]:
        sys.exit(f"error: open_clip's training loop needs {', '.join(missing)}: pip install -e '.[bench]'")


def write_pairs(data: Path, folder: Path, rows: int) -> Path:
    """A CSV (filepath, title) of so many pairs, and the picture files it names; they begin anew where they end."""
    import pyarrow.parquet as pq

    table = pq.read_table(data, columns=["image", "captions"]).slice(0, rows).to_pylist()
    pairs = folder / "pairs.csv"
    (folder / "pictures").mkdir()
    with pairs.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["filepath", "title"])
        for i in range(rows):
            row = table[i % len(table)]
            picture = folder / "pictures" / f"{i}.jpg"
            picture.write_bytes(row["image"]["bytes"])
            writer.writerow([picture, row["captions"][i // len(table) % len(row["captions"])]])
    return pairs


def run_side(side: str, job: dict[str, Any], folder: Path, **values: Any) -> dict[str, Any]:
    """Train one side in a process and return its result."""
    own = Path(tempfile.mkdtemp(prefix=side, dir=folder))
    file = own / "job.json"
    file.write_text(json.dumps({"record": None, "replay": None, **job, **values, "side": side, "folder": str(own)}))
    with (own / "output").open("w") as output:
        finished = subprocess.run([sys.executable, str(SIDES), str(file)], stdout=output, stderr=output, check=False)
    if finished.returncode:
        sys.exit((own / "output").read_text()[-4000:] + f"\nerror: the side {side} failed, see above")
    result: dict[str, Any] = json.loads(file.with_suffix(".result").read_text())
    assert result["steps"] == job["steps"], f"{side} took {result['steps']} steps, not {job['steps']}"
    return result


def measure_time(job: dict[str, Any], folder: Path, warmup: int, repeats: int) -> dict[str, Any]:
    """Pairs per second and peak memory of both sides."""
    rates: dict[str, list[float]] = {"ours": [], "open_clip": []}
    cpu: dict[str, list[float]] = {"ours": [], "open_clip": []}
    memory: dict[str, list[dict[str, float]]] = {"ours": [], "open_clip": []}
    for _ in range(repeats):
        for side in rates:
            result = run_side(side, job, folder)
            rates[side].append(job["batch"] / statistics.median(result["seconds"][warmup - 1 :]))
            cpu[side].append(statistics.median(result["cpu_seconds"][warmup - 1 :]))
            memory[side].append(result["memory"])
            print(
                f"{side}: {rates[side][-1]:.1f} pairs/s, {cpu[side][-1]:.2f} s of processor a step, "
                f"{memory[side][-1]['process']:.0f} MB",
                flush=True,
            )
    medians = {side: statistics.median(values) for side, values in rates.items()}
    return {
        "ratio": round(medians["ours"] / medians["open_clip"], 3),
        "ratio_range": _range([a / b for a, b in zip(rates["ours"], rates["open_clip"], strict=True)], 3),
        "pairs_per_second": {side: round(value, 1) for side, value in medians.items()},
        "range": {side: _range(values, 1) for side, values in rates.items()},
        "cpu_ratio": round(statistics.median(cpu["open_clip"]) / statistics.median(cpu["ours"]), 3),
        "cpu_seconds_per_step": {side: round(statistics.median(values), 3) for side, values in cpu.items()},
        "peak_memory_mb": {
            side: {name: round(statistics.median(m[name] for m in found)) for name in found[0]}
            for side, found in memory.items()
        },
        "steps": job["steps"] - warmup,
        "repeats": repeats,
    }


def _range(values: list[float], digits: int) -> list[float]:
    return [round(min(values), digits), round(max(values), digits)]


def compare_curves(job: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Loss of each step of both sides on the same batches from the same weights."""
    record = folder / "batches"
    mine = run_side("ours", job, folder, record=str(record))["losses"]
    other = run_side("open_clip", job, folder, replay=str(record))["losses"]
    differences = [abs(a - b) for a, b in zip(mine, other, strict=True)]
    return {
        "largest_difference": max(differences),
        "first_difference": differences[0],
        "steps": job["steps"],
        "losses": {"ours": [round(x, 6) for x in mine], "open_clip": [round(x, 6) for x in other]},
    }


def main() -> None:
    """Measure, print, write JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--setup", choices=list(SETUPS), default="small")
    parser.add_argument("--curve", action="store_true", help="compare losses, not times")
    parser.add_argument("--data", type=Path, default=Path("../shared/data/flickr8k/train.parquet"))
    parser.add_argument("--batch", type=int, help="pairs of a step; the setup's own by default")
    parser.add_argument("--steps", type=int, help="measured steps of a run (8), or of the curve (50)")
    parser.add_argument("--warmup", type=int, default=3, help="steps before that")
    parser.add_argument("--repeats", type=int, default=3, help="runs of each side, alternating")
    parser.add_argument("--threads", type=int, help="threads of each side; torch's own number by default")
    parser.add_argument("--workers", type=int, default=2, help="processes that read, on both sides")
    parser.add_argument("--output", type=Path, default=Path("eval/results/step_time.json"))
    arguments = parser.parse_args()
    check_peers()
    if arguments.threads:
        os.environ["OMP_NUM_THREADS"] = str(arguments.threads)

    job = {**SETUPS[arguments.setup], "workers": arguments.workers}
    job["batch"] = arguments.batch or job["batch"]
    job["steps"] = arguments.steps or 50 if arguments.curve else (arguments.steps or 8) + arguments.warmup
    job["warmup_steps"] = min(10, job["steps"] // 2)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        job["pairs"] = str(write_pairs(arguments.data, folder, job["batch"] * job["steps"]))
        if arguments.curve:
            result = compare_curves(job, folder)
        else:
            result = measure_time(job, folder, arguments.warmup, arguments.repeats)
    import torch  # not before: it would lie in memory beside the sides

    device = "cuda" if torch.cuda.is_available() else "cpu"
    result |= {
        "batch": job["batch"],
        "workers": arguments.workers,
        "threads": torch.get_num_threads(),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, torch {torch.__version__}, {device}",
        "date": date.today().isoformat(),
    }
    results = json.loads(arguments.output.read_text()) if arguments.output.exists() else {}
    key = f"{arguments.setup}_curve" if arguments.curve else arguments.setup
    arguments.output.write_text(json.dumps(results | {key: result}, indent=2) + "\n")
    print(json.dumps({name: value for name, value in result.items() if name != "losses"}, indent=2))


if __name__ == "__main__":
    main()
