"""What a file is, by its first bytes: how it is compressed, and the format inside.

In: a path. Out: (format or None, compression).
"""

from __future__ import annotations

import csv
import io
import itertools
from typing import Literal

from pipeline.tables import framing
from pipeline.tables.streams import Compression, open_path, reading

Format = Literal["jsonl", "csv", "tsv", "parquet", "avro", "tfrecord"]
_HEAD_BYTES = 1 << 16
_MAGIC: tuple[tuple[bytes, Compression], ...] = (
    (b"\x1f\x8b", "gzip"),
    (b"\x28\xb5\x2f\xfd", "zstd"),
)
BOM = b"\xef\xbb\xbf"


def recognize(path: str) -> tuple[Format | None, Compression]:
    """Format and compression of a file; None as the format where the bytes do not say it."""
    head = _read_head(path, "none")
    compression: Compression = "none"
    for magic, name in _MAGIC:
        if head.startswith(magic):
            compression = name
    if compression != "none":
        head = _read_head(path, compression)
    return format_of(head), compression


def _read_head(path: str, compression: Compression) -> bytes:
    with reading(path, "a table"), open_path(path, compression) as source:
        return source.read(_HEAD_BYTES)


def format_of(head: bytes) -> Format | None:
    """The format of a file that begins with these bytes, at most _HEAD_BYTES of them."""
    if head.startswith(b"PAR1"):
        return "parquet"
    if head.startswith(b"Obj\x01"):
        return "avro"
    if framing.starts_record(head):
        return "tfrecord"
    text = head.removeprefix(BOM)
    if text.lstrip().startswith(b"{"):
        return "jsonl"
    if text.lstrip().startswith((b"[", b"<")):
        return None  # a JSON array, XML or a page: no header, whatever commas it has
    return _delimited(text, whole=len(head) < _HEAD_BYTES)


def _delimited(head: bytes, *, whole: bool) -> Format | None:
    """tsv or csv where the first line has its mark, and the second as many of them."""
    if not whole:
        head = head[: head.rfind(b"\n") + 1]
    try:
        text = head.decode()
    except UnicodeDecodeError:
        return None
    if "\0" in text:
        return None
    if _is_header(text, "\t"):
        return "tsv"
    return "csv" if _is_header(text, ",") else None


def _is_header(text: str, mark: str) -> bool:
    lines = csv.reader(io.StringIO(text), delimiter=mark)
    try:
        widths = [len(line) for line in itertools.islice(filter(None, lines), 2)]
    except csv.Error:
        return False
    return bool(widths) and widths[0] > 1 and len(set(widths)) == 1
