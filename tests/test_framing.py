"""Framed records are a TFRecord file, for TensorFlow's reader and for ours."""

from __future__ import annotations

import io

import pyarrow as pa
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.errors import ImgembedError
from pipeline.tables.framing import frame_records, read_records, starts_record

RECORDS = st.lists(st.binary(max_size=300), max_size=6)


def frame(records: list[bytes]) -> bytes:
    return frame_records(pa.array(records, pa.large_binary()))


def read(data: bytes) -> list[bytes]:
    return list(read_records(io.BytesIO(data), "f.tfrecord"))


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return tmp_path_factory.mktemp("framing") / "f.tfrecord"


@given(parts=st.lists(RECORDS, max_size=3))
@settings(max_examples=40, deadline=None)
def test_parts_one_after_the_other_are_a_file_that_tensorflow_reads(parts, path):
    data = b"".join(frame(records) for records in parts)
    path.write_bytes(data)
    records = [record for part in parts for record in part]
    assert [r.numpy() for r in tf.data.TFRecordDataset(str(path))] == records
    assert read(data) == records


@given(records=RECORDS)
@settings(max_examples=20, deadline=None)
def test_the_frame_is_what_tensorflow_writes(records, path):
    with tf.io.TFRecordWriter(str(path)) as writer:
        for record in records:
            writer.write(record)
    assert frame(records) == path.read_bytes()


@given(records=RECORDS, start=st.integers(0, 6), size=st.integers(0, 6))
@settings(deadline=None)
def test_a_slice_of_records_is_framed_alone(records, start, size):
    part = pa.array(records, pa.large_binary()).slice(start, size)
    assert read(frame_records(part)) == records[start : start + size]


@pytest.mark.parametrize(
    "nothing",
    [
        pa.array([], pa.large_binary()),
        pa.array([b"x"], pa.large_binary()).slice(1),
        pa.chunked_array([], pa.large_binary()).combine_chunks(),
    ],
)
def test_no_records_are_no_bytes(nothing):
    assert frame_records(nothing) == b""


def test_a_byte_that_changed_is_found_and_named_by_its_record():
    data = frame([b"one", b"", b"three"])
    first, second = 12 + 3 + 4, 12 + 4
    for place in range(len(data)):
        number = 1 + (place >= first) + (place >= first + second)
        damaged = bytearray(data)
        damaged[place] ^= 1
        with pytest.raises(ImgembedError, match=rf"f\.tfrecord: record {number} is damaged"):
            read(bytes(damaged))


def test_a_file_that_ends_within_a_record_is_cut_short():
    data = frame([b"one", b"two"])
    whole = {0, len(data) // 2}
    for size in set(range(len(data))) - whole:
        with pytest.raises(ImgembedError, match="cut short in record"):
            read(data[:size])
    assert [len(read(data[:size])) for size in sorted(whole)] == [0, 1]


@given(record=st.binary(max_size=40), other=st.binary(max_size=40))
@settings(deadline=None)
def test_a_file_is_known_by_its_first_bytes(record, other):
    assert starts_record(frame([record]))
    assert not starts_record(b"PAR1" + other)
