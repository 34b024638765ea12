"""Sorting and grouping against Python's own sorting and numpy's lexsort."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline import sorting

SIGNED = (-(2**63), -(2**63) + 1, -(2**32), -1, 0, 1, 2**31, 2**32, 2**32 + 1, 2**63 - 2, 2**63 - 1)
UNSIGNED = (0, 1, 2**31, 2**32 - 1, 2**32, 2**63 - 1, 2**63, 2**64 - 2, 2**64 - 1)
SMALL = (-3, 0, 1, 2)
KINDS = (
    (np.int64, SIGNED),
    (np.uint64, UNSIGNED),
    (np.int64, SMALL),
    (np.int32, (-(2**31), -1, 0, 2**31 - 1)),
    (np.uint16, (0, 1, 65_535)),
    (np.int64, (0, 1)),
)
numbers = st.one_of(st.sampled_from(SIGNED), st.integers(-(2**63), 2**63 - 1), st.integers(0, 3))


@st.composite
def columns_of_rows(draw, most=4):
    """A few columns of whole numbers of any type, with many equal values."""
    rows = draw(st.integers(0, 40))
    kinds = draw(st.lists(st.sampled_from(KINDS), min_size=1, max_size=most))
    return [
        np.array(draw(st.lists(st.sampled_from(values), min_size=rows, max_size=rows)), dtype)
        for dtype, values in kinds
    ]


@given(columns_of_rows())
def test_rows_are_ordered_as_by_lexsort(columns):
    order = sorting.order_by(*columns)
    assert sorted(order.tolist()) == list(range(len(columns[0])))
    expected = np.lexsort(columns[::-1])
    for column in columns:
        assert column[order].tolist() == column[expected].tolist()


@given(st.lists(st.tuples(numbers, numbers, numbers), max_size=30))
def test_rows_of_any_numbers_are_ordered_as_python_orders_them(rows):
    columns = [np.array([row[i] for row in rows], np.int64) for i in range(3)]
    order = sorting.order_by(*columns)
    assert [rows[row] for row in order] == sorted(rows)
    tied = sorting.order_by(np.zeros(len(rows), np.int64), *columns)
    assert [rows[row] for row in tied] == sorted(rows)


def test_many_rows_are_ordered_as_by_lexsort():
    draw = np.random.default_rng(0)
    columns = [
        draw.integers(0, 5, 20_000),
        draw.integers(-(2**63), 2**63, 20_000) >> 60,
        draw.integers(0, 2**64, 20_000, np.uint64),
    ]
    assert sorting.order_by(*columns).tolist() == np.lexsort(columns[::-1]).tolist()


def test_the_columns_are_left_as_they_were():
    columns = [np.array([2, 2, 1]), np.array([5, 2**63 - 1, 0])]
    before = [column.tolist() for column in columns]
    sorting.order_by(*columns)
    sorting.sort_together(*columns)
    assert [column.tolist() for column in columns] == before


@st.composite
def keys_and_payload(draw):
    """Columns of whole numbers >= 0 of so many bits, below and above one word in all."""
    rows = draw(st.integers(0, 30))
    widths = draw(
        st.lists(st.sampled_from((0, 1, 7, 20, 31, 32, 33, 62, 63)), min_size=1, max_size=4)
    )
    columns = []
    for width in widths:
        values = st.one_of(st.integers(0, 2**width - 1), st.sampled_from((0, 2**width - 1)))
        columns.append(draw(st.lists(values, min_size=rows, max_size=rows)))
    dtypes = [draw(st.sampled_from((np.int64, np.uint64))) for _ in widths]
    return [np.array(column, dtype) for column, dtype in zip(columns, dtypes, strict=True)]


@given(keys_and_payload())
def test_keys_are_sorted_with_their_payload_as_python_sorts_them(columns):
    found = sorting.sort_together(*columns)
    assert [column.dtype for column in found] == [np.int64] * len(columns)
    rows = list(zip(*(column.tolist() for column in found), strict=True))
    assert [row[0] for row in rows] == sorted(columns[0].tolist())
    assert sorted(rows) == sorted(zip(*(column.tolist() for column in columns), strict=True))


@pytest.mark.parametrize("widths", [(64 - 20, 10, 10), (1, 63), (63, 1), (63,), (0, 0, 63)])
def test_keys_and_payload_may_fill_one_word_to_the_last_bit(widths):
    largest = [np.array([2**width - 1, 0], np.int64) for width in widths]
    found = sorting.sort_together(*largest)
    rows = list(zip(*(column.tolist() for column in found), strict=True))
    assert sorted(rows) == sorted([(0,) * len(widths), tuple(2**width - 1 for width in widths)])
    assert found[0].tolist() == sorted(largest[0].tolist())


@given(st.lists(st.sampled_from(SIGNED)))
def test_runs_are_those_of_groupby(values):
    array = np.array(values, np.int64)
    starts = sorting.run_starts(array)
    lengths = sorting.run_lengths(starts, len(array))
    groups = [(key, len(list(group))) for key, group in itertools.groupby(values)]
    assert list(zip(array[starts].tolist(), lengths.tolist(), strict=True)) == groups
    first = [row == 0 or values[row] != values[row - 1] for row in range(len(values))]
    assert sorting.changes(array).tolist() == first


@given(st.lists(st.integers(0, 2**64 - 1)))
def test_bits_are_those_of_the_largest_number(values):
    assert sorting.bits(np.array(values, np.uint64)) == max(values, default=0).bit_length()
