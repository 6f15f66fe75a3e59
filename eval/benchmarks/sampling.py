"""What guided batches cost at scale: the order of an epoch, and k-means beside faiss and scikit-learn.

Example: python eval/benchmarks/sampling.py --output eval/results/sampling.json

Orders: `guided_order` over 1, 10 and 100 million items with random clusters, each size in a process of its own; bytes
per item are the growth of that process's peak memory from before the cluster ids were made, so they count too.
k-means: n x 256 overlapping clusters, more of them than centroids; all sides in one process, in turn, several times.
A side's time includes finding the nearest centroid of every point. Other work on the machine disturbs seconds less
in the ratio than in themselves; processor seconds are given beside them.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import date
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor
from torch.nn import functional as F

from mmcontrast.data.guided_order import guided_order
from mmcontrast.negatives.kmeans import assign, spherical_kmeans

RESULTS = Path(__file__).resolve().parents[1] / "results"
SEPARATE_CLUSTERS = 4  # true clusters of the points for each centroid
BATCH, GROUP, NEIGHBOURS = 4096, 4, 4


def peak_bytes() -> int:
    """Highest resident memory of this process so far; unlike ru_maxrss without that of the process that made it."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError("this system does not tell a process's peak memory in /proc/self/status")


def measure_order(items: int, share: float) -> dict[str, float]:
    """Seconds and peak bytes per item of one epoch's order, in this process; once per process."""
    rng = np.random.default_rng(0)
    clusters = max(1, min(16384, items // 64))
    near = rng.integers(0, clusters, (clusters, NEIGHBOURS), dtype=np.int32)
    guided_order(np.zeros(4 * BATCH, np.int32), BATCH, share=share, group=GROUP, seed=0, epoch=0)  # warm up
    before = peak_bytes()
    ids = rng.integers(0, clusters, items, dtype=np.int32)
    start, cpu = time.perf_counter(), time.process_time()
    order = guided_order(ids, BATCH, share=share, group=GROUP, seed=0, epoch=0, neighbours=near)
    seconds, cpu = time.perf_counter() - start, time.process_time() - cpu
    peak = peak_bytes()
    if not np.bincount(order, minlength=items).max() == len(order) // items == 1:
        raise RuntimeError("the order is no permutation")
    return {"seconds": seconds, "cpu_seconds": cpu, "bytes_per_item": (peak - before) / items}


def orders(sizes: list[int], shares: list[float]) -> list[dict[str, Any]]:
    """All sizes and shares, each in a fresh process."""
    rows = []
    for items in sizes:
        for share in shares:
            command = [sys.executable, __file__, "--order", str(items), str(share)]
            said = subprocess.run(command, check=True, capture_output=True, text=True).stdout
            rows.append({"items": items, "share": share, **json.loads(said)})
            print(f"order of {items} items, share {share}: {rows[-1]['seconds']:.1f} s", file=sys.stderr, flush=True)
    return rows


def points(n: int, d: int, k: int) -> Tensor:
    """Unit rows (n, d) float32 around random directions, so wide that neighbours overlap."""
    generator = torch.Generator().manual_seed(0)
    centres = F.normalize(torch.randn(SEPARATE_CLUSTERS * k, d, generator=generator), dim=1)
    x = torch.randn(n, d, generator=generator).div_(d**0.5)
    for rows in torch.split(x, 1 << 16):
        rows += centres[torch.randint(len(centres), (len(rows),), generator=generator)]
    return F.normalize(x, dim=1, out=x)


Fit = Callable[[Tensor, int, int], Tensor]
"""Points (n, d), k and a seed to centroids (k, d); assigns all points on the way."""


def ours(x: Tensor, k: int, seed: int) -> Tensor:
    """`spherical_kmeans` as it is."""
    return spherical_kmeans(x, k, seed=seed).centroids


def faiss(x: Tensor, k: int, seed: int) -> Tensor:
    """faiss's k-means, spherical, 20 iterations on 256 points per centroid (its default), then a search."""
    library = import_module("faiss")
    library.omp_set_num_threads(torch.get_num_threads())
    fit = library.Kmeans(x.shape[1], k, niter=20, spherical=True, seed=seed + 1)
    fit.train(x.numpy())
    fit.index.search(x.numpy(), 1)
    return torch.from_numpy(fit.centroids)


def mini_batch(x: Tensor, k: int, seed: int) -> Tensor:
    """scikit-learn's MiniBatchKMeans with batches of 4 points per centroid; its `fit` assigns."""
    library = import_module("sklearn.cluster")
    fit = library.MiniBatchKMeans(k, batch_size=max(1024, 4 * k), n_init=1, random_state=seed)
    with import_module("threadpoolctl").threadpool_limits(torch.get_num_threads()):
        return torch.from_numpy(fit.fit(x.numpy()).cluster_centers_)


def sides() -> dict[str, Fit]:
    """Those that can be measured here; says which cannot."""
    found: dict[str, Fit] = {"ours": ours}
    for name, module, fit in (("faiss", "faiss", faiss), ("MiniBatchKMeans", "sklearn", mini_batch)):
        if find_spec(module):
            found[name] = fit
        else:
            print(f"{name} is left out: {module} is not installed", file=sys.stderr)
    return found


def measure_kmeans(n: int, d: int, k: int, repeats: int, compared: dict[str, Fit]) -> list[dict[str, Any]]:
    """Seconds and inertia of each side; inertia is the mean of 1 - cos to the nearest centroid's direction."""
    x = points(n, d, k)
    values: dict[str, list[tuple[float, float, float]]] = {name: [] for name in compared}
    for repeat in range(repeats):
        for name, fit in compared.items():
            start, cpu = time.perf_counter(), time.process_time()
            centroids = fit(x, k, repeat)
            seconds, cpu = time.perf_counter() - start, time.process_time() - cpu
            inertia = 1 - assign(x, F.normalize(centroids.float(), dim=1))[1].mean().item()
            values[name].append((seconds, cpu, inertia))
            print(f"k-means {n} x {d}, k = {k}, {name}: {seconds:.1f} s, {inertia:.4f}", file=sys.stderr, flush=True)
    medians = {name: [statistics.median(column) for column in zip(*runs, strict=True)] for name, runs in values.items()}
    keys = ("seconds", "cpu_seconds", "inertia")
    return [
        {"n": n, "d": d, "k": k, "side": name, "repeats": repeats}
        | dict(zip(keys, found, strict=True))
        | {f"ours_by_this_{key}": mine / its for key, mine, its in zip(keys, medians["ours"], found, strict=True)}
        for name, found in medians.items()
    ]


def show(result: dict[str, Any]) -> None:
    """Both tables."""
    table = Table("items", "share", "seconds", "bytes an item", title="Order of an epoch")
    for row in result["orders"]:
        cells = f"{row['items']:,}", f"{row['share']}", f"{row['seconds']:.2f}", f"{row['bytes_per_item']:.1f}"
        table.add_row(*cells)
    ratios = ("time / its", "cpu / its", "inertia / its")
    other = Table("n", "k", "side", "seconds", "inertia", *(f"our {name}" for name in ratios), title="k-means")
    for row in result["kmeans"]:
        compared = (f"{value:.3f}" for key, value in row.items() if key.startswith("ours_by_this"))
        shown = f"{row['n']:,}", str(row["k"]), row["side"], f"{row['seconds']:.1f}", f"{row['inertia']:.4f}"
        other.add_row(*shown, *compared)
    console = Console(width=120)
    console.print(table, other)


def rounded(value: Any) -> Any:
    """Floats to four significant digits, all the way down."""
    if isinstance(value, dict):
        return {key: rounded(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [rounded(inner) for inner in value]
    return float(f"{value:.4g}") if isinstance(value, float) else value


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--items", type=int, nargs="*", default=[10**6, 10**7, 10**8], help="sizes of the orders")
    parser.add_argument("--shares", type=float, nargs="*", default=[0.0, 0.25])
    parser.add_argument("--points", type=int, nargs="*", default=[62_500, 250_000, 10**6], help="n of k-means")
    parser.add_argument("--dim", type=int, default=256)
    parser.add_argument("--clusters", type=int, default=1024)
    parser.add_argument("--repeats", type=int, default=3, help="of k-means, each with another seed")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--output", type=Path, default=RESULTS / "sampling.json")
    parser.add_argument("--order", nargs=2, metavar=("ITEMS", "SHARE"), help="measure one order here, print JSON")
    return parser.parse_args()


def main() -> None:
    """Measure, print, write JSON; parts that were not asked for (`--items`, `--points` empty) stay as they were."""
    arguments = parse()
    if arguments.order:
        print(json.dumps(measure_order(int(arguments.order[0]), float(arguments.order[1]))))
        return
    result: dict[str, Any] = {"orders": [], "kmeans": []}
    if arguments.output.exists():
        result = json.loads(arguments.output.read_text())
    torch.set_num_threads(arguments.threads)
    stamp = {
        "date": date.today().isoformat(),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, torch {torch.__version__}",
    }
    if arguments.items:
        result["orders"] = [row | stamp for row in orders(arguments.items, arguments.shares)]
    if arguments.points:
        compared = sides()
        result["kmeans"] = [
            row | stamp | {"threads": arguments.threads}
            for n in arguments.points
            for row in measure_kmeans(n, arguments.dim, arguments.clusters, arguments.repeats, compared)
        ]
    result = rounded(result)
    arguments.output.write_text(json.dumps(result, indent=2) + "\n")
    show(result)


if __name__ == "__main__":
    main()
