"""Items that share a key (same group, same caption) and therefore should not meet in one batch."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from mmcontrast.types import NO_KEY

LEAST_GAIN, MANY = 0.8, 0.05
"""A round has to leave no more than this share of the offenders, unless less than so many of the slots are left."""

_KEY_FACTOR, _UNIT_FACTOR = np.uint64(0x9E37_79B9_7F4A_7C15), np.uint64(0xD6E8_FEB8_6659_FD93)


def later_sharers(
    unit: NDArray[np.integer], keys: NDArray[np.int64], rank: NDArray[np.integer] | None = None
) -> NDArray[np.bool_]:
    """(n,) True for items that share a key with an item of the same unit that comes before them.

    Args:
        unit: (n,) what the items are in: a batch, a group.
        keys: (n, c); NO_KEY never equals anything.
        rank: (n,) who comes before whom, all different; default: as they stand.
    """
    return _later_owners(_hashes(unit, keys), rank)


def separate(
    arrangement: NDArray[np.integer],
    keys: NDArray[np.int64],
    guided: NDArray[np.bool_],
    batch_size: int,
    rng: np.random.Generator,
    rounds: int = 12,
) -> None:
    """Swap items, in place, until no batch holds two with the same key, as far as a few rounds get.

    Only swaps: nothing is lost where it is impossible (a caption that more items have than there are batches). Each
    round tries one random partner for each offender, and takes the swaps that leave fewer pairs with a common key.
    Where that leaves nearly as many of many offenders, as in data whose keys nearly all recur, no more are made.

    Args:
        arrangement: (n,) position of the item in each slot; what follows the last whole batch is left alone.
        keys: (n, c) of the positions.
        guided: (n,) slots whose items were put there on purpose: they stay if they can, and are no partners.
        batch_size: slots in a batch.
        rng: random numbers.
        rounds: at most so many.
    """
    slots = len(arrangement) // batch_size * batch_size
    batch = np.arange(slots, dtype=np.int64) // batch_size
    uniform = np.flatnonzero(~guided[:slots])
    rank = np.arange(slots) + slots * ~guided[:slots]
    before = 2 * slots  # the first round is made whatever there is
    for _ in range(rounds):
        hashes = _hashes(batch, keys[arrangement[:slots]])
        found = np.flatnonzero(_later_owners(hashes, rank))
        if len(found) > max(LEAST_GAIN * before, MANY * slots):
            return
        before = len(found)
        offenders = rng.permutation(found)[: slots // 2]
        moving = np.zeros(slots, dtype=bool)
        moving[offenders] = True
        partners = rng.permutation(uniform[~moving[uniform]])[: len(offenders)]
        offenders = offenders[: len(partners)]
        if not len(offenders):
            return
        one, other = keys[arrangement[offenders]], keys[arrangement[partners]]
        arriving = np.hstack([_hashes(batch[partners], one), _hashes(batch[offenders], other)])  # (pairs, 2c)
        leaving = np.hstack([hashes[offenders], hashes[partners]])
        ordered = np.sort(hashes, axis=None)
        fewer = _occurrences(arriving, ordered) < _occurrences(leaving, ordered) - (leaving != 0).sum(axis=1)
        good = (batch[offenders] != batch[partners]) & fewer & ~_later_owners(arriving)
        offenders, partners = offenders[good], partners[good]
        arrangement[offenders], arrangement[partners] = arrangement[partners], arrangement[offenders]


def _hashes(unit: NDArray[np.integer], keys: NDArray[np.int64]) -> NDArray[np.uint64]:
    """(n, c) one number for a key in a unit, or 0; two that are equal by chance cost a needless swap only."""
    hashes = keys.astype(np.int64).view(np.uint64) * _KEY_FACTOR
    hashes += (unit.astype(np.uint64) * _UNIT_FACTOR)[:, None]
    hashes[keys == NO_KEY] = 0
    return hashes


def _later_owners(hashes: NDArray[np.uint64], rank: NDArray[np.integer] | None = None) -> NDArray[np.bool_]:
    """(n,) rows of (n, c) hashes of which one stands in an earlier row too; 0 is none."""
    flat = hashes.ravel()
    order = np.argsort(flat)
    ordered = flat[order]
    same = ordered[1:] == ordered[:-1]
    in_run = np.zeros(len(flat), dtype=bool)
    in_run[1:] |= same
    in_run[:-1] |= same
    in_run &= ordered != 0
    later = np.zeros(len(hashes), dtype=bool)
    at, ordered = order[in_run], ordered[in_run]
    if not len(at):
        return later
    owner = at // hashes.shape[1]
    place = owner if rank is None else rank[owner]
    begins = np.flatnonzero(np.concatenate([[True], ordered[1:] != ordered[:-1]]))
    keeper = np.repeat(np.minimum.reduceat(place, begins), np.diff(begins, append=len(at)))
    later[owner[place != keeper]] = True
    return later


def _occurrences(hashes: NDArray[np.uint64], ordered: NDArray[np.uint64]) -> NDArray[np.integer]:
    """(n,) how often the hashes of each of n rows stand in a sorted array; 0 is none."""
    flat = hashes.ravel()
    order = np.argsort(flat)  # looked up in this order they stay within the cache: four times as fast
    asked = flat[order]
    found = np.searchsorted(ordered, asked, side="right") - np.searchsorted(ordered, asked)
    found[asked == 0] = 0
    counts = np.empty_like(found)
    counts[order] = found
    return np.asarray(counts.reshape(hashes.shape).sum(axis=1))
