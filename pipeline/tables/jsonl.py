"""JSONL: one object a line. In: a file. Out: blocks; lines that are no object are rejected."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import IO, Any

import numpy as np
import orjson

from pipeline.tables.blocks import MAX_CONTENT, Block, Unread, Wanted
from pipeline.tables.files import Part, TableFile
from pipeline.tables.hiding import mask
from pipeline.tables.recognition import BOM
from pipeline.tables.records import Row, rows_block
from pipeline.tables.streams import open_path, reading

NAMED_ROWS = 1_000  # rows whose keys are the columns of a file
_BLOCK_BYTES = 16 << 20
NOT_AN_OBJECT = "not a JSON object"


def column_names(file: TableFile) -> list[str]:
    """The keys of a file's first NAMED_ROWS lines."""
    names: dict[str, None] = {}
    with reading(file.path, file.format), open_path(file.path, file.compression) as source:
        for line in itertools.islice(source, NAMED_ROWS):
            row = _json_object(line.removeprefix(BOM))
            if row is not None:
                names.update(dict.fromkeys(row))
    return list(names)


def read(part: Part, wanted: Wanted) -> Iterator[Block]:
    """Blocks of a file's rows; the number of a row is that of its line."""
    file, first = part.file, 1
    with reading(file.path, file.format), open_path(file.path, file.compression) as source:
        for lines in _line_blocks(source, wanted.block_rows):
            if first == 1:
                lines[0] = lines[0].removeprefix(BOM)
            yield _block(file.path, lines, first, wanted)
            first += len(lines)


def _line_blocks(source: IO[bytes], rows: int) -> Iterator[list[bytes]]:
    while lines := source.readlines(_BLOCK_BYTES):
        for start in range(0, len(lines), rows):
            yield lines[start : start + rows]


def _block(path: str, lines: list[bytes], first: int, wanted: Wanted) -> Block:
    rows: list[Row] = []
    numbers: list[int] = []
    bad: list[Unread] = []
    for number, line in enumerate(lines, first):
        row = _json_object(line)
        if row is not None:
            rows.append(row)
            numbers.append(number)
        elif line.strip():  # a blank line is no row
            bad.append(Unread(number, NOT_AN_OBJECT, _line_content(line, wanted)))
    return rows_block(path, rows, np.asarray(numbers, np.int64), wanted, unread=bad)


def _json_object(line: bytes) -> dict[str, Any] | None:
    try:
        row = orjson.loads(line)
    except orjson.JSONDecodeError:
        return None
    return row if isinstance(row, dict) else None


def _line_content(line: bytes, wanted: Wanted) -> str:
    # No character has more than 4 bytes: a line of megabytes is not masked as a whole.
    text = line[: 4 * MAX_CONTENT].decode("utf-8", "replace")
    return mask(text, wanted.columns.values()) if wanted.hide else text
