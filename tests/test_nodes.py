"""All images as nodes, and the graph's edges among them: read as they were written."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tensorflow as tf
import tiny_examples
from tiny_examples import Form

from pipeline import schema
from pipeline.artifacts import Version
from pipeline.graph import measures
from trainer import parsing
from trainer.attempt import make_model
from trainer.config import ModelConfig, TrainingConfig
from trainer.example_files import ExampleFiles
from trainer.graph_edges import clicks_of, edges_of_examples, edges_of_graph
from trainer.nodes import Nodes, look_at, read_nodes

TOTAL = sum(tiny_examples.RECORDS.values())
TRAIN = tiny_examples.RECORDS["train"]


@pytest.fixture(scope="module", params=["nsl", "compact"])
def files(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> ExampleFiles:
    form = Form(features=True, layout=request.param)
    folder = tmp_path_factory.mktemp("features")
    return ExampleFiles.open(tiny_examples.write_examples(folder, form, files=2))


@pytest.fixture(scope="module")
def nodes(files: ExampleFiles) -> Nodes:
    return read_nodes(files)


def test_nodes_are_the_images_of_all_splits_in_the_order_of_the_files(nodes: Nodes) -> None:
    names = [f"img-{index}" for index in range(TOTAL)]
    assert nodes.image_ids.to_pylist() == names
    assert nodes.ids.tolist() == parsing.hash_ids(tf.constant(names)).numpy().tolist()
    assert [schema.SPLITS[place] for place in nodes.split] == list(
        map(tiny_examples.split_of, range(TOTAL))
    )
    assert np.flatnonzero(nodes.of("validation")).tolist() == list(range(TRAIN, TRAIN + 14))
    truth = [[*tiny_examples.classes_of(i, multi_label=False), -1][0] for i in range(TOTAL)]
    assert nodes.labels.tolist() == [*truth[:TRAIN], *[-1] * (TOTAL - TRAIN)]
    assert nodes.heldout.tolist() == [*[-1] * TRAIN, *truth[TRAIN:]]


def test_edges_of_examples_are_those_of_every_seed(nodes: Nodes) -> None:
    expected = [
        (index, other, weight)
        for index in range(TOTAL)
        for other, weight in tiny_examples.neighbors_of(index)
    ]
    found = edges_of_examples(nodes)
    assert found.ends.tolist() == [[index, other] for index, other, _ in expected]
    assert found.weights.tolist() == [weight for *_, weight in expected]
    assert found.ranks.tolist() == [
        1 + slot for i in range(TOTAL) for slot in range(len(tiny_examples.neighbors_of(i)))
    ]
    np.testing.assert_allclose(found.features[:, 0], np.log1p(found.weights), rtol=1e-6)
    assert found.names == ("weight",)


def test_nodes_look_as_the_model_serves_them(files: ExampleFiles) -> None:
    config = ModelConfig(dim=8, feature_hidden=[16])
    model = make_model(files, files.transform(), config, TrainingConfig())
    vectors, probabilities = look_at(model, files)
    features = np.stack([tiny_examples.raw_features(i) for i in range(TOTAL)]).astype("f4")
    expected = model.image_tower(features, training=False)
    np.testing.assert_allclose(vectors, expected, atol=1e-6)
    assert probabilities is not None
    logits = model.class_head(expected)
    np.testing.assert_allclose(probabilities, tf.nn.softmax(logits), atol=1e-6)
    unlabelled = make_model(files, files.transform(), config, TrainingConfig(supervised=0.0))
    assert look_at(unlabelled, files)[1] is None


# The graph ----------------------------------------------------------------------------------------

IMAGES = pa.array(["a", "b", "c"])
EDGES: list[dict[str, Any]] = [
    {"src": "a", "dst": "c", "weight": 3.0, "sessions": 7, "users": 4, "strength": 6.5,
     "src_sessions": 20, "dst_sessions": 9},
    {"src": "a", "dst": "gone", "weight": 9.0, "sessions": 8, "users": 4, "strength": 6.5,
     "src_sessions": 20, "dst_sessions": 9},
    {"src": "c", "dst": "a", "weight": 3.0, "sessions": 7, "users": 4, "strength": 6.5,
     "src_sessions": 9, "dst_sessions": 20},
    {"src": "b", "dst": "c", "weight": 1.0, "sessions": 9, "users": 2, "strength": 9.0,
     "src_sessions": 9, "dst_sessions": 9},
]  # fmt: skip


def graph(folder: Path, rows: list[dict[str, Any]], **manifest: Any) -> Version:
    table = pa.Table.from_pylist([{"rank": 1, **row} for row in rows], schema.EDGE_SCHEMA)
    pq.write_table(table, folder / schema.shard_name(schema.EDGES, 0, 1, "parquet"))
    return Version(schema.GRAPH, "v0001", str(folder), manifest)


def test_an_edge_of_the_graph_comes_with_what_the_logs_tell_of_it(tmp_path: Path) -> None:
    found = edges_of_graph(graph(tmp_path, EDGES, population=100), IMAGES)
    assert found.ends.tolist() == [[0, 2], [2, 0], [1, 2]]
    assert found.weights.tolist() == [3.0, 3.0, 1.0]
    columns = dict(zip(found.names, found.features.T, strict=True))
    c, n_i, n_j = np.array([7, 7, 9]), np.array([20, 9, 9]), np.array([9, 20, 9])
    expected = {
        "weight": np.log1p([3, 3, 1]),
        "strength": np.log1p([6.5, 6.5, 9]),
        "sessions": np.log1p(c),
        "users": np.log1p([4, 4, 2]),
        "rarer": np.log1p([9, 9, 9]),
        "commoner": np.log1p([20, 20, 9]),
        "npmi": measures.npmi(c, n_i, n_j, 100),
    }
    assert columns.keys() == expected.keys()
    for name, values in expected.items():
        np.testing.assert_allclose(columns[name], values, rtol=1e-6)
    # Both directions of an edge look the same.
    np.testing.assert_array_equal(found.features[0], found.features[1])


def test_of_a_ready_edge_list_there_are_weights_alone(tmp_path: Path) -> None:
    rows = [{"src": row["src"], "dst": row["dst"], "weight": row["weight"]} for row in EDGES]
    found = edges_of_graph(graph(tmp_path, rows), IMAGES)
    assert found.names == ("weight",)
    np.testing.assert_allclose(found.features[:, 0], np.log1p([3, 3, 1]), rtol=1e-6)


def test_clicks_are_those_on_known_images(tmp_path: Path) -> None:
    rows = [("red", "a", 5, 3), ("red", "gone", 2, 2), ("blue", "c", 4, None), ("red", "b", 1, 1)]
    columns = zip(*rows, strict=True)
    table = pa.table([pa.array(c) for c in columns], names=schema.QUERY_SCHEMA.names)
    path = tmp_path / schema.shard_name(schema.QUERIES, 0, 1, "parquet")
    pq.write_table(table.cast(schema.QUERY_SCHEMA), path)
    found = clicks_of(Version(schema.GRAPH, "v0001", str(tmp_path), {}), IMAGES)
    assert found.node.tolist() == [0, 2, 1]
    assert found.query[0] == found.query[2] != found.query[1]
    assert (found.sessions.tolist(), found.users.tolist()) == ([5, 4, 1], [3, 0, 1])
