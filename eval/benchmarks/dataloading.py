"""Training pictures per second and core: our loader, open_clip's own, and bare `datasets`, on the same JPEGs.

Example: python eval/benchmarks/dataloading.py --data ../shared/data/flickr8k/train.parquet

Every side gives batches of pictures at 224 px as normalised floats, each a random crop of 50 to 100 % of the area
resized with bicubic antialiasing, no flip and no colours, and of captions as CLIP's token ids of 77:
- open_clip: `open_clip_train.data.get_csv_dataset` with `image_transform(224, is_train=True)`, a table of files;
- datasets: `load_dataset("parquet").with_transform` of torchvision v2 transforms, captions tokenized a batch at a time;
- ours: the same table of files, with and without drafts (`data.draft_decoding`), with the cache (`data.image_cache`).

All run in the process itself on one thread (no workers), so that a second is that of one core; sides alternate. By
CPU time, which neighbours on the machine disturb less, and by the clock. Flickr8k's pictures are here kept at 96 px:
for photos, the same are enlarged to the sizes asked for, with a grain so that files are as large as a camera's.
"""

import argparse
import json
import os
import platform
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import torch
from dataloading_sides import CONTEXT, Epoch, datasets_epoch, open_clip_epoch, our_epoch, write_data

from mmcontrast import open_source
from mmcontrast.data import PairSource
from mmcontrast.data.caption_table import tokenize_source
from mmcontrast.models import ClipTokenizer
from mmcontrast.types import Tokens


def measure(sides: dict[str, Epoch], repeats: int) -> dict[str, Any]:
    """Pictures per second of every side, by CPU time and by the clock: medians and ranges; sides alternate."""
    for epoch in sides.values():
        epoch()
    rates: dict[str, dict[str, list[float]]] = {name: {"cpu": [], "clock": []} for name in sides}
    for _ in range(repeats):
        for name, epoch in sides.items():
            cpu, clock = time.process_time(), time.perf_counter()
            count = epoch()
            rates[name]["cpu"].append(count / (time.process_time() - cpu))
            rates[name]["clock"].append(count / (time.perf_counter() - clock))
    found: dict[str, Any] = {}
    for name, both in rates.items():
        for kind, values in both.items():
            median, least, most = statistics.median(values), min(values), max(values)
            found.setdefault(name, {})[kind] = {"median": round(median, 1), "range": [round(least, 1), round(most, 1)]}
    return found


def measure_pictures(source: PairSource, arguments: argparse.Namespace, side: int, folder: Path) -> dict[str, Any]:
    """All sides on pictures of one size."""
    count, batch = arguments.count, arguments.batch
    table, parquet, size = write_data(source, count, side, arguments.grain, folder / "pictures")
    sides = {
        "open_clip": open_clip_epoch(table, batch),
        "datasets": datasets_epoch(parquet, batch, folder / "datasets"),
        "ours, whole JPEGs": our_epoch(table, batch, draft=False),
        "ours": our_epoch(table, batch),
        "ours, cache": our_epoch(table, batch, cache=folder / "cache"),
        "ours, cache, bytes (the model normalises)": our_epoch(table, batch, cache=folder / "cache", normalise=False),
        "ours, flip and colours": our_epoch(table, batch, augmentation="standard"),
        "ours, cache, flip and colours": our_epoch(table, batch, augmentation="standard", cache=folder / "cache"),
    }
    rates = measure(sides, arguments.repeats)
    cached = sum(file.stat().st_size for file in (folder / "cache").rglob("*") if file.is_file()) / count
    return {
        "pixels": f"{side} x {side * 3 // 4}" if side else "as they are",
        "bytes_per_jpeg": round(size),
        "bytes_per_cached_picture": round(cached),
        "images_per_second_and_core": rates,
        "ratio_to_open_clip": {name: ratio(rates, name, "open_clip") for name in rates},
        "ratio_to_datasets": {name: ratio(rates, name, "datasets") for name in rates},
    }


def measure_captions(source: PairSource, batch: int, repeats: int) -> dict[str, Any]:
    """Microseconds of a caption tokenized in its batch, picked from the table, and put into it; CLIP's tokenizer."""
    tokenizer = ClipTokenizer(CONTEXT)
    start = time.process_time()
    table = tokenize_source(source, tokenizer, vocab_size=tokenizer.vocab_size, pad_id=tokenizer.pad_id)
    making = (time.process_time() - start) / len(table)
    rows = list(range(min(batch, len(source))))
    texts = [source.captions(row)[0] for row in rows]
    sides: dict[str, Callable[[], Tokens]] = {
        "in_its_batch": lambda: tokenizer(texts),
        "from_the_table": lambda: table.tokens(rows, [0] * len(rows)),
    }
    took: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(10 * repeats):
        for name, function in sides.items():
            start = time.process_time()
            function()
            took[name].append((time.process_time() - start) / len(rows))
    size = table.ids.nbytes + table.offsets.nbytes + table.cut.nbytes + table.first.nbytes
    return {
        "captions": len(table),
        "bytes_a_caption": round(size / len(table), 1),
        "microseconds_making_the_table": round(1e6 * making, 1),
        **{f"microseconds_{name}": round(1e6 * statistics.median(values), 1) for name, values in took.items()},
    }


def ratio(rates: dict[str, Any], side: str, peer: str) -> dict[str, float]:
    """Of the medians, by CPU time and by the clock."""
    return {kind: round(rates[side][kind]["median"] / rates[peer][kind]["median"], 2) for kind in ("cpu", "clock")}


def main() -> None:
    """Measure, print, write JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="../shared/data/flickr8k/train.parquet", help="pictures with captions")
    parser.add_argument("--sides", type=int, nargs="+", default=[0, 1024, 2048], help="longer sides; 0: as they are")
    parser.add_argument("--grain", type=float, default=5.0, help="standard deviation of the grain, of 255")
    parser.add_argument("--count", type=int, default=96, help="pictures")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--repeats", type=int, default=5, help="epochs of each side, alternating")
    parser.add_argument("--output", default="eval/results/dataloading.json")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore", ".*pin_memory.*")  # open_clip asks for it with and without a GPU
    source = open_source(arguments.data, rows=arguments.count)
    found = []
    for side in arguments.sides:
        with tempfile.TemporaryDirectory() as folder:
            found.append(measure_pictures(source, arguments, side, Path(folder)))
    result = {
        "pictures": found,
        "captions": measure_captions(open_source(arguments.data), 256, arguments.repeats),
        "count": arguments.count,
        "batch": arguments.batch,
        "repeats": arguments.repeats,
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, torch {torch.__version__}",
        "date": date.today().isoformat(),
    }
    Path(arguments.output).write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
