"""runner.max_memory: the work is cut to fit, what is written stays the same."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cli.settings import load
from pipeline import runner, writing
from pipeline.config import SessionsConfig
from pipeline.errors import ConfigError, ImgembedError
from pipeline.examples import sizes
from pipeline.graph.job import layout_of
from pipeline.limits import Held, fit
from pipeline.sessions.read import find_logs

PROGRAM = Path(sys.executable).with_name("imgembed")
MB = 10**6


@given(
    process=st.floats(0, 1e9),
    thread=st.floats(0, 3e8),
    shards=st.floats(0, 1e12),
    threads=st.integers(1, 64),
    limit=st.integers(10**6, 10**11),
)
def test_what_fits_is_within_the_limit_and_what_does_not_fits_in_no_way(
    process, thread, shards, threads, limit
):
    held = Held(process, thread, shards)
    fits = held.peak(4_096, 1) <= limit - (16 << 20)
    try:
        number, at_once = fit(held, limit=limit, shards=8, threads=threads)
    except ConfigError:
        assert not fits
        return
    assert 8 <= number <= 4_096
    assert 1 <= at_once <= threads
    assert held.peak(number, at_once) <= limit * (1 + 1e-9)


def test_without_a_limit_and_with_room_nothing_changes():
    held = Held(100 * MB, 10 * MB, 1_000 * MB)
    assert fit(held, limit=None, shards=3, threads=2) == (3, 2)
    assert fit(held, limit=10_000 * MB, shards=3, threads=2) == (3, 2)
    # Twice 10 MB for the threads, and 480 MB for two shards: 1,000 MB in five parts of 200.
    assert fit(held, limit=600 * MB, shards=3, threads=2) == (5, 2)
    # One thread has room for 20 MB; of two, neither would have 16 MiB.
    assert fit(held, limit=130 * MB, shards=3, threads=2) == (50, 1)


def test_examples_are_cut_by_their_neighbours_and_a_given_number_of_shards_stays():
    settings = {"neighbors": 5, "threads": 2}
    wide = sizes.cut("auto", 1e9, max_memory=None, **settings)
    narrow = sizes.cut("auto", 1e9, max_memory=2 * 10**9, **settings)
    assert wide == (sizes.shard_count("auto", 1e9), 2)
    assert narrow[0] > wide[0]
    assert sizes.cut(7, 1e9, max_memory=10**10, **settings) == (7, 2)
    with pytest.raises(ConfigError, match="1,000 MB are too little for this stage"):
        sizes.cut("auto", 1e9, max_memory=1_000 * MB, **settings)


@pytest.mark.parametrize(
    ("text", "size"), [("4GB", 4 * 10**9), ("512 MiB", 512 << 20), ("1.5gb", 15 * 10**8), (7, 7)]
)
def test_bytes_are_read_in_their_units(text, size):
    assert load(None, flags={"runner.max_memory": text}).runner.max_memory == size


@pytest.mark.parametrize("text", ["much", "4 GBs", "-1", "GB", "0"])
def test_what_is_no_number_of_bytes_is_one_line(text):
    with pytest.raises(ConfigError, match=r"runner\.max_memory: wanted"):
        load(None, flags={"runner.max_memory": text})


@pytest.fixture(scope="module")
def log(tmp_path_factory):
    """Three million events of half a million sessions."""
    random = np.random.default_rng(0)
    session = np.repeat(np.arange(500_000), 6)
    topic = random.integers(0, 500, 500_000).repeat(6)
    image = topic * 100 + random.zipf(1.3, len(session)) % 100
    columns = {
        "session_id": pa.array(session).cast(pa.string()),
        "image_id": pa.array(image).cast(pa.string()),
    }
    path = tmp_path_factory.mktemp("log") / "log.parquet"
    pq.write_table(pa.table(columns), path, row_group_size=200_000)
    return path


def test_a_smaller_limit_cuts_finer_and_takes_fewer_threads(log):
    logs = find_logs(SessionsConfig(path=str(log)))
    cuts = [layout_of(logs, "auto", 4, limit) for limit in (None, 2_000 * MB, 900 * MB, 500 * MB)]
    assert [cut.threads for cut in cuts] == [4, 4, 3, 1]
    at_once = [cut.threads / cut.shards for cut in cuts]  # shares of the log that are held
    assert at_once == sorted(at_once, reverse=True)
    assert at_once[-1] < at_once[0] / 2
    assert layout_of(logs, 3, 4, 900 * MB).shards == 3
    with pytest.raises(ConfigError, match="300 MB are too little"):
        layout_of(logs, "auto", 4, 300 * MB)


def run(log, folder, *options):
    """(peak bytes, {file: bytes}) of a graph."""
    command = [PROGRAM, "run", "--to", "graph", "--sessions", log, "--run-dir", folder, "--json"]
    command += ["--workers", "2", "--quiet", *options]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    (row,) = json.loads(done.stdout)["stages"]
    files = {path.name: path.read_bytes() for path in Path(row["path"]).glob("*.parquet")}
    return row["peak_memory_bytes"], files


@pytest.mark.slow
def test_a_smaller_limit_gives_a_smaller_peak_and_the_same_bytes(log, tmp_path):
    peak, files = run(log, tmp_path / "wide")
    limit = 550 * MB
    small, same = run(log, tmp_path / "narrow", "--max-memory", "550MB")
    print(
        f"peak without a limit {peak / MB:.0f} MB, within {limit / MB:.0f} MB {small / MB:.0f} MB"
    )
    assert same == files
    assert small < limit < peak


# What was counted is what was written -------------------------------------------------------------


def test_rows_that_were_counted_and_are_not_in_the_files_are_an_error(tmp_path):
    for index, rows in enumerate((3, 0, 4)):
        table = pa.table({"a": range(rows)})
        writing.write_parquet(str(tmp_path / f"edges-0000{index}-of-00003.parquet"), table)
    writing.check_written(str(tmp_path), {"edges": 7})
    with pytest.raises(ImgembedError, match="edges: 8 rows were counted and 7 written; run it ag"):
        writing.check_written(str(tmp_path), {"edges": 8})
    with pytest.raises(ImgembedError, match="nodes: 1 rows were counted and 0 written"):
        writing.check_written(str(tmp_path), {"nodes": 1})


def test_counters_of_a_manifest_are_ours_by_name():
    found = {"graph/b": 2, "tfx.Transform/x": 9, "graph/a": 1, "sessions/rows": 3, "graphs/c": 4}
    assert list(runner.counters_of(found, "sessions", "graph").items()) == [
        ("graph/a", 1),
        ("graph/b", 2),
        ("sessions/rows", 3),
    ]
