"""Judgments of people: how well an image answers a query, in a table of any format.

In: a table with `query`, `image_id` and `grade`. Out: `schema.JUDGMENT_SCHEMA`. Somebody took pains
over each row, so a row that cannot be read is an error, not a loss.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline import schema
from pipeline.errors import ImgembedError
from pipeline.tables.blocks import Block
from pipeline.tables.files import TableFile, find_tables
from pipeline.tables.names import column_names, map_columns
from pipeline.tables.objects import python_values
from pipeline.tables.parts import Part, read_blocks, split_parts

KEY = "evaluation.judgments"
MAX_GRADE = 30.0  # 2^grade - 1 is what an image of that grade gains


def read_judgments(path: str, *, format: str, columns: Mapping[str, str]) -> pa.Table:
    """All judgments, in the order of the files; ImgembedError where a row is none.

    columns: the user's {our name: the file's name}.
    """
    files = find_tables(path, format=format, key=KEY, format_key=f"{KEY}_format")
    tables = [schema.JUDGMENT_SCHEMA.empty_table()]
    for file in files:
        names = _columns(file, columns)
        for part in split_parts(file):
            tables += _tables(part, names)
    found = pa.concat_tables(tables)
    if not len(found):
        raise ImgembedError(f"{KEY}: {path!r} holds no judgment, only columns")
    return found


def _columns(file: TableFile, mapping: Mapping[str, str]) -> dict[str, str]:
    wanted = schema.JUDGMENT_SCHEMA.names
    if not file.size:
        raise ImgembedError(f"{KEY}: {file.path!r} is empty; wanted {', '.join(wanted)}")
    found = map_columns(file, wanted, mapping, key=f"{KEY}_columns")
    for name in wanted:
        if name not in found:
            has = ", ".join(column_names(file)) or "(none)"
            raise ImgembedError(
                f"{file.path}: no column {name}; it has {has}; map it with {KEY}_columns"
            )
    return found


def _tables(part: Part, columns: Mapping[str, str]) -> Iterator[pa.Table]:
    for block in read_blocks(part, columns, lists=()):
        for row in block.rejected.to_pylist():
            raise ImgembedError(f"{part.file.path}: row {row['row']}: {row['reason']}")
        yield pa.table(
            [_texts(part, block, "query"), _texts(part, block, "image_id"), _grades(part, block)],
            schema=schema.JUDGMENT_SCHEMA,
        )


def _texts(part: Part, block: Block, name: str) -> pa.ChunkedArray:
    values = block.table[name].cast(pa.string())
    blank = pc.equal(pc.utf8_trim_whitespace(pc.fill_null(values, "")), "")
    _refuse(part, block, np.asarray(blank), name, "is empty")
    return values


def _grades(part: Part, block: Block) -> pa.ChunkedArray:
    column = block.table["grade"]
    try:
        grades = column.cast(pa.float64())
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
        grades = pa.chunked_array([pa.array(map(_number, python_values(column)), pa.float64())])
    values = pc.fill_null(grades, np.nan).to_numpy()
    _refuse(part, block, ~np.isfinite(values), "grade", "is no number")
    _refuse(part, block, values > MAX_GRADE, "grade", f"is above {MAX_GRADE:.0f}")
    return grades


def _number(value: object) -> float | None:
    try:
        return float(str(value))
    except ValueError:
        return None


def _refuse(part: Part, block: Block, bad: np.ndarray, name: str, why: str) -> None:
    """ImgembedError for the first of the bad rows. bad: [rows] bool."""
    for index in np.flatnonzero(bad):
        (value,) = python_values(block.table[name].slice(int(index), 1))
        shown = "" if value is None else f" {value!r:.60}"
        row = block.row_numbers[index]
        raise ImgembedError(f"{part.file.path}: row {row}: {name}{shown} {why}")
