"""The columns of examples: what a seed, its neighbours and its edges are called in each layout.

In: the nodes of a block of examples. Out: a column a feature of schema.ExampleSpec, for
`wire.encode_examples`; a null or an empty list is a feature that the example does not have.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline import schema
from pipeline.examples import wire
from pipeline.examples.nodes import HELDOUT_LABELS, LABELS
from pipeline.examples.places import column
from pipeline.examples.subgraphs import Edges
from pipeline.sorting import run_bounds

Columns = dict[str, pa.Array]


@dataclass(frozen=True)
class Neighborhoods:
    """The neighbours of a block of seeds.

    nodes: nodes.NODE_COLUMNS, any number. rows: [seeds, K] int64, rows of `nodes`, -1 = none;
    present ones stand before the others. weights: [seeds, K] float32.
    """

    nodes: pa.Table
    rows: np.ndarray
    weights: np.ndarray


def example_columns(
    seeds: pa.Table, near: Neighborhoods, edges: Edges, spec: schema.ExampleSpec
) -> Columns:
    """All columns of a block of examples. seeds: nodes.SEED_COLUMNS."""
    columns = _node_columns(seeds, spec)
    columns |= _heldout_columns(seeds, spec)
    for feature in (schema.TEXT, schema.TEXT_WEIGHT):
        columns[feature.name] = column(seeds, feature.name)
    if not spec.neighbors:
        return columns
    columns[schema.NUM_NEIGHBORS.name] = pa.array((near.rows >= 0).sum(axis=1), pa.int64())
    columns |= dict((_nsl if spec.layout == "nsl" else _compact)(near, spec))
    for feature, values in (
        (schema.GRAPH_SENDERS, edges.senders),
        (schema.GRAPH_RECEIVERS, edges.receivers),
        (schema.GRAPH_WEIGHTS, edges.weights),
    ):
        columns[feature.name] = _lists(edges.counts, pa.array(values))
    return columns


def _node_columns(nodes: pa.Table, spec: schema.ExampleSpec) -> Columns:
    """A column a feature of a node, by the feature's name."""
    content = schema.content_feature(spec.feature_dim).name
    labels = column(nodes, LABELS)
    columns = {
        schema.IMAGE_ID.name: column(nodes, schema.IMAGE_ID.name),
        content: column(nodes, content),
        schema.LABEL.name: first_label(labels),
    }
    return columns | ({schema.LABELS.name: labels} if spec.multi_label else {})


def _heldout_columns(seeds: pa.Table, spec: schema.ExampleSpec) -> Columns:
    """The labels outside the training split; a training example has no such feature at all."""
    labels = column(seeds, HELDOUT_LABELS)
    training = pc.equal(column(seeds, "split"), schema.SPLITS[0])
    first = pc.if_else(training, pa.scalar(None, pa.int64()), first_label(labels))
    columns = {schema.HELDOUT_LABEL.name: first}
    return columns | ({schema.HELDOUT_LABELS.name: labels} if spec.multi_label else {})


def first_label(lists: pa.Array) -> pa.Array:
    """[rows] int64: the first of each list; NO_LABEL where it is empty."""
    lengths = pc.list_value_length(lists).to_numpy(zero_copy_only=False)
    starts = np.cumsum(lengths) - lengths
    return pc.fill_null(
        lists.flatten().take(pa.array(starts, pa.int64(), mask=lengths == 0)), schema.NO_LABEL
    )


def _nsl(near: Neighborhoods, spec: schema.ExampleSpec) -> Iterator[tuple[str, pa.Array]]:
    """Columns `NL_nbr_<i>_…`, a slot after the other."""
    nodes = _node_columns(near.nodes, spec)
    for index in range(spec.neighbors):
        rows = near.rows[:, index]
        yield schema.neighbor_weight(index).name, pa.array(near.weights[:, index])
        picked = pa.array(rows, mask=rows < 0)
        for name, values in nodes.items():
            yield schema.neighbor_feature(index, name), values.take(picked)


def _compact(near: Neighborhoods, spec: schema.ExampleSpec) -> Iterator[tuple[str, pa.Array]]:
    """Columns `nbr_…`, of all neighbours that there are."""
    present = near.rows >= 0
    counts, picked = present.sum(axis=1), pa.array(near.rows[present])
    yield schema.COMPACT_WEIGHTS.name, _lists(counts, pa.array(near.weights[present]))
    for name, values in _node_columns(near.nodes, spec).items():
        taken, ours = values.take(picked), schema.COMPACT_PREFIX + name
        if name == schema.IMAGE.name and spec.image_encoding == "raw":
            lists = _lists(counts, taken)
            whole = wire.flattened(lists, taken.cast(pa.large_binary()))
            yield ours, pc.if_else(pa.array(counts > 0), whole, pa.scalar(None, whole.type))
        elif pa.types.is_large_list(taken.type):
            lengths = pc.list_value_length(taken).to_numpy(zero_copy_only=False)
            yield ours, _lists(_sums(lengths, counts), taken.flatten())
            if name == schema.LABELS.name:
                yield schema.COMPACT_LABEL_COUNTS.name, _lists(counts, pa.array(lengths))
        else:
            yield ours, _lists(counts, taken)


def _sums(values: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """[rows] int64: the sum of each run of `counts` values."""
    ends = run_bounds(values)
    bounds = run_bounds(counts)
    return np.diff(ends[bounds])


def _lists(counts: np.ndarray, values: pa.Array) -> pa.LargeListArray:
    offsets = run_bounds(counts)
    return pa.LargeListArray.from_arrays(pa.array(offsets), values)
