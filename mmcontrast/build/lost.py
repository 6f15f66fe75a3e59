"""A run that lost one of its processes, said in one line instead of in torch's words."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

from mmcontrast import distributed
from mmcontrast.data.workers import chain_of, lost_worker
from mmcontrast.errors import MMContrastError, TrainingError

# As gloo, NCCL and torch's store say that the other end of a connection is gone.
_RANK_IS_GONE = re.compile(
    r"connection (was )?(closed|reset|refused|aborted)|broken pipe|socket (timeout|closed)|gloo/transport|"
    r"remote process exited|nccl (error|communicator)|failed to recv|recvvalue|tcpstore|not all ranks joined",
    re.IGNORECASE,
)

_SILENT = re.compile(r"timed? ?out", re.IGNORECASE)


@contextmanager
def lost_processes_told() -> Iterator[None]:
    """Errors at the loss of a worker or of another rank, inside of the block, become one clear line.

    Raises:
        DataError: a worker that reads data was killed.
        TrainingError: another rank is gone. All ranks that are left raise it as soon as they want something of it.
    """
    several = distributed.world_size() > 1
    try:
        yield
    except MMContrastError:
        raise
    except (RuntimeError, OSError) as error:
        if (worker := lost_worker(error)) is not None:
            raise worker from error
        several |= distributed.world_size() > 1
        found = next((str(seen) for seen in chain_of(error) if _RANK_IS_GONE.search(str(seen))), None)
        if not several or found is None:
            raise
        rank, ranks = distributed.rank(), distributed.world_size()
        if _SILENT.search(found):
            why = (
                "has said nothing for training.process_timeout_seconds (it hangs, or its machine or network is gone): "
                "end it, and"
            )
        else:
            why = "is gone: what it printed last says why, or it was killed (memory, a machine that failed);"
        raise TrainingError(
            f"process {rank} of {ranks} stops, since another one {why} go on with --resume "
            f"({' '.join(found.split())[:160]})"
        ) from error
