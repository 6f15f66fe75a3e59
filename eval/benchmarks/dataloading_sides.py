"""The sides of `dataloading.py`: the same JPEGs and captions through our loader, open_clip's, and bare `datasets`."""

from collections.abc import Callable, Iterator
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
