"""Tables as strangers write them: strategies of files in every format, with odd rows and damage.

A file that was written as its format wants it tells which rows it has, so that a reader can be
asked where each of them went.
"""

from __future__ import annotations

import csv
import gzip
import io
import json
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import fastavro
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from fuzzing import damage
from hypothesis import reject
from hypothesis import strategies as st

from pipeline.tables.framing import frame_records

ODD_TEXTS = (
    *("", " ", "\0", "a\nb", "a\rb", "a\tb", "\r", "\ufeff", "\u2028", "\x1b[31mred", "\x85"),
    *("=1+1", "@x", "-", "nan", "NaN", "inf", "-Infinity", "1e400", "-0", "0x1", "1_000", "٣", "²"),
    *("9" * 30, "9" * 5_000, "1" * 1_025, "é" * 1_024, "💥", "e\u0301", "\U0010fffe", "\ufffd"),
    *('"', '""', '"a', "a,b", "'", "\\", "null", "true", "[]", "[1, 2", "{}", "0.1 0.2", "1;2;x"),
    *("2020-01-01T00:00:00Z", "2020-13-45", "0000-00-00", "99999-01-01T00:00:00", "24:61"),
    *("train", "TEST", "valid", "gone.png", "a.zip/b.png", "file:///etc/passwd", "/dev/null"),
    *("http://127.0.0.1:9/a.png", "http://[::1/a.zip/b", "gs:///", "s3://b/a.zip/c", "x://y", "~"),
)
TEXTS = st.sampled_from(ODD_TEXTS) | st.text(max_size=12)
NUMBERS = (
    st.integers(-3, 3)
    | st.integers(-(2**70), 2**70)
    | st.sampled_from((2**53 + 1, 2**63, 2**64 - 1, 1_600_000_000, 1_600_000_000_000))
    | st.floats()
)
SCALARS = st.none() | st.booleans() | NUMBERS | TEXTS
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=2),
    max_leaves=5,
)
_LINES = (*("good",) * 2, *("odd",) * 3, "deep", "bytes", "blank")
_DEEP = st.sampled_from((10, 200, 400, 900, 1_100, 100_000))
GOOD = "good-"  # an id that begins with it is that of a row without fault


@dataclass(frozen=True)
class Written:
    """A file. rows: the numbers of its rows; None where nobody can tell. good: ids of good rows."""

    name: str
    data: bytes
    rows: frozenset[int] | None
    good: frozenset[str] = frozenset()


_GOOD_VALUES = {"timestamp": "1600000000", "split": "train", "features": "1 2", "grade": "1"}


def good_row(columns: Sequence[str], number: int) -> dict[str, str]:
    """A row without fault: text in every column."""
    own = {name: f"{GOOD}{number}-{place}" for place, name in enumerate(columns)}
    return own | {name: value for name, value in _GOOD_VALUES.items() if name in own}


@st.composite
def files(draw: st.DrawFn, columns: Sequence[str], *, needed: int = 2, most: int = 6) -> Written:
    """A file of some of the columns in any format, damaged or not.

    needed: of the columns, from the first on, are mostly there: without them no row is looked at.
    """
    first = columns[: draw(st.sampled_from((needed, needed, needed, len(columns), 1, 0)))]
    some = draw(st.lists(st.sampled_from(columns), min_size=0 if first else 1, unique=True))
    other = draw(st.sampled_from(([], [], ["other"], ["weird\x1b[2Jcolumn"], [""])))
    chosen = list(dict.fromkeys([*first, *some, *other]))
    kind = draw(st.sampled_from((jsonl, delimited, parquet, avro, tfrecord)))
    written = draw(kind(chosen, most=most))
    wrong = draw(st.sampled_from(("", "", "", "damage", "name", "gzip", "torn gzip")))
    if wrong == "damage":
        return Written(written.name, draw(damage(written.data)), None)
    if wrong == "name":
        name = draw(st.sampled_from(("a.jsonl", "a.csv", "a.parquet", "a.avro", "a", "a.tsv.zst")))
        return Written(name, written.data, None)
    if wrong and not written.name.endswith(".parquet"):
        packed = gzip.compress(written.data, mtime=0)
        name = written.name + ".gz"
        if wrong == "torn gzip":
            return Written(name, draw(damage(packed)), None)
        return Written(name, packed, written.rows, written.good)
    return written


def _ids(rows: Sequence[dict[str, str]], columns: Sequence[str]) -> frozenset[str]:
    """What the rows have as the image's id."""
    return frozenset(row["image_id"] for row in rows if "image_id" in columns)


# Text ---------------------------------------------------------------------------------------------


@st.composite
def jsonl(draw: st.DrawFn, columns: Sequence[str], *, most: int) -> Written:
    """Lines of JSON, of nearly JSON, and of anything."""
    lines: list[bytes] = []
    good = []
    for number in range(draw(st.integers(1, most))):
        kind = draw(st.sampled_from(_LINES))
        if kind == "good":
            good.append(good_row(columns, number))
            line = json.dumps(good[-1]).encode()
        elif kind == "odd":
            row = draw(st.dictionaries(st.sampled_from(columns), VALUES))
            line = json.dumps(row, ensure_ascii=draw(st.booleans())).encode("utf-8", "replace")
        elif kind == "deep":
            depth = draw(_DEEP)
            name = json.dumps(draw(st.sampled_from(columns)))
            line = f"{{{name}: {'[' * depth}{']' * depth}}}".encode()
        else:
            line = draw(st.binary(max_size=12)) if kind == "bytes" else b" "
        lines.append(line.replace(b"\n", b" "))
    first, *rest = lines  # it may begin with a mark that is no text
    shown = [first.removeprefix(_BOM), *rest]
    numbers = frozenset(n for n, line in enumerate(shown, 1) if line.strip())
    end = draw(st.sampled_from((b"\n", b"\r\n")))
    data = end.join(lines) + draw(st.sampled_from((b"", end)))
    return Written("a.jsonl", data, numbers, _ids(good, columns))


_BOM = b"\xef\xbb\xbf"


@st.composite
def delimited(draw: st.DrawFn, columns: Sequence[str], *, most: int) -> Written:
    """CSV or TSV whose rows may be too short, too long, or not UTF-8."""
    extension = draw(st.sampled_from(("csv", "tsv")))
    mark = {"csv": ",", "tsv": "\t"}[extension]
    sink = io.StringIO()
    table = csv.writer(sink, delimiter=mark, lineterminator="\n")
    table.writerow(columns)
    good = []
    numbers = draw(st.integers(0, most))
    torn = False  # to some, a carriage return ends a row
    for number in range(numbers):
        if draw(st.booleans()):
            good.append(good_row(columns, number))
            table.writerow([good[-1][name] for name in columns])
        else:  # empty lines are no rows: the first cell is never empty
            width = draw(st.sampled_from((len(columns), len(columns), 1, len(columns) + 1)))
            cells = [draw(TEXTS) for _ in range(width)]
            table.writerow([cells[0] or "x", *cells[1:]])
            torn |= any("\r" in cell for cell in cells)
    data = sink.getvalue().encode("utf-8", "replace")
    if draw(st.booleans()):
        place = draw(st.integers(0, len(data)))
        data = data[:place] + b"\xff" + data[place:]
        return Written(f"a.{extension}", data, None)
    rows = None if torn else frozenset(range(1, numbers + 1))
    return Written(f"a.{extension}", data, rows, _ids(good, columns))


# Columns ------------------------------------------------------------------------------------------

_FIXED = (
    *(pa.int8(), pa.int16(), pa.int32(), pa.int64(), pa.uint8(), pa.uint16(), pa.uint32()),
    *(pa.uint64(), pa.float16(), pa.float32(), pa.float64(), pa.date32(), pa.time32("s")),
    *(pa.timestamp("s"), pa.timestamp("ms", "UTC"), pa.timestamp("us"), pa.timestamp("ns", "UTC")),
    *(pa.duration("us"), pa.decimal128(38, 3), pa.decimal256(60, 0), pa.binary(3), pa.uuid()),
)
_COUNTS = {pa.float16(): 16, pa.uuid(): 128}


def _width(kind: pa.DataType) -> int:
    return (_COUNTS.get(kind) or kind.bit_width) // 8


@st.composite
def fixed_array(draw: st.DrawFn, rows: int) -> pa.Array:
    """Numbers, times and ids of any bits."""
    kind = draw(st.sampled_from(_FIXED))
    size = rows * _width(kind)
    data = draw(st.binary(min_size=size, max_size=size))
    storage = pa.binary(16) if isinstance(kind, pa.UuidType) else kind
    found = pa.Array.from_buffers(storage, rows, [None, pa.py_buffer(data)])
    return pa.ExtensionArray.from_storage(kind, found) if storage != kind else found


@st.composite
def text_array(draw: st.DrawFn, rows: int) -> pa.Array:
    """Text and bytes; bytes that are said to be text and are none."""
    raw = draw(st.lists(_BYTES, min_size=rows, max_size=rows))
    kind = draw(st.sampled_from(("text", "bytes", "large", "view", "dictionary")))
    found = pa.array(raw, pa.large_binary() if kind == "large" else pa.binary())
    if kind == "bytes":
        return found
    if kind == "large":
        return pa.Array.from_buffers(pa.large_string(), rows, found.buffers())
    text = pa.Array.from_buffers(pa.string(), rows, found.buffers())
    if kind == "text":
        return text
    clean = pa.array(
        [None if item is None else item.decode("utf-8", "replace") for item in raw], pa.string()
    )
    return clean.dictionary_encode() if kind == "dictionary" else clean.cast(pa.string_view())


_BYTES = st.none() | TEXTS.map(lambda text: text.encode("utf-8", "replace")) | st.binary(max_size=6)


@st.composite
def array(draw: st.DrawFn, rows: int) -> pa.Array:
    """A column of any type."""
    kind = draw(
        st.sampled_from(("fixed", "fixed", "text", "text", "list", "null", "struct", "bool"))
    )
    if kind == "fixed":
        return draw(fixed_array(rows))
    if kind == "text":
        return draw(text_array(rows))
    if kind == "null":
        return pa.nulls(rows)
    if kind == "bool":
        return pa.array(draw(st.lists(st.booleans(), min_size=rows, max_size=rows)), pa.bool_())
    if kind == "struct":
        return pa.StructArray.from_arrays([draw(array(rows))], ["a"])
    sizes = draw(st.lists(st.integers(0, 3), min_size=rows, max_size=rows))
    items = draw(array(sum(sizes)))
    bounds = pa.array(np.cumsum([0, *sizes]), pa.int64())
    if draw(st.booleans()):
        return pa.LargeListArray.from_arrays(bounds, items)
    return pa.ListArray.from_arrays(bounds.cast(pa.int32()), items)


@st.composite
def parquet(draw: st.DrawFn, columns: Sequence[str], *, most: int) -> Written:
    """Columns of any type, in row groups of any size."""
    rows = draw(st.integers(0, most))
    sound = draw(st.sampled_from((True, True, False)))  # texts in all columns but one
    odd = draw(st.sampled_from(columns))
    good = [good_row(columns, number) for number in range(rows)]
    arrays = [
        pa.array([row[name] for row in good], pa.string())
        if sound and name != odd
        else draw(array(rows))
        for name in columns
    ]
    sink = io.BytesIO()
    try:
        table = pa.table(arrays, names=list(columns))
        pq.write_table(table, sink, row_group_size=draw(st.integers(1, 4)))
    except pa.ArrowException:  # no file can hold that, such as seconds beyond its milliseconds
        reject()
    return Written("a.parquet", sink.getvalue(), frozenset(range(1, rows + 1)))


# Records ------------------------------------------------------------------------------------------

_AVRO = (
    *("null", "boolean", "int", "long", "float", "double", "bytes", "string"),
    *(["null", "string"], ["null", "long", "string", "double"]),
    *({"type": "array", "items": "string"}, {"type": "array", "items": "double"}),
    *({"type": "map", "values": "long"}, {"type": "enum", "name": "E", "symbols": ["A", "B"]}),
    *({"type": "fixed", "name": "F", "size": 3},),
    *({"type": "long", "logicalType": "timestamp-millis"},),
    *({"type": "long", "logicalType": "timestamp-micros"},),
    *({"type": "int", "logicalType": "date"}, {"type": "int", "logicalType": "time-millis"}),
    *({"type": "bytes", "logicalType": "decimal", "precision": 9, "scale": 2},),
    *({"type": "string", "logicalType": "uuid"},),
)


def _plain(kind: Any) -> st.SearchStrategy[Any]:
    """Values of an Avro type without what its logical type makes of them."""
    if isinstance(kind, list):
        return st.one_of([_plain(one) for one in kind])
    name = kind["type"] if isinstance(kind, dict) else kind
    return {
        "null": lambda: st.none(),
        "boolean": lambda: st.booleans(),
        "int": lambda: st.integers(-(2**31), 2**31 - 1),
        "long": lambda: st.integers(-(2**63), 2**63 - 1),
        "float": lambda: st.floats(width=32),
        "double": lambda: st.floats(),
        "bytes": lambda: st.binary(max_size=6),
        "string": lambda: TEXTS.map(lambda text: text.encode("utf-8", "replace").decode()),
        "fixed": lambda: st.binary(min_size=3, max_size=3),
        "enum": lambda: st.sampled_from(("A", "B")),
        "array": lambda: st.lists(_plain(kind["items"]), max_size=3),
        "map": lambda: st.dictionaries(st.text(max_size=3), _plain(kind["values"]), max_size=2),
    }[name]()


@st.composite
def avro(draw: st.DrawFn, columns: Sequence[str], *, most: int) -> Written:
    """Records of any types; what logical types say of their numbers need not hold."""
    names = [name for name in columns if name.isidentifier()]
    kinds: dict[str, Any] = {}
    for name in names:
        kind = draw(st.sampled_from(_AVRO))
        taken = isinstance(kind, dict) and "name" in kind
        kinds[name] = {**kind, "name": f"N_{name}"} if taken else kind
    rows = [
        {name: draw(_plain(kind)) for name, kind in kinds.items()}
        for _ in range(draw(st.integers(0, most)))
    ]

    def schema(said: bool) -> Any:
        fields = [{"name": n, "type": k if said else _unsaid(k)} for n, k in kinds.items()]
        return {"type": "record", "name": "R", "fields": fields}

    sink = io.BytesIO()
    fastavro.writer(sink, schema(False), rows, sync_marker=bytes(16))
    # The same bytes, under a schema with the logical types.
    wanted, plain = io.BytesIO(), io.BytesIO()
    fastavro.writer(wanted, schema(True), [], sync_marker=bytes(16))
    fastavro.writer(plain, schema(False), [], sync_marker=bytes(16))
    data = wanted.getvalue() + sink.getvalue()[len(plain.getvalue()) :]
    return Written("a.avro", data, frozenset(range(1, len(rows) + 1)))


def _unsaid(kind: Any) -> Any:
    """The type without its logical type."""
    if isinstance(kind, dict):
        return {name: value for name, value in kind.items() if name != "logicalType"}
    return kind


def _field(number: int, data: bytes) -> bytes:
    """A field of a protocol buffer that has a length."""
    size, length = b"", len(data)
    while True:
        size += bytes([length & 127 | (128 if length > 127 else 0)])
        length >>= 7
        if not length:
            return bytes([number << 3 | 2]) + size + data


def example(features: dict[str, list[Any]]) -> bytes:
    """A tf.train.Example: bytes, float or int64 lists, as the first value of each is."""
    entries = b""
    for name, values in features.items():
        first = values[0] if values else b""
        if isinstance(first, float):
            kind, packed = 2, _field(1, struct.pack(f"<{len(values)}f", *values))
        elif isinstance(first, int):
            kind, packed = 3, _field(1, b"".join(_varint(value) for value in values))
        else:
            kind, packed = 1, b"".join(_field(1, value) for value in values)
        feature = _field(kind, packed)
        entries += _field(1, _field(1, name.encode("utf-8", "replace")) + _field(2, feature))
    return _field(1, entries)


def _varint(value: int) -> bytes:
    value &= 2**64 - 1
    found = b""
    while value > 127:
        found += bytes([value & 127 | 128])
        value >>= 7
    return found + bytes([value])


_LISTS = (
    st.lists(_BYTES.map(lambda data: data or b""), max_size=3)
    | st.lists(st.floats(width=32), max_size=3)
    | st.lists(st.integers(-(2**63), 2**63 - 1), max_size=3)
)


@st.composite
def tfrecord(draw: st.DrawFn, columns: Sequence[str], *, most: int) -> Written:
    """Examples, and records that are none, in whole frames."""
    records = []
    good = []
    for number in range(draw(st.integers(1, most))):
        kind = draw(st.sampled_from(("good", "good", "odd", "odd", "bytes", "damaged")))
        row = good_row(columns, number)
        if kind == "good":
            good.append(row)
        if kind == "odd":
            record = example(draw(st.dictionaries(st.sampled_from(columns), _LISTS)))
        else:
            record = example({name: [value.encode()] for name, value in row.items()})
        if kind == "bytes":
            record = draw(st.binary(max_size=20))
        elif kind == "damaged":
            record = draw(damage(record))
        records.append(record)
    data = frame_records(pa.array(records, pa.large_binary()))
    numbers = frozenset(range(1, len(records) + 1))
    return Written("a.tfrecord", data, numbers, _ids(good, columns))
