"""Runs in CLIP_benchmark's environment: its command line, several times in one process, on jobs from a JSON file.

    python peer.py JOBS.json

A job is {"argv": [...]} for `clip_benchmark`, or {"winoground": FILE, "model", "batch_size", "num_workers", "output"}:
its command line reads Winoground from the Hub only, so there the same function gets the same kind of data set.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch
from clip_benchmark import cli
from clip_benchmark.datasets.builder import image_captions_collate_fn
from clip_benchmark.metrics import image_caption_selection
from clip_benchmark.models import load_clip
from PIL import Image


class Winoground(torch.utils.data.Dataset[Any]):
    """As its own class of this name, from files."""

    def __init__(self, file: Path, transform: Any) -> None:
        self.rows, self.folder, self.transform = json.loads(file.read_text()), file.parent / "images", transform

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, place: int) -> tuple[torch.Tensor, list[str]]:
        row = self.rows[place]
        pictures = [self.transform(Image.open(self.folder / row[f"image_{side}"])) for side in (0, 1)]
        return torch.stack(pictures), [row["caption_0"], row["caption_1"]]


def winoground(job: dict[str, Any]) -> None:
    """Evaluate one file and write JSON as the command line does."""
    model, transform, tokenizer = load_clip("open_clip", job["model"], "", None, "cpu")
    loader = torch.utils.data.DataLoader(
        Winoground(Path(job["winoground"]), transform),
        batch_size=job["batch_size"],
        num_workers=job["num_workers"],
        collate_fn=image_captions_collate_fn,
    )
    metrics = image_caption_selection.evaluate(model.eval(), loader, tokenizer, device="cpu", amp=False)
    Path(job["output"]).write_text(json.dumps({"metrics": metrics}))


def main() -> None:
    """All jobs in their order; the versions of what ran them go to stdout."""
    for job in json.loads(Path(sys.argv[1]).read_text()):
        if "argv" in job:
            sys.argv = ["clip_benchmark", *job["argv"]]
            cli.main()
        else:
            winoground(job)
    from importlib.metadata import version

    names = ("torch", "open_clip_torch", "numpy", "clip-benchmark", "webdataset", "scikit-learn", "pillow")
    print("versions", json.dumps({name: version(name) for name in names}))


if __name__ == "__main__":
    main()
