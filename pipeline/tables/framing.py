"""Records of a TFRecord file: length, checksum of the length, bytes, checksum of the bytes.

Checksums are crc32c, rotated and shifted as `tensorflow/core/lib/hash/crc32c.h` has it.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from typing import IO

import google_crc32c
import numpy as np
import pyarrow as pa

from pipeline.errors import ImgembedError

_HEAD = struct.Struct("<QI")  # length of the record, its checksum
_LENGTH = struct.Struct("<Q")
_TAIL = struct.Struct("<I")  # a checksum
_MASK_DELTA = 0xA282EAD8
_MAX_BYTES = 1 << 31  # no protocol buffer is larger


def read_records(source: IO[bytes], path: str) -> Iterator[bytes]:
    """The records, whole; a file that is cut short or damaged is an ImgembedError."""
    number = 1
    while head := source.read(_HEAD.size):
        if len(head) < _HEAD.size:
            raise _cut(path, number)
        length, checksum = _HEAD.unpack(head)
        if length > _MAX_BYTES or masked_crc(head[:8]) != checksum:
            raise ImgembedError(f"{path}: record {number} is damaged: wrong checksum of its length")
        record, tail = source.read(length), source.read(_TAIL.size)
        if len(record) < length or len(tail) < _TAIL.size:
            raise _cut(path, number)
        if masked_crc(record) != _TAIL.unpack(tail)[0]:
            raise ImgembedError(f"{path}: record {number} is damaged: wrong checksum")
        yield record
        number += 1


def _cut(path: str, number: int) -> ImgembedError:
    return ImgembedError(f"{path}: the file is cut short in record {number}; copy it anew")


def masked_crc(data: bytes) -> int:
    """The checksum of some bytes as a TFRecord file holds it."""
    crc = google_crc32c.value(data)
    return (((crc >> 15) | (crc << 17)) + _MASK_DELTA) & 0xFFFFFFFF


def frame_records(records: pa.LargeBinaryArray, rows: Sequence[int] | None = None) -> bytes:
    """The records, or those of some rows, as a part of a TFRecord file.

    Parts one after the other make a file.
    """
    data = memoryview(records.buffers()[2] or b"")
    bounds = np.frombuffer(records.buffers()[1], np.int64)[records.offset :].tolist()
    pieces: list[bytes] = []
    for row in range(len(records)) if rows is None else rows:
        record = bytes(data[bounds[row] : bounds[row + 1]])  # the checksum takes nothing but bytes
        length = _LENGTH.pack(len(record))
        head, tail = _TAIL.pack(masked_crc(length)), _TAIL.pack(masked_crc(record))
        pieces += (length, head, record, tail)
    return b"".join(pieces)


def starts_record(head: bytes) -> bool:
    """Whether a file that begins with these bytes is a TFRecord file."""
    if len(head) < _HEAD.size:
        return False
    length, checksum = _HEAD.unpack(head[: _HEAD.size])
    return length <= _MAX_BYTES and masked_crc(head[:8]) == checksum
