"""Find and read the image catalog: a folder of pictures, or a table.

In: `ImagesConfig`. Out: `Block`s of at most BLOCK_ROWS rows: a table of CATALOG_SCHEMA, and the
rows that could not be read. What the catalog holds (pictures or ready features, and of what
length) is found out from its first rows, before any job runs.
"""

from __future__ import annotations

import itertools
import math
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, cast

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline import schema, storage
from pipeline.config import ImagesConfig
from pipeline.errors import ConfigError, ImgembedError
from pipeline.tables.blocks import EMPTY_REJECTED, rejected_rows
from pipeline.tables.blocks import Block as TableBlock
from pipeline.tables.files import (
    EXTENSIONS,
    TableFile,
    find_tables,
    table_extension,
    table_file,
)
from pipeline.tables.names import check_unique, column_names, own_names
from pipeline.tables.parts import read_blocks, split_parts
from pipeline.tables.recognition import BOM
from pipeline.tables.streams import open_path, reading

Content = Literal["image", "features"]
COLUMNS = ("image_id", "image", "uri", "features", "label", "text", "split")
SOURCES = ("image", "uri", "features")
CATALOG_SCHEMA = pa.schema(
    [
        ("image_id", pa.string()),
        ("image", pa.large_binary()),
        ("uri", pa.string()),
        ("features", pa.list_(pa.float32())),
        ("label", pa.string()),  # null = none
        ("text", pa.list_(pa.string())),
        ("split", pa.string()),  # null = by hash
        ("file", pa.string()),
        ("row", pa.int64()),  # 1 = the first row of data; 1 in a folder of pictures
    ]
)
PICTURE_EXTENSIONS = (
    *(".jpg", ".jpeg", ".png", ".gif", ".webp", ".bmp", ".tif", ".tiff", ".avif", ".jp2"),
    *(".ppm", ".pgm", ".pbm", ".ico"),
)
FORMATS = ("jsonl", "csv", "tsv", "parquet")
TABLE_EXTENSIONS = tuple(name for name, format in EXTENSIONS.items() if format in FORMATS)
BLOCK_ROWS = 512  # pictures are large: as many are in memory at once
_FEATURE_SEPARATORS = re.compile(r"[\s;,]+")

BAD_ID = "image_id holds a line break or NUL"
NO_ID = "image_id is missing"
NO_CONTENT = {"image": "neither image nor uri is given", "features": "features are missing"}
BAD_FEATURES = "features are not a list of finite numbers"
BAD_DIM = "features have another length than the first row's"
BAD_LABEL = "label is neither text nor a whole number, or has a line break"
BAD_TEXT = "text is neither a text nor a list of texts"
BAD_SPLIT = f"split is none of {', '.join(schema.SPLITS)}"
BAD_IMAGE = "image is not bytes"
BAD_URI = "uri is not text"
NOT_AN_OBJECT = "not a JSON object"


@dataclass(frozen=True)
class Task:
    """What one call of `read_task` reads: some pictures, or one file of rows.

    columns: {our name: the file's}; empty for pictures.
    """

    content: Content
    feature_dim: int | None
    pictures: tuple[str, ...] = ()
    file: TableFile | None = None
    columns: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class Catalog:
    """What `inspect` found.

    inputs: the files, for a stage's fingerprint. skipped_files: files of a folder that have no
    picture's extension.
    """

    content: Content
    feature_dim: int | None  # None for pictures
    tasks: tuple[Task, ...]
    inputs: tuple[storage.FileInfo, ...]
    skipped_files: int = 0


@dataclass(frozen=True)
class Block:
    """Rows of a catalog: CATALOG_SCHEMA, and schema.REJECTED_SCHEMA."""

    table: pa.Table
    rejected: pa.Table


def inspect(config: ImagesConfig) -> Catalog:
    """Finds the catalog's files and looks at its first rows; errors name what is missing."""
    if config.path is None:
        raise ConfigError("images.path: not set; name a folder of pictures or a table of images")
    found = storage.list_files(config.path)
    if not found:
        raise ImgembedError(f"images.path: no file at {config.path!r}")
    if config.format == "folder" or (config.format == "auto" and not _has_table(found)):
        return _inspect_folder(config, found)
    return _inspect_tables(config)


def input_files(config: ImagesConfig) -> list[storage.FileInfo]:
    """Every file that the catalog's content comes from: its own, and the pictures it names.

    Of pictures in buckets only the paths are known: a picture that is replaced there under its
    name goes unnoticed.
    """
    found = inspect(config)
    inputs = list(found.inputs)
    for task in found.tasks:
        uri = dict(task.columns).get("uri")
        if task.file is not None and uri is not None:
            folder = os.path.dirname(task.file.path)
            for block in _table_blocks(task.file, {"uri": uri}):
                uris = block.table["uri"].drop_null().to_pylist()
                inputs += [storage.describe(resolve(str(uri), folder)) for uri in uris]
    return inputs


def prepared_bytes(files: Sequence[storage.FileInfo], image_size: int) -> int:
    """About how many bytes the catalog is once its pictures are resized: what sets the shards."""
    return max(sum(info.size for info in files), len(files) * 3 * image_size**2)


def _has_table(found: Sequence[storage.FileInfo]) -> bool:
    return any(_extension(info.path) in TABLE_EXTENSIONS for info in found)


def _extension(path: str) -> str:
    return table_extension(path)[0]


def _inspect_folder(config: ImagesConfig, found: Sequence[storage.FileInfo]) -> Catalog:
    pictures = [info for info in found if _extension(info.path) in PICTURE_EXTENSIONS]
    if not pictures:
        raise ImgembedError(
            f"images.path: {config.path!r} holds neither a picture "
            f"({', '.join(PICTURE_EXTENSIONS)}) nor a table ({', '.join(TABLE_EXTENSIONS)}); "
            f"found {found[0].path!r}"
        )
    if config.columns:
        raise ConfigError(
            f"images.columns: {config.path!r} is a folder of pictures, which has no columns"
        )
    paths = [info.path for info in pictures]
    tasks = tuple(
        Task("image", None, pictures=tuple(paths[start : start + BLOCK_ROWS]))
        for start in range(0, len(paths), BLOCK_ROWS)
    )
    return Catalog("image", None, tasks, tuple(pictures), len(found) - len(pictures))


def _inspect_tables(config: ImagesConfig) -> Catalog:
    path = cast(str, config.path)
    found = _table_files(config, path)
    mapped = [(file, _map_columns(file, config.columns)) for file in found]
    content, dim = _first_content(mapped, path)
    tasks = tuple(
        Task(content, dim, file=file, columns=tuple(columns.items())) for file, columns in mapped
    )
    inputs = tuple(storage.FileInfo(f.path, f.size, f.modified) for f in found)
    return Catalog(content, dim, tasks, inputs)


def _table_files(config: ImagesConfig, path: str) -> list[TableFile]:
    """The tables; without a named format only by extension: beside them may lie many pictures."""
    if config.format != "auto":
        return find_tables(path, format=config.format, key="images.path")
    found = [table_file(info, "auto") for info in storage.list_files(path)]
    return [file for file in found if file is not None and file.format in FORMATS]


def _map_columns(file: TableFile, mapping: Mapping[str, str]) -> dict[str, str]:
    """{our name: the file's name} of the columns that the file has; an empty file has none."""
    present = column_names(file)
    if not present:
        return {}
    has = f"{file.path} has the columns {', '.join(present)}"
    for ours, theirs in mapping.items():
        if ours not in COLUMNS:
            raise ConfigError(f"images.columns.{ours}: unknown; there are {', '.join(COLUMNS)}")
        if theirs not in present:
            raise ConfigError(f"images.columns.{ours}: no column {theirs!r}; {has}")
    names = own_names(COLUMNS, mapping)
    columns = {ours: theirs for ours, theirs in names.items() if theirs in present}
    check_unique(file, present, columns)
    _require_columns(file, columns, has)
    # The keys of a JSON row may first appear late in the file.
    return names if file.format == "jsonl" else columns


def _require_columns(file: TableFile, columns: Mapping[str, str], has: str) -> None:
    if "image_id" not in columns:
        raise ConfigError(f"images.columns.image_id: no column 'image_id'; {has}")
    if not set(SOURCES) & set(columns):
        raise ConfigError(f"images.columns: none of {', '.join(SOURCES)}; {has}")
    if "image" in columns and file.format != "parquet":
        raise ConfigError(
            f"images.columns.image: {file.path} is text, which holds no bytes of pictures; "
            "give their paths as 'uri', or the table as Parquet"
        )


def _first_content(
    mapped: Sequence[tuple[TableFile, dict[str, str]]], path: str
) -> tuple[Content, int | None]:
    """Ready features where the catalog's first row that can be read has any, else pictures."""
    seen = False
    for file, columns in mapped:
        for row in itertools.chain.from_iterable(_raw_rows(file, columns)):
            seen = True
            if row.reason is None:
                return _row_content(row.values)
    if seen:
        raise ImgembedError(f"images.path: no row of {path!r} can be read")
    raise ImgembedError(f"images.path: {path!r} holds no row")


def _row_content(values: Mapping[str, Any]) -> tuple[Content, int | None]:
    features = values.get("features")
    if features is None:
        return "image", None
    return "features", len(features)


def read_task(task: Task) -> Iterator[Block]:
    """The rows of a task, in order, in blocks of at most BLOCK_ROWS."""
    if task.file is None:
        yield _picture_block(task.pictures)
        return
    for rows in _raw_rows(task.file, dict(task.columns)):
        yield _block(task, task.file.path, rows)


def _picture_block(paths: Sequence[str]) -> Block:
    table = pa.table(
        {
            "image_id": [os.path.splitext(os.path.basename(path))[0] for path in paths],
            "uri": list(paths),
            "file": list(paths),
        }
    )
    return Block(_complete(table, np.ones(len(paths), np.int64)), EMPTY_REJECTED)


def _complete(table: pa.Table, rows: np.ndarray) -> pa.Table:
    """The table with all columns of CATALOG_SCHEMA, null where it has none."""
    table = table.append_column("row", pa.array(rows, pa.int64()))
    columns = [
        table[field.name].cast(field.type)
        if field.name in table.column_names
        else pa.nulls(table.num_rows, field.type)
        for field in CATALOG_SCHEMA
    ]
    return pa.table(columns, schema=CATALOG_SCHEMA)


# Rows of tables ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class Row:
    """A row: its values by our names, or the reason why there are none, and how it was read."""

    number: int
    values: Mapping[str, Any]
    reason: str | None
    content: str


def _raw_rows(file: TableFile, columns: Mapping[str, str]) -> Iterator[list[Row]]:
    if not columns:
        return
    readers = {"jsonl": _jsonl_rows, "parquet": _parquet_rows}
    folder = os.path.dirname(file.path)
    for rows in readers.get(file.format, _csv_rows)(file, columns):
        yield [_check(row, folder) if row.reason is None else row for row in rows]


def _jsonl_rows(file: TableFile, columns: Mapping[str, str]) -> Iterator[list[Row]]:
    with reading(file.path, file.format), open_path(file.path, file.compression) as source:
        lines = enumerate(source, 1)
        # A blank line is no row, but it counts as a line.
        rows = (_jsonl_row(n, line, columns) for n, line in lines if line.strip())
        while block := list(itertools.islice(rows, BLOCK_ROWS)):
            yield block


def _jsonl_row(number: int, line: bytes, columns: Mapping[str, str]) -> Row:
    if number == 1:
        line = line.removeprefix(BOM)
    content = line.decode("utf-8", "replace").rstrip("\r\n")
    try:
        found = orjson.loads(line)
    except orjson.JSONDecodeError:
        found = None
    if not isinstance(found, dict):
        return Row(number, {}, NOT_AN_OBJECT, content)
    values = {ours: found.get(theirs) for ours, theirs in columns.items()}
    return Row(number, values, None, content)


def _csv_rows(file: TableFile, columns: Mapping[str, str]) -> Iterator[list[Row]]:
    for block in _table_blocks(file, columns):
        yield [
            Row(bad["row"], {}, bad["reason"], bad["content"]) for bad in block.rejected.to_pylist()
        ]
        for start in range(0, block.table.num_rows, BLOCK_ROWS):
            numbers = block.row_numbers[start : start + BLOCK_ROWS].tolist()
            found = block.table.slice(start, BLOCK_ROWS).to_pylist()
            yield [
                Row(n, values, None, _as_json(values))
                for n, values in zip(numbers, found, strict=True)
            ]


def _table_blocks(file: TableFile, columns: Mapping[str, str]) -> Iterator[TableBlock]:
    for part in split_parts(file):
        yield from read_blocks(part, columns)


def _parquet_rows(file: TableFile, columns: Mapping[str, str]) -> Iterator[list[Row]]:
    numbers = itertools.count(1)
    with reading(file.path, file.format), storage.open_read(file.path) as source:
        batches = pq.ParquetFile(source).iter_batches(BLOCK_ROWS, columns=[*columns.values()])
        for batch in batches:
            found = ({o: row[t] for o, t in columns.items()} for row in batch.to_pylist())
            yield [Row(next(numbers), row, None, _as_json(row)) for row in found]


def _as_json(values: Mapping[str, Any]) -> str:
    """The row as text, without the bytes of its picture and but for the first features."""
    shown = {name: _shown(value) for name, value in values.items() if name != "image"}
    return orjson.dumps(shown, default=str).decode()


def _shown(value: Any) -> Any:
    return value[:100] if isinstance(value, list) else value


def _check(row: Row, folder: str) -> Row:
    """The row with canonical values, or with the reason why it has none."""
    checked: dict[str, Any] = {}
    try:
        for name, value in row.values.items():
            checked[name] = None if value is None or value == "" else _CHECKS[name](value)
        if checked.get("image_id") is None:
            raise _BadRowError(NO_ID)
    except _BadRowError as error:
        return Row(row.number, {}, str(error), row.content)
    if checked.get("uri") is not None:
        checked["uri"] = resolve(checked["uri"], folder)
    return Row(row.number, checked, None, row.content)


def resolve(uri: str, folder: str) -> str:
    """A path: relative ones are relative to the folder of the table that names them."""
    if uri.startswith("file://"):
        return uri[len("file://") :]
    if "://" in uri or os.path.isabs(uri):
        return uri
    return storage.join(folder, uri)


class _BadRowError(Exception):
    """A value that cannot be what its column says; the message is the reason."""


def _plain_text(value: Any, reason: str) -> str:
    """Text as it is, whole numbers as their digits; no line breaks."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, (str, int)):
        raise _BadRowError(reason)
    text = str(value)
    if any(mark in text for mark in "\n\r\0"):
        raise _BadRowError(reason)
    return text


def _check_id(value: Any) -> str:
    return _plain_text(value, BAD_ID)


def _check_image(value: Any) -> bytes:
    if not isinstance(value, bytes):
        raise _BadRowError(BAD_IMAGE)
    return value


def _check_uri(value: Any) -> str:
    if not isinstance(value, str) or "\0" in value:
        raise _BadRowError(BAD_URI)
    return value


def _check_features(value: Any) -> np.ndarray:
    if isinstance(value, str):
        value = [part for part in _FEATURE_SEPARATORS.split(value.strip("[]() \t")) if part]
    if not isinstance(value, list) or not value:
        raise _BadRowError(BAD_FEATURES)
    try:
        with np.errstate(over="ignore"):  # becomes infinite, which is refused below
            numbers = np.asarray(value, np.float64).astype(np.float32)
    except (TypeError, ValueError, OverflowError):
        raise _BadRowError(BAD_FEATURES) from None
    if numbers.ndim != 1 or not np.isfinite(numbers).all():
        raise _BadRowError(BAD_FEATURES)
    return numbers


def _check_label(value: Any) -> str | None:
    if isinstance(value, float) and math.isnan(value):
        return None  # how data frames write "none" among numbers
    return _plain_text(value, BAD_LABEL).strip() or None


def _check_text(value: Any) -> list[str] | None:
    texts = [value] if isinstance(value, str) else value
    if not isinstance(texts, list) or not all(isinstance(t, str | None) for t in texts):
        raise _BadRowError(BAD_TEXT)
    kept = [text.strip() for text in texts if text and text.strip()]
    return kept or None


def _check_split(value: Any) -> str:
    if value not in schema.SPLITS:
        raise _BadRowError(BAD_SPLIT)
    return value


_CHECKS: Mapping[str, Callable[[Any], Any]] = {
    "image_id": _check_id,
    "image": _check_image,
    "uri": _check_uri,
    "features": _check_features,
    "label": _check_label,
    "text": _check_text,
    "split": _check_split,
}


def _block(task: Task, path: str, rows: Iterable[Row]) -> Block:
    good: list[Row] = []
    bad: list[tuple[int, str, str]] = []
    for row in rows:
        reason = row.reason or _missing_content(row.values, task)
        if reason is None:
            good.append(row)
        else:
            bad.append((row.number, reason, row.content))
    # What the models will not look at is left behind here.
    unused = ("features",) if task.content == "image" else ("image", "uri")
    columns = {
        name: pa.array([row.values.get(name) for row in good], CATALOG_SCHEMA.field(name).type)
        for name in COLUMNS
        if name not in unused
    }
    table = pa.table({**columns, "file": pa.array([path] * len(good), pa.string())})
    return Block(
        _complete(table, np.asarray([row.number for row in good], np.int64)),
        rejected_rows(path, *zip(*bad, strict=True)) if bad else EMPTY_REJECTED,
    )


def _missing_content(values: Mapping[str, Any], task: Task) -> str | None:
    if task.content == "features":
        features = values.get("features")
        if features is None:
            return NO_CONTENT["features"]
        return None if len(features) == task.feature_dim else BAD_DIM
    if values.get("image") is None and values.get("uri") is None:
        return NO_CONTENT["image"]
    return None
