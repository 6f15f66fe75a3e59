"""One process that gives damaged files to one reader, and notes what it must not do."""

import argparse
import json
import mmap
import os
import random
import resource
import shutil
import struct
import sys
import time
import traceback
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from fuzz_mutations import Files, mutated
from fuzz_targets import TARGETS, Target

from mmcontrast.errors import UNPRINTABLE, ConfigError, MMContrastError

STATE = struct.Struct("<qqqqdq")
"""Number of the input, accepted, refused, failed; seconds of the slowest, and its number."""
_WRITES = {"os.remove", "os.rename", "os.mkdir", "os.rmdir", "os.link", "os.symlink", "os.truncate", "os.chmod"}
_NEVER = {"subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "os.fork", "socket.connect"}
_NEVER |= {"pickle.find_class"}


class Guard:
    """Sees every call that writes, starts a program, connects or unpickles, by Python's audit events."""

    def __init__(self, allowed: Path) -> None:
        self.allowed, self.on = str(allowed), False
        self.found: list[str] = []
        sys.addaudithook(self._see)

    def _see(self, event: str, arguments: tuple[Any, ...]) -> None:
        if not self.on:
            return
        if event in _NEVER:
            self.found.append(f"{event} {arguments[:1]!r:.100}")
        elif event in _WRITES or (event == "open" and self._for_writing(arguments)):
            paths = [os.fsdecode(a) for a in arguments[:2] if isinstance(a, str | bytes | os.PathLike)]
            for path in paths[: 1 if event == "open" else 2]:
                if not os.path.realpath(path).startswith(self.allowed) and path != os.devnull:
                    self.found.append(f"{event} {path!r:.100}")

    @staticmethod
    def _for_writing(arguments: tuple[Any, ...]) -> bool:
        flags = arguments[2] if len(arguments) > 2 and isinstance(arguments[2], int) else 0
        return not isinstance(arguments[0], int) and bool(flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT))


def make(folder: Path, files: Files) -> None:
    """The files, and nothing else, in a folder."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    for name, data in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)


@dataclass
class Counts:
    """What became of the inputs so far."""

    accepted: int = 0
    refused: int = 0
    failed: int = 0
    slowest: float = 0.0
    slowest_input: int = 0

    def packed(self, number: int) -> bytes:
        """For the shared file."""
        return STATE.pack(number, self.accepted, self.refused, self.failed, self.slowest, self.slowest_input)


def sample(target: Target, name: str, seeds: list[Files], number: int, seed: int) -> Files:
    """The files of an input: first the valid ones as they are, then damaged ones."""
    if number < len(seeds):
        return seeds[number]
    rng = random.Random(f"{seed}/{name}/{number}")
    files = rng.choice(seeds)
    chosen = {file: data for file, data in files.items() if target.damaged(file)}
    return target.finish({**files, **mutated(chosen, seeds, rng)}, rng)


def attempt(target: Target, folder: Path, counts: Counts, *, valid: bool, show: bool = False) -> str | None:
    """Read one input; what was wrong about it, or None."""
    try:
        target.read(folder)
    except MMContrastError as error:
        counts.refused += 1
        text = str(error)
        if show:
            print(f"refused: {text}")
        if valid:
            return f"a valid file is refused: {text}"
        bad = UNPRINTABLE.search(text) or ("\n" in text and not isinstance(error, ConfigError))
        return f"not one printable line: {text!r:.200}" if bad else None
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # a panic of a Rust library is no Exception
        if show:
            traceback.print_exception(error)
        frames = traceback.extract_tb(error.__traceback__)
        ours = [frame for frame in frames if "mmcontrast" in frame.filename] or frames
        place = f"{Path(ours[-1].filename).name}:{ours[-1].lineno}"
        return f"{type(error).__name__} at {place}: {' '.join(str(error).split())[:200]}"
    counts.accepted += 1
    return None


def limit_memory(megabytes: int) -> None:
    """Of this process: so much more than it has now."""
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + (megabytes << 20), hard))


def main() -> None:
    """Work through inputs, with the state in a shared file and a line for each failure in another."""
    parser = argparse.ArgumentParser()
    for name in ("target", "work"):
        parser.add_argument(name)
    for name in ("first", "stop", "seed", "megabytes"):
        parser.add_argument(name, type=int)
    parser.add_argument("--show", action="store_true", help="show what is raised")
    given = parser.parse_args()
    work = Path(given.work).resolve()
    sys.dont_write_bytecode = True
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    target = TARGETS[given.target]
    seeds = made_seeds(target, work)
    guard = Guard(work)
    limit_memory(given.megabytes)
    with (work / "state").open("r+b") as file, (work / "failures.jsonl").open("a") as failures:
        state = mmap.mmap(file.fileno(), STATE.size)
        number, *values = STATE.unpack(state[:])
        counts = Counts(*values)
        for number in range(given.first, given.stop):
            state[:] = counts.packed(number)
            for problem in one(target, given.target, seeds, number, given.seed, work, guard, counts, given.show):
                counts.failed += 1
                failures.write(json.dumps({"target": given.target, "input": number, "problem": problem}) + "\n")
                failures.flush()
        state[:] = counts.packed(given.stop)


def made_seeds(target: Target, work: Path) -> list[Files]:
    """The valid samples; one is read, so that what is imported late is imported now."""
    made = work / "seeds"
    shutil.rmtree(made, ignore_errors=True)
    made.mkdir(parents=True)
    seeds = target.seeds(made)
    make(work / "input", seeds[0])
    target.read(work / "input")
    return seeds


def one(
    target: Target,
    name: str,
    seeds: list[Files],
    number: int,
    seed: int,
    work: Path,
    guard: Guard,
    counts: Counts,
    show: bool = False,
) -> list[str]:
    """Make and read one input; everything that it or the reader must not do."""
    make(work / "input", sample(target, name, seeds, number, seed))
    start = time.perf_counter()
    guard.found, guard.on = [], True
    problem = attempt(target, work / "input", counts, valid=number < len(seeds) and name != "config", show=show)
    guard.on = False
    seconds = time.perf_counter() - start
    if seconds > counts.slowest:
        counts.slowest, counts.slowest_input = seconds, number
    return [*guard.found, *([problem] if problem else [])]


if __name__ == "__main__":
    main()
