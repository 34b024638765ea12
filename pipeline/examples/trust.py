"""What the agreement of an edge makes of it: less weight, or nothing.

In: `schema.AGREEMENT_SCHEMA` of a version that `imgembed denoise` wrote, in place of the graph's
edges. Out: edges with the columns of the graph's.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline import schema
from pipeline.artifacts import Version
from pipeline.errors import ImgembedError


@dataclass(frozen=True)
class Trust:
    """How edges are trusted.

    how: weight: an edge's weight is multiplied by its agreement; filter: an edge of an agreement
    below `least` is left out, the others stay as they are.
    """

    how: Literal["weight", "filter"]
    least: float

    def applied(self, edges: pa.Table) -> pa.Table:
        """Edges with columns `rank`, `weight` and `agreement`, those that are left, without it."""
        if self.how == "filter":
            return edges.filter(pc.greater_equal(edges["agreement"], self.least)).drop_columns(
                ["agreement"]
            )
        weight = edges["weight"].to_numpy() * edges["agreement"].to_numpy()
        # Only the order of an image's ranks counts, and bits of floats above 0 are in their order.
        rank = -weight.astype(np.float32).view(np.int32)
        for name, values in (("rank", rank), ("weight", weight)):
            place = edges.column_names.index(name)
            edges = edges.set_column(place, name, pa.array(values))
        return edges.drop_columns(["agreement"])


def check_graph(agreement: Version, graph: Version) -> None:
    """ImgembedError where the agreement is of another graph than the one in force."""
    of = agreement.manifest["upstream"][schema.GRAPH]
    if of != graph.name:
        raise ImgembedError(
            f"{agreement.path}: judges the edges of graph {of}, in force is {graph.name}; make it "
            f"anew with: {schema.STAGE_COMMANDS[schema.AGREEMENT]}"
        )
