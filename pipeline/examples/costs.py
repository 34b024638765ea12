"""What a run of the examples stage takes: bytes of memory, and of disk while it runs.

In: how many images there are, how large they and their records are. Out: bytes, by what the steps
of the job hold at a time (`Costs`, as measured).
"""

from __future__ import annotations

from dataclasses import dataclass
from math import exp

import pyarrow as pa

from pipeline.examples.trial import RecordBytes


@dataclass(frozen=True)
class Costs:
    """Bytes that the job takes beside the images themselves, as measured.

    In 2 threads (Python 3.11, Beam 2.77, TensorFlow 2.21), photos of 64 x 64 pixels as PNGs with 5
    neighbours: 2,000 in one shard (1.25 GB of memory, 126 MB of disk) and 50,000 in 14 (1.88 GB,
    4.35 GB).
    """

    process: int = 1_000_000_000  # of it TensorFlow's and Beam's code is the most
    gathered: int = 128 << 20  # images that are held until they are cut by shard
    shard: float = 2.0  # in memory for each byte of a shard's images and neighbours
    block: int = 4 * (16 << 20)  # records of a thread: in pieces, joined, framed, on their way
    edge: int = 250  # on disk, of the tables of all joins


COSTS = Costs()


@dataclass(frozen=True)
class Needs:
    """What memory and disk depend on. image_bytes: of an image in a table; neighbors: the mean."""

    images: int
    image_bytes: float
    record: RecordBytes
    neighbors: float
    shards: int

    @property
    def _replies(self) -> float:
        """Images that come to the shards as neighbours; to each shard every image but once."""
        return self.shards * self.images * (1.0 - exp(-self.neighbors / self.shards))

    def disk_bytes(self) -> int:
        """Of the files between the steps: those of the first pipeline, or of the second.

        The first cuts the images by shard and settles them; the second keeps them, sends them as
        neighbours, and the records to their files.
        """
        settled = self.images * self.image_bytes
        sent = self._replies * self.image_bytes + self.images * self.record.framed
        edges = self.images * self.neighbors * COSTS.edge
        return round(settled + max(settled, sent + edges))

    def memory_bytes(self, threads: int) -> int:
        """Of the embedded runner at its peak."""
        at_once = min(threads, self.shards)
        shard = (self.images + self._replies) / self.shards * self.image_bytes
        gathered = min(COSTS.gathered, self.images * self.image_bytes)
        return round(
            COSTS.process + gathered + at_once * shard * COSTS.shard + threads * COSTS.block
        )


def bytes_around(settled: pa.Table) -> float:
    """Bytes that a settled image takes beside its picture or features."""
    others = settled.drop_columns(["image", "features"])
    return others.nbytes / settled.num_rows
