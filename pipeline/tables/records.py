"""Rows as Python objects (of JSONL, Avro and mixed TFRecords) to blocks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import orjson
import pyarrow as pa

from pipeline.tables.blocks import Block, Faults, Unread, Wanted, make_block
from pipeline.tables.hiding import shown_row
from pipeline.tables.values import python_column

Row = Mapping[str, Any]
_LEVELS = 20  # of lists and objects in a value that are shown; JSON's writer ends at 254
_TOO_DEEP = "…"


def rows_block(
    path: str,
    rows: Sequence[Row],
    row_numbers: np.ndarray,
    wanted: Wanted,
    *,
    unread: Sequence[Unread] = (),
) -> Block:
    """A block of rows by the file's names; a value that a row lacks is null."""
    faults: Faults = {}
    arrays = {}
    for ours, theirs in wanted.columns.items():
        values = [row.get(theirs) for row in rows]
        if ours in wanted.converters:
            arrays[ours] = wanted.converters[ours](values, faults)
        else:
            arrays[ours] = python_column(values, ours, faults, lists=ours in wanted.lists)

    def content(index: int) -> str:
        row = rows[index]
        if wanted.hide:
            mapped = {ours: row.get(theirs) for ours, theirs in wanted.columns.items()}
            return shown_row(printable(mapped), wanted.hide)
        return orjson.dumps(printable(row), default=str).decode()

    return make_block(
        path, pa.table(arrays), row_numbers, faults=faults, content=content, unread=unread
    )


def printable(value: Any, levels: int = _LEVELS) -> Any:
    """The value as JSON can hold it: no bytes, no broken text, no huge numbers, not too deep."""
    if isinstance(value, (Mapping, list)) and not levels:
        return _TOO_DEEP
    if isinstance(value, Mapping):
        return {printable(key): printable(item, levels - 1) for key, item in value.items()}
    if isinstance(value, list):
        return [printable(item, levels - 1) for item in value]
    if isinstance(value, str):
        value = value.encode("utf-8", "surrogateescape")
    if isinstance(value, int) and not -(2**63) <= value < 2**64:
        return str(value)
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else value
