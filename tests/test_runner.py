"""Beam's runners: what is refused, and the same bytes through the portable engine."""

import os

import apache_beam as beam
import pytest
from apache_beam.options.pipeline_options import PipelineOptions, SetupOptions
from small_logs import build, clicks, files, write_log

from pipeline.artifacts import RunDir
from pipeline.config import GraphConfig, HoldoutConfig, RunnerConfig, SessionsConfig
from pipeline.errors import ConfigError
from pipeline.graph.job import build_graph
from pipeline.runner import make_pipeline, threads


@pytest.mark.parametrize(
    "option", ["--direct_running_mode=multi_processing", "--direct_num_workers=2"]
)
def test_beams_own_local_workers_are_refused_since_they_lose_rows(option):
    with pytest.raises(ConfigError, match="can lose rows"):
        make_pipeline(RunnerConfig(options=[option]))


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
