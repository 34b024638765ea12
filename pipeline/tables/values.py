"""Values as formats have them, to the few types of columns that the rest of the program knows.

In: Python values, or Arrow arrays of whatever type. Out: arrays of text, numbers, times or lists
of text; rows whose value fits none of these are noted as faults. The same values give the same
column out of every format.
"""

from __future__ import annotations

import datetime
import decimal
import uuid
from typing import Any

import numpy as np
import pyarrow as pa

from pipeline.tables.blocks import Faults
from pipeline.tables.objects import python_values

_EXACT = 2.0**53  # up to here a float holds every whole number
_TOO_LARGE = 2.0**64  # JSON's whole numbers from here on come as floats
_TIME = pa.timestamp("us")
_INEXACT = "is a number too large to be exact: write it as text"
_NO_TEXT = "is neither text nor a number"
_NOT_UTF8 = "is not UTF-8"
_NO_CAST = pa.ArrowInvalid, pa.ArrowNotImplementedError, pa.ArrowTypeError


def note(faults: Faults, index: int, reason: str) -> None:
    """Notes why a row is rejected; an earlier reason stays."""
    faults.setdefault(index, reason)


# Python values ------------------------------------------------------------------------------------


def python_column(values: list[Any], name: str, faults: Faults, *, lists: bool) -> pa.Array:
    """A column of one type. lists: it may hold lists, and then all of it comes as lists of text."""
    kinds = set(map(type, values)) - {type(None)}
    if lists and list in kinds:
        return _python_lists(values, name, faults)
    try:
        if kinds <= {str}:
            return pa.array(values, pa.string())
        if kinds == {int}:
            return pa.array(values, pa.int64())
        if kinds <= {int, float}:
            return _numbers(pa.array(values, pa.float64()), name, faults)
        if kinds == {datetime.datetime}:
            return _times(values)
        if kinds == {datetime.date}:
            return pa.array(values, pa.date32()).cast(_TIME)
    except (pa.ArrowInvalid, OverflowError, UnicodeEncodeError):
        pass  # numbers too large for their type, or text that is none: row by row
    texts: list[str | None] = []
    for index, value in enumerate(values):
        text, reason = _as_text(value)
        if reason is not None:
            note(faults, index, f"{name} {reason}")
        texts.append(text)
    return pa.array(texts, pa.string())


def _numbers(numbers: pa.Array, name: str, faults: Faults) -> pa.Array:
    values = numbers.to_numpy(zero_copy_only=False)
    for index in np.flatnonzero(np.abs(values) >= _TOO_LARGE):
        note(faults, int(index), f"{name} {_INEXACT}")
    return whole_numbers(numbers)


def _times(values: list[datetime.datetime | None]) -> pa.Array:
    zoned = any(value is not None and value.tzinfo is not None for value in values)
    return pa.array(values, pa.timestamp("us", "UTC") if zoned else _TIME)


def _as_text(value: Any) -> tuple[str | None, str | None]:
    """(text, None), or (None, why there is none); a null is neither."""
    if isinstance(value, str):
        return (value, None) if _encodes(value) else (None, _NOT_UTF8)
    if isinstance(value, bytes):
        try:
            return value.decode(), None
        except UnicodeDecodeError:
            return None, _NOT_UTF8
    if isinstance(value, float):
        return _float_text(value)
    if isinstance(value, (datetime.datetime, datetime.date)):
        return value.isoformat(), None
    if isinstance(value, (int, decimal.Decimal, uuid.UUID)) and not isinstance(value, bool):
        return str(value), None
    if value is None:
        return None, None
    return None, "is a list" if isinstance(value, list) else _NO_TEXT


def _encodes(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _float_text(value: float) -> tuple[str | None, str | None]:
    if abs(value) >= _TOO_LARGE:
        return None, _INEXACT
    return (str(int(value)) if value.is_integer() else repr(value)), None


def _python_lists(values: list[Any], name: str, faults: Faults) -> pa.Array:
    lists: list[list[str | None] | None] = []
    for index, value in enumerate(values):
        if value is None:
            lists.append(None)
            continue
        found = [_as_text(item) for item in (value if isinstance(value, list) else [value])]
        reason = next((reason for _, reason in found if reason is not None), None)
        if reason is not None:
            note(faults, index, f"{name} holds what {reason}")
        lists.append([text for text, _ in found])
    return pa.array(lists, pa.list_(pa.string()))


# Arrow arrays -------------------------------------------------------------------------------------


def is_list(type_: pa.DataType) -> bool:
    """Whether a column of that type holds several values a row."""
    return bool(
        pa.types.is_list(type_)
        or pa.types.is_large_list(type_)
        or pa.types.is_fixed_size_list(type_)
    )


def is_usable(type_: pa.DataType, *, lists: bool) -> bool:
    """Whether `arrow_column` can make a column of that type."""
    if pa.types.is_dictionary(type_):
        type_ = type_.value_type
    if is_list(type_):
        return lists and is_usable(type_.value_type, lists=False)
    return bool(
        _has_bytes(type_)
        or pa.types.is_null(type_)
        or pa.types.is_integer(type_)
        or pa.types.is_floating(type_)
        or pa.types.is_decimal(type_)
        or pa.types.is_timestamp(type_)
        or pa.types.is_date(type_)
        or isinstance(type_, pa.UuidType)
    )


def arrow_column(
    column: pa.Array, name: str, faults: Faults, *, dictionary: bool = False
) -> pa.Array:
    """A column of one of our types, of a type that is_usable. dictionary: it may stay one."""
    type_ = column.type
    if pa.types.is_dictionary(type_):
        if dictionary and _has_bytes(type_.value_type):
            return _dictionary_column(column, name, faults)
        column, type_ = column.dictionary_decode(), type_.value_type
    if pa.types.is_null(type_):
        return pa.nulls(len(column), pa.string())
    if _has_bytes(type_):
        return text_column(column, name, faults)
    if is_list(type_):
        return _list_column(column, name, faults)
    if pa.types.is_floating(type_):
        return whole_numbers(column)
    if pa.types.is_decimal(type_):
        return column.cast(pa.string())
    if pa.types.is_date(type_):
        return column.cast(_TIME)
    if isinstance(type_, pa.UuidType):
        return python_column(python_values(column), name, faults, lists=False)
    return column


def _has_bytes(type_: pa.DataType) -> bool:
    return is_text(type_) or is_bytes(type_)


def is_bytes(type_: pa.DataType) -> bool:
    """Whether a column of that type holds bytes that are not said to be text."""
    return bool(
        pa.types.is_binary(type_)
        or pa.types.is_large_binary(type_)
        or pa.types.is_binary_view(type_)
        or pa.types.is_fixed_size_binary(type_)
    )


def is_text(type_: pa.DataType) -> bool:
    """Whether a column of that type holds text."""
    return bool(
        pa.types.is_string(type_)
        or pa.types.is_large_string(type_)
        or pa.types.is_string_view(type_)
    )


def text_column(column: pa.Array, name: str, faults: Faults) -> pa.Array:
    """Text or bytes as text; rows that are not UTF-8 are faults."""
    try:
        return _checked_text(column)
    except pa.ArrowInvalid:
        return python_column(column.cast(pa.binary()).to_pylist(), name, faults, lists=False)


def _checked_text(column: pa.Array) -> pa.Array:
    if is_text(column.type):
        column.validate(full=True)  # a file may call text what is none; casts look only at bytes
    return column.cast(pa.string())


def _dictionary_column(column: pa.DictionaryArray, name: str, faults: Faults) -> pa.Array:
    try:
        values = _checked_text(column.dictionary)
    except pa.ArrowInvalid:
        return text_column(column.dictionary_decode(), name, faults)
    return pa.DictionaryArray.from_arrays(column.indices.cast(pa.int32()), values)


def _list_column(column: pa.Array, name: str, faults: Faults) -> pa.Array:
    inner = column.type.value_type
    try:
        if is_text(inner):
            column.validate(full=True)
        return column.cast(pa.list_(pa.string()))
    except _NO_CAST:
        if _has_bytes(inner):
            column = column.cast(pa.list_(pa.binary()))
        return _python_lists(python_values(column), name, faults)


def whole_numbers(column: pa.Array) -> pa.Array:
    """Floats as int64 where all of them are whole and exact, else as they are; NaN becomes null.

    Data frames turn numbers into floats, and nulls into NaN, where a column has nulls.
    """
    values = column.to_numpy(zero_copy_only=False)
    missing = np.isnan(values)
    given = values[~missing].astype(np.float64)  # _EXACT is more than a half float holds
    if (np.abs(given) < _EXACT).all() and (given == np.floor(given)).all():
        return pa.array(np.where(missing, 0, values).astype(np.int64), mask=missing)
    return pa.array(values, column.type, mask=missing)
