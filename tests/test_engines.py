"""The whole of build-graph and export on engines that are other processes: the bytes of direct.

Each engine runs as a server, with Python workers in the command's own process (LOOPBACK) or as
processes that a pool starts in another folder (EXTERNAL). Skipped where an engine is not there.
"""

import contextlib
import json
import os
import signal
import time
from pathlib import Path

import engine_runs as engines
import pytest
from small_catalogs import picture
from small_logs import clicks, files, write_log
from tiny_model import SIDE, save_model

from pipeline.artifacts import RunDir

pytestmark = pytest.mark.engine
ENGINES = ("prism", "flink")
SETTINGS = {
    "first": ["--set", "graph.symmetry=union"],
    "second": ["--set", "graph.max_degree=4", "--set", "holdout.by=time", "--keep-counts"],
    "third": ["--set", "graph.measure=npmi", "--set", "runner.shards=7"],
}


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Three logs, and a catalog with a picture that is not there."""
    folder = tmp_path_factory.mktemp("world")
    for seed, name in enumerate(SETTINGS):
        rows = clicks(seed=seed)
        write_log(folder / name / "a.jsonl", rows[:700])
        write_log(folder / name / "b.jsonl", [*rows[700:], {"image_id": "alone"}])
    rows = [{"image_id": f"image-{n}", "uri": f"p/{n}.png", "label": n // 5} for n in range(30)]
    rows.append({"image_id": "gone", "uri": "p/gone.png"})
    (folder / "p").mkdir()
    for n in range(30):
        (folder / "p" / f"{n}.png").write_bytes(picture(n))
    (folder / "catalog.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


@pytest.fixture(params=ENGINES)
def engine(request, tmp_path):
    """(name, its options) of an engine; of Flink a cluster is started."""
    reason = engines.missing(request.param)
    if reason:
        pytest.skip(reason)
    if request.param == "prism":
        yield "prism", [f"--prism_location={engines.PRISM}"]
        return
    with engines.flink_cluster(tmp_path / "flink") as (address, _, _):
        yield "flink", flink_options(address)


def flink_options(address):
    """Of a cluster."""
    jar = f"--flink_job_server_jar={engines.FLINK_JAR}"
    small = "--job_server_jvm_properties=-Xmx384m"
    return [f"--flink_master={address}", jar, small, "--parallelism=2"]


def build_graph(world, log, run, runner="direct", options=(), *, pictures=False):
    """The process of a build-graph from the folder of the logs, with relative paths."""
    chosen = ["--images", "catalog.jsonl", "--set", f"images.image_size={SIDE}"]
    return engines.command(
        world,
        *("build-graph", "--sessions", log, "--run-dir", run, "--runner", runner, "--quiet"),
        *SETTINGS[log],
        *(chosen if pictures else ()),
        "--json",
        *("--", *options),
    )


def with_model(run):
    """A model in a run directory, as a training would leave it."""
    with RunDir.open(str(run)).begin("model") as new:
        new.commit(save_model(Path(new.path)).manifest)


def export(world, run, runner="direct", options=()):
    """The process of an export of the catalog."""
    common = ["export", "--images", "catalog.jsonl", "--run-dir", run, "--runner", runner]
    return engines.command(world, *common, "--quiet", "--json", "--", *options)


def contents(run, *stages):
    """{file: bytes} of stages, but for what TensorFlow writes in no fixed order.

    Rejected rows tell where a file was: relative, where the command was given so, or absolute.
    """
    found = {}
    for stage in stages:
        version = RunDir.open(str(run)).require(stage)
        for name, content in files(version).items():
            if not name.endswith((".pb", ".jsonl")):
                found[f"{stage}/{name}"] = content
    return found


def counts(run, stage):
    manifest = RunDir.open(str(run)).require(stage).manifest
    return manifest["counts"], sum(manifest["rejected"].values())


@pytest.fixture(scope="module")
def embedded(world, tmp_path_factory):
    """Run directories of the embedded runner, by the name of the log."""
    folder = tmp_path_factory.mktemp("direct")
    with_model(folder / "first")
    processes = [build_graph(world, log, folder / log, pictures=log == "first") for log in SETTINGS]
    for process in processes:
        engines.finish(process)
    engines.finish(export(world, folder / "first"))
    return folder


@pytest.mark.parametrize("log", SETTINGS)
def test_a_graph_has_the_bytes_of_the_embedded_runner(world, embedded, engine, log, tmp_path):
    engines.finish(build_graph(world, log, tmp_path / "run", *engine_of(engine, "LOOPBACK")))
    expected = contents(embedded / log, "graph")
    assert len(expected) >= 4
    assert contents(tmp_path / "run", "graph") == expected
    assert counts(tmp_path / "run", "graph") == counts(embedded / log, "graph")


def engine_of(engine, environment, *more):
    name, options = engine
    return name, [*options, f"--environment_type={environment}", *more]


@pytest.mark.parametrize("workers", ["LOOPBACK", "EXTERNAL"])
def test_graph_examples_and_embeddings_have_the_bytes_of_the_embedded_runner(
    world, embedded, engine, workers, tmp_path
):
    run = tmp_path / "run"
    with_model(run)
    with contextlib.ExitStack() as stack:
        more = []
        if workers == "EXTERNAL":
            _, address = stack.enter_context(engines.worker_pool(tmp_path / "elsewhere"))
            more = [f"--environment_config={address}"]
        where = engine_of(engine, workers, *more)
        engines.finish(build_graph(world, "first", run, *where, pictures=True))
        engines.finish(export(world, run, *where))
    stages = ("graph", "examples", "embeddings")
    expected = contents(embedded / "first", *stages)
    assert {name.rsplit("/")[0] for name in expected} == set(stages)
    assert contents(run, *stages) == expected
    for stage in stages:
        assert counts(run, stage) == counts(embedded / "first", stage)
    assert counts(run, "examples")[1] == 1  # the picture that is not there


def test_what_a_worker_cannot_read_is_the_line_of_the_embedded_runner(engine, tmp_path):
    rows = clicks()
    write_log(tmp_path / "first" / "log.jsonl", [*rows, *({"image_id": ""} for _ in range(100))])
    lines = []
    for name, options in (("direct", []), engine_of(engine, "LOOPBACK")):
        process = build_graph(tmp_path, "first", tmp_path / name, name, options)
        lines.append(engines.finish(process, code=1)[-1].replace(f"{tmp_path}/", ""))
        assert RunDir.open(str(tmp_path / name)).current("graph") is None
    assert lines[0] == lines[1]
    assert "rows cannot be read" in lines[0]


@pytest.fixture(scope="module")
def long_log(tmp_path_factory):
    """Some seconds of work for an engine."""
    folder = tmp_path_factory.mktemp("long")
    rows = clicks(30_000)
    for part in range(8):
        write_log(folder / "first" / f"{part}.jsonl", rows[part::8])
    return folder


@pytest.mark.parametrize("victim", ["engine", "worker", "command"])
def test_what_dies_in_mid_job_leaves_the_version_in_force(long_log, engine, victim, tmp_path):
    """kill -9 of the engine's server or its Python worker, or SIGTERM to the command."""
    name, _ = engine
    run = tmp_path / "run"
    short = tmp_path / "short"
    write_log(short / "first" / "log.jsonl", clicks())
    engines.finish(build_graph(short, "first", run))
    before = contents(run, "graph")
    with engines.worker_pool(tmp_path / "pool") as (pool, address):
        where = engine_of(engine, "EXTERNAL", f"--environment_config={address}")
        process = build_graph(long_log, "first", run, *where)

        def working():
            return engines.children(pool.pid, "sdk_worker")

        engines.wait_until(working, process)
        time.sleep(1.5)
        if victim == "worker":
            os.kill(working()[0], signal.SIGKILL)
        elif victim == "engine":
            server = engines.children(process.pid, "prism" if name == "prism" else "job-server")
            os.kill(server[-1], signal.SIGKILL)
        else:
            os.kill(process.pid, signal.SIGTERM)
        code = process.wait(120)
        if victim == "command":  # its job is cancelled; a pool keeps the worker of a dead engine
            engines.wait_until(lambda: not working(), pool, seconds=30)
    lines = process.log.read_text().splitlines()
    assert code == (143 if victim == "command" else 1)
    assert "Traceback" not in "\n".join(lines)
    assert lines[-1].startswith("imgembed: ")
    assert contents(run, "graph") == before
    assert sorted(os.listdir(run / "graph")) == ["CURRENT", "v0001"]
    assert not engines.children(os.getpid(), "--job_port")


def test_after_a_taskmanager_has_died_the_job_recovers_or_leaves_the_version_in_force(
    long_log, tmp_path
):
    """kill -9 of Flink's TaskManager, and another one that takes its place."""
    if reason := engines.missing("flink"):
        pytest.skip(reason)
    run, whole = tmp_path / "run", tmp_path / "whole"
    write_log(tmp_path / "short" / "first" / "log.jsonl", clicks())
    engines.finish(build_graph(tmp_path / "short", "first", run))
    before = contents(run, "graph")
    engines.finish(build_graph(long_log, "first", whole))
    with (
        engines.flink_cluster(tmp_path / "flink") as (address, victim, start_another),
        engines.worker_pool(tmp_path / "pool") as (pool, workers),
    ):
        where = ["--environment_type=EXTERNAL", f"--environment_config={workers}"]
        options = [*flink_options(address), *where]
        process = build_graph(long_log, "first", run, "flink", options)
        engines.wait_until(lambda: engines.children(pool.pid, "sdk_worker"), process)
        engines.stop(victim)
        start_another()
        code = process.wait(240)
    if code == 0:
        assert contents(run, "graph") == contents(whole, "graph")
        return
    assert process.log.read_text().splitlines()[-1].startswith("imgembed: ")
    assert contents(run, "graph") == before
    assert sorted(os.listdir(run / "graph")) == ["CURRENT", "v0001"]
