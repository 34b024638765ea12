"""What the graph of a ready edge list takes: bytes of memory, of disk while it runs, and of output.

In: the rows of the list, into how many parts the work is cut. Out: bytes, by the costs of a row,
which were measured and stand in `Costs`.
"""

from __future__ import annotations

from dataclasses import dataclass

from pipeline import limits


@dataclass(frozen=True)
class Costs:
    """Bytes that this program takes, as measured.

    Memory: build-graph --edges of a Parquet file (Python 3.11, Beam 2.77, pyarrow 25) of 10,000
    rows (268 MB) and of 3 million, in one shard with 1 and 2 threads (855 and 1,073 MB), in 20
    shards with 1 thread (604 MB). Disk: the widths of the tables between steps. Output: 11 bytes an
    edge where many lead to an image, more where ids do not repeat.
    """

    process: int = 275_000_000
    block_row: int = 200  # of a block that a thread reads
    block_rows: int = 1_000_000
    row_in_shard: int = 110
    edge_in_file: int = 30
    row_on_disk: int = 200
    edge: float = 30.0


COSTS = Costs()


def held(rows: int, *, files: int) -> limits.Held:
    """What the job holds at its peak."""
    block = min(rows, COSTS.block_rows) * COSTS.block_row
    return limits.Held(
        COSTS.process + rows / files * COSTS.edge_in_file, block, rows * COSTS.row_in_shard
    )


def disk_bytes(rows: int) -> int:
    """Of the tables between steps."""
    return rows * COSTS.row_on_disk


def output_bytes(edges: int) -> int:
    """Of edges and nodes, where no edge is pruned."""
    return round(edges * COSTS.edge)
