"""The plan: exact where all is read, within a factor of two where it is not, one line if broken."""

import dataclasses
import gzip
import itertools
import json
import math
import os
import random
import re

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st
from test_graph import clicks, write_log
from test_structure import loaded_by
from test_tables import encode

from cli import main, planning
from pipeline.artifacts import RunDir
from pipeline.config import (
    EdgesConfig,
    GraphConfig,
    HoldoutConfig,
    PrivacyConfig,
    RunnerConfig,
    SessionsConfig,
)
from pipeline.graph import growth, list_plan, plan
from pipeline.graph.counting import Counting
from pipeline.graph.job import build_graph
from pipeline.runner import make_pipeline
from pipeline.sessions import sample
from pipeline.sessions.read import find_logs

SESSIONS = 100_000
FIGURES = (
    "rows",
    "events",
    "sessions",
    "images",
    "co_occurrences",
    "pairs",
    "pairs_of_min_sessions",
    "pairs_of_min_users",
    "pairs_weighed",
    "edges",
)


def planned(path, *, max_rows=plan.MAX_ROWS, holdout=0.1, by="hash", sessions=None, **graph):
    config = SessionsConfig(path=str(path), **(sessions or {}))
    settings = Counting(
        config,
        HoldoutConfig(by=by, fraction=holdout),
        GraphConfig(**graph),
        PrivacyConfig(),
        seed=0,
    )
    return plan.plan_graph(
        logs=find_logs(config), settings=settings, shards="auto", threads=2, max_rows=max_rows
    )


def built(run_dir, path, *, holdout=0.1, by="hash", sessions=None, **graph):
    run = RunDir.open(str(run_dir))
    with run.begin("graph") as new:
        content = build_graph(
            sessions=SessionsConfig(path=str(path), **(sessions or {})),
            holdout=HoldoutConfig(by=by, fraction=holdout),
            graph=GraphConfig(**graph),
            seed=0,
            shards="auto",
            out=new,
            make_pipeline=lambda: make_pipeline(RunnerConfig()),
        )
        return new.commit(content)


def truth_of(version):
    """The figures of a plan, as the run has them."""
    counts = version.manifest["counts"]
    steps = counts["pruning"]

    def rows(prefix):
        return sum(pq.read_metadata(path).num_rows for path in version.shards(prefix))

    return {
        "rows": counts["rows"]["read"],
        "rows_rejected": counts["rows"]["rejected"],
        "events": counts["events"]["read"],
        "sessions": counts["sessions"]["all"],
        "sessions_in_graph": counts["sessions"]["in_graph"],
        "held_out_rows": rows("holdout"),
        "images": rows("nodes"),
        "query_rows": rows("queries"),
        "pairs": counts["pairs"]["counted"],
        "pairs_of_min_sessions": steps["min_sessions"],
        "pairs_of_min_users": steps.get("min_users", steps["min_sessions"]),
        "pairs_weighed": steps["positive_weight"],
        "edges": counts["edges"]["kept"],
    }


def write_topics(path, *, sessions, topics, images, noise=0.1, size=5, order="time"):
    """A log as the benchmark's: sessions within a topic, images by Zipf, some noise."""
    draw = np.random.default_rng(0)
    sizes = draw.poisson(size, sessions) + 1
    session = np.repeat(np.arange(sessions), sizes)
    rows, of_topic = len(session), images // topics
    chance = np.cumsum(1 / np.arange(1, of_topic + 1))
    place = np.searchsorted(chance / chance[-1], draw.random(rows))
    image = np.repeat(draw.integers(0, topics, sessions), sizes) * of_topic + place
    image = np.where(draw.random(rows) < noise, draw.integers(0, images, rows), image)
    time = np.repeat(np.sort(draw.integers(0, 30 * 86_400, sessions)), sizes)
    sort = draw.permutation(rows) if order == "shuffled" else np.arange(rows)
    table = pa.table(
        {
            "session_id": pa.array(session[sort]).cast(pa.string()),
            "user_id": pa.array(draw.integers(0, sessions // 5, sessions)[session[sort]]).cast(
                pa.string()
            ),
            "timestamp": 1_700_000_000 + time[sort],
            "image_id": pa.array(image[sort]).cast(pa.string()),
        }
    )
    pq.write_table(table, path, row_group_size=50_000)


@pytest.fixture(scope="module")
def sparse(tmp_path_factory):
    """A log whose pairs are mostly seen once in a tenth of it, and the counts of a run on it."""
    folder = tmp_path_factory.mktemp("sparse")
    write_topics(folder / "log.parquet", sessions=SESSIONS, topics=100, images=10_000)
    return folder / "log.parquet", built(folder / "run", folder / "log.parquet", holdout=0.0)


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"min_users": 3, "min_significance": 0.05},
        {"measure": "count", "min_sessions": 5, "top_k": 3, "symmetry": "mutual"},
        {"max_degree": 4, "top_k": 2, "symmetry": "union"},
        {"by": "time", "holdout": 0.3, "half_life_days": 1},
        {"sessions": {"max_sessions_per_user": 3, "max_images": 3, "max_events": 5}},
    ],
    ids=str,
)
def test_a_plan_of_a_small_log_has_the_very_counts_of_the_run(tmp_path, settings):
    write_log(tmp_path / "log.jsonl", clicks())
    found = planned(tmp_path / "log.jsonl", **settings)
    version = built(tmp_path / "run", tmp_path / "log.jsonl", **settings)
    assert found.exact
    truth = truth_of(version)
    assert {name: found.counts[name] for name in truth} == truth


def test_a_tenth_of_a_log_tells_the_rest_within_a_factor_of_two(sparse):
    path, version = sparse
    truth = truth_of(version)
    found = planned(path, holdout=0.0, max_rows=truth["rows"] // 10)
    assert not found.exact
    assert found.sampled_rows < truth["rows"] / 9
    assert found.counts["rows"] == truth["rows"]
    for name, number in truth.items():
        assert number / 2 <= found.counts[name] <= 2 * number, name
    sizes = {
        prefix: sum(os.path.getsize(path) for path in version.shards(prefix))
        for prefix in ("edges", "nodes")
    }
    for prefix, size in sizes.items():
        assert size / 2 <= found.output_bytes[prefix] <= 2 * size, prefix


@pytest.mark.parametrize("share", [0.3, 0.1, 0.03])
@pytest.mark.parametrize(
    "settings",
    [{}, {"min_users": 3}, {"min_sessions": 20}, {"min_significance": 1e-6}, {"top_k": 100}],
    ids=str,
)
def test_dense_logs_are_estimated_too(tmp_path, settings, share):
    write_topics(
        tmp_path / "log.parquet", sessions=20_000, topics=10, images=200, noise=0.3, size=4
    )
    truth = planned(tmp_path / "log.parquet", **settings)
    assert truth.exact
    rows = round(truth.counts["rows"] * share)
    found = planned(tmp_path / "log.parquet", max_rows=rows, **settings)
    for name in FIGURES:
        number = truth.counts[name]
        assert number / 2 <= found.counts[name] <= 2 * number, name
    for name in ("memory_bytes", "disk_bytes"):
        assert 0.5 < getattr(found, name) / getattr(truth, name) < 2, name


@pytest.mark.parametrize(
    "extension", [".jsonl", ".csv", ".tsv.gz", ".jsonl.gz", ".csv.zst", ".avro", ".tfrecord"]
)
def test_rows_of_any_format_are_told_from_a_part_of_the_file(tmp_path, monkeypatch, extension):
    rows = clicks(sessions=6_000)
    draw = random.Random(1)
    for row in rows:  # text that does not compress to nothing
        row["query"] = f"{draw.random()}"
    first = encode(extension.partition(".gz")[0].partition(".zst")[0], rows)
    packed = {"gz": gzip.compress, "zst": zstandard.compress}.get(extension.split(".")[-1], bytes)
    (tmp_path / f"log{extension}").write_bytes(packed(first))
    monkeypatch.setattr(sample, "_HEAD_BYTES", 1 << 18)
    found = planned(tmp_path / f"log{extension}", max_rows=2_000)
    assert not found.exact
    assert 0.8 * len(rows) < found.counts["rows"] < 1.25 * len(rows)


def test_many_small_files_are_one_input(tmp_path):
    rows = clicks(sessions=2_000)
    for start in range(0, len(rows), 250):
        write_log(tmp_path / "logs" / f"{start:06d}.jsonl", rows[start : start + 250])
    assert planned(tmp_path / "logs").exact
    found = planned(tmp_path / "logs", max_rows=len(rows) // 4)
    assert 0.8 * len(rows) < found.counts["rows"] < 1.25 * len(rows)
    assert 1_500 < found.counts["sessions"] < 2_700


def test_a_log_whose_sessions_lie_scattered_is_named(tmp_path, sparse):
    write_topics(tmp_path / "log.parquet", sessions=5_000, topics=10, images=200, order="shuffled")
    found = planned(tmp_path / "log.parquet", max_rows=5_000)
    assert any("far apart" in note for note in found.notes)
    assert not planned(sparse[0], max_rows=50_000).notes


counted = st.lists(st.integers(1, 400), min_size=1, max_size=80).map(np.array)
scales = st.floats(1, 300)


@given(counts=counted, scale=scales, least=st.integers(1, 60))
def test_more_input_never_shows_fewer_things_nor_more_than_there_are_events(counts, scale, least):
    rates = growth.Rates.fit(counts, scale)
    found = [rates.expected(s, least=least) for s in (1.0, (1 + scale) / 2, scale)]
    assert all(more >= less * (1 - 1e-9) - 1e-9 for less, more in itertools.pairwise(found))
    for size, number in zip((1.0, (1 + scale) / 2, scale), found, strict=True):
        assert (counts >= least).sum() <= number <= counts.sum() * size / least + 1e-9
    assert rates.expected(scale, least=least + 1) <= found[-1] + 1e-9


@given(counts=counted, scale=scales)
def test_a_sample_is_expected_to_show_what_it_shows(counts, scale):
    assert math.isclose(growth.Rates.fit(counts, scale).expected(1.0), len(counts), rel_tol=1e-6)


@given(mean=st.floats(0.001, 300), least=st.integers(1, 150))
def test_chances_are_those_of_poisson(mean, least):
    chances = [math.exp(k * math.log(mean) - mean - math.lgamma(k + 1)) for k in range(2_000)]
    tail = math.fsum(chances[least:])
    at_most = math.fsum(min(k, least) * chance for k, chance in enumerate(chances))
    means = np.array([mean])
    assert math.isclose(growth.at_least(means, least)[0], tail, abs_tol=1e-9)
    assert math.isclose(growth.at_most(means, least)[0], at_most, rel_tol=1e-6, abs_tol=1e-9)
    assert math.isclose(growth.gamma_below(means, np.array(float(least)))[0], tail, abs_tol=0.02)


@given(weighed=st.floats(0, 1e6), counts=counted, scale=scales, top_k=st.integers(1, 50))
def test_edges_are_within_what_images_and_pairs_allow(weighed, counts, scale, top_k):
    images = growth.Rates.fit(counts, scale)
    kept = {
        symmetry: plan.edges_kept(
            weighed, images, scale, GraphConfig(top_k=top_k, symmetry=symmetry)
        )
        for symmetry in ("directed", "mutual", "union")
    }
    assert 0 <= kept["mutual"] <= kept["directed"] * (1 + 1e-9)
    assert kept["directed"] <= min(2 * weighed, images.expected(scale) * top_k) * (1 + 1e-6)
    assert kept["directed"] <= kept["union"] * (1 + 1e-9) <= 2 * weighed * (1 + 1e-6) + 1e-9


def run(capsys, *arguments):
    code = main.run(["plan", *map(str, arguments)])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_the_command_prints_rounded_figures_and_writes_nothing(tmp_path, capsys, sparse):
    path, version = sparse
    code, out, err = run(capsys, "--sessions", path, "--run-dir", tmp_path / "new")
    assert (code, err) == (0, "")
    assert "about 100,000" in out
    assert "sample of 5" in out
    assert not (tmp_path / "new").exists()
    code, out, _ = run(capsys, "--sessions", path, "--json", "--set", "holdout.fraction=0")
    content = json.loads(out)["graph"]
    assert content["counts"]["rows"] == truth_of(version)["rows"]
    assert content["shards"] >= content["files"] >= 1


def test_a_small_log_is_said_to_be_exact(tmp_path, capsys):
    write_log(tmp_path / "log.jsonl", clicks())
    code, out, _ = run(capsys, "--sessions", tmp_path / "log.jsonl")
    assert code == 0
    assert "the counts are exact" in out
    assert "about" not in out


def test_a_ready_edge_list_has_rows_and_bytes(tmp_path, capsys):
    (tmp_path / "edges.tsv").write_text("src\tdst\n" + "a\tb\n" * 1000)
    pq.write_table(pa.table({"src": ["a"], "dst": ["b"]}), tmp_path / "edges.parquet")
    found = list_plan.plan_edge_list(
        EdgesConfig(path=str(tmp_path / "edges.tsv")),
        GraphConfig(symmetry="union"),
        shards="auto",
        threads=1,
    )
    assert not found.exact
    assert 950 < found.rows < 1050
    assert found.edges == 2 * found.rows
    assert found.input_bytes == (tmp_path / "edges.tsv").stat().st_size
    code, out, _ = run(capsys, "--edges", tmp_path / "edges.parquet", "--json")
    assert code == 0
    assert json.loads(out)["graph"]["rows"] == 1
    code, out, _ = run(capsys, "--edges", tmp_path / "edges.parquet")
    assert re.search(r"a ready edge list of 1 rows.*\n(.*\n)* *memory +\d+ MB", out)


def test_logs_on_the_command_line_take_the_place_of_an_edge_list_in_the_file(tmp_path, capsys):
    (tmp_path / "edges.tsv").write_text("src\tdst\na\tb\n")
    (tmp_path / "cfg.yaml").write_text(f"edges: {{path: {tmp_path / 'edges.tsv'}}}\n")
    write_log(tmp_path / "log.jsonl", clicks())
    file = ("--config", tmp_path / "cfg.yaml")
    assert run(capsys, *file)[1].startswith("a ready edge list of ")
    code, out, _ = run(capsys, *file, "--sessions", tmp_path / "log.jsonl")
    assert code == 0
    assert out.startswith("build-graph, ")


def broken_parquet(folder):
    write_topics(folder / "log.parquet", sessions=500, topics=5, images=50)
    content = (folder / "log.parquet").read_bytes()
    (folder / "log.parquet").write_bytes(content[: len(content) // 2])
    return folder / "log.parquet"


def cut_gzip(folder):
    packed = gzip.compress("".join(json.dumps(row) + "\n" for row in clicks()).encode())
    (folder / "log.jsonl.gz").write_bytes(packed[: len(packed) // 2])
    return folder / "log.jsonl.gz"


def empty(folder):
    (folder / "log.jsonl").write_text("")
    return folder / "log.jsonl"


def without_rows(folder):
    (folder / "log.csv").write_text("session_id,image_id\n")
    return folder / "log.csv"


def without_pairs(folder):
    rows = [{"session_id": str(number), "image_id": "a"} for number in range(50)]
    write_log(folder / "log.jsonl", rows)
    return folder / "log.jsonl"


def missing(folder):
    return folder / "log.jsonl"


@pytest.mark.parametrize(
    "make", [broken_parquet, cut_gzip, empty, without_rows, without_pairs, missing]
)
def test_what_cannot_be_planned_is_one_line(tmp_path, capsys, make):
    code, out, err = run(capsys, "--sessions", make(tmp_path))
    assert (code, out) == (1, "")
    assert err.count("\n") == 1
    assert "log" in err or "sessions.path" in err


def test_settings_are_checked_as_by_the_run(tmp_path, capsys):
    write_log(tmp_path / "log.jsonl", clicks())
    for arguments in (
        (),
        ("--sessions", tmp_path, "--edges", tmp_path),
        ("--sessions", tmp_path / "log.jsonl", "--set", "graph.topk=3"),
    ):
        code, out, err = run(capsys, *arguments)
        assert (code, out, err.count("\n")) == (2, "", 1)


def test_rows_that_cannot_be_read_are_told_before_the_run_fails(tmp_path):
    write_log(tmp_path / "log.jsonl", [*clicks(), *[{"session_id": "x"}] * 500])
    (note,) = planned(tmp_path / "log.jsonl").notes
    assert "max_rejected_fraction" in note


def test_a_machine_too_small_is_told_what_to_do(tmp_path):
    write_log(tmp_path / "log.jsonl", clicks())
    found = dataclasses.replace(
        planned(tmp_path / "log.jsonl"), memory_bytes=9_000_000_000, disk_bytes=9_000_000_000
    )
    small = {"memory": 4_000_000_000, "disk": 4_000_000_000}
    memory, disk = planning.advise(found, **small, runner="direct")
    assert memory.startswith("needs about 9.0 GB of memory, 4.0 GB are free: ")
    assert disk.startswith("needs about 9.0 GB of disk while it runs, 4.0 GB are free: ")
    assert planning.advise(found, **small, runner="dataflow") == []
    assert planning.advise(found, memory=None, disk=None, runner="direct") == []


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (0, "about 0"),
        (37, "about 37"),
        (1_234, "about 1,200"),
        (999_900, "about 1.0 million"),
        (1_999_999, "about 2.0 million"),
        (26_600_000, "about 27 million"),
        (3.2e9, "about 3.2 billion"),
    ],
)
def test_numbers_are_said_in_two_figures(number, text):
    assert planning.say_about(number) == text


def test_its_help_loads_nothing_heavy():
    assert loaded_by("import cli.main; cli.main.run(['plan', '--help'])") == set()
