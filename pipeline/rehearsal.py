"""A tiny job that shows whether a runner works: it groups numbers, and every one is counted twice.

Counted by the runner's metrics and added up from what the job returns through them, so that a
runner that loses elements, or counters, does not pass.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import apache_beam as beam
from apache_beam.metrics.metric import Metrics

from pipeline import runner
from pipeline.errors import ImgembedError

NAMESPACE = "rehearsal"
NUMBERS, GROUPS = 1_000, 7


def rehearse(make_pipeline: Callable[[], beam.Pipeline]) -> None:
    """Runs the job to its end; ImgembedError where an element or a counter is missing."""
    root = make_pipeline()
    _ = (
        root
        | "Numbers" >> beam.Create(range(NUMBERS))
        | "ByRemainder" >> beam.Map(by_remainder).with_output_types(tuple[int, int])
        | "GatherRemainders" >> beam.GroupByKey()
        | "AddUp" >> beam.MapTuple(add_up)
    )
    counts = runner.run(root)
    found = {name: counts.get(f"{NAMESPACE}/{name}", 0) for name in ("read", "grouped", "sum")}
    wanted = {"read": NUMBERS, "grouped": NUMBERS, "sum": sum(range(NUMBERS))}
    if found != wanted:
        raise ImgembedError(
            f"the runner does not count what it does: wanted {wanted}, found {found}"
        )


def by_remainder(number: int) -> tuple[int, int]:
    """A number under the remainder that it leaves."""
    Metrics.counter(NAMESPACE, "read").inc()
    return number % GROUPS, number


def add_up(_: int, numbers: Iterable[int]) -> int:
    """The sum of a group."""
    found = list(numbers)
    Metrics.counter(NAMESPACE, "grouped").inc(len(found))
    Metrics.counter(NAMESPACE, "sum").inc(sum(found))
    return sum(found)
