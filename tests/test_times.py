"""Timestamps of any kind to microseconds, each row by itself whatever stands beside it."""

import datetime
import math
from fractions import Fraction

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from pipeline.sessions.times import detect, to_microseconds

UTC = datetime.timezone.utc
EPOCH = datetime.datetime(1970, 1, 1, tzinfo=UTC)
START = 1_577_836_800  # 2020-01-01T00:00:00Z
MICROSECONDS = {"s": 1_000_000, "ms": 1_000, "us": 1}
LARGEST = 2**62


def read(values, *, type=None, format=None):
    """(microseconds, which are bad) of a column of values."""
    column = pa.array(values, type)
    found, bad = to_microseconds(column, format or detect(column))
    assert found.type == pa.int64()
    assert len(found) == len(bad) == len(values)
    assert not any(
        is_bad and micros is not None for micros, is_bad in zip(found.to_pylist(), bad, strict=True)
    )
    return found.to_pylist(), bad.tolist()


@pytest.mark.parametrize(
    ("values", "format", "micros"),
    [
        ([START, START + 1], "s", [START * 10**6, (START + 1) * 10**6]),
        (["1577836800", "-5"], "s", [START * 10**6, -5_000_000]),
        ([START + 0.25, None], "s", [START * 10**6 + 250_000, None]),
        (["1577836800.000001", "1"], "s", [START * 10**6 + 1, 1_000_000]),
        ([START * 1000 + 123, 0], "ms", [START * 10**6 + 123_000, 0]),
        (
            ["1577836800123", "1577836800124"],
            "ms",
            [START * 10**6 + 123_000, START * 10**6 + 124_000],
        ),
        ([START * 10**6 + 1, -START * 10**6], "us", [START * 10**6 + 1, -START * 10**6]),
        (["1577836800000001"], "us", [START * 10**6 + 1]),
        ([START * 10**9 + 1999, START * 10**9], "ns", [START * 10**6 + 1, START * 10**6]),
        (["1577836800000001999"], "ns", [START * 10**6 + 1]),
        ([-1, -START], "s", [-1_000_000, -START * 10**6]),
    ],
)
def test_numbers_are_seconds_milliseconds_microseconds_or_nanoseconds_by_their_size(
    values, format, micros
):
    assert detect(pa.array(values)) == format
    assert read(values) == (micros, [False] * len(values))


@pytest.mark.parametrize(
    "text",
    [
        "2020-01-01",
        "2020-01-01T00:00",
        "2020-01-01 00:00:00",
        "2020-01-01T00:00:00",
        "2020-01-01T00:00:00.000000",
        "2020-01-01T00:00:00Z",
        "2020-01-01T00:00:00.000Z",
        "2020-01-01 00:00:00+00:00",
        "2020-01-01T01:00:00+01:00",
        "2019-12-31T18:30:00-05:30",
        "2020-01-01T01:00:00+0100",
        "2020-01-01T01:00:00+01",
        " 2020-01-01T00:00:00Z ",
        "\t2020-01-01\n",
    ],
)
def test_iso_8601_is_read_with_and_without_zone_and_blanks_around_it(text):
    assert detect(pa.array([text])) == "iso"
    for beside in ([], ["2020-01-01"], ["2020-01-01T00:00:00Z"], ["garbage"], [None]):
        found, bad = read([text, *beside], format="iso")
        assert (found[0], bad[0]) == (START * 10**6, False)


def test_digits_beyond_the_microsecond_are_cut_off():
    for text in ("2020-01-01T00:00:00.123456789", "2020-01-01T00:00:00.123456999Z"):
        assert read([text]) == ([START * 10**6 + 123_456], [False])


@pytest.mark.parametrize(
    ("column", "micros"),
    [
        (pa.array([START], pa.timestamp("s")), START * 10**6),
        (pa.array([START * 1000], pa.timestamp("ms", "UTC")), START * 10**6),
        (pa.array([START * 10**6 + 7], pa.timestamp("us", "Europe/Berlin")), START * 10**6 + 7),
        (pa.array([START * 10**9 + 1999], pa.timestamp("ns")), START * 10**6 + 1),
        (pa.array([datetime.date(2020, 1, 1)], pa.date32()), START * 10**6),
        (pa.array([datetime.date(2020, 1, 1)], pa.date64()), START * 10**6),
    ],
)
def test_a_column_of_times_needs_no_format(column, micros):
    for format in (detect(column), "none", "iso"):
        found, bad = to_microseconds(pa.concat_arrays([column, pa.nulls(1, column.type)]), format)
        assert found.to_pylist() == [micros, None]
        assert bad.tolist() == [False, False]


def test_a_null_is_no_time_and_no_fault():
    for type_ in (pa.string(), pa.int64(), pa.float64(), pa.null(), pa.timestamp("us")):
        column = pa.nulls(3, type_)
        assert read(column.to_pylist(), type=type_) == ([None] * 3, [False] * 3)
    assert detect(pa.nulls(3, pa.string())) == detect(pa.array([], pa.int64())) == "none"


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "soon",
        "2020-13-01",
        "2020-02-30",
        "2020-01-01T25:00:00",
        "2020-01-01T00:00:60",
        "2020-01-01T00:00:00+99:00",
        "1e9",
        "nan",
        "inf",
        "0x10",
        "1_000",
        "1,5",
        "--1",
        "1 2",
        "٣",
        "9" * 30,
        "9" * 400,
        "-" + "9" * 400,
        "\u00a05",
    ],
)
@pytest.mark.parametrize("format", ["s", "ms", "us", "ns", "iso"])
def test_what_is_no_time_is_bad_and_harms_no_other_row(text, format):
    good = "2020-01-01" if format == "iso" else "5"
    expected = START * 10**6 if format == "iso" else read([good], format=format)[0][0]
    assert read([text], format=format) == ([None], [True])
    assert read([good, text, None, good], format=format) == (
        [expected, None, None, expected],
        [False, True, False, False],
    )


def test_numbers_that_are_no_times_are_bad():
    values = [1.5, math.nan, math.inf, -math.inf, 1e300, None]
    assert read(values, format="s") == ([1_500_000, *[None] * 5], [False, *[True] * 4, False])
    assert read([True, False], format="s") == ([None, None], [True, True])


@pytest.mark.parametrize("format", ["s", "ms", "us", "ns"])
@pytest.mark.parametrize("sign", [1, -1])
def test_whole_numbers_that_overflow_are_bad_and_not_other_times(format, sign):
    factor = Fraction(MICROSECONDS.get(format, Fraction(1, 1000)))
    for magnitude in (
        1,
        2**31,
        *(int(LARGEST / factor) + step for step in (-1000, 1000)),
        2**63 - 1,
    ):
        value = sign * magnitude
        if not -(2**63) <= value < 2**63:
            continue
        exact = math.floor(value * factor)
        found = read([value, None], type=pa.int64(), format=format)
        if abs(exact) < LARGEST:
            assert found == ([exact, None], [False, False])
        else:
            assert found == ([None, None], [True, False])


def test_the_least_whole_number_is_no_time():
    for format in ("s", "ms", "us"):
        assert read([-(2**63)], type=pa.int64(), format=format) == ([None], [True])


def test_unsigned_numbers_beyond_63_bits_are_no_times():
    for format in ("s", "ms", "us"):
        assert read([2**64 - 1, 5], type=pa.uint64(), format=format)[1] == [True, False]


@pytest.mark.parametrize(
    ("values", "format"),
    [
        (["soon", "", None, "1577836800123", "1577836800124"], "ms"),
        ([None, "2020-01-01", "soon"], "iso"),
        (["soon"], "iso"),
        ([START * 1000] * 5 + [0, 1], "ms"),
        ([0, 0], "s"),
        ([10**11 - 1], "s"),
        ([10**11], "ms"),
        ([10**14], "us"),
        ([10**17], "ns"),
        ([math.nan, START * 1e6], "us"),
    ],
)
def test_the_first_rows_decide_what_the_times_of_a_file_are(values, format):
    assert detect(pa.array(values)) == format


MIXED = [
    "2020-01-01",
    "2020-01-01T00:00:00+02:00",
    " 2020-01-01",
    "1577836800",
    "1577836800123",
    "1577836800123456789",
    "1577836800123456500",
    "-1577836800123456999",
    "1.5",
    "0000-01-01",
    "0001-01-01",
    "9999-12-31T23:59:59.999999",
    "9999-12-31T23:59:59-23:59",
    "2020-01-01T00",
    "2020-W01-1",
    "soon",
    "",
    None,
]


@settings(deadline=None)
@given(
    values=st.lists(st.sampled_from(MIXED), min_size=1, max_size=6),
    format=st.sampled_from(("s", "ms", "us", "ns", "iso")),
)
@example(values=["1577836800123456789", "soon"], format="ns")
@example(values=["0000-01-01", "soon"], format="iso")
def test_the_time_of_a_row_does_not_depend_on_the_rows_beside_it(values, format):
    alone = [read([value], type=pa.string(), format=format) for value in values]
    assert read(values, type=pa.string(), format=format) == (
        [found[0] for found, _ in alone],
        [bad[0] for _, bad in alone],
    )


@given(
    moments=st.lists(
        st.datetimes(
            datetime.datetime(1, 1, 3),
            datetime.datetime(9999, 12, 29),
            timezones=st.one_of(
                st.none(),
                st.integers(-23 * 60, 23 * 60).map(
                    lambda minutes: datetime.timezone(datetime.timedelta(minutes=minutes))
                ),
            ),
        ),
        min_size=1,
        max_size=5,
    )
)
def test_every_iso_time_is_read_as_python_reads_it(moments):
    expected = [
        (moment.replace(tzinfo=moment.tzinfo or UTC) - EPOCH) // datetime.timedelta(microseconds=1)
        for moment in moments
    ]
    assert read([moment.isoformat() for moment in moments]) == (expected, [False] * len(moments))
    texts = [moment.isoformat(sep=" ") for moment in moments]
    assert read(texts, format="iso") == (expected, [False] * len(moments))


@given(
    values=st.lists(st.integers(-(2**40), 2**40), min_size=1, max_size=5),
    format=st.sampled_from(("s", "ms", "us")),
    type_=st.sampled_from((pa.int64(), pa.string(), pa.float64())),
)
def test_every_whole_number_is_its_unit_times_itself_in_any_type_of_column(values, format, type_):
    column = pa.array(values).cast(type_)
    found, bad = to_microseconds(column, format)
    assert found.to_pylist() == [value * MICROSECONDS[format] for value in values]
    assert not np.any(bad)
