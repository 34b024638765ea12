"""Columns to serialized tf.train.Examples, a record a row, without a Python object a row.

In: Arrow columns by the names of their features. Out: protocol buffers, features by ascending name,
so that the same values give the same bytes (protocol buffers themselves promise no order). A record
is joined by Arrow from pieces: numpy writes the few bytes around a value for all rows at once
(`_Heads`), the values, such as pictures, are copied once.

The messages (tensorflow/core/example/{example,feature}.proto), each field a tag, a length, content:

    Example   0a Features
    Features  0a Entry, an entry a feature
    Entry     0a name, 12 Feature
    Feature   0a BytesList | 12 FloatList | 1a Int64List
    lists     0a value, for each of the bytes; 0a all values, of the numbers
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.sorting import run_bounds

_FIELD_1, _FIELD_2, _FIELD_3 = b"\x0a", b"\x12", b"\x1a"
_LONGEST_VARINT = 10
_NOTHING = pa.scalar(b"", pa.large_binary())


def encode_examples(columns: Mapping[str, pa.Array], rows: int) -> pa.LargeBinaryArray:
    """[rows] serialized examples.

    columns: {feature: [rows] of strings, bytes, int64 or float32, or lists of these}; plain or
    large. A row where a column is null, or an empty list, has no such feature.
    """
    pieces = [piece for name in sorted(columns) for piece in _entry(name, columns[name])]
    size = sum((_lengths(piece) for piece in pieces), np.zeros(rows, np.int64))
    head = _Heads(rows)
    head.constant(_FIELD_1)
    head.varint(size)
    return join([head.array(), *pieces])


def join(pieces: Sequence[pa.Array]) -> pa.LargeBinaryArray:
    """[rows] large_binary: the bytes of all pieces of a row; nulls have none."""
    return pc.binary_join_element_wise(
        *pieces, _NOTHING, null_handling="replace", null_replacement=b""
    )


def flattened(lists: pa.Array, values: pa.LargeBinaryArray) -> pa.LargeBinaryArray:
    """[rows] large_binary: all values of a row's list, one after the other.

    lists: [rows] of lists. values: all their values in order, as bytes.
    """
    starts = np.frombuffer(values.buffers()[1], np.int64)[values.offset :]
    offsets = starts[_offsets(lists)]
    return _binary(offsets, values.buffers()[2])


def _entry(name: str, column: pa.Array) -> list[pa.Array]:
    """The pieces of the entry of one feature."""
    if pa.types.is_list(column.type) or pa.types.is_large_list(column.type):
        tag, content = _list_content(column)
        present = _lengths(content) > 0
        return [_around(name, tag, _lengths(content), present), content]
    if pa.types.is_integer(column.type) or pa.types.is_floating(column.type):
        return [_scalar_entry(name, column)]
    content = _as_binary(column)
    lengths = _lengths(content)
    head = _around(name, _FIELD_1, 1 + _varint_size(lengths) + lengths, _is_valid(column), lengths)
    return [head, content]


def _list_content(column: pa.Array) -> tuple[bytes, pa.LargeBinaryArray]:
    """(tag of the kind of list, [rows] the list's message)."""
    values = column.flatten()
    if pa.types.is_floating(values.type):
        numbers = values.cast(pa.float32()).to_numpy()
        content = _binary(_offsets(column) * 4, pa.py_buffer(numbers.tobytes()))
        return _FIELD_2, _packed(content)
    if pa.types.is_integer(values.type):
        heads = _Heads(len(values))
        heads.varint(values.to_numpy())
        return _FIELD_3, _packed(flattened(column, heads.array()))
    content = _as_binary(values)
    heads = _Heads(len(values))
    heads.constant(_FIELD_1)
    heads.varint(_lengths(content))
    return _FIELD_1, flattened(column, join([heads.array(), content]))


def _packed(content: pa.LargeBinaryArray) -> pa.LargeBinaryArray:
    """Numbers of a list with their tag and length before them; nothing where there are none."""
    lengths = _lengths(content)
    heads = _Heads(len(content), lengths > 0)
    heads.constant(_FIELD_1)
    heads.varint(lengths)
    return join([heads.array(), content])


def _scalar_entry(name: str, column: pa.Array) -> pa.LargeBinaryArray:
    """The whole entry of one number a row."""
    present = _is_valid(column)
    if pa.types.is_floating(column.type):
        numbers = pc.fill_null(column, 0.0).to_numpy(zero_copy_only=False).astype("<f4")
        heads = _head(name, _FIELD_2, np.full(len(column), 6), present)
        heads.constant(b"\x0a\x04")
        heads.fixed(numbers.view(np.uint8).reshape(-1, 4))
        return heads.array()
    values = pc.fill_null(column, 0).to_numpy(zero_copy_only=False)
    size = _varint_size(values)
    heads = _head(name, _FIELD_3, 2 + size, present)
    heads.constant(_FIELD_1)
    heads.varint(size)
    heads.varint(values)
    return heads.array()


def _around(
    name: str, tag: bytes, size: np.ndarray, present: np.ndarray, value: np.ndarray | None = None
) -> pa.LargeBinaryArray:
    """What stands before the content of an entry: name, kind and lengths.

    size: of the list's message. value: where the list is one value of bytes, its length.
    """
    heads = _head(name, tag, size, present)
    if value is not None:
        heads.constant(_FIELD_1)
        heads.varint(value)
    return heads.array()


def _head(name: str, tag: bytes, size: np.ndarray, present: np.ndarray) -> _Heads:
    key = name.encode()
    key_field = _FIELD_1 + bytes([len(key)]) + key  # names are shorter than 128 bytes
    feature = 1 + _varint_size(size) + size
    entry = len(key_field) + 1 + _varint_size(feature) + feature
    heads = _Heads(len(size), present)
    heads.constant(_FIELD_1)
    heads.varint(entry)
    heads.constant(key_field + _FIELD_2)
    heads.varint(feature)
    heads.constant(tag)
    heads.varint(size)
    return heads


class _Heads:
    """A few bytes a row, of different lengths, written part by part for all rows."""

    def __init__(self, rows: int, present: np.ndarray | None = None) -> None:
        self._rows = rows
        self._present = np.ones(rows, bool) if present is None else present
        self._parts: list[np.ndarray] = []  # [rows, n] uint8
        self._used: list[np.ndarray] = []  # [rows, n] bool

    def fixed(self, part: np.ndarray) -> None:
        """part: [rows, n] uint8."""
        self._parts.append(part)
        self._used.append(np.broadcast_to(self._present[:, None], part.shape))

    def constant(self, part: bytes) -> None:
        """The same bytes in every row."""
        self.fixed(np.broadcast_to(np.frombuffer(part, np.uint8), (self._rows, len(part))))

    def varint(self, values: np.ndarray) -> None:
        """values: [rows] int, negative ones as their 64-bit two's complement."""
        left = values.astype(np.int64).view(np.uint64)
        sizes = _varint_size(values)
        width = int(sizes.max(initial=1))
        part = np.empty((self._rows, width), np.uint8)
        for place in range(width):
            part[:, place] = (left & np.uint64(127)).astype(np.uint8)
            part[:, place] |= (place < sizes - 1).astype(np.uint8) << 7
            left = left >> np.uint64(7)
        self._parts.append(part)
        self._used.append((np.arange(width) < sizes[:, None]) & self._present[:, None])

    def array(self) -> pa.LargeBinaryArray:
        """[rows] large_binary, all parts of each row; nothing in rows that are not present."""
        used = np.concatenate(self._used, axis=1)
        content = np.concatenate(self._parts, axis=1)[used]
        return _binary(run_bounds(np.count_nonzero(used, axis=1)), pa.py_buffer(content))


_VARINT_BOUNDS = np.array([1 << (7 * place) for place in range(1, _LONGEST_VARINT)], np.uint64)


def _varint_size(values: np.ndarray) -> np.ndarray:
    """[rows] int64: bytes of each number as a varint."""
    unsigned = values.astype(np.int64).view(np.uint64)
    return 1 + np.searchsorted(_VARINT_BOUNDS, unsigned, side="right")


def _binary(offsets: np.ndarray, data: pa.Buffer) -> pa.LargeBinaryArray:
    buffers = [None, pa.py_buffer(np.ascontiguousarray(offsets, np.int64)), data]
    return pa.Array.from_buffers(pa.large_binary(), len(offsets) - 1, buffers)


def _as_binary(column: pa.Array) -> pa.LargeBinaryArray:
    return column.cast(pa.large_binary())


def _is_valid(column: pa.Array) -> np.ndarray:
    return column.is_valid().to_numpy(zero_copy_only=False)


def _lengths(column: pa.Array) -> np.ndarray:
    """[rows] int64: bytes of each value; 0 for nulls."""
    return pc.fill_null(pc.binary_length(column), 0).to_numpy(zero_copy_only=False)


def _offsets(lists: pa.Array) -> np.ndarray:
    """[rows + 1] int64: where each list begins among all values; empty lists for nulls."""
    lengths = pc.fill_null(pc.list_value_length(lists), 0).to_numpy(zero_copy_only=False)
    return run_bounds(lengths)
