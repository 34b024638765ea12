"""Live tallies of what is done, for a progress line while a job runs.

Beam's embedded runner tells its counters only at the end; its workers run in this process, so a
tally in memory is enough. Of a job on an engine `watching` tells what the engine says. Never a
source of counts for a manifest: those come from Beam's metrics at the end.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

_lock = threading.Lock()
_tallies: Counter[str] = Counter()


@dataclass(frozen=True)
class Job:
    """A job on an engine: its name and its state there, and the seconds since it began."""

    name: str
    state: str
    seconds: float


_job: Job | None = None


def add(step: str, amount: int) -> None:
    """Adds to the tally of a step, such as "rows" or "pictures"."""
    with _lock:
        _tallies[step] += amount


def tell(job: Job, tallies: Mapping[str, int] | None = None) -> None:
    """Notes where a job on an engine stands.

    A tally never falls: workers in this process may have counted more than the engine knows of.
    """
    global _job
    with _lock:
        _job = job
        for step, amount in (tallies or {}).items():
            _tallies[step] = max(_tallies[step], amount)


def snapshot() -> dict[str, int]:
    """The tallies so far, in the order in which the steps began."""
    with _lock:
        return dict(_tallies)


def job() -> Job | None:
    """The job that runs on an engine; None where the work is done in this process."""
    return _job


def reset() -> None:
    """Forgets all tallies, before a new job."""
    global _job
    with _lock:
        _tallies.clear()
        _job = None
