"""The Beam steps that bring the counts of an earlier run to the shards of this one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import apache_beam as beam
import numpy as np
import pyarrow as pa

from pipeline.columnar import Keyed
from pipeline.graph.holdout import Clock
from pipeline.graph.names import split_by
from pipeline.graph.strength import decayed
from pipeline.reading import read_row_groups

_DAY = 86_400e6  # microseconds


@dataclass
class ReadCounts(beam.PTransform):
    """Tables of an earlier run, cut for the shards of this one.

    Input: the root. Output: (shard, pa.Table). column: of hashes, that the shards are ranges of.
    """

    files: Sequence[str]
    column: str
    bounds: np.ndarray

    def expand(self, root: beam.Pipeline) -> beam.PCollection[Keyed]:
        return (
            root
            | "CountFiles" >> beam.Create(list(self.files)).with_output_types(str)
            | "ReadCounts" >> beam.FlatMap(self._read).with_output_types(Keyed)
        )

    def _read(self, path: str) -> Iterator[Keyed]:
        for table in read_row_groups(path):
            yield from split_by(table, self.column, self.bounds)


def decay_counts(
    keyed: Keyed, clock: Clock, *, counted_until: int | None, half_life_days: float | None
) -> Keyed:
    """Pairs of an earlier run as they are at the newest event of this one."""
    shard, table = keyed
    if clock.newest is None or counted_until is None:
        return keyed
    days = max(0, clock.newest - counted_until) / _DAY
    units = decayed(table["strength"].to_numpy(), days=days, half_life_days=half_life_days)
    column = table.column_names.index("strength")
    return shard, table.set_column(column, "strength", pa.array(units))
