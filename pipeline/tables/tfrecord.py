"""TFRecord files of tf.train.Example. In: a file. Out: blocks, a row an example.

Bytes are text; a feature of one value is that value, one of several is a list.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.tables.blocks import MAX_CONTENT, Block, Faults, Unread, Wanted, make_block
from pipeline.tables.files import Part, TableFile
from pipeline.tables.framing import read_records
from pipeline.tables.hiding import mask, shown_row
from pipeline.tables.records import Row, printable, rows_block
from pipeline.tables.streams import open_path, reading
from pipeline.tables.values import arrow_column, note

NAMED_ROWS = 1_000  # examples whose features are the columns of a file
_BLOCK_BYTES = 16 << 20
NOT_AN_EXAMPLE = "not a tf.train.Example"


def column_names(file: TableFile) -> list[str]:
    """The features of a file's first NAMED_ROWS examples, or of fewer large ones, sorted."""
    names: set[str] = set()
    with reading(file.path, file.format), open_path(file.path, file.compression) as source:
        records = next(_groups(read_records(source, file.path), NAMED_ROWS), [])
    decoder = _decoder()
    batch = _decode(decoder, records)
    if batch is not None:
        return list(batch.schema.names)
    for record in records:
        batch = _decode(decoder, [record])
        names.update(() if batch is None else batch.schema.names)
    return sorted(names)


def _decoder() -> Any:
    # Here: it takes a while, and only files of this format need it.
    from tfx_bsl.coders.example_coder import ExamplesToRecordBatchDecoder

    return ExamplesToRecordBatchDecoder()


def _decode(decoder: Any, records: list[bytes]) -> pa.RecordBatch | None:
    """A list column a feature; None where a record is no example, or a feature changes its kind."""
    try:
        return decoder.DecodeBatch(records)
    except RuntimeError:
        return None


def read(part: Part, wanted: Wanted) -> Iterator[Block]:
    """Blocks of a file's examples; the number of a row is that of its record."""
    file, first, decoder = part.file, 1, _decoder()
    with reading(file.path, file.format), open_path(file.path, file.compression) as source:
        for records in _groups(read_records(source, file.path), wanted.block_rows):
            batch = _decode(decoder, records)
            numbers = np.arange(first, first + len(records))
            if batch is not None:
                yield _block(file.path, batch, numbers, wanted)
            else:
                yield _mixed_block(file.path, records, numbers, wanted)
            first += len(records)


def _groups(records: Iterable[bytes], rows: int) -> Iterator[list[bytes]]:
    """The records in groups of at most `rows`, fewer where they are long."""
    group: list[bytes] = []
    size = 0
    for record in records:
        group.append(record)
        size += len(record)
        if len(group) == rows or size >= _BLOCK_BYTES:
            yield group
            group, size = [], 0
    if group:
        yield group


def _block(path: str, batch: pa.RecordBatch, numbers: np.ndarray, wanted: Wanted) -> Block:
    faults: Faults = {}
    raw, columns = {}, {}
    for ours, theirs in wanted.columns.items():
        found = theirs in batch.schema.names
        raw[ours] = batch[theirs] if found else pa.nulls(len(numbers))
        values = _scalars(raw[ours], ours, faults, lists=ours in wanted.lists)
        convert = wanted.converters.get(ours)
        columns[ours] = convert(values, faults) if convert else arrow_column(values, ours, faults)

    def content(index: int) -> str:
        row = {ours: _unwrapped(column[index].as_py()) for ours, column in raw.items()}
        return shown_row(printable(row), wanted.hide)

    return make_block(path, pa.table(columns), numbers, faults=faults, content=content)


def _scalars(column: pa.Array, name: str, faults: Faults, *, lists: bool) -> pa.Array:
    """One value a row, null where there is none; lists as they are where `name` may have them."""
    if pa.types.is_null(column.type):
        return column
    lengths = pc.fill_null(pc.list_value_length(column), 0).to_numpy(zero_copy_only=False)
    if lengths.max(initial=0) > 1:
        if lists:
            return column
        for index in np.flatnonzero(lengths > 1):
            note(faults, int(index), f"{name} is a list")
    starts = np.cumsum(lengths) - lengths
    return column.flatten().take(pa.array(starts, pa.int64(), mask=lengths != 1))


def _mixed_block(path: str, records: list[bytes], numbers: np.ndarray, wanted: Wanted) -> Block:
    """The block of records that cannot be decoded at once: one by one."""
    decoder, rows, good, bad = _decoder(), [], [], []
    for number, record in zip(numbers.tolist(), records, strict=True):
        batch = _decode(decoder, [record])
        if batch is None:
            text = record[: 4 * MAX_CONTENT].decode("utf-8", "replace")
            content = mask(text, wanted.columns.values()) if wanted.hide else text
            bad.append(Unread(number, NOT_AN_EXAMPLE, content))
        else:
            rows.append(_python_row(batch))
            good.append(number)
    return rows_block(path, rows, np.asarray(good, np.int64), wanted, unread=bad)


def _python_row(batch: pa.RecordBatch) -> Row:
    (row,) = batch.to_pylist()
    return {name: _unwrapped(values) for name, values in row.items()}


def _unwrapped(values: list[Any] | None) -> Any:
    if not values:
        return None
    return values[0] if len(values) == 1 else values
