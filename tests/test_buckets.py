"""Logs and run directories in a bucket: Cloud Storage's protocol, served by an emulator here."""

import json
import os
import socket
import subprocess
import time
from dataclasses import replace
from pathlib import Path

import pytest
from apache_beam.internal.gcp import auth
from apache_beam.io.filesystems import FileSystems
from google.cloud.storage import Blob
from small_catalogs import picture
from small_logs import build, clicks, files, run_command, write_log

from pipeline import storage
from pipeline.artifacts import RunDir
from pipeline.errors import ImgembedError
from pipeline.locking import Holder, alone_in

BUCKET = "gs://bucket"


def free_port():
    with socket.socket() as server:
        server.bind(("localhost", 0))
        return server.getsockname()[1]


@pytest.fixture(scope="module", autouse=True)
def emulator():
    port = free_port()
    program = Path(os.sys.executable).with_name("gcp-storage-emulator")
    address = f"http://localhost:{port}"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("STORAGE_EMULATOR_HOST", address)
        # Else the client asks the network for credentials for some twenty seconds.
        patch.setattr(auth._Credentials, "_credentials_init", True)
        process = subprocess.Popen(
            [program, "start", "--in-memory", f"--port={port}", "--default-bucket=bucket"],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            wait_for(port)
            yield
        finally:
            process.kill()
            process.wait()


def wait_for(port):
    for _ in range(300):
        with socket.socket() as client:
            if client.connect_ex(("localhost", port)) == 0:
                return
        time.sleep(0.1)
    pytest.fail("the emulator does not answer")


def put(path, content):
    with FileSystems.create(path, compression_type="uncompressed") as file:
        file.write(content)


@pytest.fixture(scope="module")
def logs(tmp_path_factory):
    """The same two files in a local folder and in the bucket."""
    folder = tmp_path_factory.mktemp("logs")
    rows = clicks()
    for name, part in (("a.jsonl", rows[:700]), ("b.jsonl", rows[700:])):
        write_log(folder / name, part)
        put(f"{BUCKET}/logs/{name}", (folder / name).read_bytes())
    put(f"{BUCKET}/logs/_SUCCESS", b"")
    put(f"{BUCKET}/logs-of-others/c.jsonl", b"{}\n")
    return folder


@pytest.mark.parametrize("path", ["logs", "logs/", "logs/*.jsonl"])
def test_each_file_of_a_folder_is_listed_once(logs, path):
    found = [info.path for info in storage.list_files(f"{BUCKET}/{path}")]
    assert found == [f"{BUCKET}/logs/a.jsonl", f"{BUCKET}/logs/b.jsonl"]


def contents(version):
    return {
        prefix: [table_bytes(path) for path in version.shards(prefix)]
        for prefix in ("edges", "nodes", "queries", "holdout")
    }


def table_bytes(path):
    with storage.open_read(path) as file:
        return file.read()


def test_a_graph_in_a_bucket_has_the_bytes_of_one_on_disk(logs, tmp_path):
    local = build(tmp_path, logs, holdout=0.2)
    remote = build(f"{BUCKET}/run", f"{BUCKET}/logs/", holdout=0.2, shards=3)
    assert remote.path == f"{BUCKET}/run/graph/v0001"
    assert contents(remote) == contents(local)
    kept = {"manifest.json", *(f"{p}-00000-of-00001.parquet" for p in contents(remote))}
    assert set(storage.entries(remote.path)) == kept


def test_newer_logs_are_added_to_counts_in_a_bucket(logs, tmp_path):
    run = f"{BUCKET}/nightly"
    common = ("build-graph", "--run-dir", run, "--quiet", "--set", "holdout.fraction=0")
    assert run_command(*common, "--sessions", f"{BUCKET}/logs/a.jsonl", "--keep-counts") == 0
    assert run_command(*common, "--sessions", f"{BUCKET}/logs/b.jsonl", "--since", run) == 0
    added = RunDir.open(run).require("graph")
    assert added.name == "v0002"
    assert contents(added)["nodes"] == contents(build(tmp_path, logs))["nodes"]


def test_old_versions_are_removed_from_a_bucket(logs):
    for _ in range(3):
        build(f"{BUCKET}/old", f"{BUCKET}/logs/")
    assert storage.entries(f"{BUCKET}/old/graph") == ["CURRENT", "v0002", "v0003"]


def test_one_process_at_a_time_writes_to_a_run_in_a_bucket(logs, capfd):
    run = f"{BUCKET}/locked"
    command = ("build-graph", "--run-dir", run, "--quiet", "--sessions", f"{BUCKET}/logs/a.jsonl")
    there = replace(Holder.me(), host="far", machine="another")
    put(f"{run}/.lock", there.to_bytes())
    assert run_command(*command) == 1
    line = capfd.readouterr().err
    assert f"run directory '{run}': is in use by process {os.getpid()} on far since " in line
    assert f"if it is known to have ended, remove {run}/.lock" in line
    assert storage.entries(run) == [".lock"]
    # One of this machine that has ended is taken over.
    put(f"{run}/.lock", replace(Holder.me(), began="1").to_bytes())
    assert run_command(*command) == 0
    assert storage.entries(run) == ["graph"]


def test_of_two_that_write_a_lock_at_once_one_holds_it(monkeypatch):
    create, other = storage.create, replace(Holder.me(), pid=1)

    def create_second(path, data):
        create(path, data)
        put(path, other.to_bytes())  # as a bucket without conditions lets another one do
        return True

    monkeypatch.setattr(storage, "create", create_second)
    with pytest.raises(ImgembedError, match="in use by process 1 on "), alone_in(f"{BUCKET}/two"):
        pass
    assert Holder.read(table_bytes(f"{BUCKET}/two/.lock")) == other


def test_an_object_is_made_on_the_condition_that_there_is_none(monkeypatch):
    asked = []
    upload = Blob.upload_from_string

    def listening(blob, data, **options):
        asked.append(options)
        return upload(blob, data, **options)

    monkeypatch.setattr(Blob, "upload_from_string", listening)
    assert storage.create(f"{BUCKET}/created/a", b"content")
    assert asked == [{"if_generation_match": 0}]
    assert table_bytes(f"{BUCKET}/created/a") == b"content"


def test_versions_in_a_bucket_are_put_in_force_and_removed(logs, capfd):
    run = f"{BUCKET}/versions"
    for top_k in (3, 2, 1):
        done = run_command(
            "build-graph", "--run-dir", run, "--quiet", "--sessions", f"{BUCKET}/logs/",
            "--set", f"graph.top_k={top_k}", "--set", "keep_versions=9",
        )  # fmt: skip
        assert done == 0
    assert run_command("runs", "rollback", "graph", "--run-dir", run) == 0
    assert RunDir.open(run).require("graph").name == "v0002"
    assert run_command("runs", "prune", "--keep", "1", "--run-dir", run) == 0
    assert storage.entries(f"{run}/graph") == [".removed", "CURRENT", "v0002"]
    capfd.readouterr()
    assert run_command("runs", "list", "--json", "--run-dir", run) == 0
    listed = json.loads(capfd.readouterr().out)
    assert [(each["version"], each["in_force"]) for each in listed] == [("v0002", True)]
    assert listed[0]["bytes"] > 1_000


def test_a_catalog_in_a_bucket_gives_the_examples_of_one_on_disk(logs, tmp_path):
    rows = [{"image_id": f"image-{n}", "uri": f"p/{n}.png", "label": n // 5} for n in range(30)]
    contents = {"catalog.jsonl": "".join(json.dumps(row) + "\n" for row in rows).encode()}
    contents |= {f"p/{n}.png": picture(n) for n in range(30)}
    (tmp_path / "catalog" / "p").mkdir(parents=True)
    for name, content in contents.items():
        (tmp_path / "catalog" / name).write_bytes(content)
        put(f"{BUCKET}/catalog/{name}", content)
    # The run stays on disk: TensorFlow asks Google itself for a bucket's files, never an emulator.
    run = tmp_path / "run"
    local, remote = (
        examples_of(run, "--sessions", logs, "--images", f"{root}/catalog/catalog.jsonl")
        for root in (tmp_path, BUCKET)
    )
    assert RunDir.open(str(run)).require("examples").name == "v0002"
    assert len(local) >= 4
    assert remote == local


def examples_of(run, *options):
    """{name: bytes} of the examples' files after a command."""
    assert run_command("build-graph", "--run-dir", run, "--quiet", *options) == 0
    version = RunDir.open(str(run)).require("examples")
    found = files(version, "*.tfrecord*") | files(version, "schema.pbtxt")
    return found | files(version, "assets/*")
