"""Tables of other programs: every row is read or rejected, whatever is in the file."""

import csv
import functools
import gzip
import io
import json
import os
import pickle
import re
import shutil
import string
from pathlib import Path

import fastavro
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.errors import ConfigError, ImgembedError
from pipeline.tables.blocks import EMPTY_REJECTED, row_contents
from pipeline.tables.files import FoundFiles, Part, TableFile, find_files, find_tables
from pipeline.tables.hiding import mask
from pipeline.tables.names import column_names, map_columns
from pipeline.tables.parts import estimate_rows, read_blocks, split_parts

WANTED = ("image_id", "query", "items", "timestamp", "user_id")
HIDE = ("user_id", "session_id")
FORMATS = ("jsonl", "csv", "tsv", "parquet", "avro", "tfrecord")
COMPRESSED = ("jsonl.gz", "csv.gz", "tsv.zst", "jsonl.zstd", "avro.gz", "tfrecord.gz")


def read_file(file, mapping=None, **options):
    """(rows, rejected) of one file: [(row number, row)], and rows of schema.REJECTED_SCHEMA."""
    rows, rejected = [], []
    columns = map_columns(file, WANTED, mapping or {}, key="sessions.columns")
    for part in split_parts(file):
        for block in read_blocks(part, columns, **options):
            assert block.table.num_rows == len(block.row_numbers)
            assert block.row_numbers.dtype == np.int64
            for number, row in zip(block.row_numbers, block.table.to_pylist(), strict=True):
                rows.append((int(number), row))
            rejected += block.rejected.to_pylist()
    return rows, rejected


def read(path, mapping=None, format="auto", **options):
    """(rows, [(row number, reason)]) of all files at a path."""
    rows, rejected = [], []
    for file in find_tables(str(path), format=format, key="sessions.path"):
        found, bad = read_file(file, mapping, **options)
        rows += found
        rejected += [(row["row"], row["reason"]) for row in bad]
    return rows, rejected


# Files, written by other libraries than ours -----------------------------------------------------


def write(path, rows, **options):
    """Writes rows in the format and the compression that the path's extensions name."""
    stem, extension = os.path.splitext(str(path))
    compress = {
        ".gz": gzip.compress,
        ".zst": zstandard.ZstdCompressor().compress,
        ".zstd": zstandard.ZstdCompressor().compress,
    }.get(extension)
    if compress is None:
        path.write_bytes(encode(extension, rows, **options))
    else:
        path.write_bytes(compress(encode(os.path.splitext(stem)[1], rows, **options)))
    return path


def encode(extension, rows, **options):
    writers = {
        ".jsonl": as_jsonl,
        ".csv": as_csv,
        ".tsv": functools.partial(as_csv, mark="\t"),
        ".parquet": as_parquet,
        ".avro": as_avro,
        ".tfrecord": as_tfrecord,
    }
    return writers[extension](rows, **options)


def as_jsonl(rows):
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def as_csv(rows, mark=","):
    out = io.StringIO()
    writer = csv.DictWriter(out, list(rows[0]), delimiter=mark)
    writer.writeheader()
    writer.writerows(rows)
    return out.getvalue().encode()


def as_parquet(rows, **options):
    out = io.BytesIO()
    table = rows if isinstance(rows, pa.Table) else pa.Table.from_pylist(rows)
    pq.write_table(table, out, **options)
    return out.getvalue()


def avro_type(values):
    if any(isinstance(value, list) for value in values):
        return {"type": "array", "items": avro_type(values[0])}
    return "long" if all(isinstance(value, (int, type(None))) for value in values) else "string"


def as_avro(rows, **options):
    fields = [
        {"name": name, "type": ["null", avro_type([row[name] for row in rows])]} for name in rows[0]
    ]
    out = io.BytesIO()
    schema = {"type": "record", "name": "row", "fields": fields}
    fastavro.writer(out, fastavro.parse_schema(schema), rows, **options)
    return out.getvalue()


def example(row):
    import tensorflow as tf

    features = {}
    for name, value in row.items():
        values = value if isinstance(value, list) else [value]
        if value is None:
            continue
        if all(isinstance(item, int) for item in values):
            feature = tf.train.Feature(int64_list=tf.train.Int64List(value=values))
        elif all(isinstance(item, float) for item in values):
            feature = tf.train.Feature(float_list=tf.train.FloatList(value=values))
        else:
            encoded = [item if isinstance(item, bytes) else item.encode() for item in values]
            feature = tf.train.Feature(bytes_list=tf.train.BytesList(value=encoded))
        features[name] = feature
    return tf.train.Example(features=tf.train.Features(feature=features)).SerializeToString()


def as_tfrecord(rows):
    """Rows, or records as they are, through TensorFlow's own writer."""
    import tempfile

    import tensorflow as tf

    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "x")
        with tf.io.TFRecordWriter(path) as writer:
            for row in rows:
                writer.write(row if isinstance(row, bytes) else example(row))
        with open(path, "rb") as file:
            return file.read()


ROWS = [
    {"image_id": "a", "query": 'red, "big" bridge', "timestamp": 1_700_000_000, "user_id": "u1"},
    {"image_id": "ü\t👍", "query": None, "timestamp": 1_700_000_001, "user_id": "u2"},
    {"image_id": "007", "query": "x", "timestamp": None, "user_id": "u1"},
    {"image_id": "9007199254740993", "query": "y", "timestamp": 5, "user_id": "ß"},
]


def as_text(row):
    return {name: value if value is None else str(value) for name, value in row.items()}


@pytest.mark.parametrize("extension", [*FORMATS, *COMPRESSED])
def test_the_same_rows_come_out_of_every_format(tmp_path, extension):
    rows, rejected = read(write(tmp_path / f"log.{extension}", ROWS))
    assert rejected == []
    assert [number for number, _ in rows] == [1, 2, 3, 4]
    assert [as_text(row) for _, row in rows] == [as_text(row) for row in ROWS]


@pytest.mark.parametrize("extension", ["jsonl", "parquet", "avro", "tfrecord"])
def test_whole_sessions_come_as_lists_of_text(tmp_path, extension):
    texts = [{"items": ["a", "ü"]}, {"items": ["b"]}, {"items": ["a", "b", "c"]}]
    numbers = [{"items": [1, 2**53 + 1]}, {"items": [3]}]
    for number, expected in enumerate((texts, numbers)):
        path = write(tmp_path / f"{number}.{extension}", expected)
        rows, rejected = read(path)
        assert rejected == []
        assert [row["items"] for _, row in rows] == [
            [str(item) for item in row["items"]] for row in expected
        ]


@pytest.mark.parametrize("extension", FORMATS)
def test_every_format_names_its_columns(tmp_path, extension):
    (file,) = find_tables(str(write(tmp_path / f"a.{extension}", ROWS)), format="auto", key="k")
    assert sorted(column_names(file)) == sorted(ROWS[0])


@pytest.mark.parametrize("extension", FORMATS)
def test_blocks_have_no_more_rows_than_asked_for(tmp_path, extension):
    rows = [{"image_id": f"i{n}", "user_id": "u"} for n in range(25)]
    path = write(tmp_path / f"a.{extension}", rows)
    (file,) = find_tables(str(path), format="auto", key="k")
    blocks = list(read_blocks(Part(file), {"image_id": "image_id"}, block_rows=10))
    assert [block.table.num_rows for block in blocks if block.table.num_rows] == [10, 10, 5]
    assert [n for block in blocks for n in block.row_numbers.tolist()] == list(range(1, 26))
    assert all(block.table.column_names == ["image_id"] for block in blocks)


def test_what_beam_sends_to_its_workers_can_be_pickled(tmp_path):
    (file,) = find_tables(str(write(tmp_path / "a.parquet", ROWS)), format="auto", key="k")
    for value in (file, *split_parts(file)):
        assert pickle.loads(pickle.dumps(value)) == value
    path = str(tmp_path / "a.parquet")
    by_hand = TableFile(path, "parquet", os.path.getsize(path))  # nothing else is needed
    assert read_file(by_hand) == read_file(file)


# Rows that are rejected ---------------------------------------------------------------------------


def test_a_broken_jsonl_line_is_rejected_with_its_row_number(tmp_path):
    (tmp_path / "a.jsonl").write_bytes(
        b'\xef\xbb\xbf{"image_id": "x"}\n{"image_id": 7}\nbroken\n\n[1]\n{"image_id": true}\n'
    )
    rows, rejected = read(tmp_path)
    assert [(number, row["image_id"]) for number, row in rows] == [(1, "x"), (2, "7")]
    assert rejected == [
        (3, "not a JSON object"),
        (5, "not a JSON object"),
        (6, "image_id is neither text nor a number"),
    ]


def test_rows_of_a_file_whose_name_is_not_utf_8_are_rejected(tmp_path):
    path = os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.jsonl")
    Path(path).write_text('{"image_id": "x"}\nbroken\n')
    (file,) = find_tables(path, format="auto", key="sessions.path")
    (block,) = read_blocks(Part(file), {"image_id": "image_id"})
    assert block.rejected["file"].to_pylist() == [f"{tmp_path}/caf\ufffd.jsonl"]


def test_csv_rows_of_another_width_or_encoding_are_rejected_with_their_row_numbers(tmp_path):
    (tmp_path / "a.csv").write_bytes(
        b'image_id,query\na,1\nonly one\nb,\xff\nc,2,3\nd,4\n\n"e","five, 5"\n\xff,\xfe,\xfd\n'
        b"f,\xc3"
    )
    rows, rejected = read(tmp_path)
    assert [(number, row["image_id"]) for number, row in rows] == [(1, "a"), (5, "d"), (6, "e")]
    assert rejected == [
        (2, "another number of columns than the header"),
        (3, "query is not UTF-8"),
        (4, "another number of columns than the header"),
        (7, "another number of columns than the header"),
        (8, "query is not UTF-8"),
    ]


def test_row_numbers_are_right_where_bad_rows_stand_between_the_blocks(tmp_path):
    lines = ["image_id,query"]
    lines += [f"i{n}" if n % 7 == 0 else f"i{n},q" for n in range(1, 101)] + ["x", "y"]
    (tmp_path / "a.csv").write_text("\n".join(lines))
    rows, rejected = read(tmp_path, block_rows=10)
    assert [(number, row["image_id"]) for number, row in rows] == [
        (n, f"i{n}") for n in range(1, 101) if n % 7
    ]
    assert [number for number, _ in rejected] == [*range(7, 101, 7), 101, 102]


def test_large_csv_files_keep_their_row_numbers_and_their_text(tmp_path):
    # More than the 8 MiB that are parsed at once, with characters of several bytes at the seams.
    count = 40_000
    lines = ["x" if n % 1_000 == 0 else f"i{n},{'ü' * 150}" for n in range(1, count + 1)]
    (tmp_path / "a.csv").write_text("image_id,query\n" + "\r\n".join(lines))
    assert os.path.getsize(tmp_path / "a.csv") > 10 << 20
    rows, rejected = read(tmp_path)
    assert [number for number, _ in rejected] == list(range(1_000, count + 1, 1_000))
    assert len(rows) == count - len(rejected)
    assert all(row == {"image_id": f"i{n}", "query": "ü" * 150} for n, row in rows)


def test_a_quoted_newline_is_one_rows_fault_wherever_the_parser_cuts(tmp_path):
    row = "i,{}\n".format("y" * 1_000)
    torn = 'j,"{}\n{}"\n'.format("y" * 500, "z" * 500)
    (tmp_path / "a.csv").write_text("image_id,query\n" + (row + torn) * 10_000)
    rows, rejected = read(tmp_path)
    assert [number for number, _ in rows] == list(range(1, 20_000, 2))
    assert rejected == [
        (number, "query runs over several lines: a stray quote?") for number in range(2, 20_001, 2)
    ]


def test_a_stray_quote_does_not_swallow_rows_in_silence(tmp_path):
    (tmp_path / "a.tsv").write_text('image_id\tquery\na\t15" screen\nb\t"stray\nc\tx\n')
    rows, rejected = read(tmp_path)
    assert [row["query"] for _, row in rows] == ['15" screen']
    assert rejected == [(2, "query runs over several lines: a stray quote?")]


def test_a_stray_quote_that_swallows_megabytes_names_the_file(tmp_path):
    (tmp_path / "a.csv").write_text('image_id,query\na,"stray\n' + f"b,{'x' * 90}\n" * 100_000)
    with pytest.raises(ImgembedError, match=r"a\.csv: a row is longer than 8 MiB: a stray quote"):
        read(tmp_path)


@pytest.mark.parametrize("extension", ["jsonl", "avro", "tfrecord", "parquet"])
def test_lists_where_one_value_is_wanted_are_refused(tmp_path, extension):
    good, bad = {"image_id": ["a"]}, {"image_id": ["b", "c"]}
    if extension == "jsonl":
        good = {"image_id": "a"}
    path = write(tmp_path / f"a.{extension}", [good, bad])
    if extension == "parquet":
        with pytest.raises(ImgembedError, match=r"a\.parquet: column 'image_id' is a list"):
            read(path)
        return
    rows, rejected = read(path)
    assert rejected[-1] == (2, "image_id is a list")
    if extension != "avro":  # there, it is the schema that says so, of all rows
        assert rows == [(1, {"image_id": "a"})]


def test_lists_may_hold_text_or_numbers(tmp_path):
    (tmp_path / "a.jsonl").write_text(
        '{"items": ["a", "b"]}\n{"items": [1, 2.0]}\n{"items": null}\n{"items": "one"}\n'
        '{"items": [{"a": 1}]}\n'
    )
    rows, rejected = read(tmp_path)
    assert [row["items"] for _, row in rows] == [["a", "b"], ["1", "2"], None, ["one"]]
    assert rejected == [(5, "items holds what is neither text nor a number")]


def test_numbers_keep_their_value(tmp_path):
    values = [1.5, 7, 2**53 + 1, 2**64 - 1, None]
    path = write(tmp_path / "a.jsonl", [{"image_id": value} for value in values])
    rows, _ = read(path)
    assert [row["image_id"] for _, row in rows] == [
        "1.5",
        "7",
        str(2**53 + 1),
        str(2**64 - 1),
        None,
    ]
    # JSON's reader turns whole numbers beyond 64 bits to floats: two ids would become one.
    path.write_text('{"image_id": 18446744073709551617}\n{"image_id": "x"}\n')
    assert read(path) == (
        [(2, {"image_id": "x"})],
        [(1, "image_id is a number too large to be exact: write it as text")],
    )


def test_floats_of_data_frames_are_whole_numbers_again(tmp_path):
    column = pa.array([7.0, None, float("nan"), -3.0])
    for number, extension in enumerate(("parquet", "avro", "jsonl")):
        path = tmp_path / f"{number}.{extension}"
        if extension == "parquet":
            path.write_bytes(as_parquet(pa.table({"image_id": column})))
        elif extension == "avro":
            schema = {"type": "record", "name": "r", "fields": [
                {"name": "image_id", "type": ["null", "double"]}
            ]}  # fmt: skip
            with path.open("wb") as file:
                fastavro.writer(file, schema, [{"image_id": value} for value in column.to_pylist()])
        else:
            path.write_text(
                "".join(f'{{"image_id": {v}}}\n' for v in ("7.0", "null", "null", "-3.0"))
            )
        assert [row["image_id"] for _, row in read(path)[0]] == [7, None, None, -3], extension


def test_text_that_is_none_is_the_fault_of_its_row(tmp_path):
    raw = [b"a", b"\xff", b"c"]
    broken = pa.Array.from_buffers(pa.string(), 3, pa.array(raw, pa.binary()).buffers())
    folder = tmp_path / "files"
    folder.mkdir()
    (folder / "binary.parquet").write_bytes(as_parquet(pa.table({"image_id": raw})))
    (folder / "string.parquet").write_bytes(as_parquet(pa.table({"image_id": broken})))
    write(folder / "a.tfrecord", [{"image_id": value} for value in raw])
    with (folder / "a.avro").open("wb") as file:
        schema = {"type": "record", "name": "r", "fields": [{"name": "image_id", "type": "bytes"}]}
        fastavro.writer(file, schema, [{"image_id": value} for value in raw])
    data = as_avro([{"image_id": "a"}, {"image_id": "b!!"}, {"image_id": "c"}])
    (folder / "b.avro").write_bytes(data.replace(b"b!!", b"b\xff!"))
    (folder / "a.csv").write_bytes(b"image_id,x\na,\n\xff,\nc,\n")
    for path in sorted(folder.iterdir()):
        for dictionary in ((), ("image_id",)):
            rows, rejected = read(path, dictionary=dictionary)
            assert rows == [(1, {"image_id": "a"}), (3, {"image_id": "c"})], path
            assert rejected == [(2, "image_id is not UTF-8")], path


def test_records_that_are_no_examples_are_rejected_one_by_one(tmp_path):
    rows = [
        {"image_id": "a"},
        b"\xffgarbage",
        {"image_id": 7},
        {"image_id": "b", "items": ["x", "y"]},
    ]
    found, rejected = read(write(tmp_path / "a.tfrecord", rows))
    assert [(number, row["image_id"], row["items"]) for number, row in found] == [
        (1, "a", None),
        (3, "7", None),
        (4, "b", ["x", "y"]),
    ]
    assert rejected == [(2, "not a tf.train.Example")]


def test_every_kind_of_csv_ends_in_its_rows(tmp_path):
    expected = [(1, {"image_id": "a", "query": "ü"}), (2, {"image_id": "b", "query": None})]
    for number, content in enumerate(
        (
            "image_id,query\na,ü\nb,\n",
            "image_id,query\na,ü\nb,",
            "image_id,query\r\na,ü\r\nb,\r\n",
            "image_id,query\ra,ü\rb,",
            "\ufeffimage_id,query\na,ü\n\nb,\n",
            '\n"image_id","query"\n"a","ü"\n"b",""\n',
        )
    ):
        path = tmp_path / f"{number}.csv"
        path.write_bytes(content.encode())
        assert read(path) == (expected, []), content


@pytest.mark.parametrize("content", ["", "\n", "image_id,query", "image_id,query\r\n\r\n"])
def test_a_csv_without_rows_has_none(tmp_path, content):
    (tmp_path / "a.csv").write_text(content)
    (file,) = find_tables(str(tmp_path), format="auto", key="sessions.path")
    assert column_names(file) == (["image_id", "query"] if "query" in content else [])
    assert read(tmp_path) == ([], [])


def test_a_header_that_names_a_wanted_column_twice_is_an_error(tmp_path):
    (tmp_path / "a.csv").write_text("image_id,query,,,image_id\na,b,c,d,e\n")
    with pytest.raises(ImgembedError, match=r"a\.csv: there are 2 columns 'image_id'"):
        read(tmp_path)
    (tmp_path / "a.csv").write_text("image_id,query,,\na,b,c,d\n")
    assert read(tmp_path)[0] == [(1, {"image_id": "a", "query": "b"})]


def test_cr_alone_ends_no_line_of_jsonl(tmp_path):
    (tmp_path / "a.jsonl").write_bytes(b'{"image_id": "a"}\r{"image_id": "b"}\r')
    assert read(tmp_path, mapping={}) == ([], [])
    (file,) = find_tables(str(tmp_path), format="auto", key="k")
    (block,) = read_blocks(Part(file), {"image_id": "image_id"})
    assert block.rejected["row"].to_pylist() == [1]


# Broken files -------------------------------------------------------------------------------------


def many_rows(count=400):
    return [{"image_id": f"img{n * 7919 % 1009}", "user_id": f"u{n}"} for n in range(count)]


def cuts(size, step):
    """Positions to cut at: all near both ends, and some between."""
    return sorted({*range(0, min(60, size)), *range(0, size, step), *range(size - 60, size)})


def read_or_refuse(path):
    """(rows, rejected), or (None, the one line that refuses the file)."""
    try:
        return read(path)
    except ImgembedError as error:
        message = str(error)
    assert str(path) in message
    assert "\n" not in message
    return None, message


@pytest.mark.parametrize(
    "name",
    [
        *("jsonl.gz", "csv.gz", "tsv.zst", "jsonl.zstd", "parquet", "tfrecord.gz", "avro.zst"),
        *("avro", "tfrecord"),
    ],
)
def test_a_file_that_is_cut_short_never_passes_for_a_shorter_one(tmp_path, name):
    rows = many_rows()
    options = {"sync_interval": 3_000} if name.startswith("avro") else {}
    path = write(tmp_path / f"log.{name}", rows, **options)
    data = path.read_bytes()
    expected = [row["image_id"] for row in rows]
    short = 0
    for cut in cuts(len(data), 97):
        path.write_bytes(data[:cut])
        found, rejected = read_or_refuse(path)
        if found is None:
            continue
        assert rejected == []
        assert [row.get("image_id") for _, row in found] == expected[: len(found)]
        short += 1
    # An Avro or TFRecord file ends well after each of its blocks or records, and after no other.
    ends = {"avro": avro_ends, "tfrecord": tfrecord_ends}.get(name, lambda data: [])
    assert short == len(set(ends(data)) & set(cuts(len(data), 97)))


def avro_ends(data):
    marker = data[-16:]
    return [found.end() for found in re.finditer(re.escape(marker), data)][:-1]


def tfrecord_ends(data):
    ends, place = [0], 0
    while place < len(data):
        place += 8 + 4 + int.from_bytes(data[place : place + 8], "little") + 4
        ends.append(place)
    return ends[:-1]


def test_a_cut_jsonl_file_loses_no_row_in_silence(tmp_path):
    data = as_jsonl(many_rows(20))
    for cut in range(len(data)):
        (tmp_path / "a.jsonl").write_bytes(data[:cut])
        (file,) = [TableFile(str(tmp_path / "a.jsonl"), "jsonl", cut)]
        blocks = list(read_blocks(Part(file), {"image_id": "image_id"}))
        rows = sum(block.table.num_rows + block.rejected.num_rows for block in blocks)
        assert rows == data[:cut].count(b"\n") + (not data[:cut].endswith(b"\n") and cut > 0)


def zstd_of_frames(data):
    """As the `zstd` program writes it, in frames with checksum and without their size."""
    frames = []
    for start in range(0, len(data), 5_000):
        writer = zstandard.ZstdCompressor(write_checksum=True).compressobj()
        frames.append(writer.compress(data[start : start + 5_000]) + writer.flush())
    return frames


def test_all_frames_of_a_zstd_file_and_all_members_of_a_gzip_file_are_read(tmp_path):
    rows = many_rows()
    data = as_jsonl(rows)
    (tmp_path / "a.jsonl.zst").write_bytes(b"".join(zstd_of_frames(data)))
    members = [gzip.compress(data[start : start + 5_000]) for start in range(0, len(data), 5_000)]
    (tmp_path / "b.jsonl.gz").write_bytes(b"".join(members))
    for name in ("a.jsonl.zst", "b.jsonl.gz"):
        assert [row["user_id"] for _, row in read(tmp_path / name)[0]] == [
            r["user_id"] for r in rows
        ]


def test_frames_that_are_cut_short_are_errors_wherever_the_cut_is(tmp_path):
    frames = zstd_of_frames(as_jsonl(many_rows(300)))
    assert len(frames) > 1
    path = tmp_path / "a.jsonl.zst"
    for cut in range(len(frames[1])):
        path.write_bytes(frames[0] + frames[1][:cut])
        if cut == 0:
            continue  # a whole file of one frame
        with pytest.raises(ImgembedError, match=r"a\.jsonl\.zst: "):
            read(path)


@pytest.mark.parametrize("name", ["jsonl.gz", "csv.gz", "tfrecord.gz", "avro.gz", "jsonl.zst"])
def test_garbage_behind_a_compressed_file_is_an_error(tmp_path, name):
    path = write(tmp_path / f"a.{name}", many_rows())
    for garbage in (b"g", b"garbage", b"\x1f\x8b", b"\x28\xb5\x2f\xfd"):
        data = path.read_bytes()
        path.write_bytes(data + garbage)
        with pytest.raises(ImgembedError, match=re.escape(str(path))):
            read(path)
        path.write_bytes(data)


@pytest.mark.parametrize("name", ["jsonl.gz", "tfrecord"])
def test_a_flipped_bit_is_an_error(tmp_path, name):
    path = write(tmp_path / f"a.{name}", many_rows(50))
    data = path.read_bytes()
    header = 10 if name.endswith("gz") else 0  # of gzip: name, time and system do not matter
    for place in [*range(header, header + 40), *range(header, len(data), 41)]:
        flipped = bytearray(data)
        flipped[place] ^= 0x10
        path.write_bytes(bytes(flipped))
        with pytest.raises(ImgembedError, match=re.escape(str(path))):
            read(path)


def test_a_cut_gzip_file_is_an_error_and_no_short_read(tmp_path):
    whole = gzip.compress(b'{"image_id": "x"}\n' * 1000)
    (tmp_path / "a.jsonl.gz").write_bytes(whole[:-12])
    with pytest.raises(ImgembedError, match=r"a\.jsonl\.gz: the compressed file is cut short"):
        read(tmp_path)
    (tmp_path / "a.jsonl.gz").write_bytes(b'{"image_id": "x"}\n')
    with pytest.raises(ImgembedError, match=r"a\.jsonl\.gz: not readable as jsonl"):
        read(tmp_path)


@pytest.mark.parametrize("extension", ["parquet", "avro", "tfrecord"])
def test_a_file_that_is_not_what_its_name_says_is_named(tmp_path, extension):
    (tmp_path / f"a.{extension}").write_bytes(b"no such thing at all, whatever its name is")
    with pytest.raises(ImgembedError, match=rf"a\.{extension}: "):
        read(tmp_path)


def test_a_codec_that_is_not_there_is_named(tmp_path):
    data = as_avro(ROWS, codec="deflate").replace(b"\x0edeflate", b"\x0esnippet")
    (tmp_path / "a.avro").write_bytes(data)
    with pytest.raises(ImgembedError, match=r"a\.avro: .*snippet"):
        read(tmp_path)
    (tmp_path / "a.avro").write_bytes(as_avro(ROWS, codec="deflate"))
    assert len(read(tmp_path)[0]) == len(ROWS)


def test_a_parquet_file_within_gzip_says_what_to_do(tmp_path):
    write(tmp_path / "a.parquet.gz", ROWS)
    with pytest.raises(ImgembedError, match=r"a\.parquet\.gz: .* unpack it"):
        read(tmp_path)


@pytest.mark.parametrize("extension", [*FORMATS, "jsonl.gz", "csv.zst"])
def test_a_file_that_vanishes_before_it_is_read_is_named(tmp_path, extension):
    path = write(tmp_path / f"a.{extension}", ROWS)
    (file,) = find_tables(str(tmp_path), format="auto", key="k")
    parts = split_parts(file)
    path.unlink()
    for use in (
        lambda: column_names(file),
        lambda: list(read_blocks(parts[0], {"image_id": "image_id"})),
    ):
        with pytest.raises(ImgembedError, match=rf"a\.{extension}: gone since"):
            use()


def test_a_parquet_file_that_changes_after_it_was_split_is_an_error(tmp_path):
    path = write(tmp_path / "a.parquet", many_rows(100), row_group_size=10)
    (file,) = find_tables(str(path), format="auto", key="k")
    part = split_parts(file, 30)[-1]
    for rows, size in ((many_rows(20), 10), (many_rows(100), 9)):
        write(path, rows, row_group_size=size)
        with pytest.raises(ImgembedError, match=r"a\.parquet: changed while it was read"):
            list(read_blocks(part, {"image_id": "image_id"}))


# Parts --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rows_a_part", [1, 25, 30, 31, 99, 1_000])
def test_parts_hold_every_row_once_under_its_number(tmp_path, rows_a_part):
    rows = many_rows(100)
    path = write(tmp_path / "a.parquet", rows, row_group_size=10)
    (file,) = find_tables(str(path), format="auto", key="k")
    parts = split_parts(file, rows_a_part)
    found = []
    for part in parts:
        blocks = list(read_blocks(part, {"user_id": "user_id"}, block_rows=7))
        numbers = [n for block in blocks for n in block.row_numbers.tolist()]
        values = [v for block in blocks for v in block.table["user_id"].to_pylist()]
        assert numbers == list(range(part.first_row, part.first_row + part.rows))
        assert part.rows <= max(10, rows_a_part)
        found += zip(numbers, values, strict=True)
    assert found == [(n, row["user_id"]) for n, row in enumerate(rows, 1)]
    assert len(parts) == -(-10 // max(1, rows_a_part // 10))


def test_rejected_rows_of_a_part_have_the_numbers_of_the_file(tmp_path):
    ids = [b"\xff" if n % 10 == 3 else b"a" for n in range(1, 41)]
    path = write(tmp_path / "a.parquet", pa.table({"image_id": ids}), row_group_size=8)
    (file,) = find_tables(str(path), format="auto", key="k")
    bad = [
        number
        for part in split_parts(file, 8)
        for block in read_blocks(part, {"image_id": "image_id"})
        for number in block.rejected["row"].to_pylist()
    ]
    assert bad == [3, 13, 23, 33]


@pytest.mark.parametrize("extension", FORMATS)
def test_only_parquet_is_cut_and_knows_its_rows(tmp_path, extension):
    path = write(tmp_path / f"a.{extension}", many_rows(30))
    (file,) = find_tables(str(path), format="auto", key="k")
    assert estimate_rows(file) == (30 if extension == "parquet" else None)
    assert len(split_parts(file, 10)) == 1  # one row group


def test_a_parquet_file_without_rows_is_one_part_without_rows(tmp_path):
    path = write(tmp_path / "a.parquet", pa.table({"image_id": pa.array([], pa.string())}))
    (file,) = find_tables(str(path), format="auto", key="k")
    (part,) = split_parts(file)
    assert list(read_blocks(part, {"image_id": "image_id"})) == []


def test_dictionaries_are_kept_where_asked_for(tmp_path):
    values = ["a", None, "ü", "a"]
    types = [
        pa.string(),
        pa.large_string(),
        pa.binary(),
        pa.dictionary(pa.int8(), pa.string()),
        pa.dictionary(pa.int64(), pa.large_string()),
    ]
    for number, type_ in enumerate(types):
        if type_ == types[-1]:
            encoded = pa.array(values, pa.large_string()).dictionary_encode()
            column = encoded.cast(type_)
        else:
            texts = [v and v.encode() if type_ == pa.binary() else v for v in values]
            column = pa.array(texts, type_)
        path = tmp_path / f"{number}.parquet"
        path.write_bytes(as_parquet(pa.table({"theirs": column, "n": [1, 2, 3, 4]})))
        (file,) = find_tables(str(path), format="auto", key="k")
        columns = {"image_id": "theirs", "timestamp": "n"}
        (plain,) = read_blocks(Part(file), columns)
        (kept,) = read_blocks(Part(file), columns, dictionary=("image_id", "timestamp", "query"))
        assert plain.table.schema.field("image_id").type == pa.string()
        assert kept.table.schema.field("image_id").type == pa.dictionary(pa.int32(), pa.string())
        assert plain.table["image_id"].to_pylist() == kept.table["image_id"].to_pylist() == values
        assert kept.table["timestamp"].to_pylist() == [1, 2, 3, 4]


def test_columns_of_parquet_become_text_numbers_or_times(tmp_path):
    import datetime
    import decimal
    import uuid

    one = uuid.UUID(int=5)
    columns = {
        "image_id": pa.array([one.bytes], pa.uuid()),
        "query": pa.array([decimal.Decimal("12")], pa.decimal128(5, 0)),
        "timestamp": pa.array([datetime.date(1970, 1, 2)]),
        "user_id": pa.nulls(1),
        "items": pa.array([["a"]], pa.large_list(pa.large_string())),
    }
    path = tmp_path / "a.parquet"
    path.write_bytes(as_parquet(pa.table(columns)))
    (rows, _) = read(path)
    assert rows[0][1] == {
        "image_id": str(one),
        "query": "12",
        "timestamp": datetime.datetime(1970, 1, 2),
        "user_id": None,
        "items": ["a"],
    }
    path.write_bytes(as_parquet(pa.table({"image_id": [True]})))
    with pytest.raises(
        ImgembedError, match=r"a\.parquet: column 'image_id' is bool; image_id must"
    ):
        read(path)


def test_a_column_whose_name_has_a_dot_is_read(tmp_path):
    table = pa.table({"a.b": ["x"], "a": [{"b": "y"}]})
    (tmp_path / "a.parquet").write_bytes(as_parquet(table))
    assert read(tmp_path, {"image_id": "a.b"})[0] == [(1, {"image_id": "x"})]


# Which files --------------------------------------------------------------------------------------


@pytest.mark.parametrize("extension", [*FORMATS, *COMPRESSED])
@pytest.mark.parametrize("name", ["part-00000", "log.2026-01-01"])
def test_a_file_without_a_known_extension_is_known_by_its_first_bytes(tmp_path, extension, name):
    path = write(tmp_path / f"x.{extension}", ROWS)
    path.rename(tmp_path / name)
    (file,) = find_tables(str(tmp_path), format="auto", key="sessions.path")
    assert file.format == extension.split(".")[0]
    assert file.compression == {"gz": "gzip", "zst": "zstd", "zstd": "zstd"}.get(
        extension.split(".")[-1], "none"
    )
    assert [as_text(row) for _, row in read(tmp_path)[0]] == [as_text(row) for row in ROWS]


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"# Logs\n\nThese are logs, of 2026.\n",
        b"\x89PNG\r\n\x1a\n\x00\x00,\x00\t",
        "image_id,query\n".encode("utf-16"),
        b"[1, 2]\n",
        gzip.compress(b"\x00\x01\x02", mtime=0),
    ],
)
def test_what_cannot_be_recognized_is_one_clear_error(tmp_path, content):
    (tmp_path / "x").write_bytes(content)
    with pytest.raises(ImgembedError, match="sessions.path: '.*x' has no known extension") as error:
        find_tables(str(tmp_path), format="auto", key="sessions.path")
    assert "sessions.format" in str(error.value)
    assert "\n" not in str(error.value)


def test_a_file_of_unknown_kind_that_is_cut_short_is_an_error(tmp_path):
    path = write(tmp_path / "a.jsonl", ROWS)
    (tmp_path / "b").write_bytes(gzip.compress(as_jsonl(ROWS))[:30])
    with pytest.raises(ImgembedError, match=re.escape(str(tmp_path / "b"))):
        find_files(str(tmp_path), format="auto", key="k")
    assert path.exists()


def test_files_that_are_no_tables_are_named(tmp_path):
    write(tmp_path / "a.jsonl", ROWS)
    write(tmp_path / "b.avro", ROWS).rename(tmp_path / "b")
    (tmp_path / "README.md").write_text("# Logs\nof 2026, and of 2027\n")
    (tmp_path / "empty").write_bytes(b"")
    (tmp_path / "_SUCCESS").write_bytes(b"")
    found = find_files(str(tmp_path), format="auto", key="k")
    assert isinstance(found, FoundFiles)
    assert [os.path.basename(file.path) for file in found.tables] == ["a.jsonl", "b"]
    assert [os.path.basename(path) for path in found.skipped] == ["README.md", "empty"]
    assert find_tables(str(tmp_path), format="auto", key="k") == list(found.tables)


def test_a_format_that_is_named_holds_for_all_files_whatever_wraps_them(tmp_path):
    (tmp_path / "a").write_bytes(as_csv(ROWS))
    (tmp_path / "b").write_bytes(gzip.compress(as_csv(ROWS)))
    (tmp_path / "c.log.zst").write_bytes(zstandard.ZstdCompressor().compress(as_csv(ROWS)))
    found = find_files(str(tmp_path), format="csv", key="k")
    assert [file.compression for file in found.tables] == ["none", "gzip", "zstd"]
    assert found.skipped == ()
    assert len(read(tmp_path, format="csv")[0]) == 3 * len(ROWS)


def test_missing_and_unknown_files_are_one_line(tmp_path):
    with pytest.raises(ImgembedError, match="sessions.path: no file at"):
        find_tables(str(tmp_path / "nowhere"), format="auto", key="sessions.path")
    (tmp_path / "a.xyz").write_text("x")
    with pytest.raises(ImgembedError, match="a.xyz' has no known extension"):
        find_tables(str(tmp_path), format="auto", key="sessions.path")
    assert find_tables(str(tmp_path), format="csv", key="sessions.path")[0].format == "csv"


def test_a_wrong_column_name_says_which_columns_there_are(tmp_path):
    (tmp_path / "a.csv").write_text("photo,words\na,b\n")
    (file,) = find_tables(str(tmp_path), format="auto", key="sessions.path")
    with pytest.raises(ImgembedError, match=r"no column 'foto'; it has photo, words"):
        map_columns(file, WANTED, {"image_id": "foto"}, key="sessions.columns")
    with pytest.raises(ConfigError, match=r"columns.imageid: no such column of ours"):
        map_columns(file, WANTED, {"imageid": "photo"}, key="sessions.columns")
    assert map_columns(file, WANTED, {"image_id": "photo"}, key="k") == {"image_id": "photo"}


def test_a_column_that_is_mapped_is_not_taken_for_another_of_ours_as_well(tmp_path):
    (tmp_path / "a.csv").write_text("image_id,query\na,b\n")
    (file,) = find_tables(str(tmp_path), format="auto", key="sessions.path")
    mapping = {"image_id": "query"}
    assert map_columns(file, WANTED, mapping, key="k") == {"image_id": "query"}


# Ids in rejected rows -----------------------------------------------------------------------------


def test_a_mask_shows_the_shape_of_a_row_and_none_of_its_content():
    line = '{"user_id": "u-17", "image": "ä_\u0661x", "user_idx": 5, "q": "👍👎"}'
    assert mask(line, ["user_id", "q", ""]) == (
        '{"user_id": "x-99", "xxxxx": "x_9x", "xxxx_xxx": 9, "q": "xx"}'
    )
    assert mask("") == ""


PLAIN = set(string.punctuation) | set(string.whitespace)


@given(
    st.text(min_size=1),
    st.lists(st.text(string.ascii_letters + "_", min_size=1), max_size=3),
    st.text(),
    st.text(),
)
def test_of_an_id_only_punctuation_and_length_are_left(user, known, before, after):
    text = before + user + after
    masked = mask(text, known)
    assert len(masked) == len(text)
    # All that differs from x, 9, punctuation and control characters is a known name.
    rest = re.split(
        "|".join(map(re.escape, sorted(known, key=len, reverse=True))) or "(?!)", masked
    )
    for character in "".join(rest):
        ascii_sign = character.isascii() and not character.isalnum()
        assert character in "x9\ufffd" or ascii_sign
    # Without known names, nothing distinguishes two ids of the same shape.
    shape = [
        c if (c.isascii() and not c.isalnum()) or c == "\ufffd" else "9" if c.isnumeric() else "x"
        for c in text
    ]
    assert mask(text) == "".join(shape)


# With a 7, which stands nowhere else in the files: no id is by chance a part of their own words.
IDS = st.builds("{}7{}".format, *[st.text(string.ascii_letters + string.digits + "äß٣-")] * 2)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("ids")


@settings(deadline=None)
@given(ids=st.lists(IDS, min_size=4, max_size=4, unique=True))
def test_no_rejected_row_holds_an_id(folder, ids):
    a, b, c, d = ids
    files = {
        "a.jsonl": json.dumps({"user_id": a, "image_id": True, "secret": d})
        + f'\n{{"user_id": "{b}", "query": \n["{c}"]\n'
        + json.dumps({"user_id": c, "image_id": {"user_id": d}})
        + "\n",
        "b.csv": f'user_id,image_id,query\n{a}\n{b},i,"torn\n{c},j,k"\n{c},l,m,{d}\n',
    }
    for name, content in files.items():
        (folder / name).write_bytes(content.encode() + b"\xff")
        (file,) = find_tables(str(folder / name), format="auto", key="k")
        _, rejected = read_file(file, hide=HIDE)
        assert len(rejected) >= 4
        for row in rejected:
            for one in ids:
                assert one not in row["content"], (name, row)


def test_a_row_that_was_parsed_shows_all_but_what_is_hidden(tmp_path):
    (tmp_path / "a.jsonl").write_text(
        '{"user": "u1", "image_id": true, "query": "q", "other": "o"}\n'
        '{"user": null, "image_id": [7, {"a": "b"}], "query": 1.5}\n'
        '{"user": "u1", "image_id": \n'
    )
    (file,) = find_tables(str(tmp_path), format="auto", key="k")
    _, shown = read_file(file, {"user_id": "user"}, hide=HIDE)
    assert [json.loads(row["content"]) for row in shown[:2]] == [
        {"image_id": True, "query": "q", "user_id": "(hidden)"},
        {"image_id": [7, '{"x":"x"}'], "query": 1.5, "user_id": None},
    ]
    assert shown[2]["content"] == '{"user": "x9", "image_id": \n'
    _, open_ = read_file(file, {"user_id": "user"})
    assert [json.loads(row["content"]) for row in open_[:2]] == [
        {"user": "u1", "image_id": True, "query": "q", "other": "o"},
        {"user": None, "image_id": [7, {"a": "b"}], "query": 1.5},
    ]
    assert open_[2]["content"] == '{"user": "u1", "image_id": \n'


@pytest.mark.parametrize("extension", ["parquet", "avro", "tfrecord"])
def test_hidden_columns_are_hidden_in_every_format(tmp_path, extension):
    path = tmp_path / f"a.{extension}"
    if extension == "parquet":
        path.write_bytes(as_parquet(pa.table({"user_id": ["u1"], "image_id": [b"\xffy"]})))
    elif extension == "avro":
        data = as_avro([{"user_id": "u1", "image_id": "zzy"}])
        path.write_bytes(data.replace(b"zzy", b"z\xffy"))
    else:
        write(path, [{"user_id": "u1", "image_id": b"\xffy", "other": "o"}])
    (file,) = find_tables(str(path), format="auto", key="k")
    _, (row,) = read_file(file, hide=HIDE)
    assert "u1" not in row["content"]
    assert json.loads(row["content"])["user_id"] == "(hidden)"
    assert set(json.loads(row["content"])) == {"user_id", "image_id"}


def test_a_record_that_is_no_example_is_masked(tmp_path):
    path = write(tmp_path / "a.tfrecord", [b"\xffuser_id=u17", {"user_id": "u", "image_id": "i"}])
    (file,) = find_tables(str(path), format="auto", key="k")
    _, (row,) = read_file(file, hide=HIDE)
    assert row["content"] == "\ufffduser_id=x99"


def test_contents_of_rows_that_the_event_reader_rejects_are_hidden_as_well():
    table = pa.table(
        {"image_id": ["a", "b", None], "user_id": pa.array(["u", None, "v"]).dictionary_encode()}
    )
    assert row_contents(table, [2, 1], HIDE) == [
        '{"image_id":null,"user_id":"(hidden)"}',
        '{"image_id":"b","user_id":null}',
    ]
    assert row_contents(table, [0]) == ['{"image_id":"a","user_id":"u"}']
    assert EMPTY_REJECTED.num_rows == 0


def test_a_huge_broken_line_is_kept_short(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"image_id": "a"}\n{"image_id": ' + "é" * 100_000 + "\n")
    (file,) = find_tables(str(tmp_path), format="auto", key="k")
    for hide in ((), HIDE):
        _, (row,) = read_file(file, hide=hide)
        assert len(row["content"]) == 2_000
    shutil.rmtree(tmp_path)
