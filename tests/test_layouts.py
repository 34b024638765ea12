"""Both layouts hold the same seeds and neighbours, and no label where it must not be seen."""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st
from tensorflow_metadata.proto.v0 import schema_pb2

from pipeline import schema
from pipeline.examples import layouts, nodes, tf_schema, wire
from pipeline.examples.layouts import Neighborhoods
from pipeline.examples.subgraphs import Edges

PICTURE_BYTES, DIM, CLASSES = 12, 2, 3
NODE_SCHEMA = pa.schema(
    [
        ("place", pa.uint64()),
        ("image_id", pa.string()),
        ("image", pa.large_binary()),
        ("features", pa.large_list(pa.float32())),
        ("labels", pa.large_list(pa.int64())),
    ]
)
SEED_SCHEMA = pa.schema(
    [
        *NODE_SCHEMA,
        ("heldout_labels", pa.large_list(pa.int64())),
        ("text", pa.list_(pa.string())),
        ("text_weight", pa.list_(pa.float32())),
        ("split", pa.string()),
    ]
)


class Block(NamedTuple):
    """Some seeds with their neighbours, as the pipeline and as Python has them."""

    seeds: list[dict]
    nodes: list[dict]
    rows: np.ndarray  # [seeds, K], of nodes; -1 = none
    weights: np.ndarray
    edges: list[list[tuple[int, int, float]]]


@st.composite
def node(draw: st.DrawFn) -> dict:
    labels = st.lists(st.integers(0, CLASSES - 1), max_size=CLASSES, unique=True)
    return {
        "place": draw(st.integers(0, 2**64 - 1)),
        "image_id": draw(st.text(min_size=1, max_size=4)),
        "image": draw(st.binary(min_size=PICTURE_BYTES, max_size=PICTURE_BYTES)),
        "features": draw(st.lists(st.floats(-9, 9, width=32), min_size=DIM, max_size=DIM)),
        "labels": draw(labels),
    }


@st.composite
def seed(draw: st.DrawFn) -> dict:
    found = draw(node())
    split = draw(st.sampled_from(schema.SPLITS))
    heldout: list[int] = []
    if split != "train":
        found["labels"], heldout = heldout, found["labels"]
    texts = draw(st.lists(st.text(max_size=4), max_size=2))
    weights = [float(n + 1) for n in range(len(texts))]
    return found | {
        "heldout_labels": heldout,
        "text": texts,
        "text_weight": weights,
        "split": split,
    }


@st.composite
def blocks(draw: st.DrawFn, neighbors: int) -> Block:
    seeds = draw(st.lists(seed(), max_size=4))
    near = draw(st.lists(node(), max_size=4))
    rows = np.full((len(seeds), neighbors), -1, np.int64)
    weights = np.zeros((len(seeds), neighbors), np.float32)
    edges = []
    for index in range(len(seeds)):
        degree = draw(st.integers(0, neighbors if near else 0))
        rows[index, :degree] = [draw(st.integers(0, len(near) - 1)) for _ in range(degree)]
        weights[index, :degree] = [4.0 - slot for slot in range(degree)]
        edges.append([(0, slot + 1, 4.0 - slot) for slot in range(degree)])
    return Block(seeds, near, rows, weights, edges)


def encode(block: Block, spec: schema.ExampleSpec) -> list[dict[str, list]]:
    """{feature: values} of each example, as TensorFlow parses it."""
    # Slices, as blocks of a shard are.
    seeds = pa.Table.from_pylist(block.seeds[:1] + block.seeds, schema=SEED_SCHEMA)
    seeds = seeds.slice(min(1, len(block.seeds)))
    near = pa.Table.from_pylist(block.nodes, schema=NODE_SCHEMA)
    flat = list(itertools.chain.from_iterable(block.edges))
    senders, receivers, weights = (
        np.array([edge[part] for edge in flat], dtype)
        for part, dtype in enumerate((np.int64, np.int64, np.float32))
    )
    counts = np.array([len(edges) for edges in block.edges], np.int64)
    columns = layouts.example_columns(
        seeds,
        Neighborhoods(near, block.rows, block.weights),
        Edges(counts, senders, receivers, weights),
        spec,
    )
    assert set(columns) == {feature.name for feature in spec.features()}
    records = wire.encode_examples(columns, seeds.num_rows).to_pylist()
    return [parse(record) for record in records]


def parse(record: bytes) -> dict[str, list]:
    found = tf.train.Example.FromString(record).features.feature
    return {
        name: list(getattr(feature, feature.WhichOneof("kind")).value)
        for name, feature in found.items()
    }


def expected_node(row: dict, spec: schema.ExampleSpec) -> dict[str, list]:
    content = "image" if spec.feature_dim is None else "features"
    found = {
        "image_id": [row["image_id"].encode()],
        content: [row[content]] if spec.feature_dim is None else row[content],
        "label": row["labels"][:1] or [-1],
    }
    return found | ({"labels": row["labels"]} if spec.multi_label and row["labels"] else {})


def neighbors_of_nsl(found: dict[str, list], spec: schema.ExampleSpec) -> list[dict[str, list]]:
    prefixes = [f"NL_nbr_{slot}_" for slot in range(spec.neighbors)]
    slots = [
        {name.removeprefix(prefix): found[name] for name in found if name.startswith(prefix)}
        for prefix in prefixes
    ]
    number = found["NL_num_nbrs"][0]
    assert slots[number:] == [{"weight": [0.0]}] * (spec.neighbors - number)
    return slots[:number]


def neighbors_of_compact(found: dict[str, list], spec: schema.ExampleSpec) -> list[dict[str, list]]:
    number = found["NL_num_nbrs"][0]
    parts = {name: list(found.get(f"nbr_{name}", [])) for name in ("weight", "image_id", "label")}
    slots: list[dict[str, list]] = [
        {name: [values[slot]] for name, values in parts.items()} for slot in range(number)
    ]
    assert all(len(values) == number for values in parts.values())
    content = found.get("nbr_image", found.get("nbr_features", []))
    labels, counts = found.get("nbr_labels", []), found.get("nbr_num_labels", [])
    for slot in slots:
        if spec.feature_dim is not None:
            slot["features"], content = content[:DIM], content[DIM:]
        elif spec.image_encoding == "raw":
            slot["image"], content = [content[0][:PICTURE_BYTES]], [content[0][PICTURE_BYTES:]]
        else:
            slot["image"], content = content[:1], content[1:]
        if spec.multi_label:
            size, counts = counts[0], counts[1:]
            if size:
                slot["labels"], labels = labels[:size], labels[size:]
    assert not labels
    assert not counts
    assert content in ([], [b""])  # raw pictures are one value, cut to its end
    assert slots or not [name for name in found if name.startswith("nbr_")]
    return slots


TYPES = {schema_pb2.BYTES: bytes, schema_pb2.INT: int, schema_pb2.FLOAT: float}
SPECS = [
    schema.ExampleSpec(neighbors, dim, encoding, "nsl", multi)  # type: ignore[arg-type]
    for neighbors, (dim, encoding), multi in itertools.product(
        (1, 3), ((None, "png"), (None, "raw"), (DIM, None)), (False, True)
    )
]


def spec_name(spec: schema.ExampleSpec) -> str:
    content = spec.image_encoding or "features"
    return f"{content}-{spec.neighbors}" + ("-labels" if spec.multi_label else "")


@pytest.mark.parametrize("spec", SPECS, ids=spec_name)
@given(data=st.data())
@settings(max_examples=12, deadline=None)
def test_both_layouts_hold_the_seeds_and_neighbors_that_they_were_given(spec, data):
    block = data.draw(blocks(spec.neighbors))
    compact = replace(spec, layout="compact")
    of_nsl, of_compact = encode(block, spec), encode(block, compact)
    assert len(of_nsl) == len(of_compact) == len(block.seeds)
    for index, row in enumerate(block.seeds):
        expected = [
            expected_node(block.nodes[near], spec) | {"weight": [float(weight)]}
            for near, weight in zip(block.rows[index], block.weights[index], strict=True)
            if near >= 0
        ]
        assert neighbors_of_nsl(of_nsl[index], spec) == expected
        assert neighbors_of_compact(of_compact[index], compact) == expected
        for found in (of_nsl[index], of_compact[index]):
            of_seed = {k: v for k, v in found.items() if not k.startswith(("NL_nbr_", "nbr_"))}
            assert of_seed == expected_seed(row, block.edges[index], len(expected), spec)


def expected_seed(
    row: dict, edges: list, neighbors: int, spec: schema.ExampleSpec
) -> dict[str, list]:
    """What an example says of its seed, and of the edges."""
    heldout = row["heldout_labels"]
    found = expected_node(row, spec) | {"NL_num_nbrs": [neighbors]}
    found |= {} if row["split"] == "train" else {"heldout_label": heldout[:1] or [-1]}
    found |= {"heldout_labels": heldout} if spec.multi_label else {}
    found |= {"text": [t.encode() for t in row["text"]], "text_weight": row["text_weight"]}
    names = ("graph_senders", "graph_receivers", "graph_weights")
    found |= {name: [edge[part] for edge in edges] for part, name in enumerate(names)}
    return {name: values for name, values in found.items() if values}


@pytest.mark.parametrize("spec", SPECS, ids=spec_name)
@given(data=st.data(), layout=st.sampled_from(["nsl", "compact"]))
@settings(max_examples=12, deadline=None)
def test_examples_are_as_the_schema_says(spec, data, layout):
    spec = replace(spec, layout=layout)
    described = {row.name: row for row in tf_schema.make_schema(spec, CLASSES).feature}
    for found in encode(data.draw(blocks(spec.neighbors)), spec):
        assert set(found) <= set(described)
        for name, feature in described.items():
            if name not in found:
                assert not feature.presence.min_fraction
                continue
            values, sizes = found[name], feature.value_count
            assert sizes.min <= len(values) <= (sizes.max or len(values))
            assert isinstance(values[0], TYPES[feature.type])
            if feature.WhichOneof("domain_info") == "int_domain":
                assert feature.int_domain.min <= min(values)
                assert max(values) <= feature.int_domain.max


@pytest.mark.parametrize("layout", ["nsl", "compact"])
@given(block=blocks(0))
@settings(max_examples=15, deadline=None)
def test_without_neighbors_there_is_no_feature_of_neighbors_or_edges(layout, block):
    for found in encode(block, schema.ExampleSpec(0, layout=layout)):
        assert not [name for name in found if "nbr" in name or "graph" in name]


@given(block=blocks(2))
@settings(max_examples=20, deadline=None)
def test_training_examples_have_no_heldout_feature_and_others_no_label(block):
    for found, row in zip(
        encode(block, schema.ExampleSpec(2, multi_label=True)), block.seeds, strict=True
    ):
        heldout = {name for name in found if name.startswith("heldout")}
        if row["split"] == "train":
            assert not heldout
        else:
            assert found["label"] == [-1]
            assert "labels" not in found
            assert "heldout_label" in heldout


LISTS = st.lists(st.lists(st.integers(0, 9), max_size=3), max_size=6)


@given(lists=LISTS, start=st.integers(0, 3))
@settings(deadline=None)
def test_the_first_label_is_the_first_of_the_list(lists, start):
    array = pa.array(lists, pa.large_list(pa.int64())).slice(start)
    expected = [(labels or [schema.NO_LABEL])[0] for labels in lists[start:]]
    assert layouts.first_label(array).to_pylist() == expected


@given(lists=LISTS, keep=st.lists(st.booleans(), min_size=6, max_size=6), start=st.integers(0, 3))
@settings(deadline=None)
def test_lists_are_kept_where_they_may_be_seen(lists, keep, start):
    array = pa.array(lists, pa.large_list(pa.int64())).slice(start)
    found = nodes.keep_lists(array, pa.array(keep[: len(lists)], pa.bool_()).slice(start))
    assert found.to_pylist() == [
        labels if kept else [] for labels, kept in list(zip(lists, keep, strict=False))[start:]
    ]
