"""Wall time of zero-shot classification and retrieval: `mmcontrast evaluate` against CLIP_benchmark, same numbers.

Example: python eval/benchmarks/evaluation.py --data ../shared/data --peer-env ../peers/clip_benchmark

Both sides read the same WebDataset tars and the same weights (an open_clip model of random weights, written here), in
fp32, with the same batch and workers, each as a whole process of its own, imports included; they alternate, and the
ratio is that of the medians. `loop` is the time inside the evaluation itself: decoding, both towers, metrics.

CLIP_benchmark wants other versions than ours of a few packages. It gets a thin environment over this one:

    python -m venv --without-pip ENV
    python -c "import site; print('import sys; sys.path.append(%r)' % site.getsitepackages()[0])" > base.pth
    mv base.pth ENV/lib/python3.*/site-packages/
    python -m pip --python ENV/bin/python install --no-deps clip-benchmark==1.6.2 webdataset braceexpand scikit-learn \
        scipy joblib threadpoolctl cloudpickle narwhals pycocoevalcap pycocotools requests urllib3 charset-normalizer \
        certifi "numpy==2.3.*"
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from datetime import date
from pathlib import Path
from typing import Any

import torch
from evaluation_data import write_classification, write_retrieval
from evaluation_model import SIZES, write_models

TASKS = ("zero_shot", "retrieval")
KS = (1, 5, 10)
SAME = 1e-6
"""Largest difference of a metric that counts as the same number."""

# Both command lines as they are, with a stopwatch around the one function that does the work once all is loaded.
_STOPWATCH = """
import json, sys, time
def timed(function):
    def run(*args, **kwargs):
        start = time.perf_counter()
        result = function(*args, **kwargs)
        print("loop", json.dumps(time.perf_counter() - start), file=sys.stderr)
        return result
    return run
"""
_OURS = f"""{_STOPWATCH}
from mmcontrast.cli import main
from mmcontrast.build import jobs
jobs.run_tasks = timed(jobs.run_tasks)
main()
"""
_PEER = f"""{_STOPWATCH}
from clip_benchmark import cli
cli.zeroshot_classification.evaluate = timed(cli.zeroshot_classification.evaluate)
cli.zeroshot_retrieval.evaluate = timed(cli.zeroshot_retrieval.evaluate)
cli.main()
"""


def our_command(task: str, models: Path, data: Path, output: Path, batch: int) -> list[str]:
    """`mmcontrast evaluate` on one task."""
    words = ["evaluate", str(models / "ours"), "--data", str(data / task / "test" / "*.tar"), "--task", task]
    words += ["--batch-size", str(batch), "--output", str(output)]
    if task == "zero_shot":
        words += ["--templates", str(data / task / "zeroshot_classification_templates.txt")]
        words += ["--classnames", str(data / task / "classnames.txt")]
    return [sys.executable, "-c", _OURS, *words]


def peer_command(python: Path, task: str, models: Path, data: Path, output: Path, batch: int) -> list[str]:
    """`clip_benchmark eval` on one task; without AMP, which on a CPU would be bf16 and give other numbers."""
    kind = {"zero_shot": "zeroshot_classification", "retrieval": "zeroshot_retrieval"}[task]
    words = ["eval", "--dataset", f"wds/{task}", "--dataset_root", str(data / task), "--task", kind, "--no_amp"]
    words += ["--model", f"local-dir:{models / 'open_clip'}", "--pretrained", "", "--output", str(output)]
    words += ["--num_workers", "2", "--batch_size", str(batch), "--recall_k", *map(str, KS)]
    return [str(python), "-c", _PEER, *words]


def run(command: list[str]) -> tuple[float, float]:
    """Wall time of a whole process, and of the loop inside it."""
    start = time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "HF_HUB_OFFLINE": "1"})
    wall = time.perf_counter() - start
    if done.returncode:
        sys.exit(f"{command[0]} failed with {done.returncode}:\n{done.stderr[-2000:]}")
    (loop,) = [line.split()[1] for line in done.stderr.splitlines() if line.startswith("loop ")]
    return wall, float(loop)


def metrics_of(file: Path, task: str) -> dict[str, float]:
    """What a side wrote, under our names."""
    values: dict[str, Any] = json.loads(file.read_text())
    values = values["metrics"] if "metrics" in values else values[task]
    ways = {"image_retrieval_": "text_to_image_", "text_retrieval_": "image_to_text_"}
    for theirs, ours in ways.items():
        values = {name.replace(theirs, ours): value for name, value in values.items()}
    if task == "zero_shot":
        names = ["acc1", "acc5", "mean_per_class_recall"]
    else:
        names = [f"{way}recall@{k}" for way in ways.values() for k in KS]
    return {name: float(values[name]) for name in names}


def measure(task: str, python: Path, folder: Path, batch: int, repeats: int) -> dict[str, Any]:
    """Both sides, alternating, after one run each that fills the disk cache."""
    models, data = folder / "models", folder / "data"
    files = {side: folder / f"{task}.{side}.json" for side in ("ours", "peer")}
    commands = {
        "ours": our_command(task, models, data, files["ours"], batch),
        "peer": peer_command(python, task, models, data, files["peer"], batch),
    }
    times: dict[str, list[tuple[float, float]]] = {side: [] for side in commands}
    for repeat in range(repeats + 1):
        for side, command in commands.items():
            seconds = run(command)
            if repeat:
                times[side].append(seconds)
    numbers = {side: metrics_of(file, task) for side, file in files.items()}
    gap = max(abs(numbers["ours"][name] - numbers["peer"][name]) for name in numbers["ours"])
    result: dict[str, Any] = {"largest_difference": gap, "same": gap <= SAME, "metrics": numbers["ours"]}
    for which, name in enumerate(("wall", "loop")):
        values = {side: [pair[which] for pair in pairs] for side, pairs in times.items()}
        medians = {side: statistics.median(seconds) for side, seconds in values.items()}
        result[name] = {
            "ratio": round(medians["ours"] / medians["peer"], 3),
            "seconds": {side: round(value, 3) for side, value in medians.items()},
            "range": {side: [round(min(v), 3), round(max(v), 3)] for side, v in values.items()},
        }
    return result


def main() -> None:
    """Write model and data, measure, print, write JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"), help="folder of cifar10 and flickr8k")
    parser.add_argument("--peer-env", type=Path, required=True, help="environment with clip_benchmark, see above")
    parser.add_argument("--model", choices=SIZES, default="small")
    parser.add_argument("--rows", type=int, default=3000, help="pictures of a data set at most")
    parser.add_argument("--batch", type=int, default=64, help="pictures of a batch, CLIP_benchmark's default")
    parser.add_argument("--repeats", type=int, default=5, help="measurements of each side, alternating")
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=TASKS)
    parser.add_argument("--output", default="eval/results/evaluation.json")
    arguments = parser.parse_args()
    python = arguments.peer_env / "bin" / "python"
    if not python.is_file():
        parser.error(f"--peer-env: no {python}; make it with the commands of --help")
    for name in ("cifar10", "flickr8k"):
        if not (arguments.data / name / "val.parquet").is_file():
            parser.error(f"--data: no {arguments.data / name / 'val.parquet'}")
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        write_models(folder / "models", SIZES[arguments.model])
        write_classification(arguments.data / "cifar10", folder / "data" / "zero_shot", arguments.rows)
        write_retrieval(arguments.data / "flickr8k", folder / "data" / "retrieval", arguments.rows)
        found = {task: measure(task, python, folder, arguments.batch, arguments.repeats) for task in arguments.tasks}
    result = found | {
        "model": arguments.model,
        "rows": arguments.rows,
        "batch": arguments.batch,
        "repeats": arguments.repeats,
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, torch {torch.__version__}",
        "date": date.today().isoformat(),
    }
    file = Path(arguments.output)
    results = json.loads(file.read_text()) if file.exists() else {}
    file.write_text(json.dumps(results | {arguments.model: result}, indent=2) + "\n")
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
