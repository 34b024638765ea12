"""Finds files of rows: which format each has, and how it is compressed.

In: a file, folder or glob. Out: `TableFile`s, and the paths of what is no table. The extension
says what a file is; where it says nothing, the first bytes do.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import cast

from pipeline import storage
from pipeline.errors import ImgembedError
from pipeline.tables import recognition
from pipeline.tables.recognition import Compression, Format

EXTENSIONS: Mapping[str, Format] = {
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "jsonl",
    ".csv": "csv",
    ".tsv": "tsv",
    ".parquet": "parquet",
    ".pq": "parquet",
    ".avro": "avro",
    ".tfrecord": "tfrecord",
    ".tfrecords": "tfrecord",
}
COMPRESSIONS: Mapping[str, Compression] = {".gz": "gzip", ".zst": "zstd", ".zstd": "zstd"}


@dataclass(frozen=True)
class TableFile:
    """A file of rows. size: bytes. modified: the time of its last change in seconds."""

    path: str
    format: Format
    size: int
    compression: Compression = "none"
    modified: float = 0.0


@dataclass(frozen=True)
class Part:
    """Rows of a file that are read in one go: all, or consecutive row groups of a Parquet file.

    first_row: number of its first row, 1 = the first row of data. rows: how many; None where only
    reading tells. first_group, groups: its row groups; 0 groups = the whole file.
    """

    file: TableFile
    first_row: int = 1
    rows: int | None = None
    first_group: int = 0
    groups: int = 0


@dataclass(frozen=True)
class FoundFiles:
    """The tables at a path, and the paths of the other files there, which nobody reads."""

    tables: tuple[TableFile, ...]
    skipped: tuple[str, ...]


def find_tables(
    path: str, *, format: str, key: str, format_key: str | None = None
) -> list[TableFile]:
    """The files of rows that `path` names, as `find_files` takes them."""
    return list(find_files(path, format=format, key=key, format_key=format_key).tables)


def find_files(path: str, *, format: str, key: str, format_key: str | None = None) -> FoundFiles:
    """The files that `path` names, tables and others.

    format: "auto", or the one that all of them have. key: the setting that errors speak of.
    format_key: the one of the format; None = `format` in the section of `key`.
    """
    found = storage.list_files(path)
    if not found:
        raise ImgembedError(f"{key}: no file at {path!r}")
    files = [table_file(info, format) or _recognized(info, format) for info in found]
    tables = tuple(file for file in files if file is not None)
    if not tables:
        raise ImgembedError(
            f"{key}: {found[0].path!r} has no known extension ({', '.join(EXTENSIONS)}, each also "
            f"with {' or '.join(COMPRESSIONS)}), and its first bytes do not say what it is; name "
            f"the format with {format_key or key.split('.')[0] + '.format'}"
        )
    skipped = [info.path for info, file in zip(found, files, strict=True) if file is None]
    return FoundFiles(tables, tuple(skipped))


def table_extension(path: str) -> tuple[str, Compression]:
    """The extension that names the format, in lower case, and the compression around it."""
    stem, extension = os.path.splitext(path.lower())
    compression = COMPRESSIONS.get(extension)
    if compression is None:
        return extension, "none"
    return os.path.splitext(stem)[1], compression


def table_file(info: storage.FileInfo, format: str) -> TableFile | None:
    """What a file's extension says, without a look into it; None where it says nothing."""
    extension, compression = table_extension(info.path)
    found = EXTENSIONS.get(extension)
    if found is None and (format == "auto" or compression == "none"):
        return None
    if format != "auto":
        found = cast(Format, format)
    return TableFile(info.path, cast(Format, found), info.size, compression, info.modified)


def _recognized(info: storage.FileInfo, format: str) -> TableFile | None:
    """What a file's first bytes say; an empty one is no table unless the format is named."""
    found: Format | None = None
    compression: Compression = "none"
    if info.size:
        found, compression = recognition.recognize(info.path)
    if format != "auto":
        found = cast(Format, format)
    if found is None:
        return None
    return TableFile(info.path, found, info.size, compression, info.modified)
