"""Who recovers what an oracle of false negatives gains? Methods compared on data whose truth is known.

Example: python eval/benchmarks/negatives.py --datasets ucm_captions --methods infonce calibrated oracle_mask --jobs 2

A cell is one training run: data set, setting, batch, method, seed (`--list` names them, `--only` runs one). Finished
cells are kept in negatives_cells.jsonl, so an interrupted benchmark goes on where it stopped, and a changed recipe
trains anew. Steps of a whole benchmark: `--tune` (initial logit scale of each method, on held-out training rows),
`--time` on a quiet machine (overhead), then the cells; each run ends by writing negatives.json and negatives.md.

Batches, samples and seeds are those of InfoNCE for every method, the last model is measured, nothing stops early.
negatives.json is a list of objects: `mean`, `sd` over `seeds` runs of `metric`; `low`, `high`: 95% interval of the
paired difference to infonce; `recovered`: mean difference as a share of the oracle mask's, null where the oracle itself
gains nothing that could be told from noise; `overhead`: seconds per step relative to infonce's, less 1.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from itertools import product
from pathlib import Path
from typing import Any

import torch
from negatives_cells import Plan, data_of, mean_seconds, run_cell, steps_of, trained
from negatives_data import missing
from negatives_encoder import missing_tower
from negatives_methods import BASELINE, DEFAULT_SCALE, METHODS, SCALES, TUNED_AS, TUNING_SEEDS, Cell, parse_cell
from negatives_setups import SETUPS
from negatives_store import Planner, append_cell, best_scales, read_cells, read_json, write_json
from negatives_table import aggregated, table, variations
from rich.console import Console

RESULTS = Path(__file__).resolve().parents[1] / "results"


def command_line() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--datasets", nargs="+", default=list(SETUPS), choices=list(SETUPS))
    parser.add_argument("--settings", nargs="+", metavar="SETTING", help="all of the data sets unless given")
    parser.add_argument("--batches", nargs="+", type=int, help="each data set's main one unless given")
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=list(METHODS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[1, 2, 3, 4, 5])
    parser.add_argument(
        "--budget", default="samples", choices=["samples", "time"], help="what is equal for all methods"
    )
    parser.add_argument("--equal-time", dest="budget", action="store_const", const="time", help="--budget time")
    parser.add_argument("--jobs", type=int, default=1, help="cells at a time, one process and one thread each")
    parser.add_argument("--only", nargs="+", type=known_cell, metavar="CELL", help="these cells, as --list names them")
    parser.add_argument("--list", action="store_true", help="name the cells and whether they are done, run nothing")
    parser.add_argument("--aggregate-only", action="store_true", help="write the results of the cells that are done")
    parser.add_argument("--tune", action="store_true", help="look for each method's initial logit scale")
    parser.add_argument("--tune-seeds", nargs="+", type=int, default=[TUNING_SEEDS])
    parser.add_argument("--time", action="store_true", help="measure seconds a step; wants a quiet machine")
    parser.add_argument("--output", type=Path, default=RESULTS, help="folder of negatives*.json, .jsonl and .md")
    cache = Path(tempfile.gettempdir()) / "mmcontrast-negatives"
    parser.add_argument("--cache", type=Path, default=cache, help="folder of prepared data")
    return parser.parse_args()


def known_cell(key: str) -> Cell:
    """A cell named on the command line."""
    try:
        cell = parse_cell(key)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    if cell.dataset not in SETUPS or cell.setting not in SETUPS[cell.dataset].settings:
        known = ", ".join(f"{name}/{setting}" for name, setup in SETUPS.items() for setting in setup.settings)
        raise argparse.ArgumentTypeError(f"{key!r}: there are {known}")
    return cell


def groups(chosen: argparse.Namespace) -> Iterator[tuple[str, str, int]]:
    """Data set, setting, batch of all that is chosen; what cannot be had is named once."""
    for dataset in chosen.datasets:
        if problem := missing(dataset):
            print(problem, file=sys.stderr)
            continue
        setup = SETUPS[dataset]
        settings = [name for name in setup.settings if chosen.settings is None or name in chosen.settings]
        frozen = [name for name in settings if setup.settings[name].pretrained]
        if frozen and (problem := missing_tower()):
            print(f"{dataset}: {problem}", file=sys.stderr)
            settings = [name for name in settings if name not in frozen]
        yield from product([dataset], settings, chosen.batches or setup.batches[:1])


def methods_of(dataset: str, chosen: Iterable[str]) -> list[str]:
    """The chosen methods that make sense for a data set."""
    return [method for method in chosen if method not in SETUPS[dataset].methods_left_out]


def cells_of(chosen: argparse.Namespace) -> list[Cell]:
    """Cells to run: seed by seed, so that an early stop leaves whole comparisons."""
    if chosen.only:
        absent = {problem for cell in chosen.only if (problem := missing(cell.dataset))}
        print(*sorted(absent), sep="\n", end="\n" * bool(absent), file=sys.stderr)
        return [cell for cell in chosen.only if not missing(cell.dataset)]
    if chosen.tune:
        return tuning_cells(chosen)
    found = list(groups(chosen))
    return [
        Cell(dataset, setting, batch, method, seed, chosen.budget)
        for seed in chosen.seeds
        for dataset, setting, batch in found
        for method in methods_of(dataset, chosen.methods)
    ]


def tuning_cells(chosen: argparse.Namespace) -> list[Cell]:
    """Each scale for each method, on the main batch and one setting of a data set and tower (the middle of several)."""
    alike: dict[tuple[str, str], list[str]] = {}
    for dataset, setting, _ in groups(chosen):
        if (how := SETUPS[dataset].settings[setting]).tuned:
            alike.setdefault((dataset, how.encoder), []).append(setting)
    found = []
    for (dataset, _), settings in alike.items():
        setting, batch = settings[len(settings) // 2], SETUPS[dataset].batches[0]
        methods = [method for method in methods_of(dataset, chosen.methods) if method not in TUNED_AS]
        for seed, method, scale in product(chosen.tune_seeds, methods, SCALES):
            found.append(Cell(dataset, setting, batch, method, seed, tuning_scale=scale))
    return found


def one_thread() -> None:
    """Of a worker: N processes share the cores without getting into each other's way."""
    torch.set_num_threads(1)


def run_cells(cells: Sequence[Cell], planner: Planner, chosen: argparse.Namespace, console: Console) -> int:
    """Run what is not done yet, keep each result at once, and return how many cells failed."""
    file = chosen.output / "negatives_cells.jsonl"
    done = read_cells(file)
    due = [cell for cell in cells if planner.fingerprint(cell) not in done]
    console.print(f"{len(cells) - len(due)} of {len(cells)} cells are done")
    for cell in {(cell.dataset, cell.setting, cell.tuning): cell for cell in due}.values():
        data_of(cell, SETUPS[cell.dataset], chosen.cache)  # before the workers would all make the same files
    os.environ["OMP_NUM_THREADS"] = "1"
    failed, start = 0, time.perf_counter()
    pool = ProcessPoolExecutor(chosen.jobs, multiprocessing.get_context("spawn"), one_thread)
    try:
        work = ((cell, planner.plan(cell), chosen.cache, SETUPS[cell.dataset]) for cell in due)
        running = {pool.submit(run_cell, *given): given[0] for given in work}
        for number, future in enumerate(as_completed(running), 1):
            left = (time.perf_counter() - start) / number * (len(due) - number) / 60
            line = f"[{number}/{len(due)}, {left:.0f} min left] {running[future].key} "
            if error := future.exception():
                failed += 1
                line += f"failed: {type(error).__name__}: {error}"
            else:
                record = future.result()
                append_cell(file, record)
                shown = "  ".join(f"{name} {100 * value:.1f}" for name, value in record["metrics"].items())
                line += f"{record['seconds']:.0f} s  {shown}"
            console.print(line, highlight=False, markup=False, soft_wrap=True)
    finally:
        pool.shutdown(cancel_futures=True)  # an interrupted benchmark must not go through all that is left
    return failed


def time_methods(chosen: argparse.Namespace, console: Console, steps: int = 100, repeats: int = 3) -> None:
    """Seconds a step of each method, in turns, so that a slower hour of the machine hits all; medians are kept.

    Of a timed run the second half counts, when rules that start late are at work; clusters that are made anew in it
    count with their share.
    """
    file = chosen.output / "negatives_seconds.json"
    torch.set_num_threads(1)
    for dataset, setting, batch in groups(chosen):
        setup = SETUPS[dataset]
        methods = list(dict.fromkeys([BASELINE, *methods_of(dataset, chosen.methods)]))
        seen: dict[str, list[float]] = {method: [] for method in methods}
        for _, method in product(range(repeats), methods):
            cell = Cell(dataset, setting, batch, method, seed=0)
            plan = Plan(DEFAULT_SCALE, steps / steps_of(cell, setup, Plan(DEFAULT_SCALE)))
            with tempfile.TemporaryDirectory() as folder:
                train = data_of(cell, setup, chosen.cache)[0]
                run = trained(cell, plan, setup, train, Path(folder), chosen.cache)
                seen[method].append(mean_seconds(run.folder.history()))
        medians = {method: round(statistics.median(values), 5) for method, values in seen.items()}
        known = read_json(file)
        name = f"{dataset}/{setting}/{batch}"
        write_json(file, known | {name: known.get(name, {}) | medians})
        console.print(name, medians, highlight=False)


def finished(cells: Iterable[Cell], planner: Planner, done: dict[str, dict[str, Any]]) -> list[tuple[Cell, Any]]:
    """The cells that are done, with their metrics."""
    found = ((cell, done.get(planner.fingerprint(cell))) for cell in cells)
    return [(cell, record["metrics"]) for cell, record in found if record is not None]


def everything(chosen: argparse.Namespace, planner: Planner) -> list[Cell]:
    """All cells that a benchmark may have, for the results: those of earlier runs stay in."""
    seeds = sorted({*range(1, 21), *chosen.seeds})
    found = []
    for dataset, setup in SETUPS.items():
        # Without scales for it a tuned setting would be the untuned one under another name.
        untuned = not planner.scales.get(f"{dataset}/pretrained")
        settings = [name for name, how in setup.settings.items() if not (how.pretrained and how.tuned and untuned)]
        space = product(settings, setup.batches, methods_of(dataset, METHODS), seeds, ("samples", "time"))
        for setting, batch, method, seed, budget in space:
            timed = planner.seconds.get(f"{dataset}/{setting}/{batch}", {})
            if budget == "samples" or {method, BASELINE} <= timed.keys():
                found.append(Cell(dataset, setting, batch, method, seed, budget))  # type: ignore[arg-type]
    return found


def write_results(chosen: argparse.Namespace, planner: Planner) -> str:
    """negatives.json and negatives.md from all finished cells; returns the table."""
    done = read_cells(chosen.output / "negatives_cells.jsonl")
    runs = finished(everything(chosen, planner), planner, done)
    entries = aggregated(runs, planner.seconds)
    write_json(chosen.output / "negatives.json", entries)
    text = f"{table(entries)}\n{variations(runs, ('map@r', 'acc1', 'mean_recall'))}"
    (chosen.output / "negatives.md").write_text(text)
    return text


def main() -> int:
    """Run, keep, aggregate, print."""
    chosen, console = command_line(), Console()
    if chosen.time:
        time_methods(chosen, console)
        return 0
    folder = chosen.output
    planner = Planner(read_json(folder / "negatives_scales.json"), read_json(folder / "negatives_seconds.json"))
    cells = cells_of(chosen)
    if chosen.list:
        done = read_cells(folder / "negatives_cells.jsonl")
        for cell in cells:
            print("done" if planner.fingerprint(cell) in done else "due ", cell.key)
        return 0
    failed = 0 if chosen.aggregate_only else run_cells(cells, planner, chosen, console)
    if chosen.tune:
        runs = finished(cells, planner, read_cells(folder / "negatives_cells.jsonl"))
        known = read_json(folder / "negatives_scales.json")
        scales = {name: known.get(name, {}) | found for name, found in best_scales(runs).items()}
        write_json(folder / "negatives_scales.json", known | scales)
    print(write_results(chosen, planner))
    return 1 if failed else 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except ValueError as problem:  # a plan that lacks a measurement
        sys.exit(str(problem))
