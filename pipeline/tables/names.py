"""What the columns of a file are called, and which of them are ours."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from pipeline.errors import ConfigError, ImgembedError
from pipeline.tables import avro, delimited, jsonl, parquet, tfrecord
from pipeline.tables.files import TableFile
from pipeline.tables.recognition import Format

_NO_COLUMN = "(none)"
_READERS: Mapping[Format, Callable[[TableFile], list[str]]] = {
    "jsonl": jsonl.column_names,
    "csv": delimited.column_names,
    "tsv": delimited.column_names,
    "parquet": parquet.column_names,
    "avro": avro.column_names,
    "tfrecord": tfrecord.column_names,
}


def column_names(file: TableFile) -> list[str]:
    """The columns of a file: its header, its schema, or the keys of its first readable rows."""
    return _READERS[file.format](file)


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
    names = own_names(wanted, mapping)
    found = {ours: theirs for ours, theirs in names.items() if theirs in present}
    check_unique(file, present, found)
    return found


def own_names(wanted: Sequence[str], mapping: Mapping[str, str]) -> dict[str, str]:
    """{our name: the file's name}: as mapped, else the same.

    A column that was mapped to one of our names is not taken for another as well: where `uri` is
    mapped to a column `image`, there is no `image` of ours.
    """
    taken = set(mapping.values())
    return {
        ours: mapping.get(ours, ours) for ours in wanted if ours in mapping or ours not in taken
    }


def check_unique(file: TableFile, present: Sequence[str], columns: Mapping[str, str]) -> None:
    """ImgembedError where the file has a column twice of those that are read."""
    for theirs in columns.values():
        if present.count(theirs) > 1:
            raise ImgembedError(
                f"{file.path}: there are {present.count(theirs)} columns {theirs!r}; it must be one"
            )
