"""What the files of examples hold, in every layout, encoding and compression: laws for all of them.

The reference is plain Python (`plain_examples`); other readers are neural-structured-learning's own
feature spec, TensorFlow Metadata's schema, and TensorFlow itself.
"""

from __future__ import annotations

import io
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import tensorflow as tf
from example_cases import CASES, Made, made
from PIL import Image
from plain_examples import check_same
from small_catalogs import SEED, SIDE, colour_of, serialized
from tensorflow_metadata.proto.v0 import schema_pb2
from tensorflow_transform.tf_metadata import schema_utils
from tfx_bsl.coders.example_coder import ExamplesToRecordBatchDecoder

from pipeline import schema
from pipeline.examples import tf_schema
from pipeline.examples.places import Places

NSL = [name for name in CASES if name.startswith("nsl")]
PICTURES = [name for name in CASES if "features" not in name]


@pytest.mark.parametrize("name", CASES)
def test_every_image_is_the_example_that_plain_python_makes_of_it(name: str) -> None:
    case = made(name)
    for split, found in case.splits.items():
        assert found.keys() == {i for i, of in case.reference.splits.items() if of == split}
        for image_id, example in found.items():
            check_same(example, case.expected[image_id])


@pytest.mark.parametrize("name", CASES)
def test_the_manifest_counts_what_is_in_the_files(name: str) -> None:
    case = made(name)
    manifest, found = case.version.manifest, case.examples
    for split, said in manifest["splits"].items():
        files = [Path(path) for path in case.version.shards(split)]
        assert said == {
            "records": len(serialized(case.version, split)),
            "files": len(files),
            "bytes": sum(path.stat().st_size for path in files),
        }
    neighbors = Counter(len(case.reference.neighbors(image_id)) for image_id in found)
    counts = manifest["counts"]
    sizes = range(case.options["neighbors"] + 1)
    assert counts["images"]["by_neighbors"] == {str(size): neighbors[size] for size in sizes}
    assert counts["images"]["without_neighbors"] == neighbors[0] >= 2
    kept = len(case.reference.kept_edges())
    among = sum(len(example.get("graph_weights", ())) for example in found.values())
    assert counts["edges"] == {
        "read": len(case.world.edges),
        "skipped": len(case.world.edges) - kept,
        "among_nodes_of_examples": among,
    }
    assert manifest["classes"] == list(case.reference.classes)
    for split in schema.SPLITS:
        examples = case.splits[split].values()
        assert manifest["texts"][split] == sum(len(e.get("text", ())) for e in examples)


@pytest.mark.parametrize("name", CASES)
def test_the_files_of_a_split_hold_its_records_by_ascending_place(name: str) -> None:
    case = made(name)
    catalog = [row["image_id"] for row in case.world.rows]
    for split in schema.SPLITS:
        ids = list(case.splits[split])
        places = Places(SEED, 1).of(pa.array(ids, pa.string()))
        assert np.all(places[1:] > places[:-1])
        assert len(ids) < 3 or ids != sorted(ids, key=catalog.index)


@pytest.mark.parametrize("name", PICTURES)
def test_pictures_are_decoded_by_tensorflow_to_the_colours_of_the_catalog(name: str) -> None:
    case = made(name)
    raw = case.spec.image_encoding == "raw"
    for index, row in enumerate(case.world.rows[::4]):
        content = case.examples[row["image_id"]]["image"][0]
        flat = (
            tf.io.decode_raw(content, tf.uint8) if raw else tf.io.decode_image(content, channels=3)
        )
        pixels = tf.reshape(flat, [SIDE, SIDE, 3]).numpy()
        loss = 2 if case.spec.image_encoding == "jpeg" else 0
        assert np.abs(pixels - np.array(colour_of(4 * index), int)).max() <= loss


# Read by others -----------------------------------------------------------------------------------


def make_feature_spec(name: str, content: tf.io.FixedLenFeature, max_neighbors: int) -> dict:
    """As neural-structured-learning has it, in keras/graph_regularization_test.py and tutorials."""
    spec = {
        name: tf.io.FixedLenFeature(content.shape, content.dtype),
        "label": tf.io.FixedLenFeature((), tf.int64, default_value=-1),
        "NL_num_nbrs": tf.io.FixedLenFeature((), tf.int64, default_value=0),
    }
    for i in range(max_neighbors):
        spec[f"NL_nbr_{i}_{name}"] = content
        spec[f"NL_nbr_{i}_weight"] = tf.io.FixedLenFeature(
            [1], tf.float32, default_value=tf.constant([0.0])
        )
    return spec


def content_of(case: Made) -> tuple[str, tf.io.FixedLenFeature, list]:
    """(name, how it is parsed, what stands where there is no neighbour) of a node's content."""
    dim = case.spec.feature_dim
    if dim is None:
        return "image", tf.io.FixedLenFeature([1], tf.string, default_value=[b""]), [b""]
    nothing = tf.zeros([dim])
    return "features", tf.io.FixedLenFeature([dim], tf.float32, default_value=nothing), [0.0] * dim


@pytest.mark.parametrize("name", NSL)
def test_neural_structured_learning_reads_what_was_written(name: str) -> None:
    case = made(name)
    key, content, nothing = content_of(case)
    slots = range(case.options["neighbors"])
    for split, examples in case.splits.items():
        if not examples:
            continue
        spec = make_feature_spec(key, content, len(slots))
        parsed = tf.io.parse_example(serialized(case.version, split), spec)
        columns = {name: column.numpy().tolist() for name, column in parsed.items()}
        for row, image_id in enumerate(examples):
            seed, near = case.expected[image_id], case.reference.neighbors(image_id)
            assert columns["label"][row] == seed["label"][0]
            assert columns["NL_num_nbrs"][row] == len(near)
            found = {name: column[row] for name, column in columns.items()}
            contents = [case.expected[neighbor][key] for neighbor in near]
            contents += [nothing] * (len(slots) - len(near))
            for slot, wanted in zip(slots, contents, strict=True):
                weight = f"NL_nbr_{slot}_weight"
                check_same(
                    {weight: found[weight], key: found[f"NL_nbr_{slot}_{key}"]},
                    {weight: seed[weight], key: wanted},
                )
                assert (found[weight][0] > 0) == (slot < len(near))


def read_schema(case: Made) -> schema_pb2.Schema:
    return tf_schema.read(case.version.file(schema.EXAMPLE_SCHEMA_FILE))


@pytest.mark.parametrize("name", CASES)
def test_the_schema_file_holds_for_every_record(name: str) -> None:
    case = made(name)
    rows = list(case.examples.values())
    found = read_schema(case)
    described = {feature.name: feature for feature in found.feature}
    assert len(described) == len(found.feature)
    assert {name for row in rows for name in row} <= described.keys()
    for feature in found.feature:
        check_feature(
            feature, [row[feature.name] for row in rows if feature.name in row], len(rows)
        )


KINDS = {schema_pb2.BYTES: bytes, schema_pb2.INT: int, schema_pb2.FLOAT: float}


def check_feature(feature: schema_pb2.Feature, lists: list[list], rows: int) -> None:
    """What the schema says of a feature is true of its values in the rows that have it."""
    assert len(lists) / rows >= feature.presence.min_fraction, feature.name
    counts = [len(values) for values in lists]
    assert all(count >= feature.value_count.min for count in counts), feature.name
    if feature.value_count.HasField("max"):
        assert all(count <= feature.value_count.max for count in counts), feature.name
    flat = [value for values in lists for value in values]
    assert all(isinstance(value, KINDS[feature.type]) for value in flat), feature.name
    if feature.HasField("int_domain"):
        least, most = feature.int_domain.min, feature.int_domain.max
        assert all(least <= value <= most for value in flat), feature.name
    if feature.HasField("float_domain"):
        assert all(value >= feature.float_domain.min for value in flat), feature.name
    if feature.HasField("image_domain"):
        assert all(Image.open(io.BytesIO(value)).size == (SIDE, SIDE) for value in flat)


@pytest.mark.parametrize("name", CASES)
def test_the_schema_file_says_no_less_than_there_is(name: str) -> None:
    case = made(name)
    rows = list(case.examples.values())
    labels, neighbors = len(case.reference.classes), case.options["neighbors"]
    for feature in read_schema(case).feature:
        lists = [row[feature.name] for row in rows if feature.name in row]
        if labels:  # a catalog of features has neither labels nor texts
            assert lists, f"{feature.name} is nowhere"
        if len(lists) == len(rows) and {len(values) for values in lists} == {1}:
            assert feature.presence.min_fraction == 1.0, feature.name
        if feature.name == schema.COMPACT_LABEL_COUNTS.name:
            assert (feature.int_domain.min, feature.int_domain.max) == (0, labels)
        elif feature.name.endswith(("label", "labels")):
            assert (feature.int_domain.min, feature.int_domain.max) == (-1, labels - 1)
        if feature.name in ("graph_senders", "graph_receivers", "NL_num_nbrs"):
            assert feature.int_domain.max == neighbors
        if case.spec.feature_dim and feature.name.endswith("features") and neighbors == 3:
            sizes = {len(values) for values in lists}
            assert (feature.value_count.max in sizes) or feature.name.startswith("nbr_")


@pytest.mark.parametrize("name", CASES)
def test_tfx_reads_the_records_by_the_schema_file(name: str) -> None:
    case = made(name)
    described = read_schema(case)
    decoder = ExamplesToRecordBatchDecoder(described.SerializeToString())
    spec = schema_utils.schema_as_feature_spec(described).feature_spec
    for split in schema.SPLITS:
        records, expected = serialized(case.version, split), case.splits[split]
        if not records:
            continue
        rows = decoder.DecodeBatch(records).to_pylist()
        for row, example in zip(rows, expected.values(), strict=True):
            assert {name: values for name, values in row.items() if values is not None} == example
            parsed = tf.io.parse_example(records, spec)
        ids = parsed["image_id"].values.numpy()
        assert [image_id.decode() for image_id in ids] == list(expected)
