"""What a training step costs as ranks and pairs are added: formulas, and whether what is measured agrees with them.

Example: python eval/benchmarks/simulate_scale.py --processes 1 2 4 --ranks 1 4 16 64 256 1024

Three things are measured and set beside their formula:
- traffic: real processes (gloo) compute the loss of one global batch, and every byte that they hand to a collective is
  counted, without rules about negatives and with them;
- a rank's share of the loss: time and memory of b pictures against all captions, as one rank of many would have it; the
  other ranks are simulated by their captions, which is all that a rank sees of them;
- what the data set takes: the order of an epoch and the cluster ids of so many items.

`--table` prints the tables of docs/scaling.md from what is kept, and what follows for GPUs from the formulas: those are
arithmetic on the constants given as arguments, and nothing of them was run.
"""

import argparse
import ctypes
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from loss import matmul_rate, status_bytes
from loss_batches import LENGTH, captions, features
from torch import Tensor
from torch.multiprocessing.spawn import spawn

from mmcontrast import distributed
from mmcontrast.data.sampler import epoch_order
from mmcontrast.losses import tiled_info_nce
from mmcontrast.negatives.clustering import Clusters
from mmcontrast.negatives.settings import RuleSettings
from mmcontrast.negatives.weighting import Weighting
from mmcontrast.training.objective import ContrastiveObjective
from mmcontrast.types import Features, PairBatch

Traffic = dict[str, int]
"""Bytes by collective: what an all_gather gives to each rank, and what an all_reduce adds up."""


def expected_traffic(pairs: int, dim: int, ranks: int, rules: bool) -> Traffic:
    """Of the loss of one step, forward and backward, on each rank.

    Captions' features are gathered and their gradients added up (4 n d bytes each); of the softmax over pictures n
    partial sums and maxima are (8 n). Rules take both sides' features (8 n d), and keys and tokens of each pair.
    """
    if ranks == 1:
        return {"all_gather": 0, "all_reduce": 0}
    gathered, reduced = 4 * pairs * dim, 4 * pairs * dim + 8 * pairs
    if rules:
        keys = 5 * 8  # index, caption, one caption of all, group, label
        gathered += 8 * pairs * dim + pairs * (keys + 2 * 8 * LENGTH)
        # Sums of what is aimed at, and widths of what is padded: all captions' keys, tokens, mask.
        reduced += 8 * pairs + 3 * 8
    return {"all_gather": gathered, "all_reduce": reduced}


def counted_traffic(pairs: int, dim: int, processes: int, rules: bool) -> list[Traffic]:
    """The same, of each of so many real processes."""
    with tempfile.TemporaryDirectory() as folder:
        spawn(_count, args=(processes, pairs, dim, rules, folder), nprocs=processes)  # type: ignore[no-untyped-call]
        return [json.loads((Path(folder) / f"{rank}.json").read_text()) for rank in range(processes)]


def _count(rank: int, processes: int, pairs: int, dim: int, rules: bool, folder: str) -> None:
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=processes)
    torch.set_num_threads(1)
    assert distributed.world_size() == processes
    counts: Counter[str] = Counter({"all_gather": 0, "all_reduce": 0})
    gather, reduce = dist.all_gather, dist.all_reduce

    def all_gather(parts: list[Tensor], tensor: Tensor) -> None:
        counts["all_gather"] += sum(part.nbytes for part in parts)
        gather(parts, tensor)

    def all_reduce(tensor: Tensor, *how: Any) -> None:
        counts["all_reduce"] += tensor.nbytes
        reduce(tensor, *how)

    vars(dist).update(all_gather=all_gather, all_reduce=all_reduce)
    rows = slice(rank * pairs // processes, (rank + 1) * pairs // processes)
    image, text = (side[rows].requires_grad_() for side in features(pairs, dim, "cpu"))
    index = torch.arange(pairs)[rows]
    ids = captions(pairs)[rows]
    batch = PairBatch(torch.zeros(len(index)), ids, torch.ones_like(ids), index, index, index[:, None], index, index)
    settings = RuleSettings(("duplicates",)) if rules else RuleSettings(())
    objective = ContrastiveObjective("info_nce", Weighting(settings))
    torch.autograd.backward(objective(Features(image, text, torch.tensor(50.0, requires_grad=True)), batch).loss)
    (Path(folder) / f"{rank}.json").write_text(json.dumps(counts))
    dist.barrier()
    dist.destroy_process_group()


def share_seconds(local: int, pairs: int, dim: int, rate: float) -> float:
    """Least time of a rank's share of the loss: 8 b n d operations at a rate."""
    return 8 * local * pairs * dim / rate


def share_bytes(local: int, pairs: int, dim: int) -> int:
    """Extra memory of it that grows: all captions' gradient and the pictures'; sums of n numbers. Tiles add a constant.

    Counted beside the gathered captions (4 n d), which are the step's, not the loss's.
    """
    return 4 * pairs * dim + 4 * local * dim + 6 * 4 * pairs


def measure_share(local: int, pairs: int, dim: int, repeats: int) -> dict[str, Any]:
    """Time and memory of one rank's share, in a process of its own."""
    command = [sys.executable, __file__, "--share", str(local), str(pairs), str(dim), "--repeats", str(repeats)]
    found: dict[str, Any] = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    return found


def _share(local: int, pairs: int, dim: int, repeats: int) -> dict[str, Any]:
    """The child's side of `measure_share`."""
    scale = torch.tensor(50.0, requires_grad=True)

    def once(image: Tensor, text: Tensor, offset: int) -> float:
        start = time.perf_counter()
        loss = tiled_info_nce(image, text, scale, offset=offset, all_reduce=lambda tensor, how: tensor)
        torch.autograd.grad(loss, (image, text, scale))
        return time.perf_counter() - start

    def inputs(count: int, of: int) -> tuple[Tensor, Tensor, int]:
        image, text = features(of, dim, "cpu")
        return image[-count:].clone().requires_grad_(), text.requires_grad_(), of - count

    once(*inputs(min(local, 512), 1024))
    mine = inputs(local, pairs)
    ctypes.CDLL(None).malloc_trim(0)
    before = status_bytes("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the high-water mark starts anew
    seconds = [once(*mine)]
    extra = status_bytes("VmHWM") - before
    seconds += [once(*mine) for _ in range(repeats - 1)]
    rate = matmul_rate(dim, "cpu")
    return {
        "seconds": statistics.median(seconds),
        "least": min(seconds),
        "most": max(seconds),
        "limit": share_seconds(local, pairs, dim, rate),
        "extra_mb": extra / 1e6,
        "growing_mb": share_bytes(local, pairs, dim) / 1e6,
    }


def data_bytes(items: int) -> dict[str, int]:
    """Of a map-style data set on each rank: the order of an epoch, and with guided batches a cluster id an item."""
    return {"order": 8 * items, "clusters": 4 * items}


def measured_data_bytes(items: int) -> dict[str, int]:
    """The same of the objects themselves."""
    order: np.ndarray[Any, Any] = epoch_order(items, 0, 0)
    return {"order": order.nbytes, "clusters": Clusters(items, 8, capacity=1024, seed=0, device="cpu").ids.nbytes}


def projected(ranks: int, options: argparse.Namespace) -> dict[str, float]:
    """Seconds and bytes of a step on so many GPUs, by the formulas alone."""
    local, dim, weights = options.local, options.dim, options.weights
    pairs = local * ranks
    gathered, reduced = (
        expected_traffic(pairs, dim, ranks, rules=False)[kind] for kind in ("all_gather", "all_reduce")
    )
    ring = (ranks - 1) / ranks
    link = options.link * 1e9
    return {
        "ranks": ranks,
        "pairs": pairs,
        "towers": local * options.gflop * 1e9 / (options.peak * 1e12 * options.reached),
        "loss": share_seconds(local, pairs, dim, options.peak * 1e12 * options.reached),
        "exchange": (ring * gathered + 2 * ring * reduced) / link,
        "gradients": 2 * ring * 4 * weights / link,
        "loss_mb": (4 * pairs * dim + share_bytes(local, pairs, dim)) / 1e6,
        "state_mb": 16 * weights / 1e6,
        "sharded_state_mb": 16 * weights / ranks / 1e6,
    }


def tables(kept: dict[str, Any], options: argparse.Namespace) -> str:
    """Markdown of what is kept, and of the projection."""
    lines = [
        "| processes | rules | gathered, bytes | formula | added up, bytes | formula |",
        "|---|---|---|---|---|---|",
    ]
    for row in kept["traffic"]:
        of, wanted = row["counted"], row["expected"]
        cells = [row["processes"], "yes" if row["rules"] else "no"]
        cells += [of["all_gather"], wanted["all_gather"], of["all_reduce"], wanted["all_reduce"]]
        lines.append(f"| {' | '.join(format(cell, ',') if isinstance(cell, int) else cell for cell in cells)} |")
    lines += [
        "",
        "| ranks | pairs | seconds (least and most) | of the limit | extra MB | growing part by the formula |",
    ]
    lines.append("|---|---|---|---|---|---|")
    for row in kept["shares"]:
        took = f"{row['seconds']:.3g} ({row['least']:.3g} to {row['most']:.3g})"
        cells = [f"{row['ranks']:,}", f"{row['pairs']:,}", took, f"{row['limit'] / row['seconds']:.2f}"]
        lines.append(f"| {' | '.join([*cells, format(row['extra_mb'], '.0f'), format(row['growing_mb'], '.0f')])} |")
    lines += ["", "| items | order of an epoch | cluster ids |", "|---|---|---|"]
    lines += [f"| {n:,} | {_size(data_bytes(n)['order'])} | {_size(data_bytes(n)['clusters'])} |" for n in ITEMS]
    lines += [
        "",
        "| GPUs | pairs a step | towers | loss | exchange of features | of gradients | pairs/s, nothing hidden |",
    ]
    lines[-1] += " loss and features | weights, gradients, AdamW | with fsdp |"
    lines.append("|---|---|---|---|---|---|---|---|---|---|")
    for ranks in GPUS:
        row = projected(ranks, options)
        step = row["towers"] + row["loss"] + row["exchange"] + row["gradients"]
        times = [f"{1e3 * row[name]:.3g} ms" for name in ("towers", "loss", "exchange", "gradients")]
        sizes = [_size(1e6 * row[name]) for name in ("loss_mb", "state_mb", "sharded_state_mb")]
        cells = [f"{ranks:,}", format(row["pairs"], ","), *times, f"{row['pairs'] / step:,.0f}", *sizes]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


ITEMS = (10**6, 10**7, 10**8, 10**9, 10**10)
GPUS = (1, 8, 64, 256, 1024)


def _size(count: float) -> str:
    return f"{count / 1e9:,.3g} GB" if count >= 1e9 else f"{count / 1e6:,.3g} MB"


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """All three parts; raises where the traffic is not what the formula says."""
    traffic = []
    for processes in options.processes:
        for rules in (False, True):
            counted = counted_traffic(options.counted_pairs, options.dim, processes, rules)
            expected = expected_traffic(options.counted_pairs, options.dim, processes, rules)
            traffic.append({"processes": processes, "rules": rules, "counted": counted[0], "expected": expected})
            print(json.dumps(traffic[-1]), flush=True)
            if any(count != expected for count in counted):
                raise SystemExit(f"{processes} processes: {counted} is not the {expected} of the formula")
    shares = []
    for ranks in options.ranks:
        pairs = options.share_of * ranks
        found = measure_share(options.share_of, pairs, options.dim, options.repeats)
        shares.append({"ranks": ranks, "pairs": pairs, **{name: float(f"{x:.4g}") for name, x in found.items()}})
        print(json.dumps(shares[-1]), flush=True)
    for items in (10**6, 10**7):
        if measured_data_bytes(items) != data_bytes(items):
            raise SystemExit(f"{items} items take {measured_data_bytes(items)}, not {data_bytes(items)}")
    return {"traffic": traffic, "shares": shares}


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--processes", type=int, nargs="+", default=[1, 2, 4], help="real ones, whose traffic is counted"
    )
    parser.add_argument("--counted-pairs", type=int, default=1024, help="global batch of the counted steps")
    parser.add_argument("--ranks", type=int, nargs="+", default=[1, 4, 16, 64, 256, 1024], help="simulated ones")
    parser.add_argument("--share-of", type=int, default=256, help="pairs of a simulated rank")
    parser.add_argument("--dim", type=int, default=512)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--output", default="eval/results/simulate_scale.json")
    parser.add_argument("--table", action="store_true", help="print tables of what is in --output; measure nothing")
    gpu = parser.add_argument_group("constants of the projection (defaults: ViT-B/32 on GPUs of the H200 class)")
    gpu.add_argument("--local", type=int, default=512, help="pairs a GPU")
    gpu.add_argument("--gflop", type=float, default=29.0, help="of a pair, forward and backward")
    gpu.add_argument("--weights", type=float, default=151e6)
    gpu.add_argument("--peak", type=float, default=989.0, help="TFLOP/s, bf16")
    gpu.add_argument("--reached", type=float, default=0.4, help="share of the peak; an assumption")
    gpu.add_argument("--link", type=float, default=50.0, help="GB/s of a GPU to the others; 400 Gbit/s")
    parser.add_argument("--share", type=int, nargs=3, help=argparse.SUPPRESS)
    return parser.parse_args()


def main() -> None:
    """Measure, print, write JSON."""
    options = parse()
    if options.share:
        local, pairs, dim = options.share
        print(json.dumps(_share(local, pairs, dim, options.repeats)))
        return
    file = Path(options.output)
    if options.table:
        print(tables(json.loads(file.read_text()), options))
        return
    found = measure(options)
    found["machine"] = f"{platform.machine()}, {os.cpu_count()} cores, torch {torch.__version__}"
    found["date"] = date.today().isoformat()
    file.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
