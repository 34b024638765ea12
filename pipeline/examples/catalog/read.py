"""Read the catalog: a task in, blocks of its rows out, in order, in constant memory."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.examples.catalog import rows
from pipeline.examples.catalog.convert import CONVERTERS, LISTS
from pipeline.examples.catalog.sources import resolve
from pipeline.examples.catalog.tasks import PictureTask, TableTask, Task
from pipeline.examples.catalog.trees import picture_rows
from pipeline.tables import parts
from pipeline.tables.blocks import EMPTY_REJECTED, rejected_rows, row_contents
from pipeline.tables.blocks import Block as TableBlock

BLOCK_ROWS = 512
BLOCK_BYTES = 32 << 20  # of pictures; a block has at most one more


@dataclass(frozen=True)
class Block:
    """Rows of a catalog: CATALOG_SCHEMA, and schema.REJECTED_SCHEMA."""

    table: pa.Table
    rejected: pa.Table


def read_task(task: Task) -> Iterator[Block]:
    """The rows of a task in blocks of at most BLOCK_ROWS rows and about BLOCK_BYTES."""
    if isinstance(task, PictureTask):
        yield Block(*picture_rows(task))
        return
    for block in read_table(task):
        yield from _pieces(_checked(task, block))


def read_table(task: TableTask) -> Iterator[TableBlock]:
    """The blocks of a table by our columns; whether a row is complete is not looked at."""
    columns = dict(task.columns)
    return parts.read_blocks(
        task.part,
        columns,
        block_rows=task.block_rows,
        hide=[name for name in ("image",) if name in columns],  # bytes are no text
        lists=LISTS,
        converters=CONVERTERS,
    )


def _checked(task: TableTask, block: TableBlock) -> Block:
    """The rows that have what the catalog is made of; those without are rejected as well."""
    table = block.table
    reasons = _incomplete(task, table)
    bad = np.flatnonzero(reasons != "")
    good = np.flatnonzero(reasons == "")
    rejected = block.rejected
    if len(bad):
        shown = table.drop_columns([n for n in ("image",) if n in table.column_names])
        rejected = pa.concat_tables(
            [
                rejected,
                rejected_rows(
                    task.part.file.path,
                    block.row_numbers[bad].tolist(),
                    reasons[bad].tolist(),
                    row_contents(shown, bad.tolist()),
                ),
            ]
        ).sort_by("row")
        table = table.take(pa.array(good, pa.int64()))
    return Block(_catalog_rows(task, table, block.row_numbers[good]), rejected)


def _incomplete(task: TableTask, table: pa.Table) -> np.ndarray:
    """[rows] str: why a row is not complete; empty where it is."""
    sources = ("image", "uri") if task.content == "image" else ("features",)
    given = np.zeros(table.num_rows, bool)
    for name in sources:
        if name in table.column_names:
            given |= table[name].is_valid().to_numpy()
    reasons = np.where(given, "", rows.NO_CONTENT[task.content]).astype(object)
    if task.feature_dim is not None and "features" in table.column_names:
        lengths = pc.fill_null(pc.list_value_length(table["features"]), 0).to_numpy()
        reasons[given & (lengths != task.feature_dim)] = rows.BAD_DIM
    return reasons


def _catalog_rows(task: TableTask, table: pa.Table, row_numbers: np.ndarray) -> pa.Table:
    columns = {name: table[name] for name in table.column_names}
    if "uri" in columns:
        uris = columns["uri"].to_pylist()
        places = [None if uri is None else resolve(uri, task.root) for uri in uris]
        columns["uri"] = pa.array(places, pa.string())
    columns["file"] = pa.array([task.part.file.path] * table.num_rows, pa.string())
    columns["row"] = pa.array(row_numbers, pa.int64())
    return rows.complete(columns, table.num_rows)


def _pieces(block: Block) -> Iterator[Block]:
    """The block, cut where it has more bytes of pictures than one should."""
    sizes = pc.fill_null(pc.binary_length(block.table["image"]), 0).to_numpy()
    stretch = (np.cumsum(sizes) - sizes) // BLOCK_BYTES
    ends = [*(np.flatnonzero(np.diff(stretch)) + 1).tolist(), len(sizes)]
    rejected = block.rejected
    for start, end in itertools.pairwise([0, *ends]):
        yield Block(block.table.slice(start, end - start), rejected)
        rejected = EMPTY_REJECTED
