"""Time and memory of the tiled losses beside open_clip's ClipLoss and SigLipLoss, forward and backward.

Example: python eval/benchmarks/loss.py --sizes 2048 4096 8192 16384

Both sides alternate in one process; a ratio is that of the medians. Memory is the highest resident set above that
before the call (on CUDA: the allocator's peak), each in a process of its own. `limit` is the time that the products
alone take at the rate of a plain matrix product in the same run: 8 n^2 d operations where tiles are computed again,
6 n^2 d where they are kept and in the sigmoid loss. `calibrated` takes the weights of a learnt calibrator, made anew in
every call. Sizes over --peer-up-to run without the peer.

With --kernel triton, info_nce and sigmoid are also measured as Triton kernels, on CUDA. Their limit in bf16 is that of
bf16 products, which the torch tiles do not use; in fp32 they may pass it, by multiplying in parts on tensor cores.
"""

import argparse
import ctypes
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import torch
from loss_batches import features, learnt_weighting, weights_of
from open_clip.loss import ClipLoss, SigLipLoss
from torch import Tensor

from mmcontrast.losses import tiled_info_nce, tiled_sigmoid_loss
from mmcontrast.losses.kernel import kernel_problem
from mmcontrast.negatives.few_weights import FewWeights

Inputs = tuple[Tensor, Tensor, Tensor, Tensor]
Loss = Callable[[Inputs], Tensor]
PEER = {"info_nce": "ClipLoss", "info_nce_kept": "ClipLoss", "calibrated": "ClipLoss", "sigmoid": "SigLipLoss"}
TRITON = {"info_nce": "info_nce_triton", "sigmoid": "sigmoid_triton"}
PEER |= {TRITON[name]: PEER[name] for name in TRITON}
OPERATIONS = {"info_nce": 8, "info_nce_kept": 6, "calibrated": 8, "sigmoid": 6}
OPERATIONS |= {TRITON[name]: OPERATIONS[name] for name in TRITON}
WARM_UP = 1536
"""Pairs of a first call: a multiple of 16 like the sizes, for Triton compiles other kernels for what is none."""


def losses(pairs: int, dim: int, device: str) -> dict[str, Loss]:
    """Every side by name; what a calibrator learns is learnt before."""
    clip, siglip = ClipLoss(), SigLipLoss()
    weighting: list[Any] = []

    def calibrated(x: Inputs) -> Tensor:
        if not weighting:
            weighting.append(learnt_weighting(dim, device))
        pairs = weights_of(weighting[0], x[0], x[1], x[2])
        few = FewWeights.of(pairs)
        return tiled_info_nce(x[0], x[1], x[2], tiles=pairs.tile if few is None else few.tile)

    return {
        "ClipLoss": lambda x: clip(x[0], x[1], x[2]),
        "SigLipLoss": lambda x: siglip(x[0], x[1], x[2], x[3]),
        "info_nce": lambda x: tiled_info_nce(x[0], x[1], x[2]),
        "info_nce_kept": lambda x: tiled_info_nce(x[0], x[1], x[2], keep=True),
        "sigmoid": lambda x: tiled_sigmoid_loss(x[0], x[1], x[2], x[3]),
        "calibrated": calibrated,
        TRITON["info_nce"]: lambda x: tiled_info_nce(x[0], x[1], x[2], kernel="triton"),
        TRITON["sigmoid"]: lambda x: tiled_sigmoid_loss(x[0], x[1], x[2], x[3], kernel="triton"),
    }


def inputs(pairs: int, dim: int, device: str, precision: str = "fp32") -> Inputs:
    """Features of classes, and CLIP's scale in mid-training."""
    image, text = features(pairs, dim, device)
    dtype = {"fp32": torch.float32, "bf16": torch.bfloat16}[precision]
    scalars = (torch.tensor(x, device=device, requires_grad=True) for x in (50.0, -10.0))
    scale, bias = scalars
    return image.to(dtype).requires_grad_(), text.to(dtype).requires_grad_(), scale, bias


def run(loss: Loss, x: Inputs, device: str) -> float:
    """Seconds of one forward and backward pass."""
    wait(device)
    start = time.perf_counter()
    torch.autograd.grad(loss(x), list(x[:3]))
    wait(device)
    return time.perf_counter() - start


def wait(device: str) -> None:
    """For the GPU."""
    if device == "cuda":
        torch.cuda.synchronize()


def matmul_rate(dim: int, device: str, dtype: torch.dtype = torch.float32) -> float:
    """Operations a second of tile-sized products, the best of some."""
    side = 1024 if device == "cpu" else 8192
    a, b = (torch.randn(shape, device=device).to(dtype) for shape in ((side, dim), (dim, side)))
    best = float("inf")
    for _ in range(20):
        wait(device)
        start = time.perf_counter()
        torch.mm(a, b)
        wait(device)
        best = min(best, time.perf_counter() - start)
    return 2 * side * side * dim / best


def peak_bytes(name: str, pairs: int, dim: int, device: str, precision: str) -> int:
    """Extra memory of one pass, measured in a process of its own."""
    command = [sys.executable, __file__, "--memory-of", name, "--sizes", str(pairs), "--dim", str(dim)]
    command += ["--device", device, "--precision", precision]
    return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()[-1])


def measure_memory(name: str, pairs: int, dim: int, device: str, precision: str) -> int:
    """The child's side of `peak_bytes`."""
    loss = losses(pairs, dim, device)[name]
    run(loss, inputs(min(pairs, WARM_UP), dim, device, precision), device)  # libraries and buffers of their own
    x = inputs(pairs, dim, device, precision)
    if device == "cuda":
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        run(loss, x, device)
        return torch.cuda.max_memory_allocated() - before
    ctypes.CDLL(None).malloc_trim(0)  # else memory freed before would be used again unseen
    before = status_bytes("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the high-water mark starts anew
    run(loss, x, device)
    return status_bytes("VmHWM") - before


def status_bytes(field: str) -> int:
    """A line of Linux' account of this process."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(field))
    return 1024 * int(line.split()[1])


def measure(names: list[str], pairs: int, options: argparse.Namespace) -> list[dict[str, Any]]:
    """Rows of one size."""
    dim, device = options.dim, options.device
    sides = losses(pairs, dim, device)
    peers = {PEER[name] for name in names} if pairs <= options.peer_up_to else set()
    x = inputs(pairs, dim, device, options.precision)
    times: dict[str, list[float]] = {name: [] for name in [*sorted(peers), *names]}
    for name in times:
        run(sides[name], inputs(min(pairs, WARM_UP), dim, device, options.precision), device)
    half = options.precision == "bf16"
    kinds = {name: torch.bfloat16 if half and name in TRITON.values() else torch.float32 for name in names}
    rates = {dtype: matmul_rate(dim, device, dtype) for dtype in kinds.values()}
    for _ in range(options.repeats):
        for name in times:
            times[name].append(run(sides[name], x, device))
    rates = {dtype: max(rate, matmul_rate(dim, device, dtype)) for dtype, rate in rates.items()}
    memory = {name: peak_bytes(name, pairs, dim, device, options.precision) for name in times} if options.memory else {}
    rows = []
    for name in times:
        median = statistics.median(times[name])
        row: dict[str, Any] = {"loss": name, "pairs": pairs, "dim": dim, "precision": options.precision}
        row |= {"seconds": round(median, 4), "range": [round(min(times[name]), 4), round(max(times[name]), 4)]}
        row["extra_mb"] = round(memory[name] / 1e6, 1) if memory else None
        if name in OPERATIONS:
            limit = OPERATIONS[name] * pairs**2 * dim / rates[kinds[name]]
            row["share_of_limit"] = round(limit / median, 3)
            peer = PEER[name]
            if peer in times:
                row |= {"peer": peer, "time_ratio": round(median / statistics.median(times[peer]), 3)}
                row["memory_ratio"] = round(memory[name] / memory[peer], 4) if memory else None
        rows.append(row)
        print(json.dumps(row), flush=True)
    return rows


def table(rows: list[dict[str, Any]]) -> str:
    """Markdown of what is kept: time, extra memory, and what they are of the peer's."""
    lines = [
        "| loss | pairs | seconds (least and most) | of the peer's | extra MB | of the peer's | share of the limit |"
    ]
    lines.append("|---|---|---|---|---|---|---|")

    def part(value: float | None, form: str) -> str:
        return "-" if value is None else format(value, form)

    for row in sorted(
        rows, key=lambda row: (list(PEER).index(row["loss"]) if row["loss"] in PEER else 9, row["pairs"])
    ):
        if row["loss"] not in PEER:
            continue
        low, high = row["range"]
        inverse = None if not row.get("memory_ratio") else 1 / row["memory_ratio"]
        cells = [row["loss"], f"{row['pairs']:,}", f"{row['seconds']:.3g} ({low:.3g} to {high:.3g})"]
        cells += [part(row.get("time_ratio"), ".2f"), part(row["extra_mb"], ".0f")]
        cells += ["-" if inverse is None else f"1/{inverse:.0f}", part(row["share_of_limit"], ".2f")]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    """Measure, print, write JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", nargs="+", type=int, default=[512, 1024, 2048, 4096, 8192, 16384])
    kinds = [name for name in PEER if name not in TRITON.values()]
    parser.add_argument("--losses", nargs="+", choices=kinds, default=kinds)
    parser.add_argument("--kernel", choices=["torch", "triton"], default="torch", help="triton adds rows, on CUDA")
    parser.add_argument("--dim", type=int, default=512)
    parser.add_argument("--precision", choices=["fp32", "bf16"], default="fp32", help="of the features")
    parser.add_argument("--repeats", type=int, default=5, help="passes of each side, alternating")
    parser.add_argument("--peer-up-to", type=int, default=16384, help="largest size that the peers run at")
    parser.add_argument("--no-memory", dest="memory", action="store_false", help="time only")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--output", default="eval/results/loss.json")
    parser.add_argument("--table", action="store_true", help="print what is kept in --output, measure nothing")
    parser.add_argument("--memory-of", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.memory_of:
        print(measure_memory(options.memory_of, options.sizes[0], options.dim, options.device, options.precision))
        return
    if options.table:
        print(table(json.loads(Path(options.output).read_text())))
        return
    if options.kernel == "triton":
        problem = kernel_problem("triton", torch.device(options.device))
        if problem:
            print(f"skipped {', '.join(TRITON.values())}: {problem}", file=sys.stderr)
        else:
            options.losses = [*options.losses, *(TRITON[name] for name in options.losses if name in TRITON)]
    machine = f"{platform.machine()}, {os.cpu_count()} cores, torch {torch.__version__}"
    if options.device == "cuda":
        machine += f", {torch.cuda.get_device_name()}"
    rows = [row for pairs in options.sizes for row in measure(options.losses, pairs, options)]
    file = Path(options.output)
    kept = json.loads(file.read_text()) if file.exists() else []
    new = [row | {"machine": machine, "repeats": options.repeats, "date": date.today().isoformat()} for row in rows]

    def key(row: dict[str, Any]) -> tuple[Any, ...]:
        return row["loss"], row["pairs"], row["dim"], row["precision"], row["machine"]

    fresh = {key(row) for row in new}
    file.write_text(json.dumps([row for row in kept if key(row) not in fresh] + new, indent=1) + "\n")


if __name__ == "__main__":
    main()
