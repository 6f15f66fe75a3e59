"""What the negatives benchmark keeps between its runs: finished cells, tuned scales, quiet timings."""

from __future__ import annotations

import json
import os
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from negatives_cells import Plan, fingerprint
from negatives_methods import BASELINE, DEFAULT_SCALE, TUNED_AS, Cell
from negatives_setups import SETUPS
from negatives_table import overhead


def read_cells(file: Path) -> dict[str, dict[str, Any]]:
    """Records by fingerprint, the last of equal ones; a line that a crash cut off is no record."""
    records = {}
    for line in file.read_text().splitlines() if file.exists() else []:
        try:
            record = json.loads(line)
        except json.JSONDecodeError:
            continue
        records[record["fingerprint"]] = record
    return records


def append_cell(file: Path, record: Mapping[str, Any]) -> None:
    """One more line, in one write: another benchmark may be writing, too."""
    file.parent.mkdir(parents=True, exist_ok=True)
    line = json.dumps(record) + "\n"
    if file.exists() and file.stat().st_size and not file.read_bytes().endswith(b"\n"):
        line = "\n" + line  # after a line that was cut off
    descriptor = os.open(file, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        os.write(descriptor, line.encode())
    finally:
        os.close(descriptor)


def read_json(file: Path) -> dict[str, Any]:
    """A JSON object, empty where there is none."""
    values: dict[str, Any] = json.loads(file.read_text()) if file.exists() else {}
    return values


def write_json(file: Path, values: Any) -> None:
    """JSON for people and programs."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(values, indent=2, allow_nan=False) + "\n")


@dataclass(frozen=True)
class Planner:
    """How each cell is to be trained, from what was measured before.

    Attributes:
        scales: {dataset, or "DATASET/pretrained": {method: initial logit scale}}.
        seconds: {"DATASET/SETTING/BATCH": {method: seconds a step}}.
    """

    scales: Mapping[str, Mapping[str, float]]
    seconds: Mapping[str, Mapping[str, float]]

    def plan(self, cell: Cell) -> Plan:
        """Scale and share of the steps.

        Raises:
            ValueError: equal time is asked for and nobody has timed the method.
        """
        method = TUNED_AS.get(cell.method, cell.method)
        scales = self.scales.get(tuning_name(cell), {}) if SETUPS[cell.dataset].settings[cell.setting].tuned else {}
        tuned = scales.get(method, DEFAULT_SCALE)
        scale = tuned if cell.tuning_scale is None else cell.tuning_scale
        if cell.budget == "samples":
            return Plan(scale)
        slower = overhead(self.seconds.get(f"{cell.dataset}/{cell.setting}/{cell.batch}", {}), cell.method)
        if slower is None:
            raise ValueError(f"{cell.key}: equal time needs the seconds a step of it and of {BASELINE}: run --time")
        return Plan(scale, 1 / (1 + max(0.0, slower)))

    def fingerprint(self, cell: Cell) -> str:
        """Key of the cell's record."""
        return fingerprint(cell, self.plan(cell), SETUPS[cell.dataset])


def tuning_name(cell: Cell) -> str:
    """What scales are kept under: they differ with the image tower."""
    pretrained = SETUPS[cell.dataset].settings[cell.setting].pretrained
    return f"{cell.dataset}/pretrained" if pretrained else cell.dataset


def best_scales(runs: Sequence[tuple[Cell, Mapping[str, float]]]) -> dict[str, dict[str, float]]:
    """{`tuning_name`: {method: scale}} with the highest mean of the deciding metric over the tuning seeds.

    Scales that were not tried with as many seeds as the best-tried one are not compared.
    """
    found: dict[tuple[str, str], dict[float, list[float]]] = defaultdict(lambda: defaultdict(list))
    for cell, metrics in runs:
        if cell.tuning_scale is not None:
            decisive = metrics[SETUPS[cell.dataset].metrics[0]]
            found[tuning_name(cell), cell.method][cell.tuning_scale].append(decisive)
    best: dict[str, dict[str, float]] = defaultdict(dict)
    for (name, method), tried in found.items():
        most = max(map(len, tried.values()))
        means = {scale: sum(values) / most for scale, values in tried.items() if len(values) == most}
        best[name][method] = max(means, key=lambda scale: means[scale])
    return dict(best)
