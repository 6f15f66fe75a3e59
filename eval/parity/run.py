"""Every metric that we share with CLIP_benchmark, measured by both on the same model and data: equal to 1e-6.

Example: python eval/parity/run.py --data ../shared/data --output eval/results/parity.json

Makes CLIP_benchmark's environment in runs/parity on the first call (its pinned packages over our own environment, so
that torch and open_clip are the same), trains a small model here, writes it in open_clip's format and the data in
CLIP_benchmark's layout, runs both with each pair of batch size and workers, and prints and keeps what each says.
Ends with 1 where a metric differs by more than ties of scores can explain.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import Any, get_args

from parity_compare import SAME, Verdict, bounds, verdict
from parity_data import Task, write_all
from parity_environment import peer_python
from parity_model import train_and_export

from mmcontrast import DualEncoder, build
from mmcontrast.evaluation.clip_benchmark import shared_metrics

KS = (1, 5, 10)
CONFIGURATIONS = ("64:1", "7:0", "256:4")
WORST: tuple[Verdict, ...] = get_args(Verdict)
Scores = dict[str, float]


@dataclass
class Row:
    """What both sides say of one metric, a number for each configuration.

    Attributes:
        data, task, metric: which.
        ours, theirs: the numbers.
        verdict: the worst of the configurations; "rewritten" where open_clip's tokenizer changes captions.
        bounds: what ties of scores leave open.
        why: known beforehand.
    """

    data: str
    task: str
    metric: str
    ours: list[float] = field(default_factory=list)
    theirs: list[float] = field(default_factory=list)
    verdict: Verdict = "equal"
    bounds: tuple[float, float] = (0.0, 0.0)
    why: str = ""

    @property
    def difference(self) -> float:
        """The largest one."""
        return max(abs(ours - theirs) for ours, theirs in zip(self.ours, self.theirs, strict=True))


def peer_job(task: Task, model: Path, batch: int, workers: int, output: Path) -> dict[str, Any]:
    """What CLIP_benchmark is to do; without AMP, which on a CPU would be bf16 and give other numbers."""
    if task.theirs == "winoground":
        files = {"winoground": str(task.data), "model": f"local-dir:{model}", "output": str(output)}
        return {**files, "batch_size": batch, "num_workers": workers}
    if task.name == "sugar_crepe":
        where = ["--dataset", "sugar_crepe/swap_obj", "--dataset_root", str(task.data.parents[1])]
    else:
        where = ["--dataset", f"wds/{task.name}", "--dataset_root", str(task.data)]
    words = ["eval", *where, "--task", task.theirs, "--model", f"local-dir:{model}", "--pretrained", "", "--no_amp"]
    words += ["--batch_size", str(batch), "--num_workers", str(workers), "--recall_k", *map(str, KS)]
    return {"argv": [*words, "--output", str(output), "--quiet"]}


def run_peer(python: Path, jobs: Sequence[dict[str, Any]], folder: Path) -> dict[str, str]:
    """All jobs in one process; returns the versions that it ran with."""
    (folder / "jobs.json").write_text(json.dumps(jobs))
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": ""}
    command = [str(python), str(Path(__file__).parent / "peer.py"), str(folder / "jobs.json")]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    if done.returncode:
        raise RuntimeError(f"CLIP_benchmark failed with {done.returncode}: {done.stderr[-2000:]}")
    (line,) = [line for line in done.stdout.splitlines() if line.startswith("versions ")]
    return dict(json.loads(line.removeprefix("versions ")))


def compare(
    python: Path, models: tuple[Path, Path], tasks: Sequence[Task], folder: Path, configurations: Sequence[str]
) -> tuple[list[Row], dict[str, str]]:
    """Both sides on all tasks in all configurations ("BATCH:WORKERS").

    Args:
        python: CLIP_benchmark's.
        models: ours and open_clip's folder of the same one.
        tasks: to compare.
        folder: for what CLIP_benchmark writes.
        configurations: batch size and workers.

    Returns:
        A row for each metric, and the versions on CLIP_benchmark's side.
    """
    pairs = [(int(batch), int(workers)) for batch, _, workers in (text.partition(":") for text in configurations)]
    files = {(task, pair): folder / f"{task.name}_{pair[0]}_{pair[1]}.json" for task in tasks for pair in pairs}
    jobs = [peer_job(task, models[1], *pair, files[task, pair]) for task in tasks for pair in pairs]
    versions = run_peer(python, jobs, folder)
    encoder = DualEncoder.from_pretrained(models[0])
    rows: list[Row] = []
    for task in tasks:
        own: dict[str, Row] = {}
        for pair in pairs:
            theirs: Scores = json.loads(files[task, pair].read_text())["metrics"]
            _measure(task, encoder, pair, theirs, own)
        rows += own.values()
    return rows, versions


def _measure(task: Task, encoder: DualEncoder, pair: tuple[int, int], theirs: Scores, rows: dict[str, Row]) -> None:
    """Our side of one task in one configuration, added to the rows of its metrics."""
    batch, workers = pair
    found = build.run_evaluation(encoder, task.data, task.ours, batch_size=batch, workers=workers, ks=KS)
    ours = shared_metrics(task.ours, found.results[task.ours])
    possible = bounds(found, task.ours, encoder, KS)
    for name, value in ours.items():
        row = rows.setdefault(name, Row(task.name, task.theirs, name, why=task.why))
        assert value is not None, f"{task.name}: {name} is not defined"
        row.ours.append(value)
        row.theirs.append(theirs[name])
        row.bounds = possible[name]
        found_so = verdict(value, theirs[name], possible[name])
        if task.rewritten and found_so != "equal":
            found_so = "rewritten"
        row.verdict = max(row.verdict, found_so, key=WORST.index)


def table(rows: Sequence[Row]) -> str:
    """For people, in Markdown."""
    lines = ["| data | metric | ours | CLIP_benchmark | largest difference | |", "|---|---|---|---|---|---|"]
    for row in rows:
        cells = [" .. ".join(f"{value:.6f}" for value in sorted({min(v), max(v)})) for v in (row.ours, row.theirs)]
        possible = f": anything from {row.bounds[0]:.4f} to {row.bounds[1]:.4f}" if row.verdict == "tie" else ""
        note = "" if row.verdict == "equal" else f"{row.verdict}{possible}"
        lines.append(f"| {row.data} | {row.metric} | {cells[0]} | {cells[1]} | {row.difference:.1e} | {note} |")
    return "\n".join(lines)


def summary(rows: Sequence[Row], versions: dict[str, str], arguments: argparse.Namespace) -> dict[str, Any]:
    """What is kept."""
    ours = {name: version(name) for name in ("torch", "open_clip_torch", "numpy", "scikit-learn", "pillow")}
    return {
        "command": shlex.join(["python", "eval/parity/run.py", *sys.argv[1:]]),
        "date": date.today().isoformat(),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "versions": {"ours": ours, "CLIP_benchmark": versions},
        "configurations": list(arguments.configurations),
        "rows": arguments.rows,
        "same_is_within": SAME,
        "verdicts": {kind: sum(row.verdict == kind for row in rows) for kind in WORST},
        "metrics": [
            {
                "data": row.data,
                "task": row.task,
                "metric": row.metric,
                "ours": row.ours,
                "theirs": row.theirs,
                "largest_difference": row.difference,
                "verdict": row.verdict,
                **({} if row.verdict == "equal" else {"possible": row.bounds, "why": row.why}),
            }
            for row in rows
        ],
    }


def main() -> None:
    """Prepare, measure, print, keep."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"), help="folder of the shared data sets")
    parser.add_argument("--env", type=Path, default=Path("runs/parity/env"), help="CLIP_benchmark's environment")
    parser.add_argument("--rows", type=int, default=1000, help="pictures of a data set at most")
    parser.add_argument("--train-rows", type=int, default=2000, help="pictures of a data set that the model sees")
    parser.add_argument("--epochs", type=int, default=3, help="of the training")
    parser.add_argument("--configurations", nargs="+", default=CONFIGURATIONS, metavar="BATCH:WORKERS")
    parser.add_argument("--only", nargs="+", metavar="DATA", help="these data sets")
    parser.add_argument("--output", type=Path, help="JSON file to keep the numbers in")
    arguments = parser.parse_args()
    os.environ["CUDA_VISIBLE_DEVICES"] = ""  # both sides on the same device
    if not (arguments.data / "cifar10" / "val.parquet").is_file():
        parser.error(f"--data: no {arguments.data / 'cifar10' / 'val.parquet'}")
    python = peer_python(arguments.env.absolute())
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        models = train_and_export(arguments.data, folder / "model", arguments.train_rows, arguments.epochs)
        (folder / "data").mkdir()
        tasks = write_all(arguments.data, folder / "data", arguments.rows)
        tasks = [task for task in tasks if not arguments.only or task.name in arguments.only]
        rows, versions = compare(python, models, tasks, folder, arguments.configurations)
    print(table(rows))
    result = summary(rows, versions, arguments)
    print(json.dumps(result["verdicts"]))
    if arguments.output:
        arguments.output.write_text(json.dumps(result, indent=2) + "\n")
    sys.exit(1 if result["verdicts"]["different"] else 0)


if __name__ == "__main__":
    main()
