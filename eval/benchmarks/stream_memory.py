"""Streams of any length in bounded memory: peak memory and rows a second, and how long it takes to go on in the middle.

Example: python eval/benchmarks/stream_memory.py --rows 10000000

Parquet shards are generated (tiny pictures, a caption of its own for each row) and streamed once through the shuffle
buffer by `--shares` readers one after another, as the workers of the ranks of a run would, without decoding. Said of
it: rows that came never or twice (there must be none), resident memory after the first tenth and at its highest
after that, rows a second, and, for the last reader, the seconds and the parts of its share that it takes to go on at
nine tenths.
"""

import argparse
import io
import json
import os
import platform
import sys
import tempfile
import time
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from mmcontrast.data import PairStream, open_stream
from mmcontrast.data.rows import Row
from mmcontrast.data.shuffling import ShuffledShare
from mmcontrast.data.steady import PATIENCE, Unit
from mmcontrast.types import StreamPosition

SEED = 5


def write_shards(folder: Path, rows: int, shard_rows: int, group_rows: int) -> None:
    """Shards of `shard_rows` rows each; the last one has what is left."""
    pictures = []
    for seed in range(64):
        stream = io.BytesIO()
        pixels = np.random.default_rng(seed).integers(0, 256, (8, 8, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(stream, "PNG")
        pictures.append(stream.getvalue())
    for number, start in enumerate(range(0, rows, shard_rows)):
        places = range(start, min(rows, start + shard_rows))
        captions = [f"picture number {place} of a long stream" for place in places]
        table = pa.table({"image": [pictures[place % 64] for place in places], "caption": captions})
        pq.write_table(table, folder / f"{number:05}.parquet", row_group_size=group_rows)


def resident() -> float:
    """MB of memory in use now."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6


def read_all(stream: PairStream, shares: int, buffer: int, rows: int, shard_rows: int) -> dict[str, Any]:
    """Go through all shares; what came, how fast, and in how much memory."""
    seen = np.zeros(rows, dtype=np.uint8)
    start, count, early, highest = time.perf_counter(), 0, 0.0, 0.0
    for number in range(shares):
        for row in ShuffledShare(stream.shard(number, shares, SEED), stream.patience, buffer, number):
            assert isinstance(row, Row), row
            place = (row.index >> 32) * shard_rows + (row.index & 0xFFFFFFFF)
            seen[place] = min(seen[place], 1) + 1
            count += 1
            if count % max(1, rows // 200) == 0:
                memory = resident()
                if count <= rows // 10:
                    early = max(early, memory)
                highest = max(highest, memory)
                left = (rows - count) * (time.perf_counter() - start) / count
                print(f"\r{count}/{rows} rows, {memory:.0f} MB, {left:.0f} s left ", end="", file=sys.stderr)
    seconds = time.perf_counter() - start
    print(file=sys.stderr)
    return {
        "rows_never": int((seen == 0).sum()),
        "rows_twice": int((seen > 1).sum()),
        "seconds": round(seconds, 2),
        "rows_per_second": round(count / seconds),
        "memory_after_a_tenth_mb": round(early, 1),
        "memory_highest_mb": round(highest, 1),
    }


def go_on(stream: PairStream, shares: int, buffer: int) -> dict[str, Any]:
    """Time to the next row at nine tenths of the last share, against reading all before it."""
    opened: list[str] = []

    def counted(unit: Unit) -> Unit:
        def read() -> Any:
            opened.append(unit.name)
            return unit()

        return replace(unit, read=read)

    units = [counted(unit) for unit in stream.shard(shares - 1, shares, SEED)]
    start, position, ahead = time.perf_counter(), None, None
    share = ShuffledShare(units, PATIENCE, buffer, shares - 1)
    for row in share:
        if position is not None:
            ahead = row
            break
        if len(share.counts) >= 0.9 * len(units):
            position = StreamPosition(0, share.drawn, share.counts)
    through = time.perf_counter() - start
    parts = len(opened)
    opened.clear()
    start = time.perf_counter()
    found = next(iter(ShuffledShare(units, PATIENCE, buffer, shares - 1, position)))
    return {
        "same_row": found == ahead,
        "parts_read_at_first": parts,
        "seconds_at_first": round(through, 3),
        "parts_read_to_go_on": len(opened),
        "seconds_to_go_on": round(time.perf_counter() - start, 3),
    }


def main() -> None:
    """Generate, read, report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=10_000_000)
    parser.add_argument("--shard-rows", type=int, default=100_000)
    parser.add_argument("--group-rows", type=int, default=5_000)
    parser.add_argument("--shares", type=int, default=2, help="readers: ranks times workers")
    parser.add_argument("--buffer", type=int, default=10_000, help="rows that each reader holds for shuffling")
    parser.add_argument("--folder", type=Path, help="for the shards; a temporary one by default")
    parser.add_argument("--output", type=Path, help="JSON file for the figures")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        start = time.perf_counter()
        write_shards(Path(folder), args.rows, args.shard_rows, args.group_rows)
        print(f"{args.rows} rows generated in {time.perf_counter() - start:.0f} s", file=sys.stderr)
        stream = open_stream(folder)
        result: dict[str, Any] = {"date": date.today().isoformat(), "python": platform.python_version()}
        result |= {"rows": args.rows, "shares": args.shares, "buffer": args.buffer, "parts": len(stream.units)}
        result |= read_all(stream, args.shares, args.buffer, args.rows, args.shard_rows)
        result |= go_on(stream, args.shares, args.buffer)
    print(json.dumps(result, indent=2))
    if args.output:
        args.output.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
