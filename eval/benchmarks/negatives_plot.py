"""Draw what the first logit scale does to each method, from the tuning cells of the negatives benchmark.

Example: python eval/benchmarks/negatives_plot.py --output docs/negatives_scale.png
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from pathlib import Path
from statistics import fmean

from matplotlib.figure import Figure
from negatives_methods import parse_cell
from negatives_setups import SETUPS
from negatives_store import read_cells

RESULTS = Path(__file__).resolve().parents[1] / "results"
SHOWN = {
    "infonce": ("InfoNCE", "tab:red"),
    "text_similarity": ("text similarity", "tab:orange"),
    "calibrated": ("calibrated", "tab:cyan"),
    "soft_positives": ("soft positives", "tab:blue"),
    "oracle_mask": ("oracle mask", "0.6"),
}
METRICS = {"map@r": "label-level mAP@R, per cent", "mean_recall": "mean recall of the very picture, per cent"}


def curves(file: Path, dataset: str, setting: str) -> dict[tuple[str, str], dict[float, float]]:
    """{(method, metric): {scale: mean over the tuning seeds}}."""
    found: dict[tuple[str, str], dict[float, list[float]]] = defaultdict(lambda: defaultdict(list))
    for record in read_cells(file).values():
        cell = parse_cell(record["cell"])
        if (cell.dataset, cell.setting) == (dataset, setting) and cell.tuning_scale is not None:
            for metric, value in record["metrics"].items():
                found[cell.method, metric][cell.tuning_scale].append(value)
    return {key: {scale: fmean(values) for scale, values in sorted(by.items())} for key, by in found.items()}


def main() -> None:
    """Read, draw, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", default="ucm_captions", choices=list(SETUPS))
    parser.add_argument("--setting", default="pretrained")
    parser.add_argument("--cells", type=Path, default=RESULTS / "negatives_cells.jsonl")
    parser.add_argument("--output", type=Path, default=Path("docs/negatives_scale.png"))
    arguments = parser.parse_args()
    found = curves(arguments.cells, arguments.dataset, arguments.setting)
    figure = Figure(figsize=(9, 3.4), layout="constrained")
    for axes, (metric, label) in zip(figure.subplots(1, len(METRICS)), METRICS.items(), strict=True):
        for method, (name, colour) in SHOWN.items():
            if by_scale := found.get((method, metric)):
                axes.plot(list(by_scale), [100 * v for v in by_scale.values()], "o-", color=colour, label=name)
        axes.set(xscale="log", xlabel="first logit scale (1 / temperature)", ylabel=label)
        scales = sorted({scale for by_scale in found.values() for scale in by_scale})
        axes.set_xticks(scales, [f"{scale:.3g}" for scale in scales], minor=False)
        axes.minorticks_off()
        axes.grid(alpha=0.3)
    figure.axes[0].legend(fontsize=8)
    figure.savefig(arguments.output, dpi=110)


if __name__ == "__main__":
    main()
