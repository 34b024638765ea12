"""Timestamps of a log to microseconds since 1970: what they are is settled once a file.

Numbers are seconds, milliseconds, microseconds or nanoseconds by their size; text is a number or
ISO 8601, with a zone or without one, which means UTC.
"""

from __future__ import annotations

import datetime
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

TimeFormat = Literal["s", "ms", "us", "ns", "iso", "timestamp", "none"]
DESCRIPTIONS: dict[TimeFormat, str] = {
    "s": "seconds",
    "ms": "milliseconds",
    "us": "microseconds",
    "ns": "nanoseconds",
    "iso": "ISO 8601",
    "timestamp": "a column of timestamps",
    "none": "no time",
}
# Up to which size a number is in that unit, and its microseconds: 1e11 s is the year 5138.
_UNITS: tuple[tuple[float, TimeFormat], ...] = ((1e11, "s"), (1e14, "ms"), (1e17, "us"))
_MICROSECONDS = {"s": 1_000_000, "ms": 1_000, "us": 1}
_NUMBER = r"^\s*[+-]?\d+(\.\d+)?\s*$"
_LARGEST = 2**62  # microseconds; as far as differences of two times can be told


def detect(column: pa.Array) -> TimeFormat:
    """What the times of a file are, by its first rows; "none" where no row has one."""
    if pa.types.is_timestamp(column.type):
        return "timestamp"
    numbers = _numbers(column)
    finite = np.abs(numbers[np.isfinite(numbers)])
    if len(finite):
        typical = float(np.median(finite))
        return next((unit for limit, unit in _UNITS if typical < limit), "ns")
    given = column.drop_null()
    return "iso" if len(given) and _is_text(given) else "none"


def to_microseconds(column: pa.Array, format: TimeFormat) -> tuple[pa.Array, np.ndarray]:
    """([rows] int64 microseconds, [rows] bool: which rows hold what is no time).

    Null where the log has none. A column's own time stamps without a zone are UTC.
    """
    nothing = np.zeros(len(column), bool)
    if pa.types.is_null(column.type):
        return pa.nulls(len(column), pa.int64()), nothing
    if pa.types.is_timestamp(column.type):
        unit = pa.timestamp("us", column.type.tz)
        return column.cast(unit, safe=False).cast(pa.int64()), nothing
    if pa.types.is_date(column.type):
        return column.cast(pa.timestamp("us")).cast(pa.int64()), nothing
    if pa.types.is_integer(column.type) and format in ("s", "ms", "us", "ns"):
        return _from_whole(column.cast(pa.int64(), safe=False), format)
    if _is_text(column):
        return _from_text(column, format)
    return _from_any(column, format)


def _is_text(column: pa.Array) -> bool:
    return bool(pa.types.is_string(column.type) or pa.types.is_large_string(column.type))


def _from_whole(column: pa.Array, format: TimeFormat) -> tuple[pa.Array, np.ndarray]:
    values = column.fill_null(0).to_numpy(zero_copy_only=False)
    given = column.is_valid().to_numpy(zero_copy_only=False)
    factor = _MICROSECONDS.get(format)
    too_large = np.abs(values) > (_LARGEST // factor if factor else _LARGEST)
    values = np.where(too_large, 0, values)
    micros = values * factor if factor else values // 1_000
    bad = too_large & given
    if given.all() and not bad.any():
        return pa.array(micros), bad
    return pa.array(micros, mask=~given | bad), bad


def _from_text(column: pa.Array, format: TimeFormat) -> tuple[pa.Array, np.ndarray]:
    """All rows at once where they are alike, else each by itself."""
    alike = (pa.timestamp("us"), pa.timestamp("us", "UTC")) if format == "iso" else (pa.int64(),)
    for type_ in alike:
        try:
            parsed = column.cast(type_)
        except pa.ArrowInvalid:
            continue
        if format != "iso":
            return _from_whole(parsed, format)
        return parsed.cast(pa.int64()), np.zeros(len(column), bool)
    return _from_any(column, format)


def _from_any(column: pa.Array, format: TimeFormat) -> tuple[pa.Array, np.ndarray]:
    """Numbers in text or with fractions, and ISO 8601 of any kind."""
    numbers = _numbers(column)
    factor = _MICROSECONDS.get(format, 1e-3 if format == "ns" else 1_000_000)
    with np.errstate(over="ignore", invalid="ignore"):
        micros = np.rint(numbers * factor)
        usable = np.abs(micros) < _LARGEST
    whole = np.where(usable, micros, 0).astype(np.int64)
    given = column.is_valid().to_numpy(zero_copy_only=False)
    for row in np.flatnonzero(given & ~usable):
        parsed = _parse_iso(column[int(row)].as_py())
        if parsed is not None:
            whole[row], usable[row] = parsed, True
    return pa.array(whole, mask=~usable), given & ~usable


def _numbers(column: pa.Array) -> np.ndarray:
    """[rows] float64, NaN for what is no number."""
    if pa.types.is_integer(column.type) or pa.types.is_floating(column.type):
        return column.cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False)
    if not _is_text(column):
        return np.full(len(column), np.nan)
    numeric = pc.fill_null(pc.match_substring_regex(column, _NUMBER), False)
    digits = pc.utf8_trim_whitespace(pc.if_else(numeric, column, None))
    return digits.cast(pa.float64()).to_numpy(zero_copy_only=False)


def _parse_iso(value: object) -> int | None:
    """Microseconds of an ISO 8601 time; UTC where it names no zone."""
    if not isinstance(value, str):
        return None
    try:
        moment = datetime.datetime.fromisoformat(value.strip().replace("Z", "+00:00"))
    except ValueError:
        return None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=datetime.timezone.utc)
    epoch = datetime.datetime(1970, 1, 1, tzinfo=datetime.timezone.utc)
    return (moment - epoch) // datetime.timedelta(microseconds=1)
