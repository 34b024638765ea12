"""Columns of words are the same from Arrow's arrays and from Python's objects."""

from __future__ import annotations

import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from pipeline.examples.catalog.convert import CONVERTERS

TEXTS = st.one_of(
    st.none(), st.sampled_from(["", " ", "a", " a ", "b\n", "\0", "Train", "val", "é"]), st.text()
)
NUMBERS = st.one_of(st.none(), st.integers(-(2**63), 2**63 - 1))


def convert(name, values):
    """(values of good rows, {row: reason})."""
    faults: dict[int, str] = {}
    column = CONVERTERS[name](values, faults)
    assert len(column) == len(values)
    good = [value for index, value in enumerate(column.to_pylist()) if index not in faults]
    return good, faults


def expected_labels(items):
    """A label column's value of one row, in plain Python; "bad" for a fault."""
    if any(mark in item for item in items or () for mark in "\n\r\0" if item is not None):
        return "bad"
    kept = dict.fromkeys(item.strip() for item in items or () if item and item.strip())
    return list(kept) or None


@given(values=st.lists(TEXTS))
def test_texts_are_alike_in_both_worlds(values):
    mixed = [*values, 1.5]  # is looked at one by one
    for name in ("image_id", "uri", "label", "text", "split", "group"):
        good, faults = convert(name, pa.array(values, pa.string()))
        assert (good, faults) == convert(name, values)
        one_by_one, bad = convert(name, mixed)
        assert bad.pop(len(values), None) is not None
        assert (one_by_one, bad) == (good, faults)


@given(values=st.lists(NUMBERS))
def test_numbers_are_alike_in_both_worlds(values):
    for name in ("image_id", "label", "group"):
        found = convert(name, pa.array(values, pa.int64()))
        assert found == convert(name, values)
        assert found == convert(name, [None if v is None else str(v) for v in values])


@given(rows=st.lists(st.one_of(st.none(), st.lists(TEXTS, max_size=4)), max_size=8))
def test_lists_of_labels_follow_plain_python(rows):
    expected = [expected_labels(row) for row in rows]
    for values in (rows, pa.array(rows, pa.list_(pa.string()))):
        good, faults = convert("label", values)
        assert sorted(faults) == [i for i, row in enumerate(expected) if row == "bad"]
        assert good == [row for row in expected if row != "bad"]
