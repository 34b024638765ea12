"""Beam's runners: what is refused, what is one line, the same bytes through the portable engine."""

import os

import apache_beam as beam
import pyarrow as pa
import pytest
from apache_beam.options.pipeline_options import (
    FlinkRunnerOptions,
    PipelineOptions,
    SetupOptions,
)
from small_logs import build, clicks, files, run_command, write_log

from pipeline import schema
from pipeline.artifacts import RunDir
from pipeline.config import GraphConfig, HoldoutConfig, RunnerConfig, SessionsConfig
from pipeline.errors import ConfigError, ImgembedError
from pipeline.graph.edges import finish_file
from pipeline.graph.job import build_graph
from pipeline.runner import _raise_ours, make_pipeline, run, threads
from pipeline.writing import write_parquet


@pytest.mark.parametrize(
    "option", ["--direct_running_mode=multi_processing", "--direct_num_workers=2"]
)
def test_beams_own_local_workers_are_refused_since_they_lose_rows(option):
    with pytest.raises(ConfigError, match="can lose rows"):
        make_pipeline(RunnerConfig(options=[option]))


def test_dask_is_refused_with_the_reason(capfd):
    code = run_command("build-graph", "--sessions", "logs", "--runner", "DaskRunner")
    lines = capfd.readouterr().err.splitlines()
    assert code == 2
    assert len(lines) == 1
    assert "drops outputs in silence" in lines[0]


@pytest.mark.parametrize(
    ("name", "options", "named"),
    [
        ("flink", ["--flink_master=host:8081"], "tell where Python workers run"),
        ("flink", ["--flink_job_server_jar=/none.jar"], "/none.jar: there is no such file"),
        ("flink", ["--job_server_java_launcher=/none/java"], "there is no '/none/java' here"),
        ("prism", [], "where is it?"),
        ("prism", ["--prism_location=/none"], "/none: there is no such file"),
    ],
)
def test_an_engine_that_cannot_run_is_one_line_that_names_the_option(name, options, named):
    with pytest.raises(ConfigError) as raised:
        make_pipeline(RunnerConfig(name=name, options=options))
    assert named in str(raised.value)
    assert "\n" not in str(raised.value)


def test_flink_with_a_cluster_and_workers_is_accepted(tmp_path):
    jar = tmp_path / "server.jar"
    jar.touch()
    program = [f"--flink_job_server_jar={jar}", "--job_server_java_launcher=sh"]
    for workers in ("--environment_type=LOOPBACK", "--sdk_container_image=registry/imgembed"):
        options = ["--flink_master=host:8081", workers, *program]
        made = make_pipeline(RunnerConfig(name="flink", options=options))
        assert made.options.view_as(FlinkRunnerOptions).flink_master == "http://host:8081"
    make_pipeline(RunnerConfig(name="flink", options=["--flink_master=[local]", *program]))


def test_a_job_server_that_does_not_start_is_one_line(tmp_path):
    program = tmp_path / "prism"
    program.write_text("#!/bin/sh\nexit 3\n")
    program.chmod(0o755)
    root = make_pipeline(RunnerConfig(name="prism", options=[f"--prism_location={program}"]))
    _ = root | beam.Create([1])
    with pytest.raises(ImgembedError, match="runner prism: its job server does not start"):
        run(root)


@pytest.mark.parametrize("kind", [ImgembedError, ConfigError])
def test_an_error_in_the_text_of_a_worker_s_traceback_is_that_error(kind):
    text = (
        "bundle failed: Traceback (most recent call last):\n  File x, line 1\n"
        f"pipeline.errors.{kind.__name__}: logs/a: row 3: bad [while running 'Read']\nmore"
    )
    with pytest.raises(kind, match="^logs/a: row 3: bad$"):
        _raise_ours(RuntimeError(text))
    _raise_ours(RuntimeError("pipeline.errors.OtherError: no error of ours"))


def test_a_runner_has_a_thread_a_core_in_one_process_and_one_on_a_cluster():
    assert threads(RunnerConfig()) == os.cpu_count()
    assert threads(RunnerConfig(workers=3)) == 3
    assert threads(RunnerConfig(name="dataflow")) == 1


def portable():
    """Beam's portable protocol over sockets: every function pickled, every table encoded."""
    options = PipelineOptions(
        ["--runner=PortableRunner", "--job_endpoint=embed", "--environment_type=LOOPBACK"]
    )
    options.view_as(SetupOptions).save_main_session = False
    return beam.Pipeline(options=options)


def test_the_portable_engine_gives_the_same_bytes(tmp_path):
    log = tmp_path / "log.jsonl"
    write_log(log, clicks())
    settings = {"keep_counts": True, "max_degree": 5, "symmetry": "union"}
    embedded = build(tmp_path / "embedded", log, holdout=0.2, **settings)
    with RunDir.open(str(tmp_path / "engine")).begin("graph") as new:
        content = build_graph(
            sessions=SessionsConfig(path=str(log)),
            holdout=HoldoutConfig(fraction=0.2),
            graph=GraphConfig(**settings),
            seed=0,
            shards=5,
            threads=2,
            out=new,
            make_pipeline=portable,
        )
        engine = new.commit(content)
    expected = files(embedded, "*.parquet")
    assert len(expected) >= 8
    assert files(engine, "*.parquet") == expected


def test_the_order_in_which_an_engine_brings_the_parts_of_a_file_does_not_show(tmp_path):
    """Parts of edges have lists of ids of their own; Parquet writes such a list as it is."""
    ids = [f"image-{n}" for n in range(6)]
    images = pa.table(
        {"image": pa.array(range(10, 16), pa.uint64()), "image_id": ids, "sessions": [3] * 6}
    )

    def part(srcs, dsts, known):
        hashes = pa.array([10 + n for n in dsts], pa.uint64())
        names = pa.DictionaryArray.from_arrays(
            pa.array([known.index(n) for n in dsts], pa.int32()), pa.array([ids[n] for n in known])
        )
        columns = {"src": pa.array([10 + n for n in srcs], pa.uint64()), "dst": hashes}
        numbers = [f for f in schema.EDGE_SCHEMA if f.name not in ("src", "dst")]
        rest = {f.name: pa.array([1] * len(srcs), f.type) for f in numbers}
        return pa.table({**rest, **columns, "dst_id": names})

    parts = [part([0, 3], [1, 0], [0, 1, 2]), part([1, 2], [4, 5], [3, 4, 5])]
    found = []
    for order in (parts, parts[::-1], [parts[1], part([0, 3], [1, 0], [1, 0])]):
        table, _ = finish_file(order, images, only_linked=False)
        write_parquet(str(tmp_path / "edges.parquet"), table)
        found.append((tmp_path / "edges.parquet").read_bytes())
        assert table["dst"].to_pylist() == ["image-1", "image-4", "image-5", "image-0"]
    assert found[0] == found[1] == found[2]
