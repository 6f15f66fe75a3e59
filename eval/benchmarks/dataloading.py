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
from collections.abc import Callable, Iterator
from datetime import date
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from PIL import Image
from torch.utils.data import DataLoader
from torchvision.transforms import v2

from mmcontrast import open_source
from mmcontrast.data import GlobalBatchSampler, PairDataset, PairSource, train_loader, train_transform
from mmcontrast.data.caption_table import tokenize_source
from mmcontrast.data.image_cache import CacheSettings
from mmcontrast.data.image_cache_build import open_image_cache
from mmcontrast.models import ClipTokenizer
from mmcontrast.preprocess import ImagePreprocess, decode_image

SIZE, SCALE_MIN, CONTEXT = 224, 0.5, 77
Epoch = Callable[[], int]
"""Goes through all batches once and says how many pictures they had."""


def write_data(source: PairSource, count: int, side: int, grain: float, folder: Path) -> tuple[Path, Path, float]:
    """`count` pictures as JPEG files with a table of them, and as Parquet; also their mean size in bytes.

    side: longer side of 4:3 pictures; 0 keeps the pictures as they are.
    """
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    lines, rows, size = ["filepath\ttitle"], [], 0
    for i in range(count):
        data, caption = source.image(i), source.captions(i)[0].replace("\t", " ")
        file = folder / f"{i:05}.jpg"
        if side:
            image = decode_image(data).resize((side, side * 3 // 4), Image.Resampling.BICUBIC)
            noisy = np.asarray(image) + rng.normal(0, grain, (image.height, image.width, 1))
            Image.fromarray(noisy.round().clip(0, 255).astype(np.uint8)).save(file, quality=90)
        else:
            file.write_bytes(data if isinstance(data, bytes) else data.read_bytes())
        lines.append(f"{file}\t{caption}")
        size += file.stat().st_size
        rows.append({"image": {"bytes": file.read_bytes(), "path": file.name}, "caption": caption})
    (folder / "table.tsv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    pq.write_table(pa.Table.from_pylist(rows), folder / "pictures.parquet")
    return folder / "table.tsv", folder / "pictures.parquet", size / count


def open_clip_epoch(table: Path, batch: int) -> Epoch:
    """Open_clip's loader of a table of files."""
    import open_clip

    try:
        from open_clip_train.data import get_csv_dataset
    except ImportError as error:
        raise SystemExit(f"open_clip's loader lacks {error.name}: pip install 'mmcontrast[bench]'") from None
    transform = open_clip.image_transform(SIZE, is_train=True, aug_cfg={"scale": (SCALE_MIN, 1.0)})
    arguments = SimpleNamespace(
        train_data=str(table),
        csv_img_key="filepath",
        csv_caption_key="title",
        csv_separator="\t",
        distributed=False,
        batch_size=batch,
        workers=0,
    )
    tokenizer = open_clip.SimpleTokenizer(context_length=CONTEXT)
    loader = get_csv_dataset(arguments, transform, is_train=True, tokenizer=tokenizer).dataloader
    return lambda: sum(len(images) for images, _ in loader)


def datasets_epoch(file: Path, batch: int, cache: Path) -> Epoch:
    """Bare `datasets` with torchvision's transforms."""
    import datasets

    datasets.disable_progress_bars()
    pictures = datasets.load_dataset("parquet", data_files=str(file), split="train", cache_dir=str(cache))
    pictures = pictures.cast_column("image", datasets.Image())
    transform = v2.Compose(
        [
            v2.RandomResizedCrop(SIZE, (SCALE_MIN, 1.0), interpolation=v2.InterpolationMode.BICUBIC, antialias=True),
            v2.ToImage(),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize(ImagePreprocess(SIZE).mean, ImagePreprocess(SIZE).std),
        ]
    )
    tokenizer = ClipTokenizer(CONTEXT)

    def prepare(rows: dict[str, list[Any]]) -> dict[str, Any]:
        return {"image": [transform(image.convert("RGB")) for image in rows["image"]], "caption": rows["caption"]}

    def collate(items: list[dict[str, Any]]) -> tuple[Any, Any]:
        return torch.stack([item["image"] for item in items]), tokenizer([item["caption"] for item in items])

    loader: DataLoader[Any] = DataLoader(
        pictures.with_transform(prepare), batch_size=batch, shuffle=True, drop_last=True, collate_fn=collate
    )
    return lambda: sum(len(images) for images, _ in loader)


def our_epoch(
    table: Path,
    batch: int,
    *,
    draft: bool = True,
    cache: Path | None = None,
    augmentation: str = "light",
    normalise: bool = True,
) -> Epoch:
    """Our loader, with its captions tokenized beforehand; normalised as the model does it."""
    source, tokenizer, preprocess = open_source(table), ClipTokenizer(CONTEXT), ImagePreprocess(SIZE)
    plain = augmentation == "light"
    transform = train_transform(preprocess, augmentation, crop_scale_min=SCALE_MIN, horizontal_flip=not plain)
    least = transform.least_side or SIZE
    settings = CacheSettings(least, preprocess.interpolation, 10**8, transform.draft_side if draft else None)
    dataset = PairDataset(
        source,
        transform,
        draft_side=transform.draft_side if draft else None,
        cache=None if cache is None else open_image_cache(cache, source, settings),
    )
    sampler = GlobalBatchSampler(len(dataset), batch, seed=0)
    captions = tokenize_source(source, tokenizer, vocab_size=tokenizer.vocab_size, pad_id=tokenizer.pad_id)
    loader = train_loader(dataset, sampler, tokenizer, table=captions)
    epochs = iter(range(10**6))

    def epoch() -> int:
        sampler.set_epoch(next(epochs))
        batches: Iterator[Any] = iter(loader)
        return sum(len(preprocess.normalise(b.image) if normalise else b.image) for b in batches)

    return epoch


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
