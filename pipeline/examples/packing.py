"""The gzip stream around a TFRecord file, the same bytes for the same records everywhere.

It holds neither a time nor a name. Records of pictures are stored as they are (RFC 1951, section
3.2.4): JPEGs and PNGs are compressed already, and zlib would make raw photos an eighth smaller.
That is as fast as the checksum, where zlib takes six times as long, and the same bytes whatever the
version of zlib.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterable, Iterator

from pipeline import schema

Part = bytes | memoryview
# Magic, deflate, no flags, no time, no hint, made on no known system (RFC 1952).
_HEADER = b"\x1f\x8b\x08\x00" + bytes(4) + b"\x00\xff"
_LARGEST_BLOCK = 65_535
_PIECE_BYTES = 16 * _LARGEST_BLOCK
_BLOCK = struct.Struct("<BHH")  # is it the last, its length, and the length's complement
_TRAILER = struct.Struct("<II")  # checksum and length of the content
_FASTEST = 1


def pack(parts: Iterable[Part], spec: schema.ExampleSpec, compression: str) -> Iterator[Part]:
    """The bytes of a file of those records. compression: "gzip" or "none"."""
    if compression == "none":
        yield from parts
    elif spec.image_encoding is not None:
        yield from stored(in_pieces(parts))
    else:
        yield from deflated(in_pieces(parts))


def in_pieces(parts: Iterable[Part]) -> Iterator[bytes]:
    """The same bytes in pieces of one size, for where parts end would show in the blocks."""
    rest = b""
    for part in parts:
        content, start = memoryview(part), 0
        while len(rest) + len(content) - start >= _PIECE_BYTES:
            stop = start + _PIECE_BYTES - len(rest)
            yield b"".join([rest, content[start:stop]])
            rest, start = b"", stop
        rest = b"".join([rest, content[start:]])
    yield rest


def deflated(parts: Iterable[Part]) -> Iterator[Part]:
    """A gzip stream, compressed as fast as zlib can."""
    packer = zlib.compressobj(_FASTEST, wbits=zlib.MAX_WBITS | 16)
    for part in parts:
        yield packer.compress(part)
    yield packer.flush()


def stored(parts: Iterable[Part]) -> Iterator[Part]:
    """A gzip stream that holds the content as it is."""
    checksum = length = 0
    yield _HEADER
    for part in parts:
        content = memoryview(part)
        checksum, length = zlib.crc32(content, checksum), length + len(content)
        for start in range(0, len(content), _LARGEST_BLOCK):
            block = content[start : start + _LARGEST_BLOCK]
            yield _BLOCK.pack(0, len(block), len(block) ^ 0xFFFF)
            yield block
    yield _BLOCK.pack(1, 0, 0xFFFF)
    yield _TRAILER.pack(checksum, length & 0xFFFFFFFF)
