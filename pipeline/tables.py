"""Tables that other programs wrote, read in blocks of rows: JSONL, CSV, TSV and Parquet.

In: paths and the columns that are wanted, each with its kind. Out: `Block`s, which hold a table of
those columns and the rows that could not be read, with the reason. Every row of a file is in one
of the two.
"""

from __future__ import annotations

import gzip
import itertools
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import IO, Any, Literal

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet as pq

from pipeline import schema, storage
from pipeline.errors import ConfigError, ImgembedError

Format = Literal["jsonl", "csv", "tsv", "parquet"]
EXTENSIONS: Mapping[str, Format] = {
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "jsonl",
    ".csv": "csv",
    ".tsv": "tsv",
    ".parquet": "parquet",
    ".pq": "parquet",
}
_DELIMITERS = {"csv": ",", "tsv": "\t"}
BLOCK_ROWS = 65_536
_BLOCK_BYTES = 8 << 20
MAX_CONTENT = 2_000  # characters of a bad row that are kept
_NO_COLUMN = "(none)"


@dataclass(frozen=True)
class TableFile:
    """A file of rows: path, format, gzip or not, and its size in bytes."""

    path: str
    format: Format
    gzipped: bool
    size: int
    modified: float


@dataclass(frozen=True)
class Block:
    """Rows of one file.

    table: the wanted columns that the file has, raw: text as string, lists as list<string> or
    list<float>, anything else as the file has it. row_numbers: [rows] int64, 1 = the first row of
    data. rejected: schema.REJECTED_SCHEMA.
    """

    table: pa.Table
    row_numbers: np.ndarray
    rejected: pa.Table


def find_tables(path: str, *, format: str, key: str) -> list[TableFile]:
    """The files of rows that `path` names; `key` is the setting that errors speak of."""
    found = storage.list_files(path)
    if not found:
        raise ImgembedError(f"{key}: no file at {path!r}")
    files = [_table_file(info, format) for info in found]
    known = [file for file in files if file is not None]
    if not known:
        raise ImgembedError(
            f"{key}: {found[0].path!r} has no known extension ({', '.join(EXTENSIONS)}, each also "
            f"with .gz); name the format with {key.split('.')[0]}.format"
        )
    return known


def _table_file(info: storage.FileInfo, format: str) -> TableFile | None:
    stem, extension = os.path.splitext(info.path)
    gzipped = extension == ".gz"
    if gzipped:
        extension = os.path.splitext(stem)[1]
    found = EXTENSIONS.get(extension.lower()) if format == "auto" else format
    if found is None:
        return None
    return TableFile(info.path, found, gzipped, info.size, info.modified)  # type: ignore[arg-type]


def column_names(file: TableFile) -> list[str]:
    """The columns of a file: its header, its schema, or the keys of its first readable rows."""
    if file.format == "parquet":
        with _reading(file), storage.open_read(file.path) as source:
            return list(pq.ParquetFile(source).schema_arrow.names)
    if file.format == "jsonl":
        return _jsonl_names(file)
    with _reading(file), _open(file) as source:
        header = source.readline().decode("utf-8-sig", "replace").rstrip("\r\n")
    if not header:
        return []
    parsed = pa.csv.read_csv(
        pa.BufferReader((header + "\n").encode()),
        parse_options=pa.csv.ParseOptions(delimiter=_DELIMITERS[file.format]),
    )
    return list(parsed.column_names)


def _jsonl_names(file: TableFile) -> list[str]:
    names: dict[str, None] = {}
    with _reading(file), _open(file) as source:
        for line in itertools.islice(source, 1_000):
            row = _json_object(line)
            if isinstance(row, dict):
                names.update(dict.fromkeys(row))
    return list(names)


def map_columns(
    file: TableFile, wanted: Sequence[str], mapping: Mapping[str, str], *, key: str
) -> dict[str, str]:
    """{our name: the file's name} of the wanted columns that the file has.

    mapping: the user's; a column that it names must be there. key: the setting it came from.
    """
    present = column_names(file)
    for ours, theirs in mapping.items():
        if ours not in wanted:
            raise ConfigError(
                f"{key}.{ours}: no such column of ours; there are {', '.join(wanted)}"
            )
        if theirs not in present:
            raise ImgembedError(
                f"{key}.{ours}: {file.path} has no column {theirs!r}; "
                f"it has {', '.join(present) or _NO_COLUMN}"
            )
    return {
        ours: theirs for ours, theirs in own_names(wanted, mapping).items() if theirs in present
    }


def own_names(wanted: Sequence[str], mapping: Mapping[str, str]) -> dict[str, str]:
    """{our name: the file's name}: as mapped, else the same.

    A column that was mapped to one of our names is not taken for another as well: where `uri` is
    mapped to a column `image`, there is no `image` of ours.
    """
    taken = set(mapping.values())
    return {
        ours: mapping.get(ours, ours) for ours in wanted if ours in mapping or ours not in taken
    }


def read_blocks(file: TableFile, columns: Mapping[str, str]) -> Iterator[Block]:
    """All rows of a file, in order. columns: {our name: the file's name}."""
    readers: dict[str, Callable[[TableFile, Mapping[str, str]], Iterator[Block]]] = {
        "jsonl": _read_jsonl,
        "csv": _read_csv,
        "tsv": _read_csv,
        "parquet": _read_parquet,
    }
    with _reading(file):
        yield from readers[file.format](file, columns)


class _reading:  # noqa: N801 - reads as a verb at the call
    """Turns what a broken file raises into one line that names the file."""

    def __init__(self, file: TableFile) -> None:
        self.file = file

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        if isinstance(error, EOFError):
            raise ImgembedError(
                f"{self.file.path}: the gzip file is cut short; copy it anew"
            ) from error
        if isinstance(error, (OSError, pa.ArrowException)) and not isinstance(error, ImgembedError):
            detail = " ".join(str(error).split())
            raise ImgembedError(
                f"{self.file.path}: not readable as {self.file.format} ({detail})"
            ) from error


def _open(file: TableFile) -> IO[bytes]:
    source = storage.open_read(file.path)
    # Python's gzip checks the trailer; a reader that does not takes a cut file for a short one.
    return gzip.open(source, "rb") if file.gzipped else source  # type: ignore[return-value]


def rejected_rows(
    path: str, rows: Iterable[int], reasons: Sequence[str], contents: Sequence[str]
) -> pa.Table:
    """A table of schema.REJECTED_SCHEMA; contents are cut to MAX_CONTENT characters."""
    numbers = list(rows)
    return pa.table(
        [
            pa.array([path] * len(numbers), pa.string()),
            pa.array(numbers, pa.int64()),
            pa.array(reasons, pa.string()),
            pa.array([content[:MAX_CONTENT] for content in contents], pa.string()),
        ],
        schema=schema.REJECTED_SCHEMA,
    )


# JSONL ------------------------------------------------------------------------------------------


def _json_object(line: bytes) -> Any:
    try:
        return orjson.loads(line)
    except orjson.JSONDecodeError:
        return None


def _read_jsonl(file: TableFile, columns: Mapping[str, str]) -> Iterator[Block]:
    with _open(file) as source:
        first = 1
        while lines := list(itertools.islice(source, BLOCK_ROWS)):
            if first == 1 and lines[0].startswith(b"\xef\xbb\xbf"):
                lines[0] = lines[0][3:]
            yield _jsonl_block(file.path, lines, first, columns)
            first += len(lines)


def _jsonl_block(path: str, lines: list[bytes], first: int, columns: Mapping[str, str]) -> Block:
    rows, numbers, bad = [], [], []
    for number, line in enumerate(lines, first):
        if not line.strip():
            continue  # a blank line is no row
        row = _json_object(line)
        if isinstance(row, dict):
            rows.append(row)
            numbers.append(number)
        else:
            bad.append((number, line))
    arrays: dict[str, pa.Array] = {}
    faults: dict[int, str] = {}  # row: reason
    for ours, theirs in columns.items():
        arrays[ours] = _json_column([row.get(theirs) for row in rows], ours, faults)
    keep = [index for index in range(len(rows)) if index not in faults]
    table = pa.table(arrays) if arrays else pa.table({})
    rejected = [(n, "not a JSON object", line.decode("utf-8", "replace")) for n, line in bad]
    rejected += [
        (numbers[index], reason, orjson.dumps(rows[index]).decode())
        for index, reason in faults.items()
    ]
    rejected.sort()
    return Block(
        table.take(pa.array(keep, pa.int64())) if faults else table,
        np.asarray([numbers[index] for index in keep], np.int64),
        rejected_rows(path, *zip(*rejected, strict=True)) if rejected else EMPTY_REJECTED,
    )


EMPTY_REJECTED = schema.REJECTED_SCHEMA.empty_table()


def _json_column(values: list[Any], name: str, faults: dict[int, str]) -> pa.Array:
    """A column of one type: text, numbers, or lists of either; rows that do not fit are faults."""
    for type_ in (pa.string(), pa.int64()):
        try:
            return pa.array(values, type_)
        except (pa.ArrowInvalid, pa.ArrowTypeError, OverflowError):
            continue
    if any(isinstance(value, list) for value in values):
        return _json_lists(values, name, faults)
    texts: list[str | None] = []
    for index, value in enumerate(values):
        text = _json_text(value)
        if value is not None and text is None:
            faults.setdefault(index, f"{name} is neither text nor a number")
        texts.append(text)
    return pa.array(texts, pa.string())


def _json_text(value: Any) -> str | None:
    """Text as it is and numbers as digits; None for what no id, text or time can be."""
    if isinstance(value, str):
        return value
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    return str(int(value)) if float(value).is_integer() else repr(value)


def _json_lists(values: list[Any], name: str, faults: dict[int, str]) -> pa.Array:
    for type_ in (pa.list_(pa.string()), pa.list_(pa.float32())):
        try:
            return pa.array(values, type_)
        except (pa.ArrowInvalid, pa.ArrowTypeError, TypeError):
            continue
    lists: list[list[str] | None] = []
    for index, value in enumerate(values):
        if value is None:
            lists.append(None)
            continue
        texts = [_json_text(item) for item in (value if isinstance(value, list) else [value])]
        if None in texts:
            faults.setdefault(index, f"{name} holds what is neither text nor a number")
        lists.append([text for text in texts if text is not None])
    return pa.array(lists, pa.list_(pa.string()))


# CSV and TSV ------------------------------------------------------------------------------------


def _read_csv(file: TableFile, columns: Mapping[str, str]) -> Iterator[Block]:
    ragged: dict[int, str] = {}  # row number: text; filled by the reader as it goes

    def note(row: Any) -> str:
        ragged[row.number - 1] = row.text  # pyarrow counts the header as row 1
        return "skip"

    with _open(file) as source:
        numbers = itertools.count(1)
        for batch in _open_csv(file, source, columns, note):
            kept = list(itertools.islice((n for n in numbers if n not in ragged), batch.num_rows))
            yield _csv_block(file.path, batch.rename_columns(list(columns)), np.asarray(kept))
    reasons = ["another number of columns than the header"] * len(ragged)
    rejected = rejected_rows(file.path, ragged, reasons, list(ragged.values()))
    yield Block(pa.table({}), np.zeros(0, np.int64), rejected)


def _open_csv(
    file: TableFile, source: IO[bytes], columns: Mapping[str, str], note: Callable[[Any], str]
) -> Iterable[pa.RecordBatch]:
    if not columns or not column_names(file):
        return ()
    return pa.csv.open_csv(
        source,
        read_options=pa.csv.ReadOptions(use_threads=False, block_size=_BLOCK_BYTES),
        parse_options=pa.csv.ParseOptions(
            delimiter=_DELIMITERS[file.format], invalid_row_handler=note
        ),
        convert_options=pa.csv.ConvertOptions(
            include_columns=list(columns.values()),
            # As bytes: one row of another encoding is that row's fault, not the file's.
            column_types=dict.fromkeys(columns.values(), pa.binary()),
            null_values=[""],
            strings_can_be_null=True,
            check_utf8=False,
        ),
    )


def _csv_block(path: str, batch: pa.RecordBatch, numbers: np.ndarray) -> Block:
    faults: dict[int, str] = {}
    arrays = {
        name: _utf8_column(column, name, faults)
        for name, column in zip(batch.schema.names, batch.columns, strict=True)
    }
    table = pa.table(arrays)
    if not faults:
        return Block(table, numbers, EMPTY_REJECTED)
    bad = sorted(faults)
    contents = [repr([row.get(name) for name in arrays]) for row in batch.take(bad).to_pylist()]
    keep = np.setdiff1d(np.arange(batch.num_rows), bad)
    rejected = rejected_rows(path, numbers[bad], [faults[index] for index in bad], contents)
    return Block(table.take(pa.array(keep)), numbers[keep], rejected)


def _utf8_column(column: pa.Array, name: str, faults: dict[int, str]) -> pa.Array:
    """Bytes as text; rows that are not UTF-8, or run over several lines, are faults."""
    try:
        texts = column.cast(pa.string())
    except pa.ArrowInvalid:
        values = [_decode(value) for value in column.to_pylist()]
        for index, (value, raw) in enumerate(zip(values, column.to_pylist(), strict=True)):
            if value is None and raw is not None:
                faults.setdefault(index, f"{name} is not UTF-8")
        texts = pa.array(values, pa.string())
    torn = pc.fill_null(pc.match_substring(texts, "\n"), False)
    if pc.any(torn).as_py():
        for row in np.flatnonzero(torn.to_numpy(zero_copy_only=False)):
            faults.setdefault(int(row), f"{name} runs over several lines: a stray quote?")
    return texts


def _decode(value: bytes | None) -> str | None:
    try:
        return None if value is None else value.decode()
    except UnicodeDecodeError:
        return None


# Parquet ----------------------------------------------------------------------------------------


def _read_parquet(file: TableFile, columns: Mapping[str, str]) -> Iterator[Block]:
    with storage.open_read(file.path) as source:
        first = 1
        batches = pq.ParquetFile(source).iter_batches(BLOCK_ROWS, columns=list(columns.values()))
        for batch in batches:
            table = pa.table(
                {ours: _plain(batch.column(theirs)) for ours, theirs in columns.items()}
            )
            yield Block(table, np.arange(first, first + batch.num_rows), EMPTY_REJECTED)
            first += batch.num_rows


def _plain(column: pa.Array) -> pa.Array:
    """Dictionaries decoded, large and view types narrowed to what the rest of the program knows."""
    type_ = column.type
    if pa.types.is_dictionary(type_):
        return _plain(column.dictionary_decode())
    if pa.types.is_large_string(type_) or type_ == pa.string_view():
        return column.cast(pa.string())
    if pa.types.is_large_list(type_) or pa.types.is_fixed_size_list(type_):
        return _plain(column.cast(pa.list_(type_.value_type)))
    return column
