"""CSV and TSV. In: a file with a header. Out: blocks; rows that do not fit it are rejected."""

from __future__ import annotations

import codecs
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import IO, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv

from pipeline.errors import ImgembedError
from pipeline.tables.blocks import MAX_CONTENT, Block, Faults, Unread, Wanted, make_block
from pipeline.tables.files import Part, TableFile
from pipeline.tables.hiding import mask, shown_row
from pipeline.tables.streams import open_path, reading

_MARKS = {"csv": ",", "tsv": "\t"}
_BLOCK_BYTES = 8 << 20
_WRONG_WIDTH = "another number of columns than the header"
# Stands for each byte that is not UTF-8: a code point that is never one of a text.
_BAD_BYTE = "\U0010fffe"
_SHOWN_BAD_BYTE = "\ufffd"
_LONE_SURROGATE = re.compile("[\udc80-\udcff]")


def column_names(file: TableFile) -> list[str]:
    """The header; none where the file is empty."""
    with reading(file.path, file.format), _open_text(file) as source:
        return _header(file, source)


def _header(file: TableFile, source: _Text) -> list[str]:
    try:
        table = pa.csv.open_csv(
            source, pa.csv.ReadOptions(use_threads=False), _parse_options(file, lambda row: "skip")
        )
    except pa.ArrowInvalid as error:
        if "Empty CSV" in str(error):
            return []
        raise _explained(file, error) from error
    return list(table.schema.names)


def _explained(file: TableFile, error: pa.ArrowInvalid) -> Exception:
    if "straddling object" not in str(error):
        return error
    return ImgembedError(
        f"{file.path}: a row is longer than {_BLOCK_BYTES >> 20} MiB: a stray quote?"
    )


def read(part: Part, wanted: Wanted) -> Iterator[Block]:
    """Blocks of a file's rows; 1 is the first row below the header, empty lines are no rows."""
    file, ragged = part.file, _Ragged(wanted)
    first = 1
    with reading(file.path, file.format), _open_text(file) as source:
        for batch in _open_batches(file, source, wanted, ragged.note):
            for start in range(0, batch.num_rows, wanted.block_rows):
                rows = batch.slice(start, wanted.block_rows)
                numbers = ragged.numbers(first, rows.num_rows)
                first = int(numbers[-1]) + 1
                unread = ragged.take(first)
                yield _block(file.path, rows, numbers, wanted, unread, source.damaged)
    if rest := ragged.take(None):
        none = pa.table({name: pa.array([], pa.string()) for name in wanted.columns})
        none = _converted(none, wanted, {})
        empty = np.zeros(0, np.int64)
        yield make_block(file.path, none, empty, faults={}, content=str, unread=rest)


class _Ragged:
    """Rows of another width than the header's, as the parser meets them, blocks ahead of us."""

    def __init__(self, wanted: Wanted) -> None:
        self.hide = bool(wanted.hide)
        self.rows: dict[int, str] = {}  # row number: text; only those not yet taken

    def note(self, row: Any) -> str:
        text = row.text[:MAX_CONTENT].replace(_BAD_BYTE, _SHOWN_BAD_BYTE)
        # pyarrow counts the header as row 1.
        self.rows[row.number - 1] = mask(text) if self.hide else text
        return "skip"

    def numbers(self, first: int, count: int) -> np.ndarray:
        """[count] int64: the next row numbers from `first` on that are not ragged."""
        ragged = np.array(list(self.rows), np.int64) - first
        good = np.ones(count + len(ragged), bool)
        good[ragged[ragged < len(good)]] = False
        return first + np.flatnonzero(good)[:count]

    def take(self, end: int | None) -> list[Unread]:
        """The rows below `end`, or all, once."""
        found = [number for number in list(self.rows) if end is None or number < end]
        return [Unread(number, _WRONG_WIDTH, self.rows.pop(number)) for number in found]


def _open_batches(
    file: TableFile, source: _Text, wanted: Wanted, note: Callable[[Any], str]
) -> Iterable[pa.RecordBatch]:
    theirs = list(dict.fromkeys(wanted.columns.values()))
    if not theirs:
        return ()
    try:
        return _batches(
            file,
            pa.csv.open_csv(
                source,
                pa.csv.ReadOptions(use_threads=False, block_size=_BLOCK_BYTES),
                _parse_options(file, note),
                pa.csv.ConvertOptions(
                    include_columns=theirs,
                    column_types=dict.fromkeys(theirs, pa.string()),
                    null_values=[""],
                    strings_can_be_null=True,
                    check_utf8=False,  # _Text gives nothing else
                ),
            ),
        )
    except pa.ArrowInvalid as error:
        if "Empty CSV" in str(error):
            return ()
        raise _explained(file, error) from error


def _batches(file: TableFile, table: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    try:
        yield from table
    except pa.ArrowInvalid as error:
        raise _explained(file, error) from error


def _parse_options(file: TableFile, note: Callable[[Any], str]) -> pa.csv.ParseOptions:
    return pa.csv.ParseOptions(
        delimiter=_MARKS[file.format],
        invalid_row_handler=note,
        newlines_in_values=True,  # else a quoted newline where two blocks meet fails the file
    )


def _block(
    path: str,
    rows: pa.RecordBatch,
    numbers: np.ndarray,
    wanted: Wanted,
    unread: list[Unread],
    damaged: bool,
) -> Block:
    faults: Faults = {}
    table = pa.table({ours: rows[theirs] for ours, theirs in wanted.columns.items()})
    for name in table.column_names:
        texts = table[name].combine_chunks()
        if damaged:
            _note_matches(texts, _BAD_BYTE, f"{name} is not UTF-8", faults)
        _note_matches(texts, "\n", f"{name} runs over several lines: a stray quote?", faults)

    def content(index: int) -> str:
        (row,) = table.slice(index, 1).to_pylist()
        row = {
            name: value and value.replace(_BAD_BYTE, _SHOWN_BAD_BYTE) for name, value in row.items()
        }
        # One value may have swallowed others.
        return shown_row(row, wanted.hide, torn=True) if wanted.hide else repr(list(row.values()))

    return make_block(
        path,
        _converted(table, wanted, faults),
        numbers,
        faults=faults,
        content=content,
        unread=unread,
    )


def _converted(table: pa.Table, wanted: Wanted, faults: Faults) -> pa.Table:
    for place, name in enumerate(table.column_names):
        if name in wanted.converters:
            column = wanted.converters[name](table[name].combine_chunks(), faults)
            table = table.set_column(place, name, column)
    return table


def _note_matches(texts: pa.Array, pattern: str, reason: str, faults: Faults) -> None:
    found = pc.fill_null(pc.match_substring(texts, pattern), False)
    if pc.any(found).as_py():
        for row in np.flatnonzero(found.to_numpy(zero_copy_only=False)):
            faults.setdefault(int(row), reason)


@contextmanager
def _open_text(file: TableFile) -> Iterator[_Text]:
    with open_path(file.path, file.compression) as source:
        yield _Text(source)


class _Text:
    """A file's bytes as UTF-8 and whole lines, whatever is in it; what Arrow's reader asks for.

    A byte that is not UTF-8 comes as _BAD_BYTE, so that it is the fault of one row and not of the
    file; damaged says whether there was one. Where the last line has no end, it gets one.
    """

    def __init__(self, source: IO[bytes]) -> None:
        self.source = source
        self.closed = False
        self.damaged = False
        self.ended = False
        self.pending = b""  # the beginning of a character
        self.ready = b""  # text that was not asked for yet
        self.last = b"\n"

    def read(self, size: int) -> bytes:
        """The next `size` bytes; fewer only at the end: to Arrow, each answer is a block."""
        pieces, length = [self.ready], len(self.ready)
        while length < size and not self.ended:
            data = self.source.read(size)
            found = self._text(data)
            self.last = found[-1:] or self.last
            if not data:
                self.ended = True
                found += b"" if self.last == b"\n" else b"\n"
            pieces.append(found)
            length += len(found)
        whole = b"".join(filter(None, pieces))
        self.ready = whole[size:]
        return whole[:size]

    def _text(self, data: bytes) -> bytes:
        if not self.pending and data.isascii():
            return data
        data, final = self.pending + data, not data
        try:
            _, length = codecs.utf_8_decode(data, "strict", final)
            found = data[:length]
        except UnicodeDecodeError:
            self.damaged = True
            text, length = codecs.utf_8_decode(data, "surrogateescape", final)
            found = _LONE_SURROGATE.sub(_BAD_BYTE, text).encode()
        self.pending = data[length:]
        return found

    def close(self) -> None:
        self.closed = True
