"""What the agreement of edges makes of them in the examples: against plain Python."""

from itertools import pairwise

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline import schema
from pipeline.artifacts import Version
from pipeline.errors import ImgembedError
from pipeline.examples import neighbors
from pipeline.examples.places import Places
from pipeline.examples.trust import Trust, check_graph

COLUMNS = ["src", "dst", "rank", "weight", "agreement"]
EDGES = st.lists(
    st.tuples(
        st.sampled_from("abc"),
        st.sampled_from("defgh"),
        st.floats(0.125, 1e6, width=32),
        st.floats(0.0625, 1, width=32),
    ),
    unique_by=lambda edge: edge[:2],
    max_size=12,
)


def table_of(edges: list[tuple[str, str, float, float]]) -> pa.Table:
    """The edges with their ranks by weight."""
    ordered = sorted(edges, key=lambda edge: -edge[2])
    ranks: dict[str, int] = {}
    rows = []
    for src, dst, weight, agreement in ordered:
        ranks[src] = ranks.get(src, 0) + 1
        rows.append((src, dst, ranks[src], weight, agreement))
    columns = zip(*rows, strict=True) if rows else [[]] * len(COLUMNS)
    types = [schema.AGREEMENT_SCHEMA.field(name).type for name in COLUMNS]
    return pa.table([pa.array(c, t) for c, t in zip(columns, types, strict=True)], names=COLUMNS)


@given(EDGES, st.floats(0, 1))
def test_a_filter_leaves_the_edges_that_are_trusted_as_they_are(
    edges: list[tuple[str, str, float, float]], least: float
) -> None:
    table = table_of(edges)
    found = Trust("filter", least).applied(table)
    assert found.column_names == COLUMNS[:-1]
    rows = [row for row in table.to_pylist() if row.pop("agreement") >= least]
    assert found.to_pylist() == rows


@given(EDGES)
def test_weighed_edges_of_an_image_stand_by_what_they_weigh_now(
    edges: list[tuple[str, str, float, float]],
) -> None:
    found = Trust("weight", 0.5).applied(table_of(edges))
    expected = {(src, dst): weight * trust for src, dst, weight, trust in edges}
    rows = found.to_pylist()
    assert {(row["src"], row["dst"]): row["weight"] for row in rows} == pytest.approx(expected)
    # As the join sorts them: within an image by rank.
    by_rank = sorted(rows, key=lambda row: (row["src"], row["rank"]))
    for one, other in pairwise(by_rank):
        if one["src"] == other["src"]:
            assert np.float32(one["weight"]) >= np.float32(other["weight"])


def test_the_join_takes_weighed_edges_in_their_new_order() -> None:
    table = table_of([("a", "d", 9.0, 0.1), ("a", "e", 4.0, 0.9), ("a", "f", 3.0, 1.0)])
    places = Places(0, 1)
    ((_, part),) = neighbors.with_places(table, places, Trust("weight", 0.0))
    marked = part.drop_columns(["dst"]).append_column("dst_known", pa.array([True] * 3))
    found = neighbors.sort_edges(marked, relative=False)
    np.testing.assert_allclose(found["weight"], [3.6, 3.0, 0.9], rtol=1e-6)


def test_the_agreement_of_another_graph_is_refused() -> None:
    agreement = Version("agreement", "v0002", "run/agreement/v0002", {"upstream": {"graph": "v1"}})
    check_graph(agreement, Version("graph", "v1", "run/graph/v1", {}))
    with pytest.raises(ImgembedError, match="of graph v1, in force is v3; make it anew with: img"):
        check_graph(agreement, Version("graph", "v3", "run/graph/v3", {}))
