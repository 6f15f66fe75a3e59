"""Keep the results of finished runs in eval/results/NAME.json, and print the README's table of all that are kept.

Example: python eval/record.py runs/quickstart runs/flickr8k runs/ucm_captions
"""

import argparse
import json
import os
import platform
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

RESULTS = Path(__file__).parent / "results"
COLUMNS = {
    "text->image R@1": ("retrieval", "text_to_image_recall@1"),
    "R@5": ("retrieval", "text_to_image_recall@5"),
    "R@10": ("retrieval", "text_to_image_recall@10"),
    "image->text R@1": ("retrieval", "image_to_text_recall@1"),
    " R@5": ("retrieval", "image_to_text_recall@5"),
    " R@10": ("retrieval", "image_to_text_recall@10"),
    "mAP@R": ("retrieval", "map@r"),
    "zero-shot acc1": ("zero_shot", "acc1"),
}


def record(run: Path) -> None:
    """One finished run as JSON: results, command, wall time from config.yaml to results.json, machine, date."""
    started, ended = (os.stat(run / name).st_mtime for name in ("config.yaml", "results.json"))
    values = {
        "run": run.name,
        "command": f"mmcontrast train configs/{run.name}.yaml",
        "results": json.loads((run / "results.json").read_text()),
        "minutes": round((ended - started) / 60, 1),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, torch {torch.__version__}",
        "date": datetime.fromtimestamp(ended, UTC).date().isoformat(),
    }
    (RESULTS / f"{run.name}.json").write_text(json.dumps(values, indent=2) + "\n")


def row(values: dict[str, Any]) -> str:
    """A line of the table, in per cent."""
    found = [values["results"].get(task, {}).get(metric) for task, metric in COLUMNS.values()]
    cells = ["-" if value is None else f"{100 * value:.1f}" for value in found]
    return f"| `{values['command']}` | {' | '.join(cells)} | {values['minutes']:.0f} |"


def main() -> None:
    """Record, then print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="*", type=Path, metavar="RUN", help="folder of a finished run")
    for run in parser.parse_args().runs:
        record(run)
    print(f"| command | {' | '.join(COLUMNS)} | minutes |\n|---|{'---|' * (len(COLUMNS) + 1)}")
    for path in sorted(RESULTS.glob("*.json")):
        values = json.loads(path.read_text())
        if "run" in values:  # the folder also keeps the benchmarks' results
            print(row(values))


if __name__ == "__main__":
    main()
