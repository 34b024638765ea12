"""A bounded sample of the catalog, prepared as the job prepares all of it.

In: what `find.inspect` found. Out: a `Sample`: some rows, spread over the catalog, and how many
rows there are in all. That is counted where it is cheap, and else told by the bytes of the files.
"""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import pyarrow as pa

from pipeline.errors import ImgembedError
from pipeline.examples.catalog.find import Catalog
from pipeline.examples.catalog.read import read_table, read_task
from pipeline.examples.catalog.tasks import TableTask, Task
from pipeline.examples.decoding import PictureSettings
from pipeline.examples.prepare import prepare_rows
from pipeline.sessions.sample import RUNS, measure_head, rows_by_bytes
from pipeline.tables.files import TableFile

ROWS = 2_000  # of ready features
_MOST_PICTURES, _LEAST_PICTURES = 200, 64
_FULL_SIDE = 128  # pixels; of larger pictures fewer are decoded
_TASKS, _BLOCKS = 16, 8
_COUNTED_BYTES = 64 << 20  # of files of text that are read only for their number of rows
_COUNTED_ROWS = 65_536


@dataclass(frozen=True)
class Sample:
    """Rows of the catalog. images: PREPARED_SCHEMA. rejected: share of the rows, from 0 to 1.

    rows: of the whole catalog, counted where `exact`.
    """

    images: pa.Table
    rejected: float
    rows: int
    exact: bool


def take_sample(found: Catalog, settings: PictureSettings, threads: int) -> Sample:
    """Prepares some rows of the catalog; ImgembedError where none of them can be used."""
    read, rejected = _read_some(found, _size(found, settings))
    usable = read.num_rows / max(read.num_rows + rejected, 1)
    pieces = [read.slice(start, -(-read.num_rows // threads)) for start in _starts(read, threads)]
    with ThreadPoolExecutor(threads) as pool:
        parts = list(pool.map(partial(prepare_rows, settings=settings), pieces))
    images = pa.concat_tables([prepared for prepared, _ in parts]) if parts else read.slice(0, 0)
    if not images.num_rows:
        raise ImgembedError(
            f"images.path: none of {read.num_rows + rejected:,} rows that were looked at can be "
            f"used{_first_reason([bad for _, bad in parts])}"
        )
    rows, exact = count_rows(found.tasks)
    kept = usable * images.num_rows / read.num_rows
    return Sample(images.combine_chunks(), 1.0 - kept, rows, exact)


def _size(found: Catalog, settings: PictureSettings) -> int:
    if found.feature_dim is not None:
        return ROWS
    pixels = (settings.image_size / _FULL_SIDE) ** 2
    return max(_LEAST_PICTURES, min(_MOST_PICTURES, int(_MOST_PICTURES / pixels)))


def _read_some(found: Catalog, size: int) -> tuple[pa.Table, int]:
    """(about `size` rows of CATALOG_SCHEMA, rows rejected on the way) of tasks that lie apart."""
    chosen = _evenly(len(found.tasks), _TASKS)
    quota = -(-size // len(chosen))
    blocks = max(1, _BLOCKS // len(chosen))
    tables, rejected = [], 0
    for index in chosen:
        parts = []
        for block in itertools.islice(read_task(found.tasks[index]), blocks):
            parts.append(_thinned(block.table, quota))
            rejected += block.rejected.num_rows * len(parts[-1]) // max(len(block.table), 1)
        tables += [_thinned(pa.concat_tables(parts), quota)] if parts else []
    return pa.concat_tables(tables), rejected


def _evenly(number: int, most: int) -> np.ndarray:
    """At most `most` of so many indices, ascending, evenly spread."""
    return np.unique(np.linspace(0, number - 1, min(number, most)).astype(np.int64))


def _thinned(table: pa.Table, most: int) -> pa.Table:
    return table.take(pa.array(_evenly(table.num_rows, most))) if table.num_rows > most else table


def _starts(table: pa.Table, parts: int) -> range:
    return range(0, table.num_rows, max(1, -(-table.num_rows // parts)))


def _first_reason(rejected: Sequence[pa.Table]) -> str:
    rows = (row for table in rejected for row in table.slice(0, 1).to_pylist())
    return next((f"; {row['file']} row {row['row']}: {row['reason']}" for row in rows), "")


def count_rows(tasks: Sequence[Task]) -> tuple[int, bool]:
    """(rows of the tasks, whether they were counted)."""
    rows, left = 0, _COUNTED_BYTES
    uncounted: list[TableFile] = []
    for task in tasks:
        if not isinstance(task, TableTask):
            rows += len(task.members)
        elif task.part.rows is not None:
            rows += task.part.rows
        elif task.part.file.size <= left:
            left -= task.part.file.size
            rows += _read_rows(task)
        else:
            uncounted.append(task.part.file)
    measured: dict[tuple[str, str], list[tuple[float, float]]] = defaultdict(list)
    for file in uncounted[:RUNS]:
        measured[file.format, file.compression].append(measure_head(file))
    return rows + round(sum(rows_by_bytes(file, measured) for file in uncounted)), not uncounted


def _read_rows(task: TableTask) -> int:
    ids = tuple((ours, theirs) for ours, theirs in task.columns if ours == "image_id")
    blocks = read_table(replace(task, columns=ids, block_rows=_COUNTED_ROWS))
    return sum(block.table.num_rows + block.rejected.num_rows for block in blocks)
