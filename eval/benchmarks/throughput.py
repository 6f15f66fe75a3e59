"""Pairs per second of our training loop and of a bare PyTorch loop: same model, batch, data and augmentation.

Example: python eval/benchmarks/throughput.py --config configs/flickr8k.yaml --output eval/results/throughput.json

The bare loop is what one would write without us: a Dataset that decodes with Pillow, torchvision v2 transforms, a
DataLoader, CLIP's loss on normalised features, AdamW, clipping. Both sides alternate in one process, several times;
the ratio is that of the medians.
"""

import argparse
import io
import json
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from datetime import date
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from rich.console import Console
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import v2

from mmcontrast import load_config, open_source
from mmcontrast.build.run import Run, prepare
from mmcontrast.config import Config
from mmcontrast.models import DualEncoder


class BarePairs(Dataset[tuple[Tensor, str]]):
    """Pictures and a random caption each, as a plain PyTorch data set."""

    def __init__(self, config: Config) -> None:
        train = config.data.sources[0]
        self.source = open_source(train.path, split=train.split, rows=train.rows)
        size = config.model.image.image_size
        self.transform = v2.Compose(
            [
                v2.RandomResizedCrop(size, scale=(config.data.crop_scale_min or 0.5, 1.0), antialias=True),
                v2.RandomHorizontalFlip(),
                v2.ColorJitter(0.2, 0.2, 0.2),
                v2.ToImage(),
                v2.ToDtype(torch.float32, scale=True),
                v2.Normalize((0.481, 0.458, 0.408), (0.269, 0.261, 0.276)),
            ]
        )

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, i: int) -> tuple[Tensor, str]:
        data = self.source.image(i)
        picture = Image.open(io.BytesIO(data) if isinstance(data, bytes) else data).convert("RGB")
        captions = self.source.captions(i)
        return self.transform(picture), captions[int(torch.randint(len(captions), ()))]


def bare_batches(config: Config, model: DualEncoder) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Batches without end."""

    def collate(items: list[tuple[Tensor, str]]) -> tuple[Tensor, Tensor, Tensor]:
        tokens = model.tokenizer([caption for _, caption in items])
        return torch.stack([image for image, _ in items]), tokens.input_ids, tokens.attention_mask

    loader = DataLoader(
        BarePairs(config),
        batch_size=config.training.global_batch_size,
        shuffle=True,
        drop_last=True,
        num_workers=config.data.workers,
        collate_fn=collate,
        persistent_workers=config.data.workers > 0,
    )
    while True:
        yield from loader


def bare_step(config: Config, model: DualEncoder, device: torch.device) -> Callable[[], None]:
    """One optimiser step of the bare loop."""
    batches = bare_batches(config, model)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)
    labels = torch.arange(config.training.global_batch_size, device=device)

    def step() -> None:
        image, ids, mask = (x.to(device) for x in next(batches))
        features = model(image, ids, mask)
        logits = features.logit_scale * features.image @ features.text.T
        loss = (F.cross_entropy(logits, labels) + F.cross_entropy(logits.T, labels)) / 2
        torch.autograd.backward(loss)
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()

    return step


def our_step(run: Run) -> Callable[[], None]:
    """One step of our trainer, logging as often as the config says."""
    trainer = run.trainer

    def batches() -> Iterator[Any]:
        while True:
            yield from trainer.batches.epoch(trainer.progress.epoch, 0)
            trainer.progress.epoch += 1

    stream = batches()
    return lambda: trainer.step(next(stream))


def seconds(step: Callable[[], None], steps: int, device: torch.device) -> float:
    """Wall time of some steps."""
    start = time.perf_counter()
    for _ in range(steps):
        step()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def main() -> None:
    """Measure, print, write JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", default="configs/flickr8k.yaml")
    parser.add_argument("--set", dest="overrides", action="append", default=[], metavar="A.B=VALUE")
    parser.add_argument("--steps", type=int, default=20, help="steps of one measurement")
    parser.add_argument("--repeats", type=int, default=7, help="measurements of each side, alternating")
    parser.add_argument("--output", default="eval/results/throughput.json")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        overrides = [*arguments.overrides, f"output={json.dumps(folder)}", "training.trackers=[]"]
        config = load_config(arguments.config, overrides)
        run = prepare(config, Console(quiet=True))
        result = measure(config, run, arguments.steps, arguments.repeats)
    result |= {"config": arguments.config, "overrides": arguments.overrides, "date": date.today().isoformat()}
    Path(arguments.output).write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result, indent=2))


def measure(config: Config, run: Run, steps: int, repeats: int) -> dict[str, Any]:
    """Alternate both loops; each has its own loader and warms up first."""
    device = run.trainer.accelerator.device
    model = run.trainer.accelerator.unwrap_model(run.trainer.model)
    sides = {"ours": our_step(run), "bare": bare_step(config, model, device)}
    for step in sides.values():
        seconds(step, max(3, steps // 4), device)
    pairs = steps * config.training.global_batch_size
    rates: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(repeats):
        for name, step in sides.items():
            rates[name].append(pairs / seconds(step, steps, device))
    medians = {name: statistics.median(values) for name, values in rates.items()}
    return {
        "ratio": round(medians["ours"] / medians["bare"], 3),
        "pairs_per_second": {name: round(value, 1) for name, value in medians.items()},
        "range": {name: [round(min(values), 1), round(max(values), 1)] for name, values in rates.items()},
        "batch": config.training.global_batch_size,
        "steps": steps,
        "repeats": repeats,
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, torch {torch.__version__}, {device.type}",
    }


if __name__ == "__main__":
    main()
