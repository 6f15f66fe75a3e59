"""From the cells of the negatives benchmark to negatives.json and one table."""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from negatives_methods import BASELINE, METHODS, ORACLE, ORACLE_POSITIVES, VARIES, Cell
from negatives_statistics import deviation, paired_interval, recovered_share

Values = Mapping[int, float]
"""One metric of one method: {seed: value}."""


@dataclass(frozen=True)
class Group:
    """What is compared with each other: all methods here saw the same data in the same batches."""

    dataset: str
    setting: str
    batch: int

    @classmethod
    def of(cls, cell: Cell) -> Group:
        """The group of a cell; another budget is another setting."""
        return cls(cell.dataset, cell.setting + ("" if cell.budget == "samples" else ", equal time"), cell.batch)


def differences(values: Values, baseline: Values) -> list[float]:
    """Method - InfoNCE for each seed that both have."""
    return [values[seed] - baseline[seed] for seed in sorted(values.keys() & baseline.keys())]


def share_recovered(values: Values, oracle: Values, baseline: Values) -> float | None:
    """Share of an oracle's gain over InfoNCE; both gains over the seeds that all three have."""
    common = values.keys() & oracle.keys() & baseline.keys()
    if not common:
        return None
    kept = {seed: baseline[seed] for seed in common}
    gain, oracle_gains = statistics.mean(differences(values, kept)), differences(oracle, kept)
    return recovered_share(gain, statistics.mean(oracle_gains), paired_interval(oracle_gains))


def described(values: Values, baseline: Values, oracle: Values | None) -> dict[str, Any]:
    """seeds, mean, sd, low, high, recovered of one metric of one method."""
    interval = paired_interval(differences(values, baseline))
    return {
        "seeds": len(values),
        "mean": statistics.mean(values.values()),
        "sd": deviation(list(values.values())),
        "low": interval and interval[0],
        "high": interval and interval[1],
        "recovered": None if oracle is None else share_recovered(values, oracle, baseline),
    }


def collected(
    cells: Iterable[tuple[Cell, Mapping[str, float]]],
) -> dict[tuple[Group, str], dict[str, dict[int, float]]]:
    """{(group, metric): {method: {seed: value}}} of finished cells."""
    found: dict[tuple[Group, str], dict[str, dict[int, float]]] = defaultdict(lambda: defaultdict(dict))
    for cell, metrics in cells:
        for metric, value in metrics.items():
            found[Group.of(cell), metric][cell.method][cell.seed] = value
    return found


def aggregated(
    cells: Iterable[tuple[Cell, Mapping[str, float]]], seconds: Mapping[str, Mapping[str, float]]
) -> list[dict[str, Any]]:
    """Objects of negatives.json.

    Args:
        cells: finished ones with their metrics.
        seconds: {"DATASET/SETTING/BATCH": {method: seconds a step}} from quiet timings.

    Returns:
        Objects with the keys dataset, setting, batch, method, metric; seeds, how many; mean and sd over them; low
        and high, the 95% interval of the paired difference to InfoNCE (0 and 0 for InfoNCE itself, null with fewer
        than two common seeds); recovered, mean difference as a share of that of the oracle mask (null where the
        oracle's own interval does not lie above 0: no headroom); overhead, seconds a step as a share of InfoNCE's,
        less 1 (null where it was not timed).
    """
    entries = []
    for (group, metric), by_method in collected(cells).items():
        baseline = by_method.get(BASELINE, {})
        setting = group.setting.removesuffix(", equal time")
        timed = seconds.get(f"{group.dataset}/{setting}/{group.batch}", {})
        for method in (name for name in METHODS if name in by_method):
            entries.append(
                {
                    "dataset": group.dataset,
                    "setting": group.setting,
                    "batch": group.batch,
                    "method": method,
                    "metric": metric,
                    **described(by_method[method], baseline, by_method.get(ORACLE)),
                    "overhead": overhead(timed, method),
                }
            )
    return entries


def overhead(timed: Mapping[str, float], method: str) -> float | None:
    """Seconds a step relative to InfoNCE's, less 1; None where one of them was not timed."""
    return timed[method] / timed[BASELINE] - 1 if method in timed and BASELINE in timed else None


def table(entries: Sequence[Mapping[str, Any]]) -> str:
    """All entries as Markdown, in per cent, a block for each data set, setting, batch and metric."""
    blocks: dict[tuple[str, str, int, str], list[Mapping[str, Any]]] = defaultdict(list)
    for entry in entries:
        blocks[entry["dataset"], entry["setting"], entry["batch"], entry["metric"]].append(entry)
    lines = []
    for (dataset, setting, batch, metric), rows in blocks.items():
        base = next((row["seeds"] for row in rows if row["method"] == BASELINE), 0)
        # A mean over other seeds than InfoNCE's says nothing beside it: seeds differ more than methods.
        means = {row["method"]: row["mean"] for row in rows if row["seeds"] == base}
        lines += [
            f"### {dataset}, {setting}, batch {batch}: {metric}",
            "",
            "| method | seeds | mean | sd | gain over infonce | 95% interval | of oracle mask | of oracle positives "
            "| overhead |",
            "|---|---|---|---|---|---|---|---|---|",
            *(_line(row, means, _has_headroom(rows)) for row in rows),
            "",
        ]
    return "\n".join(lines)


def variations(cells: Iterable[tuple[Cell, Mapping[str, float]]], metrics: Sequence[str]) -> str:
    """Methods beside those that they vary, as Markdown in per cent: paired differences over the seeds of both."""
    lines = [
        "### Beside what they vary",
        "",
        "| data | metric | method | against | seeds | difference | 95% interval | sd of the other |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for (group, metric), by_method in collected(cells).items():
        for method, other in VARIES.items():
            gains = differences(by_method.get(method, {}), by_method.get(other, {}))
            if metric not in metrics or len(gains) < 2:
                continue
            low, high = paired_interval(gains) or (0.0, 0.0)
            spread = deviation(list(by_method[other].values()))
            place = f"{group.dataset}, {group.setting}, batch {group.batch}"
            found = f"{100 * statistics.mean(gains):+.1f} | {100 * low:+.1f} to {100 * high:+.1f} | {_percent(spread)}"
            lines.append(f"| {place} | {metric} | {method} | {other} | {len(gains)} | {found} |")
    return "\n".join(lines) + "\n"


def _has_headroom(rows: Sequence[Mapping[str, Any]]) -> bool:
    """Whether the oracle positives' gain is above nothing."""
    return any(row["method"] == ORACLE_POSITIVES and (row["low"] or 0) > 0 for row in rows)


def _line(row: Mapping[str, Any], means: Mapping[str, float], headroom: bool) -> str:
    gain = row["mean"] - means[BASELINE] if row["method"] in means else None
    of_positives = None
    if headroom and gain is not None and ORACLE_POSITIVES in means:
        of_positives = gain / (means[ORACLE_POSITIVES] - means[BASELINE])
    interval = "-" if row["low"] is None else f"{100 * row['low']:+.1f} to {100 * row['high']:+.1f}"
    cells = [
        row["method"],
        str(row["seeds"]),
        _percent(row["mean"]),
        _percent(row["sd"]),
        "-" if gain is None else f"{100 * gain:+.1f}",
        interval,
        _percent(row["recovered"], 0),
        _percent(of_positives, 0),
        _percent(row["overhead"], 0),
    ]
    return f"| {' | '.join(cells)} |"


def _percent(value: float | None, digits: int = 1) -> str:
    return "-" if value is None else f"{100 * value:.{digits}f}"
