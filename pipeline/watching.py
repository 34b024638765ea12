"""A job on an engine, looked at while it runs: its state, how long it has run, what it has counted.

In: the result that Beam gives when a job is submitted. Out: `progress`, which a terminal shows.
Prism tells its counters while a job runs (2.77; a test asks it), and so does Dataflow, as its
service documents. Of an engine that tells none before the end, such as Flink's job server, the
state and the time are all that is shown; nothing that is shown is ever a source of counts.
"""

from __future__ import annotations

import copy
import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from apache_beam.metrics.metric import MetricsFilter
from apache_beam.runners.runner import PipelineResult

from pipeline import progress

_LOGGER = logging.getLogger(__name__)
# Seconds between two looks. Dataflow's service is asked over the internet, and counts slowly.
_SECONDS = {"dataflow": 20.0}
_OTHERS_SECONDS = 2.0
# Beam counters, or beginnings of their names, by the word for them on a progress line.
_WORDS = {
    "rows": ("sessions/rows", "graph/rows"),
    "sessions": ("graph/sessions_in_graph", "graph/sessions_held_out"),
    "images": ("examples/rows",),
    "examples": ("examples/neighbors/",),
    "embeddings": ("Embed/rows",),
}


def counters(result: PipelineResult) -> dict[str, int]:
    """Beam's committed counters so far; attempted ones where a runner has no other."""
    found = result.metrics().query(MetricsFilter())["counters"]
    totals: dict[str, int] = {}
    for counter in found:
        name = f"{counter.key.metric.namespace}/{counter.key.metric.name}"
        value = counter.committed if counter.committed is not None else counter.attempted
        totals[name] = totals.get(name, 0) + (value or 0)
    return totals


def tallies(counted: Mapping[str, int]) -> dict[str, int]:
    """The counters as a progress line words them; those that stand at 0 are left out."""
    found = {
        word: sum(value for name, value in counted.items() if any(map(_matches(name), names)))
        for word, names in _WORDS.items()
    }
    return {word: value for word, value in found.items() if value}


def _matches(name: str) -> Callable[[str], bool]:
    return lambda wanted: name == wanted or (wanted.endswith("/") and name.startswith(wanted))


@contextmanager
def watched(result: PipelineResult, engine: str, *, seconds: float | None = None) -> Iterator[None]:
    """Tells `progress` of the job for as long as the block lasts, every so many `seconds`.

    An engine that does not answer costs nothing but the line.
    """
    ended = threading.Event()
    pause = _SECONDS.get(engine, _OTHERS_SECONDS) if seconds is None else seconds
    watch = threading.Thread(target=_watch, args=(result, engine, pause, ended), daemon=True)
    watch.start()
    try:
        yield
    finally:
        ended.set()


def _watch(result: PipelineResult, engine: str, pause: float, ended: threading.Event) -> None:
    began = time.monotonic()
    job = f"{engine} job {_job_id(result)}".strip()
    progress.tell(progress.Job(job, "submitted", 0.0))
    while not ended.wait(pause):
        state, counted = _look(result)
        if ended.is_set():
            return
        progress.tell(progress.Job(job, state.lower(), time.monotonic() - began), tallies(counted))


def _job_id(result: PipelineResult) -> str:
    found: Any = getattr(result, "job_id", None) or getattr(result, "_job_id", "")
    return str(found() if callable(found) else found)


def _look(result: PipelineResult) -> tuple[str, dict[str, int]]:
    # A portable runner's result keeps the first counters that it is asked for: of the job's own
    # they must be those of its end.
    result = copy.copy(result)
    try:
        state = str(result.state)
    except Exception as error:  # whatever its client raises; the job itself is waited for elsewhere
        _LOGGER.info("the engine does not tell the state of the job: %s", error)
        return "unknown", {}
    try:
        return state, counters(result)
    except Exception as error:
        _LOGGER.info("the engine does not tell what the job has counted so far: %s", error)
        return state, {}
