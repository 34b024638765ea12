"""The same vectors whatever the shards, the threads and the processes that make them."""

import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import apache_beam as beam
import numpy as np
import pytest
from apache_beam.options.pipeline_options import PipelineOptions, SetupOptions
from export_cases import export, files_of, save_pictures, save_queries
from tiny_model import save_model

from pipeline.artifacts import Version
from pipeline.config import ExportConfig
from pipeline.vectors import read_vectors

MANY = 70
PATIENCE = 60.0  # s
# Beam's pool starts a process of this module for each worker, by the name "python".
POOL = "apache_beam.runners.worker.worker_pool_main"


SETTINGS = ExportConfig(dtype="int8", formats=["npy", "tfrecord"], batch_size=32)


@pytest.fixture(scope="module")
def given(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What is exported."""
    folder = tmp_path_factory.mktemp("given")
    return {
        "images": save_pictures(folder / "catalog", range(MANY)),
        "model": save_model(folder / "model"),
        "graph": save_queries(folder / "graph"),
        "export": SETTINGS,
    }


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory, given: dict[str, Any]) -> Version:
    """One shard, one thread, in this process."""
    return export(tmp_path_factory.mktemp("expected"), shards=1, threads=1, **given)


@pytest.fixture(scope="module")
def pool() -> Iterator[str]:
    """The address of a pool of worker processes, which ends with the tests."""
    with socket.socket() as found:
        found.bind(("localhost", 0))
        port = found.getsockname()[1]
    folder = str(Path(sys.executable).parent)
    roots = [str(Path(__file__).parent.parent), str(Path(__file__).parent)]
    environment = {
        "PATH": f"{folder}:/usr/bin:/bin",
        "PYTHONPATH": ":".join(roots),
        "CUDA_VISIBLE_DEVICES": "",
    }
    process = subprocess.Popen(
        [sys.executable, "-m", POOL, f"--service_port={port}"],
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    address, ends = f"localhost:{port}", time.monotonic() + PATIENCE
    while True:
        try:
            socket.create_connection(("localhost", port), timeout=1.0).close()
            break
        except OSError:
            assert process.poll() is None, "the pool of workers has ended"
            assert time.monotonic() < ends, "the pool of workers does not start"
            time.sleep(0.2)
    yield address
    process.terminate()
    process.wait(PATIENCE)


def portable(*options: str) -> beam.Pipeline:
    """Beam's portable protocol over sockets: every function pickled, every table encoded."""
    given = PipelineOptions(["--runner=PortableRunner", "--job_endpoint=embed", *options])
    given.view_as(SetupOptions).save_main_session = False
    return beam.Pipeline(options=given)


def loopback() -> beam.Pipeline:
    return portable("--environment_type=LOOPBACK")


def check_same(found: Version, expected: Version) -> None:
    for prefix, key in (("images", "image_id"), ("queries", "query")):
        (names, vectors), (same, others) = (
            read_vectors(version, prefix, key) for version in (expected, found)
        )
        assert names.equals(same)
        np.testing.assert_allclose(vectors, others, atol=1e-6)
    assert files_of(found) == files_of(expected)
    assert found.manifest["counts"] == expected.manifest["counts"]
    assert found.manifest["precision"] == expected.manifest["precision"]


@pytest.mark.parametrize(("shards", "threads"), [(4, 1), (4, 2)])
def test_shards_and_threads_do_not_show(
    shards: int, threads: int, expected: Version, given: dict[str, Any], tmp_path: Path
) -> None:
    check_same(export(tmp_path, shards=shards, threads=threads, **given), expected)


@pytest.mark.parametrize("shards", [1, 4])
def test_the_portable_engine_gives_the_same_bytes(
    shards: int, expected: Version, given: dict[str, Any], tmp_path: Path
) -> None:
    found = export(tmp_path, shards=shards, make_pipeline=loopback, **given)
    check_same(found, expected)


@pytest.mark.parametrize("shards", [1, 4])
def test_worker_processes_give_the_same_bytes(
    shards: int, pool: str, expected: Version, given: dict[str, Any], tmp_path: Path
) -> None:
    def processes() -> beam.Pipeline:
        return portable("--environment_type=EXTERNAL", f"--environment_config={pool}")

    options = {"shards": shards, "make_pipeline": processes, **given}
    found = export(tmp_path / "whole", **options)
    check_same(found, expected)
    again = export(tmp_path / "again", "v0002", previous=found, **options)
    assert again.manifest["taken_over"]["images"] == MANY
    check_same(again, expected)
