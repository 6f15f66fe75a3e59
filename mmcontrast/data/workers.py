"""What became of a process that reads data, where torch says it in many words."""

from __future__ import annotations

import re

from mmcontrast.errors import DataError

_KILLED = re.compile(r"DataLoader worker \(pid (\d+)\) is killed by signal: ([^.]+)\.")
_GONE = re.compile(r"DataLoader worker \(pid\(s\) ([\d, ]+)\) exited unexpectedly")


def lost_worker(error: BaseException) -> DataError | None:
    """The error to raise in place of torch's where a worker process was killed; None where it says something else.

    torch notices by a signal, so that its error can come up anywhere in the main process.
    """
    for seen in chain_of(error):
        if found := _KILLED.search(str(seen)):
            process, how = found[1], f"was killed by a signal ({found[2]})"
        elif found := _GONE.search(str(seen)):
            process, how = found[1], "ended without a word"
        else:
            continue
        return DataError(
            f"a process that reads the data (pid {process}) {how}: the usual reason is that memory was full; lower "
            "data.workers, and go on with --resume"
        )
    return None


def chain_of(error: BaseException) -> list[BaseException]:
    """An error, and those that led to it."""
    found: list[BaseException] = []
    waiting: list[BaseException | None] = [error]
    while waiting:
        seen = waiting.pop()
        if seen is not None and seen not in found:
            found.append(seen)
            waiting += [seen.__context__, seen.__cause__]
    return found
