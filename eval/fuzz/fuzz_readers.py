"""Damaged files for every reader: only errors of our own, in one line; no crash, hang, flood of memory or stray write.

Example: python eval/fuzz/fuzz_readers.py --inputs 100000

Each of the readers (pictures, tables, tars, folders, configs, models, tokenizers, features, checkpoints, ...) gets
small valid files changed at random, by the seed: flipped bits, lying numbers, cut and spliced parts, words that
parsers stumble over, other values in JSON. A process of its own reads them, with a limit of memory (--megabytes above
what it needs at rest) and of time (--seconds for one input); its audit events show what it writes, starts or connects
to. A crash or hang ends that process, counts as a failure, and the next input goes on.

--reproduce TARGET NUMBER shows the traceback of one input again.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from fuzz_targets import TARGETS
from fuzz_worker import STATE

RESULTS = Path(__file__).parents[1] / "results" / "fuzz.json"
WORKER = Path(__file__).with_name("fuzz_worker.py")
_MOST_CRASHES = 20
_START = 120.0  # seconds until a process has loaded its libraries, or ended after its last input


def fuzz(target: str, inputs: int, work: Path, *, seed: int, seconds: float, megabytes: int) -> dict[str, Any]:
    """Run one target to its end; returns its line of the table, and its failures."""
    work.mkdir(parents=True)
    state, failures = work / "state", work / "failures.jsonl"
    state.write_bytes(STATE.pack(-1, 0, 0, 0, 0.0, 0))
    failures.touch()
    first, broken = 0, 0
    while first < inputs and broken < _MOST_CRASHES:
        ended = _watch([target, str(work), str(first), str(inputs), str(seed), str(megabytes)], state, seconds)
        at = STATE.unpack(state.read_bytes())[0]
        if ended is None:
            break
        if at < first:
            raise RuntimeError(f"{target}: the process does not start: {(work / 'output.txt').read_text()[-2000:]}")
        broken += 1
        with failures.open("a") as file:
            file.write(json.dumps({"target": target, "input": at, "problem": ended}) + "\n")
        first = at + 1
    at, accepted, refused, _, slowest, which = STATE.unpack(state.read_bytes())
    found = [json.loads(line) for line in failures.read_text().splitlines()]
    return {
        "inputs": at,
        "accepted": accepted,
        "refused": refused,
        "failures": len(found),
        "slowest_seconds": round(slowest, 2),
        "slowest_input": which,
        "found": found,
    }


def _watch(words: Sequence[str], state: Path, seconds: float) -> str | None:
    """Start a process and see to it that it gets on; None if it came to the end, else what became of it."""
    with (state.parent / "output.txt").open("wb") as output:
        process = subprocess.Popen(_command(words), stdout=output, stderr=output, env=_environment(words[1]))
    before, since, first, stop = -2, time.monotonic(), int(words[2]), int(words[3])
    while process.poll() is None:
        time.sleep(0.05)
        number = STATE.unpack(state.read_bytes())[0]
        if number != before:
            before, since = number, time.monotonic()
        elif time.monotonic() - since > (limit := seconds if first <= number < stop else _START):
            process.kill()
            process.wait()
            return f"hangs: over {limit:.0f} seconds"
    if process.returncode == 0:
        return None
    return f"ends the process: exit code {process.returncode}"


def _command(words: Sequence[str]) -> list[str]:
    return [sys.executable, str(WORKER), *words]


def _environment(work: str) -> dict[str, str]:
    cache = f"{work}/cache"
    own = {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "MMCONTRAST_CACHE": cache, "HF_HOME": cache}
    own["TORCHINDUCTOR_CACHE_DIR"] = cache  # torch makes it when its compiler is imported, as transformers does
    return {**os.environ, **own}


def table(results: dict[str, dict[str, Any]]) -> str:
    """For people."""
    columns = ("inputs", "accepted", "refused", "failures", "slowest_seconds")
    lines = [f"{'target':12}" + "".join(f"{name:>17}" for name in columns)]
    for name, values in results.items():
        lines.append(f"{name:12}" + "".join(f"{values[column]:>17}" for column in columns))
    total = {column: sum(values[column] for values in results.values()) for column in columns[:4]}
    lines.append(f"{'all':12}" + "".join(f"{total[column]:>17}" for column in columns[:4]))
    return "\n".join(lines)


def kinds(results: dict[str, dict[str, Any]]) -> list[str]:
    """Failures of one kind together, each with the first input that shows it."""
    first: dict[str, str] = {}
    counts: Counter[str] = Counter()
    for values in results.values():
        for failure in values["found"]:
            kind = f"{failure['target']}: {failure['problem'].partition(': ')[0]}"
            first.setdefault(kind, f"{failure['target']} {failure['input']}: {failure['problem']}")
            counts[kind] += 1
    return [f"{count} x {first[kind]}" for kind, count in counts.most_common()]


def main(words: Sequence[str] | None = None) -> int:
    """Run all targets, print the table and write the results; 1 if anything failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--inputs", type=int, default=100_000, help="of all targets together")
    parser.add_argument("--target", action="append", choices=list(TARGETS), help="repeatable; all by default")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--seconds", type=float, default=30.0, help="for one input")
    parser.add_argument("--megabytes", type=int, default=2048, help="for one input")
    parser.add_argument("--reproduce", nargs=2, metavar=("TARGET", "NUMBER"))
    parser.add_argument("--output", type=Path, default=RESULTS)
    given = parser.parse_args(words)
    with tempfile.TemporaryDirectory() as folder:
        if given.reproduce:
            name, number = given.reproduce[0], int(given.reproduce[1])
            (Path(folder) / "state").write_bytes(STATE.pack(-1, 0, 0, 0, 0.0, 0))
            words = [name, folder, str(number), str(number + 1), str(given.seed), str(given.megabytes), "--show"]
            return subprocess.run(_command(words), env=_environment(folder)).returncode
        chosen = given.target or list(TARGETS)
        whole = sum(TARGETS[name].share for name in chosen)
        results: dict[str, dict[str, Any]] = {}
        for name in chosen:
            inputs = max(1, round(given.inputs * TARGETS[name].share / whole))
            limits = {"seconds": given.seconds, "megabytes": given.megabytes}
            results[name] = fuzz(name, inputs, Path(folder) / name, seed=given.seed, **limits)
            print(f"{name}: {inputs} inputs, {results[name]['failures']} failures", file=sys.stderr)
    print(table(results), *kinds(results), sep="\n")
    named = "".join(f" --target {name}" for name in given.target or ())
    values = {
        "command": f"python eval/fuzz/fuzz_readers.py --inputs {given.inputs} --seed {given.seed}{named}",
        "limits": {"seconds": given.seconds, "megabytes": given.megabytes},
        "targets": results,
        "machine": f"{platform.machine()}, Python {platform.python_version()}, torch {torch.__version__}",
        "date": datetime.now(UTC).date().isoformat(),
    }
    given.output.write_text(json.dumps(values, indent=2) + "\n")
    return int(any(values["failures"] for values in results.values()))


if __name__ == "__main__":
    sys.exit(main())
