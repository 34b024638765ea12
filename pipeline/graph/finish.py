"""Weighed edges to the edges that are kept, and their files: where logs and edge lists meet."""

from __future__ import annotations

from collections.abc import Mapping

import apache_beam as beam

from pipeline.columnar import Keyed
from pipeline.config import GraphConfig
from pipeline.graph import counting, edges, output


def write_graph(
    weighed: beam.PCollection[Keyed],
    images: Mapping[str, beam.PCollection[Keyed]],
    graph: GraphConfig,
    layout: counting.Layout,
    seed: int,
    folder: str,
    *,
    users: bool,
    counted: bool = True,
    only_linked: bool = False,
) -> dict[str, beam.PCollection[Keyed]]:
    """Edges in both directions to the edges that are kept, and their files.

    weighed: (shard of src, prune.EDGE_SCHEMA); of dst where the edges are not counted but given.
    images: {edges.IMAGES: (shard, IMAGE_SCHEMA),
    edges.OF_FILES: (file, IMAGE_SCHEMA)}. Returns the largest hubs, for output.WriteFindings.
    """
    of_shards = images[edges.IMAGES]
    hubs = None
    if graph.max_degree is not None or not counted:
        limited = {edges.EDGES: weighed, edges.IMAGES: of_shards} | "LimitDegree" >> (
            edges.LimitDegree(graph, layout, seed, both_ways=counted)
        )
        weighed, hubs = limited[edges.EDGES], limited[edges.HUBS]
    kept = {edges.EDGES: weighed, edges.IMAGES: of_shards} | "KeepTopK" >> edges.KeepTopK(
        graph, layout, seed, find_hubs=hubs is None
    )
    strongest = kept[edges.EDGES]
    if graph.symmetry != "directed":
        strongest = strongest | "Symmetrize" >> edges.Symmetrize(graph, layout, seed)
    named = {edges.EDGES: strongest, edges.IMAGES: of_shards} | "NameTargets" >> (
        edges.NameTargets(layout)
    )
    _ = {output.EDGES: named[edges.EDGES], output.IMAGES: images[edges.OF_FILES]} | (
        "WriteEdges" >> output.WriteEdges(folder, layout.files, users, counted, only_linked)
    )
    return {
        output.HUBS_BEFORE: kept[edges.HUBS] if hubs is None else hubs,
        output.HUBS_AFTER: named[edges.HUBS],
    }
