"""Dataflow without a cloud: options and proto by dry run; a submission to a stand-in on loopback.

The stand-in records what it is sent and runs each job in a worker that knows only what was staged.
"""

import json
import subprocess
import sys
from pathlib import Path

import apache_beam as beam
import pytest
from apache_beam.options.pipeline_options import SetupOptions
from apache_beam.portability import common_urns
from apache_beam.portability.api import beam_runner_api_pb2
from dataflow_service import Service
from small_logs import build, clicks, run_command, write_log
from test_buckets import BUCKET, contents, emulator, put  # noqa: F401 - a fixture of the module

from pipeline.artifacts import RunDir
from pipeline.config import GraphConfig, HoldoutConfig, RunnerConfig, SessionsConfig
from pipeline.errors import ConfigError, ImgembedError
from pipeline.graph.job import build_graph
from pipeline.runner import make_pipeline, run, share_process

ROOT = Path(__file__).parents[1]
IMAGE = "registry/imgembed:1"
CLOUD = [
    "--project=proj",
    "--region=us-central1",
    f"--temp_location={BUCKET}/tmp",
    f"--staging_location={BUCKET}/staging",
    f"--sdk_container_image={IMAGE}",
    "--no_auth",
]
MACHINES = [
    "--machine_type=n2-highmem-4",
    "--max_num_workers=20",
    "--autoscaling_algorithm=THROUGHPUT_BASED",
    "--disk_size_gb=200",
]


def without(name):
    return [option for option in CLOUD if not option.startswith(f"--{name}")]


def dry_run(tmp_path, *options, tensorflow=False):
    """The pipeline of a build-graph after Beam's dry run, which checks as for the real service."""
    log = tmp_path / "log.jsonl"
    write_log(log, clicks(50))
    made = []

    def pipeline():
        config = RunnerConfig(name="dataflow", options=[*CLOUD, "--dry_run=True", *options])
        made.append(make_pipeline(config))
        return share_process(made[0]) if tensorflow else made[0]

    with (
        RunDir.open(str(tmp_path / "run")).begin("graph") as new,
        pytest.raises(ImgembedError, match="dry run"),
    ):
        build_graph(
            sessions=SessionsConfig(path=str(log)),
            holdout=HoldoutConfig(fraction=0.2),
            graph=GraphConfig(),
            seed=0,
            shards=2,
            out=new,
            make_pipeline=pipeline,
        )
    return made[0]


def test_a_dry_run_has_all_steps_in_our_image_and_no_main_session(tmp_path):
    made = dry_run(tmp_path, *MACHINES)
    assert made.options.view_as(SetupOptions).save_main_session is False
    proto = made.runner.proto_pipeline
    images = {
        beam_runner_api_pb2.DockerPayload.FromString(environment.payload).container_image
        for environment in proto.components.environments.values()
        if environment.urn == common_urns.environments.DOCKER.urn
    }
    assert images == {IMAGE}
    staged = [
        beam_runner_api_pb2.ArtifactStagingToRolePayload.FromString(found.role_payload).staged_name
        for environment in proto.components.environments.values()
        for found in environment.dependencies
    ]
    assert "pickled_main_session" not in staged
    steps = {transform.unique_name for transform in proto.components.transforms.values()}
    assert {"ReadEvents", "CountSessions", "Pairs", "WeighPairs", "WriteEdges"} <= steps


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (without("project"), "--project is missing"),
        (without("region"), "--region is missing"),
        (without("temp_location"), "--temp_location is missing"),
        ([*without("temp"), "--temp_location=/tmp/x"], "wanted gs://BUCKET/FOLDER"),
        (without("sdk_container_image"), "its workers need imgembed"),
    ],
)
def test_what_dataflow_would_miss_is_one_line_before_anything_runs(options, named, capfd):
    where = ["--sessions", f"{BUCKET}/logs", "--run-dir", f"{BUCKET}/none", "--quiet"]
    put(f"{BUCKET}/logs/log.jsonl", b'{"image_id": "a", "session_id": "s"}\n')
    code = run_command("build-graph", *where, "--runner", "dataflow", "--", *options)
    lines = capfd.readouterr().err.splitlines()
    assert code == 2
    assert named in lines[-1]
    assert not [line for line in lines if "Traceback" in line]


@pytest.mark.parametrize("key", ["--run-dir", "--sessions", "--images"])
def test_a_path_of_this_machine_is_refused_for_workers_on_others(key, capfd):
    paths = {
        name: f"{BUCKET}/{name.strip('-')}" for name in ("--run-dir", "--sessions", "--images")
    }
    arguments = [part for item in (paths | {key: "here"}).items() for part in item]
    code = run_command("build-graph", *arguments, "--runner", "dataflow", "--", *CLOUD)
    assert code == 2
    assert "which Dataflow's workers do not see" in capfd.readouterr().err
    assert not Path("here").exists()


def test_tensorflow_has_one_process_a_machine_unless_asked_otherwise(tmp_path):
    def experiments(*options, **kinds):
        pool = make_pipeline(RunnerConfig(name="dataflow", options=[*CLOUD, *options]))
        if kinds:
            share_process(pool)
        return pool.options.get_all_options()["experiments"] or []

    assert "no_use_multiple_sdk_containers" in experiments(tensorflow=True)
    assert "no_use_multiple_sdk_containers" not in experiments()
    asked = "--experiments=use_multiple_sdk_containers"
    assert "no_use_multiple_sdk_containers" not in experiments(asked, tensorflow=True)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The wheel of this checkout."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    source.mkdir()
    for name in ("setup.py", "pyproject.toml", "README.md", "pipeline", "trainer", "cli"):
        subprocess.run(["cp", "-r", ROOT / name, source], check=True)
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"]
    subprocess.run([*command, "--wheel-dir", folder, source], check=True)
    return next(folder.glob("*.whl"))


@pytest.fixture
def service(tmp_path):
    service = Service(tmp_path / "service")
    yield service
    service.close()


def submit(service, wheel, run, *options):
    put(f"{BUCKET}/submitted/log.jsonl", _log())
    where = ["--sessions", f"{BUCKET}/submitted/log.jsonl", "--run-dir", run, "--quiet"]
    cloud = [*CLOUD, *MACHINES, f"--extra_package={wheel}", "--job_name=nightly"]
    cloud.append(f"--dataflow_endpoint={service.address}")
    return run_command(
        "build-graph", *where, *options, "--runner", "dataflow", "--json", "--", *cloud
    )


def _log():
    return "".join(json.dumps(row) + "\n" for row in clicks()).encode()


def test_a_submitted_job_runs_from_what_was_staged_and_gives_the_same_bytes(
    service, wheel, tmp_path
):
    assert submit(service, wheel, f"{BUCKET}/submitted-run") == 0
    (job,) = service.jobs
    assert job.body["name"] == "nightly"
    assert job.body["environment"]["version"]["job_type"] == "FNAPI_BATCH"
    (image,) = job.pool["sdkHarnessContainerImages"]
    assert image["containerImage"] == IMAGE
    assert job.pool["machineType"] == "n2-highmem-4"
    assert job.pool["diskSizeGb"] == 200
    assert job.pool["autoscalingSettings"]["maxNumWorkers"] == 20
    assert job.options["save_main_session"] is False
    assert {wheel.name, "pipeline.pb"} <= set(job.staged)
    assert "pickled_main_session" not in job.staged

    modules = json.loads(job.answer.read_text())["modules"]
    assert Path(modules["pipeline"]).is_relative_to(job.folder / "site")
    assert "cli" not in modules

    write_log(tmp_path / "log.jsonl", clicks())
    local = build(tmp_path / "direct", tmp_path / "log.jsonl", holdout=0.1)
    found = RunDir.open(f"{BUCKET}/submitted-run").require("graph")
    assert contents(found) == contents(local)
    assert found.manifest["counts"] == local.manifest["counts"]


def test_a_job_that_fails_on_a_worker_is_one_line_and_leaves_nothing(service, wheel, capfd):
    put(f"{BUCKET}/bad/log.jsonl", _log() + b"no json\n" * 900)
    where = ["--sessions", f"{BUCKET}/bad", "--run-dir", f"{BUCKET}/bad-run", "--quiet"]
    cloud = [*CLOUD, f"--extra_package={wheel}", f"--dataflow_endpoint={service.address}"]
    options = ["--set", "sessions.columns={image_id: image_id, session_id: session_id}"]
    code = run_command("build-graph", *where, *options, "--runner", "dataflow", "--", *cloud)
    lines = capfd.readouterr().err.splitlines()
    assert code == 1
    assert "rows cannot be read" in lines[-1]
    assert RunDir.open(f"{BUCKET}/bad-run").current("graph") is None


def test_a_dry_run_says_so_and_submits_nothing(tmp_path):
    config = RunnerConfig(name="dataflow", options=[*CLOUD, "--dry_run=True"])
    root = make_pipeline(config)
    _ = root | "Numbers" >> beam.Create([1, 2])
    with pytest.raises(ImgembedError, match=r"dry run: a job of \d+ steps; nothing was submitted"):
        run(root)


def test_beams_own_validation_is_one_line():
    with pytest.raises(ConfigError, match="runner dataflow: .*job_name"):
        make_pipeline(RunnerConfig(name="dataflow", options=[*CLOUD, "--job_name=Not Valid"]))
