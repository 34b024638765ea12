"""How long sessions are: how many of them hold so many distinct images, in steps of a few each.

Counters carry the numbers from the shards, so there is a bounded number of steps.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

# The first length of each step; it ends before the next one, and the last one has no end.
STARTS = (1, 2, 3, 4, 5, 6, 8, 11, 16, 21, 31, 51, 101)
_COUNTER = "sessions_from_{}_images"


def count_lengths(images: np.ndarray) -> dict[str, int]:
    """{counter: sessions} of every step. images: [sessions] int, distinct images, 1 or more."""
    step = np.searchsorted(STARTS, images, side="right") - 1
    counts = np.bincount(step, minlength=len(STARTS)).tolist()
    return {_COUNTER.format(start): n for start, n in zip(STARTS, counts, strict=True)}


def by_length(counts: Mapping[str, int], namespace: str) -> dict[str, int]:
    """{"1": sessions, …, "6 to 7": …, "101 or more": …} up to the longest that there is."""
    numbers = [counts.get(f"{namespace}/{_COUNTER.format(start)}", 0) for start in STARTS]
    last = max((step for step, number in enumerate(numbers) if number), default=-1)
    return {_name(step): numbers[step] for step in range(last + 1)}


def _name(step: int) -> str:
    start = STARTS[step]
    if step + 1 == len(STARTS):
        return f"{start} or more"
    end = STARTS[step + 1] - 1
    return str(start) if start == end else f"{start} to {end}"
