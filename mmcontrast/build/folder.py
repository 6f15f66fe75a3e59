"""The run folder: which names it has, and when it may be written."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

from mmcontrast import distributed
from mmcontrast.build.run_lock import RunLock
from mmcontrast.config import Config, dump_config, load_config
from mmcontrast.errors import ConfigError, MMContrastError, TrainingError
from mmcontrast.training.lines import LineFile

# Fields that may change between a run and its continuation: they say how to watch and compute, not what to learn.
_FREE = (
    "output",
    "evaluation",
    "data.workers",
    "data.pretokenize",
    "data.read_retries",
    "data.read_timeout_seconds",
    "training.checkpoint_every_minutes",
    "training.checkpoint_every_steps",
    "training.early_stopping_patience",
    "training.keep_checkpoints",
    "training.log_every_steps",
    "training.loss_spike_factor",
    "training.max_bad_steps",
    "training.process_timeout_seconds",
    "training.sharding",
    "training.trackers",
)


class RunFolder:
    """Names inside RUN/, the folder that scripts outside rely on."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.config = self.path / "config.yaml"
        self.metrics = self.path / "metrics.jsonl"
        self.results = self.path / "results.json"
        self.intervals = self.path / "intervals.json"
        self.facts = self.path / "facts.json"
        self.bad_rows = self.path / "bad_rows.jsonl"
        self.bad_steps = self.path / "bad_steps.jsonl"
        self.report = self.path / "report.html"
        self.model = self.path / "model"
        self.tokenizer = self.path / "tokenizer"
        self.checkpoints = self.path / "checkpoints"

    def prepare_together(self, config: Config, lock: RunLock | None, *, resume: bool, overwrite: bool) -> None:
        """`prepare`, by the first rank; all fail where it does, instead of waiting for it for ever."""
        problem: MMContrastError | None = None
        if distributed.rank() == 0:
            try:
                self.prepare(config, lock, resume=resume, overwrite=overwrite)
            except MMContrastError as error:
                problem = error
        found = distributed.gather_lists([] if problem is None else [str(problem)])
        if problem is not None:
            raise problem
        if found:
            raise TrainingError(found[0])

    def prepare(self, config: Config, lock: RunLock | None = None, *, resume: bool, overwrite: bool) -> None:
        """Make the folder and save the resolved config in it.

        Raises:
            TrainingError: there is a run already and neither `resume` nor `overwrite` is set, nothing to resume,
                another process trains in it, or the folder cannot be written.
            ConfigError: the config differs from that of the run to resume.
        """
        if resume and not self.config.exists():
            raise TrainingError(f"--resume: {self.path} holds no run (no config.yaml); leave --resume out to start one")
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            if lock is not None:
                lock.acquire()
        except OSError as error:
            raise TrainingError(f"output: cannot write to {self.path}: {error.strerror}") from error
        if resume:
            self._check_same(config)
            self._mend_model()
        elif self._has_begun() and not overwrite:
            raise TrainingError(f"{self.path} holds a run already: pass --resume to go on with it, or another --output")
        elif self.config.exists():
            for old in (self.model, self.tokenizer, self.checkpoints, self.path / "tensorboard"):
                shutil.rmtree(old, ignore_errors=True)
            written = (self.metrics, self.results, self.intervals, self.facts)
            for file in (*written, self.bad_rows, self.bad_steps, self.report):
                file.unlink(missing_ok=True)
        try:
            self.checkpoints.mkdir(parents=True, exist_ok=True)
            write_text(self.config, dump_config(config))
            self.bad_rows.touch()
        except OSError as error:
            raise TrainingError(f"output: cannot write to {self.path}: {error.strerror}") from error

    def _has_begun(self) -> bool:
        """Whether anything would be lost: a run that failed before its first line or checkpoint may be replaced."""
        logged = self.metrics.exists() and self.metrics.stat().st_size > 0
        return self.config.exists() and (logged or any(self.checkpoints.glob("*")))

    def _check_same(self, config: Config) -> None:
        before, now = _flat(load_config(self.config).model_dump()), _flat(config.model_dump())
        changed = [key for key in now if before.get(key) != now[key] and not key.startswith(_FREE)]
        if changed:
            key = changed[0]
            raise ConfigError(
                f"--resume: {key} is {now[key]!r} but the run in {self.path} was started with {before.get(key)!r}: "
                "undo the change, or start a new run with another --output"
            )

    def _mend_model(self) -> None:
        """Finish what a run that was killed while it replaced the best model left undone."""
        for old in self.path.glob(f".{self.model.name}.*.old"):
            if not self.model.exists():
                old.rename(self.model)
        for leftover in self.path.glob(f".{self.model.name}.*"):
            shutil.rmtree(leftover, ignore_errors=True)

    def write_results(self, results: dict[str, Any]) -> None:
        """results.json, whole or not at all."""
        self.write_json(self.results, results)

    def write_json(self, path: Path, values: dict[str, Any]) -> None:
        """One of the folder's JSON files, whole or not at all."""
        write_text(path, json.dumps(values, indent=2, allow_nan=False) + "\n")

    def history(self) -> list[dict[str, Any]]:
        """The lines of metrics.jsonl."""
        return LineFile(self.metrics).read()


def write_text(path: Path, text: str) -> None:
    """Write a small file so that a reader sees the old or the new one, never half of it."""
    aside = path.with_name(f".{path.name}.part")
    aside.write_text(text, encoding="utf-8")
    os.replace(aside, path)


def _flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, dict) and key != "kwargs":
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat
