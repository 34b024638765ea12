"""Sorting and grouping of whole columns: what counting is made of.

A single column of integers sorts several times faster than rows of several columns, so everything
here packs what it can into one 64-bit number a row.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import numpy as np

_WORD_BITS = 64


def changes(values: np.ndarray) -> np.ndarray:
    """[rows] bool: where a value differs from the one before it, and at the first."""
    mask = np.ones(len(values), bool)
    np.not_equal(values[1:], values[:-1], out=mask[1:])
    return mask


def run_starts(values: np.ndarray) -> np.ndarray:
    """The first row of each run of equal values."""
    return np.flatnonzero(changes(values))


def run_lengths(starts: np.ndarray, rows: int) -> np.ndarray:
    """How long the runs are that begin at `starts`, of `rows` rows in all."""
    lengths = np.empty(len(starts), np.int64)
    np.subtract(starts[1:], starts[:-1], out=lengths[:-1])
    lengths[-1:] = rows - starts[-1:]
    return lengths


def run_bounds(lengths: np.ndarray) -> np.ndarray:
    """[n + 1] int64: where runs of such lengths, one after the other, begin, and the last ends."""
    bounds = np.zeros(len(lengths) + 1, np.int64)
    np.cumsum(lengths, out=bounds[1:])
    return bounds


def rows_of(values: np.ndarray, ascending: np.ndarray) -> np.ndarray:
    """[values] int64: the row of each value among `ascending`; -1 where it is not there."""
    if not len(ascending):
        return np.full(len(values), -1, np.int64)
    rows = np.minimum(np.searchsorted(ascending, values), len(ascending) - 1)
    return np.where(ascending[rows] == values, rows, -1)


def bits(values: np.ndarray) -> int:
    """How many bits the largest of some whole numbers >= 0 takes."""
    return int(values.max()).bit_length() if len(values) else 0


def sort_together(key: np.ndarray, *payload: np.ndarray) -> tuple[np.ndarray, ...]:
    """(key, *payload) in ascending order of the key; rows of one key in no order.

    All are whole numbers >= 0, returned as int64. Where their bits fit into one word they travel in
    it, at half the time that an index takes and the gathering by it.
    """
    widths = [bits(values) for values in payload]
    if bits(key) + sum(widths) > _WORD_BITS:
        order = np.argsort(key)
        return tuple(values[order].astype(np.int64) for values in (key, *payload))
    packed = key.astype(np.uint64)
    for values, width in zip(payload, widths, strict=True):
        packed <<= np.uint64(width)
        packed |= values.astype(np.uint64)
    packed.sort()
    unpacked = []
    for width in reversed(widths):
        mask = np.uint64((1 << width) - 1)
        unpacked.append((packed & mask).view(np.int64))
        packed >>= np.uint64(width)
    return (packed.view(np.int64), *reversed(unpacked))


def order_by(*columns: np.ndarray) -> np.ndarray:
    """The rows in ascending order of the columns, the first one first: np.lexsort, but faster.

    columns: whole numbers of any sign. Rows that are equal in all columns stand in no order. Each
    further column costs only for the rows that the former ones leave equal.
    """
    first, *others = columns
    order = np.argsort(first)
    starts = changes(first[order])
    for column in itertools.chain.from_iterable(map(_halves, others)):
        rows = _undecided(starts)
        if not len(rows):
            break
        run, values = np.cumsum(starts)[rows], column[order[rows]]
        finer = _order_pairs(run, values)
        order[rows] = order[rows[finer]]
        starts[rows] |= changes(values[finer])
    return order


def _halves(column: np.ndarray) -> Iterator[np.ndarray]:
    """[rows] uint64 numbers below 2^32 that sort as the column does, the first one first."""
    if not len(column):
        return
    # In uint64 the difference is right even where it does not fit into int64.
    above = column.astype(np.uint64) - np.uint64(column.min().astype(np.uint64))
    if bits(above) > _WORD_BITS // 2:
        yield above >> np.uint64(_WORD_BITS // 2)
        yield above & np.uint64(2 ** (_WORD_BITS // 2) - 1)
    else:
        yield above


def _undecided(starts: np.ndarray) -> np.ndarray:
    """Rows whose run holds another row; starts: [rows] bool, where a run begins."""
    alone = starts.copy()
    alone[:-1] &= starts[1:]
    return np.flatnonzero(~alone)


def _order_pairs(run: np.ndarray, values: np.ndarray) -> np.ndarray:
    """The rows in order of (run, value); run: ascending; values: below 2^32."""
    number = (np.cumsum(changes(run)) - 1).astype(np.uint64)
    return np.argsort((number << np.uint64(_WORD_BITS // 2)) | values)
