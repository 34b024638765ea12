"""What a run of build-graph takes: bytes of memory, of disk while it runs, and of output.

In: the counts of a plan, how they grow, into how many parts the work is cut. Out: bytes, by the
costs of a row of each kind, which were measured and stand in `Costs`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import pyarrow as pa

from pipeline.graph import count
from pipeline.graph.counting import Layout
from pipeline.graph.growth import Rates
from pipeline.sessions import read
from pipeline.sessions.sample import Sample


@dataclass(frozen=True)
class Costs:
    """Bytes that this program takes, as measured; each within some 20 % on the logs named here.

    Memory and disk: build-graph in 2 threads (Python 3.11, Beam 2.77, pyarrow 25) on the
    benchmark's log (12 M events: 1.74 GB of memory, 1.71 GB of disk), on a quarter of it (1.15 GB,
    0.56 GB), on 100,000 sessions of 18 images (1.76 GB, 0.95 GB), on `imgembed sample` with 20,000
    and 200,000 sessions of JSONL (0.37 and 0.50 GB) and on the emoji's 900 (0.28 GB). The disk's
    are the widths of the tables between steps. Output: the files of those runs, and the same edges
    with UUIDs for ids.
    """

    # Memory: of the process, and for each thread of what it holds at a time.
    process: int = 275_000_000
    row_of_text: int = 700
    row_of_columns: int = 145
    event_in_shard: int = 100
    pair_in_chunk: int = 70
    pair_in_shard: int = 50
    edge_in_file: int = 250
    # Disk: tables between steps.
    names_of_event: int = 4
    pair_of_shard: int = 24
    image_on_disk: int = 250
    frequent_pair: int = 48
    weighed_pair: int = 2 * 64
    edge_on_disk: int = 68 + 75
    query_on_disk: int = 32 + 54
    held_out_on_disk: int = 28 + 50
    # Output: of a file, of a row, and how often a row pays for an image's id.
    file: int = 2_000
    edge: tuple[float, float] = (10.0, 1.2)
    node: tuple[float, float] = (1.0, 1.0)
    query: tuple[float, float] = (1.0, 0.8)
    held_out: tuple[float, float] = (2.5, 1.0)


COSTS = Costs()
_COLUMNAR_ROWS, _TEXT_ROWS = 1_000_000, 131_072  # of a block, as sessions.read has it


def bytes_of_id(names: pa.Table) -> float:
    """What an image's id takes compressed among others in no order."""
    joined = b"".join(text.encode() for text in names["text"].to_pylist()[:100_000])
    return len(pa.compress(joined, "zstd", asbytes=True)) / max(min(names.num_rows, 100_000), 1)


def output_bytes(counts: Mapping[str, int], id_bytes: float, files: int) -> dict[str, int]:
    """Bytes of each output. id_bytes: what an image's id takes, see `bytes_of_id`."""
    rows = {
        "edges": (counts["edges"], COSTS.edge),
        "nodes": (counts["images"], COSTS.node),
        "queries": (counts["query_rows"], COSTS.query),
        "holdout": (counts["held_out_rows"], COSTS.held_out),
    }
    return {
        name: round(files * COSTS.file + number * (own + ids * id_bytes))
        for name, (number, (own, ids)) in rows.items()
    }


def memory_bytes(
    *,
    logs: read.Logs,
    counts: Mapping[str, int],
    growth: Rates,
    layout: Layout,
    sample: Sample,
) -> int:
    """Of the embedded runner at its peak: what each thread reads and counts, and a file of edges.

    What one step gives back another one takes, but never all of it: the parts add up.
    """
    columnar = any(log.file.format == "parquet" for log in logs.files)
    block_rows, row = (
        (_COLUMNAR_ROWS, COSTS.row_of_columns) if columnar else (_TEXT_ROWS, COSTS.row_of_text)
    )
    reading = min(counts["rows"], layout.threads * block_rows) * row
    pairs = counts["co_occurrences"] / layout.shards
    shard = counts["events"] / layout.shards * COSTS.event_in_shard
    shard += min(pairs, count.CHUNK_PAIRS) * COSTS.pair_in_chunk
    if pairs > count.CHUNK_PAIRS:
        shard += _pairs_of_shard(counts, growth, layout, sample) * COSTS.pair_in_shard
    edges = counts["edges"] / layout.files * COSTS.edge_in_file
    at_once = min(layout.threads, layout.shards)
    return round(COSTS.process + reading + at_once * shard + edges)


def _pairs_of_shard(
    counts: Mapping[str, int], growth: Rates, layout: Layout, sample: Sample
) -> float:
    """Distinct pairs of one shard of sessions."""
    scale = sample.scale / layout.shards
    if scale >= 1:
        return min(growth.expected(scale), float(counts["pairs"]))
    return min(counts["co_occurrences"] / layout.shards, float(counts["pairs"]))


def disk_bytes(*, counts: Mapping[str, int], growth: Rates, layout: Layout, sample: Sample) -> int:
    """Of the tables between steps, which stay until the job is done."""
    event = sample.events.nbytes / max(sample.events.num_rows, 1)
    return round(
        counts["events"] * (event + COSTS.names_of_event)
        + layout.shards * _pairs_of_shard(counts, growth, layout, sample) * COSTS.pair_of_shard
        + counts["images"] * COSTS.image_on_disk
        + counts["pairs_of_min_users"] * COSTS.frequent_pair
        + counts["pairs_weighed"] * COSTS.weighed_pair
        + counts["edges"] * COSTS.edge_on_disk
        + counts["query_rows"] * COSTS.query_on_disk
        + counts["held_out_rows"] * COSTS.held_out_on_disk
    )
