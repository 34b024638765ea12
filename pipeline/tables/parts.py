"""Reads files of rows in parts, each for itself, so that several can be read at a time.

In: a file and the columns that are wanted. Out: its parts, and the blocks of a part. The parts of
a file hold each of its rows once.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping

from pipeline.tables import avro, delimited, jsonl, parquet, tfrecord
from pipeline.tables.blocks import BLOCK_ROWS, LIST_COLUMNS, Block, Converter, Wanted
from pipeline.tables.files import Part, TableFile
from pipeline.tables.recognition import Format

PART_ROWS = 1_000_000
_READERS: Mapping[Format, Callable[[Part, Wanted], Iterator[Block]]] = {
    "jsonl": jsonl.read,
    "csv": delimited.read,
    "tsv": delimited.read,
    "parquet": parquet.read,
    "avro": avro.read,
    "tfrecord": tfrecord.read,
}


def split_parts(file: TableFile, rows_a_part: int = PART_ROWS) -> list[Part]:
    """A file's parts, in order, at least one.

    Of a Parquet file each has about `rows_a_part` rows, in whole row groups; any other file is one.
    """
    return parquet.split(file, rows_a_part) if file.format == "parquet" else [Part(file)]


def estimate_rows(file: TableFile) -> int | None:
    """How many rows a file has, where it says so; None where only reading tells."""
    return parquet.count_rows(file) if file.format == "parquet" else None


def read_blocks(
    part: Part,
    columns: Mapping[str, str],
    *,
    block_rows: int = BLOCK_ROWS,
    dictionary: Collection[str] = (),
    hide: Collection[str] = (),
    lists: Collection[str] = LIST_COLUMNS,
    converters: Mapping[str, Converter] | None = None,
) -> Iterator[Block]:
    """All rows of a part, in order, in blocks of at most `block_rows`; none without a column.

    columns: {our name: the file's name}. dictionary: columns of ours that may come as
    dictionary<int32, string>. hide: columns of ours whose values no rejected row shows; of a row
    that cannot be parsed only the shape is shown. lists: columns of ours that may have several
    values a row; in any other such a row is rejected. converters: what makes the
    columns of ours that are not text, numbers, times or lists of text.
    """
    wanted = Wanted(columns, block_rows, dictionary, hide, lists, converters or {})
    if columns:
        yield from _READERS[part.file.format](part, wanted)
