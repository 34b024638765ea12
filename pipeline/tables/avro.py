"""Avro container files. In: a file. Out: blocks of its records."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO, Any, cast

import fastavro
import numpy as np

from pipeline.errors import ImgembedError
from pipeline.tables.blocks import Block, Wanted
from pipeline.tables.files import Part, TableFile
from pipeline.tables.records import Row, rows_block
from pipeline.tables.streams import open_path, reading

_BLOCK_BYTES = 16 << 20


def column_names(file: TableFile) -> list[str]:
    """The fields of a file's schema."""
    with _open(file) as source, _decoding(file):
        return _fields(file, fastavro.block_reader(cast(Any, source)).writer_schema)


def _fields(file: TableFile, schema: Any) -> list[str]:
    if not isinstance(schema, dict) or "fields" not in schema:
        raise ImgembedError(f"{file.path}: its schema is no record, so that it has no columns")
    return [field["name"] for field in schema["fields"]]


def read(part: Part, wanted: Wanted) -> Iterator[Block]:
    """Blocks of a file's records."""
    file, first = part.file, 1
    with _open(file) as source:
        for rows in _groups(_records(file, source), source, wanted.block_rows):
            numbers = np.arange(first, first + len(rows))
            yield rows_block(file.path, rows, numbers, wanted)
            first += len(rows)


def _groups(records: Iterator[Row], source: _Counting, rows: int) -> Iterator[list[Row]]:
    """The records in groups of at most `rows`, fewer where they are long."""
    group: list[Row] = []
    start = source.count
    for record in records:
        group.append(record)
        if len(group) == rows or source.count - start >= _BLOCK_BYTES:
            yield group
            group, start = [], source.count
    if group:
        yield group


def _records(file: TableFile, source: _Counting) -> Iterator[Row]:
    """The records of all blocks, which must reach to the end of the file."""
    with _decoding(file):
        # Text that is not UTF-8 is one row's fault; `records` finds it.
        blocks = fastavro.block_reader(cast(Any, source), handle_unicode_errors="surrogateescape")
        _fields(file, blocks.writer_schema)
        end = source.tell()
        for block in blocks:
            end = block.offset + block.size
            yield from cast(Iterator[Row], block)
            if cast(Any, block).bytes_.read(1):
                raise ValueError("a block holds more than its records")
        # fastavro takes a file that ends within the number that begins a block for a whole one.
        if source.tell() != end:
            raise EOFError("it ends within a block")


@contextmanager
def _open(file: TableFile) -> Iterator[_Counting]:
    with reading(file.path, file.format), open_path(file.path, file.compression) as source:
        yield _Counting(source)


@contextmanager
def _decoding(file: TableFile) -> Iterator[None]:
    try:
        yield
    except (ImgembedError, FileNotFoundError):
        raise
    except Exception as error:  # of a damaged file fastavro raises whatever it meets
        detail = " ".join(str(error).split()) or type(error).__name__
        raise ImgembedError(
            f"{file.path}: not readable as avro, cut short or damaged ({detail})"
        ) from error


class _Counting:
    """A source that knows how many bytes were read of it."""

    def __init__(self, source: IO[bytes]) -> None:
        self.source = source
        self.count = 0

    def read(self, size: int = -1) -> bytes:
        data = self.source.read(size)
        self.count += len(data)
        return data

    def tell(self) -> int:
        return self.count
