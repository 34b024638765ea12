"""Columns of words: whatever a file holds as text, checked and stripped by the column.

In: values as a file has them, an Arrow array or Python objects. Out: arrays of strings or of lists
of strings; rows whose value cannot be what its column says are noted as faults.
"""

from __future__ import annotations

import decimal
import math
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.sorting import run_bounds
from pipeline.tables.blocks import Faults, Values
from pipeline.tables.objects import python_values
from pipeline.tables.values import is_bytes, is_list, is_text, note

_BREAKS = r"[\n\r\x00]"
_NUL = r"\x00"
_EXACT = 2.0**64  # whole numbers from here on come as floats, which do not hold all of them


@dataclass(frozen=True)
class Words:
    """Makes a column of one text a row, string; null where there is none.

    reason: of a row that holds something else. numbers: whole ones count as their digits. breaks:
    a text may have several lines. missing: the reason where a row must have a text and has none.
    names: the one name of each text, in lower case; None = a text is its own. longest: characters.
    """

    reason: str
    numbers: bool = True
    breaks: bool = False
    strip: bool = True
    missing: str | None = None
    names: Mapping[str, str] | None = None
    longest: int | None = None

    def __call__(self, values: Values, faults: Faults) -> pa.Array:
        texts = _texts(values, self.numbers, self.reason, faults)
        if self.longest is not None:
            _note_where(pc.greater(pc.utf8_length(texts), self.longest), self, faults)
        _note_where(pc.match_substring_regex(texts, _NUL if self.breaks else _BREAKS), self, faults)
        texts = _without_empty(pc.utf8_trim_whitespace(texts) if self.strip else texts)
        if self.missing is not None:
            for index in np.flatnonzero(texts.is_null().to_numpy(zero_copy_only=False)):
                note(faults, int(index), self.missing)
        return texts if self.names is None else self._named(texts, faults)

    def _named(self, texts: pa.Array, faults: Faults) -> pa.Array:
        given = pc.utf8_lower(texts).dictionary_encode()
        names = [(self.names or {}).get(text) for text in given.dictionary.to_pylist()]
        named = pa.array(names, pa.string()).take(given.indices)
        _note_where(pc.and_(named.is_null(), texts.is_valid()), self, faults)
        return named


@dataclass(frozen=True)
class WordLists:
    """Makes a column of any number of texts a row, list<string>; null where there is none.

    A value that is no list counts as a list of one. distinct: a text counts once a row. longest:
    characters of a text.
    """

    reason: str
    numbers: bool = False
    breaks: bool = True
    distinct: bool = False
    longest: int | None = None

    def __call__(self, values: Values, faults: Faults) -> pa.Array:
        items, row_of = _unfolded(values)
        item_faults: Faults = {}
        texts = Words(self.reason, self.numbers, self.breaks, longest=self.longest)(
            items, item_faults
        )
        for index, reason in item_faults.items():
            note(faults, int(row_of[index]), reason)
        kept = np.flatnonzero(texts.is_valid().to_numpy(zero_copy_only=False))
        if self.distinct:
            kept = _first_of_each(texts, row_of, kept)
        counts = np.bincount(row_of[kept], minlength=len(values))
        return pa.ListArray.from_arrays(
            pa.array(run_bounds(counts), pa.int32()),
            texts.take(pa.array(kept, pa.int64())),
            mask=pa.array(counts == 0),
        )


def _unfolded(values: Values) -> tuple[Values, np.ndarray]:
    """The items of all rows, and the row of each."""
    rows = np.arange(len(values))
    if isinstance(values, list):
        lists = [value if isinstance(value, list) else [value] for value in values]
        items = [item for found in lists for item in found]
        return items, np.repeat(rows, [len(found) for found in lists]).astype(np.int64)
    if not is_list(values.type):
        return values, rows
    lengths = pc.fill_null(pc.list_value_length(values), 0).to_numpy(zero_copy_only=False)
    return values.flatten(), np.repeat(rows, lengths)


def _first_of_each(texts: pa.Array, row_of: np.ndarray, kept: np.ndarray) -> np.ndarray:
    """Those of the items `kept` whose text is not in the same row before."""
    if len(np.unique(row_of[kept])) == len(kept):
        return kept
    encoded = texts.take(pa.array(kept, pa.int64())).dictionary_encode()
    keys = row_of[kept] * len(encoded.dictionary) + encoded.indices.to_numpy()
    _, first = np.unique(keys, return_index=True)
    return kept[np.sort(first)]


def _note_where(mask: pa.Array, words: Words, faults: Faults) -> None:
    if pc.any(mask).as_py():
        for index in np.flatnonzero(pc.fill_null(mask, False).to_numpy(zero_copy_only=False)):
            note(faults, int(index), words.reason)


def _without_empty(texts: pa.Array) -> pa.Array:
    return pc.if_else(pc.equal(texts, ""), pa.scalar(None, pa.string()), texts)


def _texts(values: Values, numbers: bool, reason: str, faults: Faults) -> pa.Array:
    """[rows] string, null where there is no value or one of another kind, which is a fault."""
    whole = _whole_column(_as_array(values), numbers)
    if whole is not None:
        return whole
    texts: list[str | None] = []
    for index, value in enumerate(values if isinstance(values, list) else python_values(values)):
        text = _text(value, numbers)
        if text is None and not _is_missing(value):
            note(faults, index, reason)
        texts.append(text)
    return pa.array(texts, pa.string())


def _as_array(values: Values) -> pa.Array | None:
    """The values as one array; None where they are of several kinds."""
    if not isinstance(values, list):
        return values
    kinds = set(map(type, values)) - {type(None)}
    if kinds <= {str} or kinds == {int}:
        try:
            return pa.array(values, pa.int64() if kinds == {int} else pa.string())
        except (OverflowError, UnicodeEncodeError, pa.ArrowInvalid):
            pass  # large numbers, or text that is none: one by one
    return None


def _whole_column(column: pa.Array | None, numbers: bool) -> pa.Array | None:
    """The column as strings in one go; None where its values must be looked at one by one."""
    if column is None:
        return None
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    if pa.types.is_null(column.type):
        return pa.nulls(len(column), pa.string())
    if is_text(column.type) or is_bytes(column.type):
        try:
            column.validate(full=True)  # a file may call text what is none
            return column.cast(pa.string())
        except pa.ArrowInvalid:
            return None
    return column.cast(pa.string()) if numbers and pa.types.is_integer(column.type) else None


def _is_missing(value: Any) -> bool:
    # NaN is how data frames write "none" among numbers.
    return value is None or (isinstance(value, float) and math.isnan(value))


def _text(value: Any, numbers: bool) -> str | None:
    """The value as text; None where it is none."""
    if isinstance(value, (str, bytes)):
        return _decoded(value)
    if isinstance(value, bool) or not numbers:
        return None
    if isinstance(value, (int, uuid.UUID)):
        return str(value)
    if isinstance(value, float) and value.is_integer() and abs(value) < _EXACT:
        return str(int(value))
    whole = isinstance(value, decimal.Decimal) and value.as_tuple().exponent == 0
    return str(value) if whole else None


def _decoded(value: str | bytes) -> str | None:
    try:
        if isinstance(value, bytes):
            return value.decode()
        value.encode()
    except UnicodeError:
        return None
    return value
