"""Timestamps of a log to microseconds since 1970: what they are is settled once a file.

Numbers are seconds, milliseconds, microseconds or nanoseconds by their size; text is a number or
ISO 8601, with a zone or without one, which means UTC.
"""

from __future__ import annotations

import datetime
import re
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
_WHOLE = r"^-?(\d{1,18}|[1-8]\d{18})$"  # every one of them fits into 64 bits
_BEYOND = re.compile(r"(\.\d{6})\d+")
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

    Null where the log has none. A column's own time stamps without a zone are UTC. What a row is
    does not depend on the rows beside it.
    """
    nothing = np.zeros(len(column), bool)
    if pa.types.is_null(column.type):
        return pa.nulls(len(column), pa.int64()), nothing
    if pa.types.is_timestamp(column.type):
        unit = pa.timestamp("us", column.type.tz)
        return column.cast(unit, safe=False).cast(pa.int64()), nothing
    if pa.types.is_date(column.type):
        return column.cast(pa.timestamp("us")).cast(pa.int64()), nothing
    if pa.types.is_integer(column.type):
        return _from_integers(column, format)
    if pa.types.is_floating(column.type):
        return _from_fractions(column.cast(pa.float64()), format)
    if _is_text(column):
        return _from_text(column, format)
    return pa.nulls(len(column), pa.int64()), column.is_valid().to_numpy(zero_copy_only=False)


def _is_text(column: pa.Array) -> bool:
    return bool(pa.types.is_string(column.type) or pa.types.is_large_string(column.type))


def _from_integers(column: pa.Array, format: TimeFormat) -> tuple[pa.Array, np.ndarray]:
    given = column.is_valid().to_numpy(zero_copy_only=False)
    fits = np.ones(len(column), bool)
    if pa.types.is_uint64(column.type):
        large = pc.greater(column, pa.scalar(2**63 - 1, pa.uint64()))
        fits = ~pc.fill_null(large, False).to_numpy(zero_copy_only=False)
    values = column.cast(pa.int64(), safe=False).fill_null(0).to_numpy(zero_copy_only=False)
    micros, usable = _scale(values, format)
    return _times(micros, given & usable & fits), given & ~(usable & fits)


def _scale(values: np.ndarray, format: TimeFormat) -> tuple[np.ndarray, np.ndarray]:
    """(microseconds of whole numbers, which of them are times that can be told apart)."""
    if format == "ns":
        return values // 1_000, np.ones(len(values), bool)
    factor = _MICROSECONDS.get(format, 1_000_000)
    limit = _LARGEST // factor
    usable = (values >= -limit) & (values <= limit)
    return np.where(usable, values, 0) * factor, usable


def _from_fractions(column: pa.Array, format: TimeFormat) -> tuple[pa.Array, np.ndarray]:
    given = column.is_valid().to_numpy(zero_copy_only=False)
    numbers = column.to_numpy(zero_copy_only=False)
    factor = 1e-3 if format == "ns" else _MICROSECONDS.get(format, 1_000_000)
    with np.errstate(over="ignore", invalid="ignore"):
        micros = np.rint(numbers * factor)
        usable = np.abs(micros) < _LARGEST
        whole = (numbers == np.floor(numbers)) & (np.abs(numbers) < 2.0**53)
    exact, fits = _scale(np.where(whole, numbers, 0).astype(np.int64), format)
    micros = np.where(whole, exact, np.where(usable, micros, 0).astype(np.int64))
    usable = np.where(whole, fits, usable)
    return _times(micros, given & usable), given & ~usable


def _times(micros: np.ndarray, known: np.ndarray) -> pa.Array:
    return pa.array(micros) if known.all() else pa.array(micros, mask=~known)


def _from_text(column: pa.Array, format: TimeFormat) -> tuple[pa.Array, np.ndarray]:
    """Whole numbers, fractions and ISO 8601, each where it is one; a column of one kind at once."""
    if format == "iso":
        for zone in (None, "UTC"):
            try:
                parsed = column.cast(pa.timestamp("us", zone)).cast(pa.int64())
            except pa.ArrowInvalid:
                continue
            return parsed, np.zeros(len(column), bool)
    given = column.is_valid().to_numpy(zero_copy_only=False)
    texts = pc.ascii_trim_whitespace(column)
    whole = pc.fill_null(pc.match_substring_regex(texts, _WHOLE), False)
    numbers = pc.if_else(whole, texts, pa.scalar(None, texts.type)).cast(pa.int64())
    times, bad = _from_integers(numbers, format)
    rest = given & ~whole.to_numpy(zero_copy_only=False)
    if not rest.any():
        return times, bad
    return _fill_in(texts, times, bad, rest, format)


def _fill_in(
    texts: pa.Array, times: pa.Array, bad: np.ndarray, rest: np.ndarray, format: TimeFormat
) -> tuple[pa.Array, np.ndarray]:
    """With the rows that are no whole numbers; rest: [rows] bool."""
    numbers = _numbers(pc.if_else(pa.array(rest), texts, pa.scalar(None, texts.type)))
    fractions, _ = _from_fractions(pa.array(numbers, from_pandas=True), format)
    known = (times.is_valid().to_numpy(zero_copy_only=False)) | (
        fractions.is_valid().to_numpy(zero_copy_only=False)
    )
    micros = pc.fill_null(pc.coalesce(times, fractions), 0).to_numpy(zero_copy_only=False).copy()
    for row in np.flatnonzero(rest & ~known & np.isnan(numbers)):
        parsed = _parse_iso(texts[int(row)].as_py())
        if parsed is not None:
            micros[row], known[row] = parsed, True
    return _times(micros, known), bad | (rest & ~known)


def _numbers(column: pa.Array) -> np.ndarray:
    """[rows] float64, NaN for what is no number."""
    if pa.types.is_integer(column.type) or pa.types.is_floating(column.type):
        return column.cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False)
    if not _is_text(column):
        return np.full(len(column), np.nan)
    numeric = pc.fill_null(pc.match_substring_regex(column, _NUMBER), False)
    digits = pc.ascii_trim_whitespace(pc.if_else(numeric, column, None))
    return digits.cast(pa.float64()).to_numpy(zero_copy_only=False)


def _parse_iso(text: str) -> int | None:
    """Microseconds of an ISO 8601 time; UTC where it names no zone."""
    for zone in (None, "UTC"):  # first as a whole column is read, so that all rows are read alike
        try:
            return int(pa.scalar(text).cast(pa.timestamp("us", zone)).value)
        except pa.ArrowInvalid:
            continue
    try:
        # Digits beyond the microsecond are cut off.
        moment = datetime.datetime.fromisoformat(_BEYOND.sub(r"\1", text.replace("Z", "+00:00")))
    except ValueError:
        return None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=datetime.timezone.utc)
    epoch = datetime.datetime(1970, 1, 1, tzinfo=datetime.timezone.utc)
    return (moment - epoch) // datetime.timedelta(microseconds=1)
