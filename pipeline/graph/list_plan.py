"""What build-graph would make of a ready edge list, estimated before anything runs.

In: the list's files, of which the heads are read, and the settings. Out: a `ListPlan`: rows, bytes
of output, memory and disk.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from pipeline.config import EdgesConfig, GraphConfig
from pipeline.graph import list_costs
from pipeline.graph.edge_list import EdgeFile, find_edge_list, layout_of
from pipeline.sessions.sample import RUNS, measure_head, rows_by_bytes
from pipeline.tables.parts import split_parts


@dataclass(frozen=True)
class ListPlan:
    """What a run would read, write and need. Bytes are bytes.

    exact: the files say how many rows they have. edges, output_bytes: at most.
    """

    exact: bool
    rows: int
    edges: int
    input_bytes: int
    output_bytes: int
    memory_bytes: int
    disk_bytes: int
    shards: int
    files: int
    threads: int


def plan_edge_list(
    config: EdgesConfig,
    graph: GraphConfig,
    *,
    shards: int | str,
    threads: int,
    max_memory: int | None = None,
) -> ListPlan:
    """What `edge_list.build_from_edges` would make of the list."""
    files = find_edge_list(config)
    rows, exact = count_rows(files)
    layout = layout_of(files, shards, threads, max_memory)
    held = list_costs.held(rows, files=layout.files)
    edges = rows * (2 if graph.symmetry == "union" else 1)
    size = sum(found.file.size for found in files)
    return ListPlan(
        exact=exact,
        rows=rows,
        edges=edges,
        input_bytes=size,
        output_bytes=list_costs.output_bytes(edges),
        memory_bytes=round(held.peak(layout.shards, layout.threads)),
        disk_bytes=list_costs.disk_bytes(rows),
        shards=layout.shards,
        files=layout.files,
        threads=layout.threads,
    )


def count_rows(found: Sequence[EdgeFile]) -> tuple[int, bool]:
    """(rows, whether the files say so; else they are estimated from some of their heads)."""
    files = [one.file for one in found]
    parts = [part for file in files for part in split_parts(file)]
    known = sum(part.rows for part in parts if part.rows is not None)
    others = [part.file for part in parts if part.rows is None]
    measured: dict[tuple[str, str], list[tuple[float, float]]] = defaultdict(list)
    for file in others[:RUNS]:
        measured[file.format, file.compression].append(measure_head(file))
    return known + round(sum(rows_by_bytes(file, measured) for file in others)), not others
