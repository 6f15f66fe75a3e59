"""One side of `step_time.py` in a process of its own: our trainer, or `open_clip_train.main`, on the same pairs.

Run by that script with a job file; both sides train by their own commands' code, looked at from outside only.
"""

import csv
import json
import os
import resource
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from mmcontrast import load_config
from mmcontrast.build.run import Run, prepare
from mmcontrast.config import Config
from mmcontrast.types import PairBatch

NAME = "step-time"
"""Under which open_clip gets to know the model."""
LEARNING_RATE, WEIGHT_DECAY, CLIP_NORM = 5e-4, 0.2, 1.0
MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)


class Clock:
    """When each step passed a point of the loop, and the memory at the last of them."""

    def __init__(self, steps: int) -> None:
        self.steps = steps
        self.marks: list[tuple[float, float]] = []
        self.memory: dict[str, float] = {}

    def mark(self) -> None:
        """A step is there."""
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        self.marks.append((time.perf_counter(), time.process_time()))
        if len(self.marks) == self.steps:
            self.memory = memory()

    def result(self) -> dict[str, Any]:
        """Seconds between the marks by the clock and of this process's processor time, and the memory in MB."""
        pairs = list(zip(self.marks, self.marks[1:], strict=False))
        wall, cpu = ([after[i] - before[i] for before, after in pairs] for i in (0, 1))
        return {"seconds": wall, "cpu_seconds": cpu, "memory": self.memory}


def memory() -> dict[str, float]:
    """MB: this process's peak since it began, and what its workers hold of their own."""
    import psutil

    status = Path("/proc/self/status")
    if status.exists():  # ru_maxrss would also know the process that this one was forked from
        peak = next(int(line.split()[1]) for line in status.read_text().splitlines() if line.startswith("VmHWM"))
    else:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    workers = [child.memory_full_info() for child in psutil.Process().children(recursive=True)]
    own = sum(getattr(info, "pss", info.uss) for info in workers)
    return {"process": peak / 1024, "workers": own / 2**20}


def config_of(job: dict[str, Any]) -> Config:
    """The run of our side: open_clip's model config as towers of open_clip, each with its own projection."""
    vision, text = dict(job["model"]["vision_cfg"]), dict(job["model"]["text_cfg"])
    size, context = vision.pop("image_size"), text.pop("context_length")
    del text["vocab_size"]  # the tokenizer's
    towers: dict[str, Any] = {"library": "open_clip", "projection": "none"}
    return load_config(
        {
            "output": str(Path(job["folder"]) / "run"),
            "model": {
                "embed_dim": job["model"]["embed_dim"],
                "image": {**towers, "image_size": size, "kwargs": vision},
                "text": {**towers, "context_length": context, "kwargs": text},
                "tokenizer": {"kind": "clip"},
            },
            "data": {
                "train": {"path": job["pairs"]},
                "image_column": "filepath",
                "caption_column": "title",
                "augmentation": "light",
                "crop_scale_min": 0.9,  # open_clip's default
                "horizontal_flip": False,
                "workers": job["workers"],
            },
            "training": {
                "max_steps": job["steps"],
                "warmup_steps": job["warmup_steps"],
                "global_batch_size": job["batch"],
                "learning_rate": LEARNING_RATE,
                "weight_decay": WEIGHT_DECAY,
                "gradient_clip_norm": CLIP_NORM,
                "precision": "bf16" if torch.cuda.is_available() else "fp32",
                "log_every_steps": 1,
                "trackers": [],
            },
            "negatives": {"rule": "none"},
        }
    )


def ours(job: dict[str, Any]) -> dict[str, Any]:
    """Train by `Trainer.fit`; with `job.record` also keep first weights and batches for the other side."""
    run = prepare(config_of(job), Console(quiet=True))
    trainer, clock = run.trainer, Clock(job["steps"])
    step = trainer.step

    def timed(batch: PairBatch) -> None:
        step(batch)
        clock.mark()

    trainer.step = timed  # type: ignore[method-assign]
    if job["record"]:
        _record(run, Path(job["record"]))
    trainer.fit()
    lines = [json.loads(line) for line in run.folder.metrics.read_text().splitlines()]
    return clock.result() | {"losses": [line["loss"] for line in lines], "steps": trainer.progress.global_step}


def _record(run: Run, file: Path) -> None:
    """Write first weights under open_clip's names, and each batch's pixels and rows when it is drawn."""
    weights = {}
    for name, value in run.trainer.accelerator.unwrap_model(run.trainer.model).state_dict().items():
        theirs = name.replace("image_encoder.visual.", "visual.").replace("text_encoder.text.", "text.")
        weights[theirs] = value.cpu().squeeze().clone() if name == "logit_scale" else value.cpu().clone()
    torch.save(weights, file.with_suffix(".pt"))
    drawn = run.trainer.batches.epoch
    seen: list[tuple[torch.Tensor, torch.Tensor]] = []

    def recording(epoch: int, start_batch: int) -> Iterator[PairBatch]:
        for batch in drawn(epoch, start_batch):
            seen.append((batch.image.clone(), batch.index.clone()))
            torch.save(seen, file) if len(seen) == run.trainer.schedule.total_steps else None
            yield batch

    run.trainer.batches.epoch = recording  # type: ignore[method-assign]


class Replayed:
    """Recorded batches as open_clip's loader would give them: normalised pixels, captions by its own tokenizer."""

    def __init__(self, job: dict[str, Any], tokenizer: Any) -> None:
        self.batches = torch.load(job["replay"])
        with open(job["pairs"], newline="", encoding="utf-8") as file:
            self.captions = [row["title"] for row in csv.DictReader(file)]
        self.tokenizer = tokenizer
        self.num_batches = len(self.batches)
        self.num_samples = self.num_batches * job["batch"]

    def __iter__(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        mean, std = (torch.tensor(values).view(3, 1, 1) for values in (MEAN, STD))
        for pixels, rows in self.batches:
            yield (pixels / 255 - mean) / std, self.tokenizer([self.captions[i] for i in rows.tolist()])


def theirs(job: dict[str, Any]) -> dict[str, Any]:
    """Train by `open_clip_train.main`; only its loss is watched, and with `job.replay` its data replaced."""
    import open_clip
    import open_clip_train.main as training
    from open_clip_train.data import DataInfo

    folder = Path(job["folder"])
    (folder / "configs").mkdir()
    (folder / "configs" / f"{NAME}.json").write_text(json.dumps(job["model"]))
    open_clip.add_model_config(folder / "configs")
    clock, losses = Clock(job["steps"]), []
    create_loss = training.create_loss

    def watched_loss(arguments: Any) -> Any:
        loss = create_loss(arguments)
        loss.register_forward_pre_hook(lambda *_: clock.mark())
        loss.register_forward_hook(lambda _, __, output: losses.append(output["contrastive_loss"].detach()))
        return loss

    training.create_loss = watched_loss
    if job["replay"]:
        training.get_data = lambda *_, tokenizer, **__: {"train": DataInfo(Replayed(job, tokenizer))}
    cuda = torch.cuda.is_available()
    words = ["--model", NAME, "--train-data", job["pairs"], "--dataset-type", "csv", "--csv-separator", ","]
    words += ["--batch-size", job["batch"], "--epochs", 1, "--warmup", job["warmup_steps"], "--workers", job["workers"]]
    words += ["--lr", LEARNING_RATE, "--wd", WEIGHT_DECAY, "--grad-clip-norm", CLIP_NORM, "--log-every-n-steps", 1]
    words += ["--beta1", 0.9, "--beta2", 0.98, "--eps", 1e-6]  # its own for the names of vision transformers
    words += ["--precision", "amp_bf16" if cuda else "fp32", "--device", "cuda" if cuda else "cpu"]
    words += ["--logs", "none", "--name", NAME]
    if job["replay"]:
        words += ["--pretrained", Path(job["replay"]).with_suffix(".pt"), "--force-custom-text"]
    os.chdir(folder)  # it makes folders where it stands
    training.main([str(word) for word in words])
    return clock.result() | {"losses": [float(loss) for loss in losses], "steps": len(losses)}


def main() -> None:
    """Do the job of the file and put its result beside it."""
    file = Path(sys.argv[1])
    job = json.loads(file.read_text())
    result = ours(job) if job["side"] == "ours" else theirs(job)
    file.with_suffix(".result").write_text(json.dumps(result))


if __name__ == "__main__":
    main()
