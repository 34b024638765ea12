"""Live tallies of what this process has done, for a progress line while a job runs.

Beam's embedded runner tells its counters only at the end; its workers run in this process, so a
tally in memory is enough. On a cluster the tallies stay at zero here and the engine's own page
shows the progress. Never a source of counts for a manifest: those come from Beam's metrics.
"""

from __future__ import annotations

import threading
from collections import Counter

_lock = threading.Lock()
_tallies: Counter[str] = Counter()


def add(step: str, amount: int) -> None:
    """Adds to the tally of a step, such as "rows" or "pictures"."""
    with _lock:
        _tallies[step] += amount


def snapshot() -> dict[str, int]:
    """The tallies so far, in the order in which the steps began."""
    with _lock:
        return dict(_tallies)


def reset() -> None:
    """Forgets all tallies, before a new job."""
    with _lock:
        _tallies.clear()
