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

from cli import needs
from cli.settings import load
from pipeline import runner, writing
from pipeline.artifacts import Version
from pipeline.config import EdgesConfig, ExportConfig, SessionsConfig
from pipeline.embeddings import costs
from pipeline.errors import ConfigError, ImgembedError
from pipeline.examples import sizes
from pipeline.graph.edge_list import find_edge_list
from pipeline.graph.edge_list import layout_of as layout_of_list
from pipeline.graph.job import layout_of
from pipeline.limits import Held, cut, fit
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
    assert fit(Held(100 * MB, 10 * MB, 0), limit=125 * MB, shards=1, threads=4) == (1, 2)
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


@given(
    process=st.floats(0, 1e9),
    thread=st.floats(0, 3e8),
    shards=st.floats(0, 1e12),
    number=st.integers(1, 64),
    threads=st.integers(1, 64),
    limit=st.integers(10**6, 10**11),
)
def test_a_given_number_of_shards_stays_and_what_does_not_fit_so_is_refused(
    process, thread, shards, number, threads, limit
):
    held = Held(process, thread, shards)
    if held.peak(number, 1) > limit:
        with pytest.raises(ConfigError, match=r"leave runner\.shards at auto"):
            cut(number, held, limit=limit, shards=number, threads=threads)
        return
    cuts = cut(number, held, limit=limit, shards=number, threads=threads)
    assert cuts[0] == number
    assert 1 <= cuts[1] <= threads
    assert held.peak(*cuts) <= limit


def test_examples_in_a_given_number_of_shards_take_fewer_threads_or_are_refused():
    settings = {"neighbors": 5, "max_memory": 4 * 10**9}
    assert sizes.cut("auto", 1e9, threads=2, **settings)[1] == 2
    assert sizes.cut(7, 1e9, threads=2, **settings) == (7, 1)
    with pytest.raises(ConfigError, match=r"leave runner\.shards at auto"):
        sizes.cut(1, 1e9, threads=2, **settings)


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
    given = layout_of(logs, 3, 4, 2_000 * MB)
    assert (given.shards, given.threads) == (3, 2)
    with pytest.raises(ConfigError, match="900 MB are too little .* runner.shards at auto"):
        layout_of(logs, 3, 4, 900 * MB)
    with pytest.raises(ConfigError, match="300 MB are too little"):
        layout_of(logs, "auto", 4, 300 * MB)


def run(log, folder, *options, option="--sessions"):
    """(peak bytes, {file: bytes}) of a graph."""
    command = [PROGRAM, "run", "--to", "graph", option, log, "--run-dir", folder, "--json"]
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


# A ready edge list -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def edge_list(tmp_path_factory):
    """A million and a half edges among 50,000 images."""
    random = np.random.default_rng(0)
    src = random.integers(0, 50_000, 1_500_000)
    ids = pa.array([f"image-{number:07d}" for number in range(50_100)])
    columns = {name: ids.take(pa.array(end)) for name, end in (("src", src), ("dst", src + 7))}
    path = tmp_path_factory.mktemp("edges") / "edges.parquet"
    weight = pa.array(random.random(len(src)))
    pq.write_table(pa.table({**columns, "weight": weight}), path, row_group_size=200_000)
    return path


def test_an_edge_list_is_cut_to_fit_and_what_does_not_is_one_line(edge_list):
    files = find_edge_list(EdgesConfig(path=str(edge_list)))
    cuts = [layout_of_list(files, "auto", 2, limit) for limit in (None, 900 * MB, 560 * MB)]
    assert [cut.threads for cut in cuts] == [2, 2, 1]
    assert cuts[0].shards < cuts[1].shards < cuts[2].shards
    assert layout_of_list(files, 3, 2, 900 * MB).shards == 3
    with pytest.raises(ConfigError, match="300 MB are too little for this stage, which takes"):
        layout_of_list(files, "auto", 2, 300 * MB)


@pytest.mark.slow
def test_an_edge_list_within_a_limit_has_the_same_bytes(edge_list, tmp_path):
    peak, files = run(edge_list, tmp_path / "wide", option="--edges")
    limit = 560 * MB
    found = run(edge_list, tmp_path / "narrow", "--max-memory", "560MB", option="--edges")
    small, same = found
    print(f"peak without a limit {peak / MB:.0f} MB, within 560 MB {small / MB:.0f} MB")
    assert same == files
    assert small < limit < peak


# What cannot be cut ------------------------------------------------------------------------------


def test_a_training_that_does_not_fit_says_what_it_takes_and_what_to_change():
    splits = {"train": {"records": 100_000, "bytes": 4 * 10**9}}
    manifest = {"splits": splits, "feature_dim": None, "image_size": 64}
    examples = Version("examples", "v0001", "run/examples/v0001", manifest)
    flags = {"runner.max_memory": "1300MB"}
    with pytest.raises(ConfigError) as raised:
        needs.check_training(load(None, flags=flags), examples)
    assert str(raised.value) == (
        "runner.max_memory: 1,300 MB are too little for this stage, which takes 1,305 MB at least, "
        "its libraries among them; take a lower training.batch_size or training.shuffle_buffer, "
        "which train otherwise"
    )
    for smaller in ({"training.shuffle_buffer": 500}, {"training.batch_size": 8}, {}):
        limit = {} if smaller else {"runner.max_memory": None}
        needs.check_training(load(None, flags={**flags, **smaller, **limit}), examples)


def test_an_export_takes_fewer_threads_and_is_refused_below_one():
    settings = {"images": 10**6, "id_bytes": 16.0, "side": 64, "files": 8}
    held = costs.export_held(**settings, export=ExportConfig())
    one, three = (held.peak(1, threads) for threads in (1, 3))
    assert three - one == 2 * costs.EXPORT.thread
    assert fit(held, limit=round(three) + MB, shards=1, threads=4) == (1, 3)
    small = costs.export_held(**settings, export=ExportConfig(batch_size=32))
    assert small.peak(1, 1) < one
    with pytest.raises(ConfigError, match=r"take a lower export\.batch_size"):
        fit(held, limit=900 * MB, shards=1, threads=4, remedy=costs.EXPORT_REMEDY)


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
