"""Exact retrieval both ways over galleries of any size, in bounded memory: time, peak memory, and how it compares.

Example: python eval/benchmarks/retrieval_scale.py --rows 100000 --dim 64

Features are synthetic: n pictures, n captions, a caption being its picture's vector plus noise, so that the ranks are
spread. All ranks, recalls and mAP@R of both directions come from one pass, with progress and the time that is left on
stderr. Four ways are timed on a sample of --sample pictures and captions, alternating, several times, and their
numbers are compared:

    tiles    what `retrieval_metrics` does: float32 tiles, near ties again in exact arithmetic
    rows     whole rows of exact float64 scores, which it does where a query has many positives
    plain    what one would write: a float32 product of chunk x gallery and a comparison, each way; ties undecided
    product  the float32 product alone, once and in the same tiles: the limit

--rows 1000000 --part 4096 takes the first 4096 pictures against all captions, and says what the whole would take.
"""

import argparse
import json
import os
import platform
import resource
import statistics
import sys
import time
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import normalize

from mmcontrast.evaluation import metrics, retrieval
from mmcontrast.evaluation.positives import PositiveKeys
from mmcontrast.evaluation.ranking import rank_both_ways

_PLAIN_CHUNK = 256


def synthetic(rows: int, dim: int, noise: float, device: torch.device) -> tuple[Tensor, Tensor]:
    """(n, d) pictures and (n, d) captions; drawn in parts, so that no part of their making outgrows them."""
    rng = torch.Generator().manual_seed(0)
    images, texts = torch.empty(rows, dim, device=device), torch.empty(rows, dim, device=device)
    for start in range(0, rows, 1 << 16):
        part = images[start : start + (1 << 16)]
        part.copy_(normalize(torch.randn(part.shape, generator=rng), dim=1))
        wrong = normalize(torch.randn(part.shape, generator=rng), dim=1).to(device)
        texts[start : start + len(part)] = normalize(part + noise * wrong, dim=1)
    return images, texts


def diagonal(rows: int) -> PositiveKeys:
    """Picture i and caption i belong together."""
    own = torch.arange(1, rows + 1)
    return PositiveKeys(own[:, None], own)


class Progress:
    """Share done and time left on stderr, every few seconds."""

    def __init__(self, rows: int, every: float = 5.0) -> None:
        self.rows, self.every, self.done = rows, every, 0
        self.start = self.shown = time.perf_counter()
        self.ticks: list[tuple[int, float]] = []

    def __call__(self, count: int) -> None:
        """`count` more pictures are ranked."""
        self.done += count
        now = time.perf_counter()
        self.ticks.append((self.done, now - self.start))
        if now - self.shown >= self.every or self.done == self.rows:
            self.shown = now
            left = (now - self.start) / self.done * (self.rows - self.done)
            print(f"{self.done:,} of {self.rows:,} pictures, {left:,.0f} s left", file=sys.stderr, flush=True)

    def seconds_for(self, rows: int) -> float:
        """What `rows` pictures would take: the first tiles, with all that is done once, and the pace of the rest."""
        (first, before), (last, after) = self.ticks[0], self.ticks[-1]
        return before + (after - before) / max(1, last - first) * (rows - first)


def plain_ranks(images: Tensor, texts: Tensor) -> tuple[Tensor, Tensor]:
    """Ranks of the diagonal by float32 products, each way; a chunk of queries at a time."""
    ways = []
    for queries, gallery in ((images, texts), (texts, images)):
        ranks = []
        for start in range(0, len(queries), _PLAIN_CHUNK):
            scores = queries[start : start + _PLAIN_CHUNK] @ gallery.T
            own = scores[torch.arange(len(scores)), torch.arange(start, start + len(scores))]
            ranks.append((scores >= own[:, None]).sum(dim=1))
        ways.append(torch.cat(ranks))
    return ways[0], ways[1]


def product(images: Tensor, texts: Tensor) -> None:
    """All scores, tile by tile, and nothing else."""
    for row in range(0, len(images), 1024):
        for column in range(0, len(texts), 1024):
            images[row : row + 1024] @ texts[column : column + 1024].T


def by_rows(images: Tensor, texts: Tensor) -> dict[str, float | None]:
    """`retrieval_metrics` with the lists of positives switched off."""
    listed = retrieval._LISTED_WIDTH
    retrieval._LISTED_WIDTH = 0
    try:
        return retrieval.retrieval_metrics(images, texts, diagonal(len(images)))
    finally:
        retrieval._LISTED_WIDTH = listed


def timed(function: Callable[[], Any]) -> tuple[float, Any]:
    """Seconds, and what it gave."""
    start = time.perf_counter()
    result = function()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - start, result


def compare(images: Tensor, texts: Tensor, repeats: int) -> dict[str, Any]:
    """The ways on the same sample."""
    keys = diagonal(len(images))
    ways: dict[str, Callable[[], Any]] = {
        "tiles": lambda: retrieval.retrieval_metrics(images, texts, keys),
        "rows": lambda: by_rows(images, texts),
        "plain": lambda: plain_ranks(images, texts),
        "product": lambda: product(images, texts),
    }
    times: dict[str, list[float]] = {name: [] for name in ways}
    results = {}
    for repeat in range(repeats + 1):
        for name, way in ways.items():
            seconds, results[name] = timed(way)
            if repeat:
                times[name].append(seconds)
    assert results["tiles"] == results["rows"], "two exact ways must agree"
    medians = {name: statistics.median(values) for name, values in times.items()}
    return {
        "rows": len(images),
        "seconds": {name: round(value, 4) for name, value in medians.items()},
        "range": {name: [round(min(values), 4), round(max(values), 4)] for name, values in times.items()},
        "tiles_against_rows": round(medians["tiles"] / medians["rows"], 3),
        "tiles_against_plain": round(medians["tiles"] / medians["plain"], 3),
        "share_of_limit": round(medians["product"] / medians["tiles"], 3),
    }


def scale(images: Tensor, texts: Tensor) -> dict[str, Any]:
    """All pictures against all captions."""
    before = peak_bytes()
    seconds, found = timed(
        lambda: retrieval.retrieval_metrics(images, texts, diagonal(len(images)), progress=Progress(len(images)))
    )
    return {**_cost(images, texts, len(images), seconds, before), "metrics": found}


def scale_in_part(images: Tensor, texts: Tensor, rows: int) -> dict[str, Any]:
    """The first pictures against all captions. Captions of other pictures are rivals only, and so cost less."""
    before, pairs = peak_bytes(), torch.arange(rows, device=images.device)
    progress = Progress(rows)
    seconds, (by_image, _) = timed(
        lambda: rank_both_ways(images[:rows], texts, (pairs, pairs), tile=1024, progress=progress)
    )
    found = {
        "image_to_text_recall@1": metrics.hit_share(by_image.ranks, 1),
        "image_to_text_median_rank": metrics.median_rank(by_image.ranks),
    }
    cost = _cost(images, texts, rows, seconds, before)
    return {**cost, "seconds_for_all_extrapolated": round(progress.seconds_for(len(images)), 1), "metrics": found}


def _cost(images: Tensor, texts: Tensor, rows: int, seconds: float, peak_before: int) -> dict[str, Any]:
    return {
        "pictures": rows,
        "captions": len(texts),
        "seconds": round(seconds, 1),
        "nanoseconds_per_pair": round(seconds / rows / len(texts) * 1e9, 3),
        "features_mb": round((images.nbytes + texts.nbytes) / 1e6),
        "extra_peak_mb": round((peak_bytes() - peak_before) / 1e6),
    }


def peak_bytes() -> int:
    """Peak memory so far: of the process, or of the GPU."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def main() -> None:
    """Measure, print, write JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=100_000, help="pictures, and captions")
    parser.add_argument("--dim", type=int, default=64)
    parser.add_argument("--noise", type=float, default=1.5, help="of a caption, in lengths of its picture's vector")
    parser.add_argument("--part", type=int, help="pictures of the large pass; all by default")
    parser.add_argument("--sample", type=int, default=8192, help="pictures and captions of the comparison; 0 for none")
    parser.add_argument("--repeats", type=int, default=5, help="measurements of each way, alternating")
    parser.add_argument("--output", default="eval/results/retrieval_scale.json")
    arguments = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    images, texts = synthetic(arguments.rows, arguments.dim, arguments.noise, device)
    part = arguments.part if arguments.part and arguments.part < arguments.rows else None
    result: dict[str, Any] = {"scale": scale_in_part(images, texts, part) if part else scale(images, texts)}
    if sample := min(arguments.sample, arguments.rows):
        result["comparison"] = compare(images[:sample], texts[:sample], arguments.repeats)
    result |= {
        "dim": arguments.dim,
        "noise": arguments.noise,
        "repeats": arguments.repeats,
        "threads": torch.get_num_threads(),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, torch {torch.__version__}, {device.type}",
        "date": date.today().isoformat(),
    }
    file = Path(arguments.output)
    results = json.loads(file.read_text()) if file.exists() else {}
    name = f"{arguments.rows} x {arguments.dim}"
    file.write_text(json.dumps(results | {name: result}, indent=2) + "\n")
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
