"""Records made of columns are, byte for byte, what protocol buffers write of the same values."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import tensorflow as tf
from hypothesis import example, given, settings
from hypothesis import strategies as st

from pipeline.examples import wire

INT64 = st.integers(-(2**63), 2**63 - 1)
FLOAT32 = st.floats(width=32, allow_nan=False)
# {kind: (Arrow types, values)}
KINDS: dict[str, tuple[tuple[pa.DataType, ...], st.SearchStrategy]] = {
    "bytes": ((pa.binary(), pa.large_binary()), st.binary(max_size=200)),
    "text": ((pa.string(), pa.large_string()), st.text(max_size=60)),
    "int64": ((pa.int64(),), INT64),
    "float32": ((pa.float32(),), FLOAT32),
}
LIST_TYPES = (pa.list_, pa.large_list)
# Lengths around which a varint takes a byte more.
BORDERS = [0, 1, 127, 128, 2**14 - 1, 2**14, 2**21 - 1, 2**21]

Columns = dict[str, tuple[pa.Array, list[Any]]]  # {name: (column, its values in Python)}


@st.composite
def columns(draw: st.DrawFn) -> tuple[Columns, int]:
    """Columns of a few rows, slices of longer ones, with the values that they hold."""
    rows = draw(st.integers(0, 4))
    names = draw(st.lists(st.text(max_size=31), max_size=4, unique=True))
    return {name: draw(column(rows)) for name in names}, rows


@st.composite
def column(draw: st.DrawFn, rows: int) -> tuple[pa.Array, list[Any]]:
    types, values = KINDS[draw(st.sampled_from(sorted(KINDS)))]
    dtype = draw(st.sampled_from(types))
    if draw(st.booleans()):
        dtype = draw(st.sampled_from(LIST_TYPES))(dtype)
        values = st.lists(values, max_size=4)
    before, after = draw(st.integers(0, 2)), draw(st.integers(0, 2))
    size = before + rows + after
    found = draw(st.lists(st.none() | values, min_size=size, max_size=size))
    return pa.array(found, dtype).slice(before, rows), found[before : before + rows]


def to_features(row: dict[str, Any], types: dict[str, pa.DataType]) -> list[tf.train.Features]:
    """The features of a row that it has, by name, with TensorFlow's own classes."""
    return [
        tf.train.Features(feature={name: to_feature(row[name], types[name])})
        for name in sorted(row)
        if row[name] is not None and row[name] != []
    ]


def to_feature(value: Any, dtype: pa.DataType) -> tf.train.Feature:
    values = value if isinstance(value, list) else [value]
    dtype = dtype.value_type if isinstance(value, list) else dtype
    if pa.types.is_floating(dtype):
        return tf.train.Feature(float_list=tf.train.FloatList(value=values))
    if pa.types.is_integer(dtype):
        return tf.train.Feature(int64_list=tf.train.Int64List(value=values))
    encoded = [v.encode() if isinstance(v, str) else v for v in values]
    return tf.train.Feature(bytes_list=tf.train.BytesList(value=encoded))


def to_record(features: list[tf.train.Features]) -> bytes:
    """The example of some features, in their order, which protocol buffers alone do not promise.

    Messages one after the other are one message, and an Example is a field of bytes, as a
    BytesList of one value is.
    """
    whole = b"".join(feature.SerializeToString() for feature in features)
    return tf.train.BytesList(value=[whole]).SerializeToString()


@given(drawn=columns())
@settings(max_examples=150, deadline=None)
@example(({}, 3))
def test_records_are_the_bytes_that_protocol_buffers_write_in_the_order_of_names(drawn):
    columns_, rows = drawn
    arrays = {name: array for name, (array, _) in columns_.items()}
    records = wire.encode_examples(arrays, rows).to_pylist()
    types = {name: array.type for name, array in arrays.items()}
    for index in range(rows):
        row = {name: values[index] for name, (_, values) in columns_.items()}
        features = to_features(row, types)
        assert records[index] == to_record(features)
        expected = {name: part.feature[name] for part in features for name in part.feature}
        found = tf.train.Example.FromString(records[index]).features.feature
        assert dict(found) == expected
    assert len(records) == rows
    turned_over = {name: arrays[name] for name in reversed(arrays)}
    assert wire.encode_examples(turned_over, rows).to_pylist() == records


@given(data=st.data(), rows=st.integers(1, 4))
@settings(max_examples=25, deadline=None)
def test_tensorflow_parses_a_batch_of_records_to_the_values(data, rows):
    numbers = data.draw(st.lists(INT64, min_size=rows, max_size=rows))
    floats = data.draw(
        st.lists(st.lists(FLOAT32, min_size=2, max_size=2), min_size=rows, max_size=rows)
    )
    texts = data.draw(
        st.lists(st.lists(st.text(max_size=9), max_size=3), min_size=rows, max_size=rows)
    )
    arrays = {
        "number": pa.array(numbers, pa.int64()),
        "floats": pa.array(floats, pa.large_list(pa.float32())),
        "texts": pa.array(texts, pa.list_(pa.string())),
    }
    found = tf.io.parse_example(
        wire.encode_examples(arrays, rows).to_pylist(),
        {
            "number": tf.io.FixedLenFeature((), tf.int64),
            "floats": tf.io.FixedLenFeature((2,), tf.float32),
            "texts": tf.io.RaggedFeature(tf.string),
        },
    )
    assert found["number"].numpy().tolist() == numbers
    assert found["floats"].numpy().tolist() == floats
    assert found["texts"].to_list() == [[text.encode() for text in row] for row in texts]


@pytest.mark.parametrize("name", ["", "x", "ä" * 63 + "x"], ids=["empty", "short", "127 bytes"])
@pytest.mark.parametrize("size", BORDERS)
def test_lengths_are_right_on_both_sides_of_each_border_of_a_varint(name, size):
    value = np.random.default_rng(0).bytes(size)
    types = {name: pa.large_binary(), "list": pa.list_(pa.binary()), "n": pa.list_(pa.int64())}
    row = {name: value, "list": [value, b"", value[:1]], "n": [-1] * min(size, 2**14)}
    arrays = {key: pa.array([row[key], None], types[key]) for key in types}
    first, second = wire.encode_examples(arrays, 2).to_pylist()
    assert first == to_record(to_features(row, types))
    assert second == b"\x0a\x00"


def test_numbers_are_right_on_both_sides_of_each_border_of_a_varint():
    numbers = [
        max(-(2**63), min(sign * (2**power + step), 2**63 - 1))
        for power in range(64)
        for step in (-1, 0, 1)
        for sign in (1, -1)
    ]
    arrays = {"one": pa.array(numbers, pa.int64()), "many": pa.array([numbers] * len(numbers))}
    for number, record in zip(
        numbers, wire.encode_examples(arrays, len(numbers)).to_pylist(), strict=True
    ):
        found = tf.train.Example.FromString(record).features.feature
        assert list(found["one"].int64_list.value) == [number]
        assert list(found["many"].int64_list.value) == numbers


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf"), -0.0, 1e-45])
def test_floats_that_are_no_plain_numbers_keep_their_bits(value):
    arrays = {
        "one": pa.array([value], pa.float32()),
        "many": pa.array([[0.0, value]], pa.list_(pa.float32())),
    }
    found = tf.train.Example.FromString(wire.encode_examples(arrays, 1)[0].as_py())
    for name in arrays:
        last = np.float32(found.features.feature[name].float_list.value[-1])
        assert last.tobytes() == np.float32(value).tobytes()


@given(
    lists=st.lists(st.none() | st.lists(st.binary(max_size=9), max_size=3), max_size=6),
    start=st.integers(0, 3),
)
@settings(max_examples=100, deadline=None)
def test_values_of_a_list_are_put_one_after_the_other(lists, start):
    array = pa.array(lists, pa.large_list(pa.large_binary())).slice(start)
    found = wire.flattened(array, array.flatten())
    assert found.to_pylist() == [b"".join(row or []) for row in lists[start:]]
