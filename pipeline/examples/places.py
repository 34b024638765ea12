"""Where an image stands: its place, a number that orders the records and cuts the shards.

A place is a hash of the id and the seed. The files of the examples one after the other hold their
records by ascending place, so that their order is as good as random and always the same; shards
and files are equal stretches of all places. Joins compare places, which are numbers, not ids.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from pipeline.hashing import hash_values

if TYPE_CHECKING:
    from pipeline.columnar import Keyed

PLACE = "place"


@dataclass(frozen=True)
class Places:
    """The places of one run, and the shards that they are cut into."""

    seed: int
    shards: int

    def of(self, ids: pa.ChunkedArray | pa.Array) -> np.ndarray:
        """[rows] uint64: the place of each id."""
        return hash_values(ids, salt=f"place:{self.seed}")

    def split(self, table: pa.Table, places: np.ndarray) -> Iterator[Keyed]:
        """The rows of each shard, in their order. places: [rows] uint64."""
        from pipeline.columnar import split_by_shard  # loads Beam, which to find a place needs not

        return split_by_shard(table, stretch(places, self.shards), self.shards)


def stretch(places: np.ndarray, number: int) -> np.ndarray:
    """[rows] int64: in which of `number` equal stretches each place lies."""
    # The upper 32 bits are enough, and their product with the number cannot overflow.
    return ((places >> np.uint64(32)) * np.uint64(number) >> np.uint64(32)).astype(np.int64)


def column(table: pa.Table, name: str) -> pa.Array:
    """A column as one array."""
    found = table[name]
    return found.chunk(0) if found.num_chunks == 1 else found.combine_chunks()
