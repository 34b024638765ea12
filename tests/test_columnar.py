"""Tables through Beam: nothing is lost on the way, in files or not, in threads or not."""

import contextlib
import dataclasses
import functools
import os
import pickle
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import apache_beam as beam
import numpy as np
import pyarrow as pa
import pytest
from apache_beam.testing.util import assert_that
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.columnar import (
    GatherShards,
    JoinShards,
    SplitByColumn,
    concatenate,
    concatenate_ascending,
    sort_rows,
    split_by_column,
    split_by_shard,
)
from pipeline.config import RunnerConfig
from pipeline.errors import ConfigError, ImgembedError
from pipeline.parallel import InThreads, Outcome
from pipeline.parcels import Parcel, ParcelCoder, TableCoder, spilling
from pipeline.runner import make_pipeline, run

SCHEMA = pa.schema([("id", pa.string()), ("row", pa.int64())])
LARGE = pa.table({"x": np.arange(100_000)})  # 800 kB: is spilled
SMALL = pa.table({"x": np.arange(10)})


def table(*rows):
    return pa.table([[f"id-{row}" for row in rows], list(rows)], schema=SCHEMA)


def rows_of(tables):
    return sorted(row for part in tables for row in part["row"].to_pylist())


# Coders.

TABLES = {
    "empty": SCHEMA.empty_table(),
    "nulls": pa.table({"a": pa.array([None, "ä", ""]), "b": pa.nulls(3)}),
    "chunks": pa.concat_tables([table(1), table(2, 3), SCHEMA.empty_table()]),
    "slice": table(1, 2, 3, 4).slice(1, 2),
    "dictionary": pa.table({"a": pa.array(["x", None, "x"]).dictionary_encode()}),
    "dictionaries": pa.concat_tables(
        [pa.table({"a": pa.array(one).dictionary_encode()}) for one in (["x", "y"], ["y", "z"])]
    ),
    "lists": pa.table({"a": [[b"\x00"], [], None]}),
    "numbers": pa.table({"a": pa.array([0, 2**64 - 1], pa.uint64()), "b": [float("inf"), -0.0]}),
    "large": LARGE,
}


@pytest.mark.parametrize("name", TABLES)
def test_a_table_is_itself_again_after_the_coder(name):
    coder = TableCoder()
    found = coder.decode(coder.encode(TABLES[name]))
    assert found.schema == TABLES[name].schema
    assert found.equals(TABLES[name])


@pytest.mark.parametrize("spill", [True, False])
@pytest.mark.parametrize("name", TABLES)
def test_a_table_is_itself_again_after_its_parcel(name, spill, tmp_path):
    folder, coder = str(tmp_path / "shuffle"), ParcelCoder()
    with spilling(folder) if spill else contextlib.nullcontext():
        parcel = Parcel(TABLES[name])
        encoded = coder.encode(parcel)
        assert coder.encode(parcel) == encoded
        assert coder.encode(coder.decode(encoded)) == encoded
        for received in (coder.decode(encoded), coder.decode(encoded), parcel):
            assert received.table().schema == TABLES[name].schema
            assert received.table().equals(TABLES[name])
        in_file = spill and name == "large"
        assert os.path.exists(folder) == in_file
        assert not in_file or len(encoded) < 1000
    assert not os.path.exists(folder)


def spill_and_fail(folder):
    """Spills two large tables, looks at their file, and raises."""
    with spilling(folder):
        first, second = Parcel(LARGE).spilled(), Parcel(LARGE).spilled()
        assert first != second
        assert first.path == second.path == os.path.join(folder, *os.listdir(folder))
        assert first.read().equals(LARGE)
        assert second.read().equals(LARGE)
        assert Parcel(SMALL).spilled() is None
        raise ZeroDivisionError


def test_files_of_tables_are_gone_at_the_end_also_after_an_error(tmp_path):
    folder = str(tmp_path / "deep" / "shuffle")
    with pytest.raises(ZeroDivisionError):
        spill_and_fail(folder)
    assert not os.path.exists(folder)
    assert Parcel(LARGE).spilled() is None
    with spilling(folder):
        pass  # nothing to keep: the folder is never made
    assert not os.path.exists(folder)


def test_a_thread_writes_many_tables_to_a_file_and_begins_another_when_it_is_full(tmp_path):
    folder = str(tmp_path / "shuffle")
    tables = [pa.table({"x": np.arange(n, n + 100_000)}) for n in range(2 * 3 * 100)]
    with spilling(folder):
        with ThreadPoolExecutor(2) as pool:
            spots = list(pool.map(lambda table: Parcel(table).spilled(), tables))
        files = {spot.path for spot in spots}
        assert sorted(os.listdir(folder)) == sorted(map(os.path.basename, files))
        assert 2 <= len(files) <= len(tables) / 50
        assert all(spot.start % 64 == 0 for spot in spots)
        for spot, table in zip(spots, tables, strict=True):
            assert spot.read().equals(table)


def test_beam_knows_the_coders_of_tables_and_parcels():
    registry = beam.coders.registry
    assert isinstance(registry.get_coder(pa.Table), TableCoder)
    assert isinstance(registry.get_coder(Parcel), ParcelCoder)
    for coder in (TableCoder(), ParcelCoder()):
        assert coder.is_deterministic()
        assert type(pickle.loads(pickle.dumps(coder))) is type(coder)


# Cutting and putting together.


@settings(deadline=None)
@given(shards=st.integers(1, 6), drawn=st.lists(st.integers(0, 5), max_size=20))
def test_a_table_is_cut_into_its_shards_in_the_order_of_its_rows(shards, drawn):
    whole = table(*range(len(drawn)))
    shard = np.array([number % shards for number in drawn], np.int64)
    found = {index: part["row"].to_pylist() for index, part in split_by_shard(whole, shard, shards)}
    expected = {}
    for row, index in enumerate(shard.tolist()):
        expected.setdefault(index, []).append(row)
    assert found == expected


@settings(deadline=None)
@given(shards=st.integers(1, 6), rows=st.lists(st.integers(0, 9), max_size=20))
def test_equal_values_are_in_one_shard_wherever_they_stand(shards, rows):
    place = {}
    for half in (rows, rows[::-1]):
        parts = list(split_by_column(table(*half), column="id", shards=shards))
        assert rows_of(part for _, part in parts) == sorted(half)
        for shard, part in parts:
            assert 0 <= shard < shards
            for row in part["row"].to_pylist():
                assert place.setdefault(row, shard) == shard


def test_tables_are_put_together_in_single_chunks_and_no_table_is_an_empty_one():
    found = concatenate([table(3, 1), SCHEMA.empty_table(), table(2)])
    assert found["row"].to_pylist() == [3, 1, 2]
    assert found["row"].num_chunks == 1
    assert concatenate([], SCHEMA) == SCHEMA.empty_table()
    ascending = concatenate_ascending(
        [table(5, 9), SCHEMA.empty_table(), table(1, 3)], "row", SCHEMA
    )
    assert ascending["row"].to_pylist() == [1, 3, 5, 9]
    assert concatenate_ascending([], "row", SCHEMA) == SCHEMA.empty_table()


def test_rows_are_sorted_by_bytes_with_nulls_last():
    names = ["b", None, "ä", "a", "Z"]
    found = sort_rows(pa.table({"a": names, "b": range(5)}), ["a", "b"])
    assert found["a"].to_pylist() == ["Z", "a", "b", "ä", None]


def test_columns_are_split_and_gathered_by_beam():
    tables = [table(*range(start, start + 10)) for start in range(0, 50, 5)]
    with make_pipeline(RunnerConfig()) as root:
        gathered = (
            root
            | "Create" >> beam.Create(tables)
            | "Split" >> SplitByColumn("id", 4)
            | "Gather" >> GatherShards()
        )

        def check(keyed):
            assert len({shard for shard, _ in keyed}) == len(keyed) <= 4
            assert rows_of(part for _, part in keyed) == rows_of(tables)

        assert_that(gathered, check)


# Joining shards.


def describe(element):
    """(shard, {kind: rows}) of a joined shard."""
    shard, joined = element
    found = {kind: rows_of(tables) for kind, tables in joined.items()}
    assert found == {kind: rows_of(tables) for kind, tables in joined.items()}  # read again
    return shard, found


def check_joined(inputs, *, work=None):
    """Joins {kind: [(shard, table)]} by Beam and compares with a dictionary."""
    expected = {}
    for kind, keyed in inputs.items():
        for shard, part in keyed:
            of_shard = expected.setdefault(shard, {kind: [] for kind in inputs})
            of_shard[kind] = sorted([*of_shard[kind], *part["row"].to_pylist()])

    def check(found):
        assert len(found) == len(expected)
        assert dict(found) == expected

    root = make_pipeline(RunnerConfig())
    keyed = {kind: root | f"Create_{kind}" >> beam.Create(given) for kind, given in inputs.items()}
    described = keyed | "Join" >> JoinShards() | "Describe" >> beam.Map(describe)
    assert_that(described, check)
    run(root, work=work)


def test_tables_of_each_shard_are_joined_each_kind_by_its_name():
    check_joined(
        {
            "pairs": [(0, table(1, 2)), (3, table(3)), (0, table(4)), (0, SCHEMA.empty_table())],
            "images": [(3, table(5)), (7, table(6))],
            "nothing": [],
        }
    )
    check_joined({"alone": [(1, table(1)), (1, table(1)), (2, table(2))]})


def test_large_tables_are_joined_through_files_that_are_gone_afterwards(tmp_path):
    large = [(shard % 3, table(*range(shard, 20_000, 7))) for shard in range(7)]
    check_joined({"large": large, "small": [(1, table(5))]}, work=str(tmp_path / "work"))
    assert not os.path.exists(tmp_path / "work" / "shuffle")


def test_files_are_gone_after_a_job_that_failed(tmp_path):
    root = make_pipeline(RunnerConfig())
    inputs = {"large": root | beam.Create([(0, table(*range(20_000)))])}
    _ = inputs | "Join" >> JoinShards() | "Fail" >> beam.Map(fail)
    with pytest.raises(ImgembedError, match="^no such luck$"):
        run(root, work=str(tmp_path))
    assert os.listdir(tmp_path) == []


def fail(_):
    raise ImgembedError("no such luck")


# Functions in threads.


def double(number):
    """Of some numbers nothing, of others both outputs; waits: threads overtake each other."""
    time.sleep(0.0005 * (number % 3))
    outputs = [("even", 2 * number)] if number % 2 == 0 else []
    outputs += [("third", f"{number}"), ("third", f"{number}")] if number % 3 == 0 else []
    return Outcome(outputs, {"seen": 1, "total": np.int64(number), "none": 0})


@pytest.mark.parametrize("threads", [1, 4])
@pytest.mark.parametrize("numbers", [0, 1, 3, 2000])
def test_nothing_that_goes_through_threads_is_lost_or_counted_twice(threads, numbers):
    root = make_pipeline(RunnerConfig())
    step = InThreads(double, {"even": int, "third": str, "empty": int}, threads, "test")
    outputs = root | beam.Create(range(numbers)) | "Double" >> step
    assert set(outputs) == {"even", "third", "empty"}
    even = [2 * number for number in range(0, numbers, 2)]
    third = sorted(f"{number}" for number in range(0, numbers, 3) for _ in (0, 1))

    def check_even(found):
        assert sorted(found) == even

    def check_third(found):
        assert sorted(found) == third

    def check_empty(found):
        assert found == []

    assert_that(outputs["even"], check_even, label="CheckEven")
    assert_that(outputs["third"], check_third, label="CheckThird")
    assert_that(outputs["empty"], check_empty, label="CheckEmpty")
    counted = run(root)
    assert counted.get("test/seen", 0) == numbers
    assert counted.get("test/total", 0) == sum(range(numbers))


def parts_of(element):
    yield from range(element * 10, element * 10 + element % 4)


def add(number, side):
    return Outcome([("sum", number + side)], {"seen": 1})


@pytest.mark.parametrize("threads", [1, 4])
def test_elements_are_unfolded_and_side_inputs_passed_on_and_outputs_can_be_grouped(threads):
    root = make_pipeline(RunnerConfig())
    side = beam.pvalue.AsSingleton(root | "Side" >> beam.Create([1000]))
    step = InThreads(add, {"sum": int}, threads, "test", unfold=parts_of, side=side)
    sums = (root | beam.Create(range(100)) | "Add" >> step)["sum"]
    grouped = sums | beam.Map(lambda number: (number % 5, number)) | beam.GroupByKey()
    expected = sorted(number + 1000 for element in range(100) for number in parts_of(element))

    def check(found):
        assert sorted(number for _, numbers in found for number in numbers) == expected
        assert len(found) == 3

    assert_that(grouped, check)
    assert run(root) == {"test/seen": len(expected)}


def with_barrier(number):
    """Returns only once four calls are at work at the same time."""
    _BARRIER.wait()
    return Outcome([("done", number)])


_BARRIER = threading.Barrier(4, timeout=20)


def test_as_many_elements_are_at_work_at_once_as_there_are_threads():
    root = make_pipeline(RunnerConfig())
    step = InThreads(with_barrier, {"done": int}, 4, "test")
    done = root | beam.Create([range(8)]) | "Wait" >> dataclasses.replace(step, unfold=iter)

    def check(found):
        assert sorted(found) == list(range(8))

    assert_that(done["done"], check)
    run(root)


def fail_at(number, *, at, error):
    if number == at:
        raise error
    return Outcome([("done", number)])


@pytest.mark.parametrize("threads", [1, 4])
@pytest.mark.parametrize("at", [0, 50, 99])
@pytest.mark.parametrize("kind", [ImgembedError, ConfigError])
def test_an_error_of_ours_in_a_thread_arrives_as_itself(threads, at, kind):
    root = make_pipeline(RunnerConfig())
    function = functools.partial(fail_at, at=at, error=kind("logs/a.csv: row 3: no such thing"))
    _ = (
        root
        | beam.Create(range(100))
        | "Fail" >> InThreads(function, {"done": int}, threads, "test")
    )
    with pytest.raises(ImgembedError) as caught:
        run(root)
    assert type(caught.value) is kind
    assert str(caught.value) == "logs/a.csv: row 3: no such thing"


@pytest.mark.parametrize("threads", [1, 4])
def test_any_other_error_in_a_thread_ends_the_job_too(threads):
    root = make_pipeline(RunnerConfig())
    function = functools.partial(fail_at, at=7, error=KeyError("a fault of the program"))
    _ = (
        root
        | beam.Create(range(100))
        | "Fail" >> InThreads(function, {"done": int}, threads, "test")
    )
    with pytest.raises(Exception, match="a fault of the program"):
        run(root)


_AT_WORK = threading.Semaphore(0)


def slow_or_failing(number):
    if number == 3:
        raise ImgembedError("no")
    time.sleep(0.05)
    _AT_WORK.release()
    return Outcome([("done", number)])


def test_no_thread_is_at_work_any_more_after_a_job_that_failed():
    for _ in range(3):
        root = make_pipeline(RunnerConfig())
        _ = root | beam.Create(range(20)) | InThreads(slow_or_failing, {"done": int}, 4, "test")
        with pytest.raises(ImgembedError):
            run(root)
        while _AT_WORK.acquire(blocking=False):
            pass
        time.sleep(0.2)
        assert not _AT_WORK.acquire(blocking=False)
    # The threads are those of the process: three jobs have no more than one.
    names = [thread.name for thread in threading.enumerate()]
    assert len([name for name in names if "ThreadPoolExecutor" in name]) <= 8, names
