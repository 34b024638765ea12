"""Functions of a Beam step in threads: several elements at work at once, in one process.

Beam's embedded runner works on one element at a time, and its worker processes and threads lose
rows (2.77). Ours are inside one step: numpy and Arrow let other threads work while they do. What a
function counts it returns, since Beam's counters do not exist in threads that Beam did not start.
"""

from __future__ import annotations

import functools
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from typing import Any

import apache_beam as beam
from apache_beam.metrics.metric import Metrics
from apache_beam.transforms.window import GlobalWindow
from apache_beam.utils.timestamp import MIN_TIMESTAMP
from apache_beam.utils.windowed_value import WindowedValue

from pipeline.parcels import Shipped, ship


@dataclass
class Outcome:
    """What a function made of an element: outputs as (tag, value), and counters by name."""

    outputs: list[tuple[str, Any]] = field(default_factory=list)
    counts: Mapping[str, int] = field(default_factory=dict)


@dataclass
class InThreads(beam.PTransform):
    """Calls a function for each element, for `threads` elements at once.

    Input: any elements. Output: {tag: its PCollection}.

    function: (element), or where there is one (element, side input), -> Outcome. outputs: the type
    of each tag's elements. namespace: of the counters. unfold: what the elements are parts of, such
    as a file of which the function sees blocks; None = the elements themselves. A tag of the type
    Shipped is for tables that JoinShards takes: the function gives (shard, pa.Table).
    """

    function: Callable[..., Outcome]
    outputs: Mapping[str, Any]
    threads: int
    namespace: str
    unfold: Callable[[Any], Iterable[Any]] | None = None
    side: Any = None

    def expand(self, elements: beam.PCollection) -> dict[str, beam.PCollection]:
        shipped = frozenset(tag for tag, type_ in self.outputs.items() if type_ == Shipped)
        work = _Work(self.function, self.threads, self.namespace, self.unfold, shipped)
        side = () if self.side is None else (self.side,)
        # Untyped, Beam would pickle tables to see how large they are.
        step = beam.ParDo(work, *side).with_output_types(Any, **self.outputs)
        parted = elements | "Work" >> step.with_outputs(*self.outputs)
        return {tag: parted[tag] for tag in self.outputs}


@functools.cache
def _pool(threads: int) -> ThreadPoolExecutor:
    """One for all steps: each thread has memory of its own that it keeps."""
    return ThreadPoolExecutor(threads)


class _Work(beam.DoFn):
    def __init__(
        self,
        function: Callable[..., Outcome],
        threads: int,
        namespace: str,
        unfold: Callable[[Any], Iterable[Any]] | None,
        shipped: frozenset[str],
    ) -> None:
        self._arguments = (function, threads, namespace, unfold, shipped)
        self._function, self._threads, self._namespace, self._unfold = self._arguments[:4]
        self._shipped = shipped
        self._pending: deque[Future[Outcome]] = deque()

    def __reduce__(self) -> Any:
        return _Work, self._arguments

    def process(self, element: Any, side: Any = None) -> Iterator[beam.pvalue.TaggedOutput]:
        arguments = () if side is None else (side,)
        for part in (element,) if self._unfold is None else self._unfold(element):
            if self._threads == 1:
                yield from self._tagged(self._work(part, *arguments))
                continue
            work = _pool(self._threads).submit(self._work, part, *arguments)
            self._pending.append(work)
            if len(self._pending) >= self._threads:
                yield from self._tagged(self._pending.popleft().result())

    def finish_bundle(self) -> Iterator[beam.pvalue.TaggedOutput]:
        while self._pending:
            for output in self._tagged(self._pending.popleft().result()):
                yield beam.pvalue.TaggedOutput(output.tag, in_global_window(output.value))

    def teardown(self) -> None:
        """Ends only when the threads have: nobody may write into a folder that is removed."""
        for future in self._pending:
            future.cancel()
        wait(self._pending)

    def _work(self, *arguments: Any) -> Outcome:
        """The outcome, its tables on their way: files are written by the threads as well."""
        outcome = self._function(*arguments)
        shipped = [
            (tag, (value[0], ship(value[1])) if tag in self._shipped else value)
            for tag, value in outcome.outputs
        ]
        return Outcome(shipped, outcome.counts)

    def _tagged(self, outcome: Outcome) -> Iterator[beam.pvalue.TaggedOutput]:
        for name, amount in outcome.counts.items():
            Metrics.counter(self._namespace, name).inc(int(amount))
        for tag, value in outcome.outputs:
            yield beam.pvalue.TaggedOutput(tag, value)


def in_global_window(value: Any) -> WindowedValue:
    """What a step's `finish_bundle` gives: a value, and the one window that a batch job has."""
    return WindowedValue(value, MIN_TIMESTAMP, (GlobalWindow(),))
