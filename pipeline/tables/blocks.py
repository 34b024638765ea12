"""Blocks of rows, and the rows that are rejected, with the reason.

In: what a reader has read of a file. Out: a `Block`: every row that was read is in its table or
among its rejected rows.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np
import pyarrow as pa

from pipeline import schema, storage
from pipeline.tables.hiding import shown_row
from pipeline.tables.objects import python_values

BLOCK_ROWS = 65_536
MAX_CONTENT = 2_000  # characters of a bad row that are kept
EMPTY_REJECTED = schema.REJECTED_SCHEMA.empty_table()
LIST_COLUMNS = ("items",)
# Row of a block -> why it is rejected; the first reason that is noted counts.
Faults = dict[int, str]
# A column's values as the file has them: an array, or objects.
Values: TypeAlias = pa.Array | list[Any]
# Makes an array of them, null where a row has none, and notes the rows that are bad.
Converter = Callable[[Values, Faults], pa.Array]


@dataclass(frozen=True)
class Wanted:
    """What a reader is asked for.

    columns: {our name: the file's name}. block_rows: the most rows of a block. dictionary: our
    columns that may come as dictionaries. hide: ours whose values no rejected row shows. lists:
    ours that may hold several values a row. converters: of ours whose columns the caller makes.
    """

    columns: Mapping[str, str]
    block_rows: int = BLOCK_ROWS
    dictionary: Collection[str] = ()
    hide: Collection[str] = ()
    lists: Collection[str] = LIST_COLUMNS
    converters: Mapping[str, Converter] = field(default_factory=dict)


@dataclass(frozen=True)
class Block:
    """Rows of one file.

    table: the wanted columns that the file has, by our names: text as string, or dictionary where
    asked for; numbers; times as timestamp; lists as list<string>; what a converter made.
    row_numbers: [rows] int64, 1 = the first row of data. rejected: schema.REJECTED_SCHEMA.
    """

    table: pa.Table
    row_numbers: np.ndarray
    rejected: pa.Table


@dataclass(frozen=True)
class Unread:
    """A row that is rejected: its number, the reason, and its content as text."""

    row: int
    reason: str
    content: str


def make_block(
    path: str,
    table: pa.Table,
    row_numbers: np.ndarray,
    *,
    faults: Faults,
    content: Callable[[int], str],
    unread: Sequence[Unread] = (),
) -> Block:
    """A block of the rows without fault. content: the text of a row of the table.

    unread: rows that are not in the table at all.
    """
    if not faults and not unread:
        return Block(table, row_numbers, EMPTY_REJECTED)
    rejected = [
        *unread,
        *(Unread(int(row_numbers[i]), why, content(i)) for i, why in faults.items()),
    ]
    rejected.sort(key=lambda row: row.row)
    if faults:
        keep = np.setdiff1d(np.arange(table.num_rows), list(faults))
        table, row_numbers = table.take(pa.array(keep, pa.int64())), row_numbers[keep]
    return Block(
        table,
        row_numbers,
        rejected_rows(
            path,
            [row.row for row in rejected],
            [row.reason for row in rejected],
            [row.content for row in rejected],
        ),
    )


def rejected_rows(
    path: str, rows: Iterable[int], reasons: Sequence[str], contents: Sequence[str]
) -> pa.Table:
    """A table of schema.REJECTED_SCHEMA; contents are cut to MAX_CONTENT characters."""
    numbers = list(rows)
    return pa.table(
        [
            pa.array([storage.as_text(path)] * len(numbers), pa.string()),
            pa.array(numbers, pa.int64()),
            pa.array(reasons, pa.string()),
            pa.array([content[:MAX_CONTENT] for content in contents], pa.string()),
        ],
        schema=schema.REJECTED_SCHEMA,
    )


def row_contents(table: pa.Table, indices: Sequence[int], hide: Collection[str] = ()) -> list[str]:
    """Rows of a block's table as JSON by our names, for `rejected_rows`.

    hide: columns whose values are replaced by "(hidden)".
    """
    found = table.take(pa.array(indices, pa.int64()))
    columns = [python_values(column) for column in found.itercolumns()]
    rows = zip(*columns, strict=True)
    return [shown_row(dict(zip(found.column_names, row, strict=True)), hide) for row in rows]
