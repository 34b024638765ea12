"""Which columns of a table are the catalog's: as the configuration maps them, else by our names."""

from __future__ import annotations

from collections.abc import Mapping

from pipeline.errors import ConfigError
from pipeline.examples.catalog.rows import COLUMNS
from pipeline.tables.files import TableFile
from pipeline.tables.names import check_unique, column_names, own_names

SOURCES = ("image", "uri", "features")
_TEXT_FORMATS = ("jsonl", "csv", "tsv")
# There a row names its own columns: one may first appear late in the file.
_LATE_COLUMNS = ("jsonl", "tfrecord")


def map_columns(file: TableFile, mapping: Mapping[str, str]) -> dict[str, str]:
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
    _require(file, columns, has)
    if file.format not in _LATE_COLUMNS:
        return columns
    return {o: t for o, t in names.items() if o != "image" or file.format not in _TEXT_FORMATS}


def _require(file: TableFile, columns: Mapping[str, str], has: str) -> None:
    if "image_id" not in columns:
        raise ConfigError(f"images.columns.image_id: no column 'image_id'; {has}")
    if not set(SOURCES) & set(columns):
        raise ConfigError(f"images.columns: none of {', '.join(SOURCES)}; {has}")
    if "image" in columns and file.format in _TEXT_FORMATS:
        raise ConfigError(
            f"images.columns.image: {file.path} is text, which holds no bytes of pictures; "
            "give their paths as 'uri', or the table as Parquet, Avro or TFRecord"
        )
