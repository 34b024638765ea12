"""What is deployed: the Flex Template, the DAG, the cron line, the Flink script, the image."""

import ast
import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import apache_beam as beam
import pytest
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.runners.portability.fn_api_runner import fn_runner
from dataflow_worker import replay
from small_logs import clicks, write_log

from cli import driving
from cli.main import cli
from pipeline.artifacts import RunDir
from pipeline.errors import ImgembedError

ROOT = Path(__file__).parents[1]
DEPLOY = ROOT / "deploy"
METADATA = json.loads((DEPLOY / "dataflow" / "metadata.json").read_text())
# The reference of Flex Templates: fields of the metadata, and types of a parameter.
FIELDS = {"name", "description", "parameters"}
PARAMETER_FIELDS = {"name", "label", "helpText", "isOptional", "regexes", "paramType"}
TYPES = {"TEXT", "GCS_READ_BUCKET", "GCS_WRITE_BUCKET", "GCS_READ_FILE", "GCS_WRITE_FILE",
         "GCS_READ_FOLDER", "GCS_WRITE_FOLDER", "PUBSUB_TOPIC", "PUBSUB_SUBSCRIPTION"}  # fmt: skip
LAUNCH = [
    "--run_dir=gs://bucket/run",
    "--sessions=gs://bucket/logs/",
    "--settings=graph.top_k=20 seed=3",
    "--sdk_container_image=registry/imgembed",
    # What the service adds.
    "--project=proj",
    "--region=us-central1",
    "--temp_location=gs://bucket/tmp",
    "--job_name=nightly",
    "--template_location=gs://bucket/job_object",
    "--runner=DataflowRunner",
]


def parsed(line):
    """(command, its settings) of a line `imgembed …`, as click takes it; nothing runs."""
    program, name, *arguments = shlex.split(line)
    assert program == "imgembed"
    context = cli.commands[name].make_context(name, arguments)
    return name, context.params


def beam_options(options):
    """Beam's own options; those that Beam does not know are an error."""
    known = PipelineOptions(list(options)).get_all_options(drop_default=True)
    for option in options:
        assert option.split("=")[0].lstrip("-") in known, option
    return known


def test_the_metadata_has_the_documented_fields():
    assert set(METADATA) == FIELDS
    for parameter in METADATA["parameters"]:
        assert set(parameter) <= PARAMETER_FIELDS
        assert {"name", "label", "helpText"} <= set(parameter)
        assert parameter["paramType"] in TYPES
        assert isinstance(parameter.get("isOptional", False), bool)
        for pattern in parameter["regexes"]:
            re.compile(pattern)


def test_the_metadata_names_what_the_launcher_takes():
    names = {parameter["name"] for parameter in METADATA["parameters"]}
    given, rest = driving.parse(["--run_dir=gs://b/r"])
    assert rest == []
    assert names - {"sdk_container_image"} == set(vars(given)) - {"dry_run"}
    required = {p["name"] for p in METADATA["parameters"] if not p.get("isOptional")}
    assert required == {"run_dir", "sdk_container_image"}
    assert set(beam_options(["--sdk_container_image=x"])) >= {"sdk_container_image"}


def test_examples_of_parameters_match_their_patterns():
    values = dict(option.lstrip("-").split("=", 1) for option in LAUNCH)
    patterns = {p["name"]: p["regexes"] for p in METADATA["parameters"]}
    for name in patterns.keys() & values.keys():
        assert all(re.search(pattern, values[name]) for pattern in patterns[name])


def launch(*options):
    program = [sys.executable, DEPLOY / "dataflow" / "launcher.py", *LAUNCH, *options]
    return subprocess.run(
        program, capture_output=True, text=True, check=False, env={"PYTHONPATH": str(ROOT)}
    )


def test_the_launcher_says_what_it_would_run_and_click_takes_it():
    shown = launch("--dry-run")
    assert shown.returncode == 0, shown.stderr
    name, settings = parsed(shown.stdout.splitlines()[-1])
    assert name == "build-graph"
    assert settings["sessions"] == "gs://bucket/logs/"
    assert settings["sets"] == ("graph.top_k=20", "seed=3")
    assert settings["runner"] == "dataflow"
    known = beam_options(settings["beam_options"])
    assert known["temp_location"] == "gs://bucket/tmp"
    # The jobs that the command submits are no templates, and have names of their own.
    assert {"template_location", "job_name", "runner"}.isdisjoint(known)


def test_a_launch_without_a_run_directory_is_a_usage_error(capsys):
    with pytest.raises(SystemExit) as ended:
        driving.main(["--sessions=gs://bucket/logs"])
    assert ended.value.code == 2
    assert "--run_dir" in capsys.readouterr().err


def test_an_export_is_driven_without_logs():
    given, rest = driving.parse([*LAUNCH, "--command=export"])
    line = driving.command_line(given, rest)
    assert line[0] == "export"
    assert "--sessions" not in line


def driving_proto(arguments):
    root = beam.Pipeline(runner=fn_runner.FnApiRunner())
    _ = root | "Command" >> beam.Create([arguments]) | "Drive" >> beam.Map(driving.drive)
    return root.to_runner_api()


def test_the_step_that_drives_runs_the_command_and_commits(tmp_path):
    write_log(tmp_path / "log.jsonl", clicks(40))
    run = tmp_path / "run"
    arguments = ["build-graph", "--sessions", f"{tmp_path}/log.jsonl", "--run-dir", f"{run}"]
    replay(driving_proto([*arguments, "--quiet"]))
    assert RunDir.open(str(run)).require("graph").name == "v0001"


def test_the_step_that_drives_fails_with_the_command_s_own_line(tmp_path):
    arguments = ["build-graph", "--sessions", f"{tmp_path}/none", "--run-dir", f"{tmp_path}/run"]
    with pytest.raises(ImgembedError, match=r"imgembed ended with \d: imgembed: .*none"):
        driving.drive(arguments)


def operators(tree):
    """The calls of BashOperator of a DAG, by their task_id."""
    found = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "BashOperator":
            assert not node.args
            arguments = {keyword.arg: keyword.value for keyword in node.keywords}
            found[arguments["task_id"].value] = arguments
    return found


def constants(tree):
    return {
        node.targets[0].id: ast.literal_eval(node.value)
        for node in tree.body
        if isinstance(node, ast.Assign)
    }


def formatted(value, names):
    """The text of an f-string of names that are constants."""
    parts = value.values if isinstance(value, ast.JoinedStr) else [value]
    return "".join(
        part.value if isinstance(part, ast.Constant) else names[part.value.id] for part in parts
    )


def test_the_dag_compiles_and_runs_commands_that_click_and_beam_take():
    """Checked as a tree: Airflow beside this program would pin the versions of its packages."""
    path = DEPLOY / "airflow" / "imgembed_dag.py"
    tree = ast.parse(path.read_text())
    compile(tree, str(path), "exec")
    names, tasks = constants(tree), operators(tree)
    # BaseOperator's and BashOperator's own arguments.
    assert all(set(arguments) == {"task_id", "bash_command"} for arguments in tasks.values())
    commands = []
    for arguments in tasks.values():
        name, settings = parsed(formatted(arguments["bash_command"], names))
        commands.append(name)
        assert settings["config_file"] == names["CONFIG"]
        beam_options(settings.get("beam_options", ()))
    assert commands == ["build-graph", "train", "export", "evaluate"]
    assert "graph >> train >> export >> evaluate" in ast.unparse(tree)
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
    (dag,) = (call for call in calls if getattr(call.func, "id", "") == "DAG")
    assert {k.arg for k in dag.keywords} == {
        *("dag_id", "schedule", "start_date", "catchup", "max_active_runs", "default_args")
    }


def test_the_cron_line_has_five_fields_a_user_and_commands_that_click_takes():
    lines = [
        line
        for line in (DEPLOY / "cron" / "imgembed.cron").read_text().splitlines()
        if line and not line.startswith("#") and not re.match(r"[A-Z]+=", line)
    ]
    (line,) = lines
    *when, user, command = line.split(maxsplit=6)
    for field, most in zip(when, (59, 23, 31, 12, 7), strict=True):
        assert field == "*" or 0 <= int(field) <= most
    assert user == "imgembed"
    assert "%" not in command  # which cron takes for the end of the line
    first, *commands = command.split(" && ")
    assert first.startswith("cd /")
    names = [parsed(part)[0] for part in commands]
    assert names == ["build-graph", "train", "export", "evaluate"]


def test_the_flink_script_is_bash_and_its_commands_are_taken(tmp_path):
    script = DEPLOY / "flink" / "run.sh"
    subprocess.run(["bash", "-n", script], check=True)
    shown = tmp_path / "imgembed"
    shown.write_text('#!/bin/sh\nfor word in "$@"; do printf "%s\\n" "$word"; done; echo .\n')
    shown.chmod(0o755)
    ran = subprocess.run(
        [script, "flink:8081", "server.jar"],
        check=True,
        capture_output=True,
        text=True,
        env={"PATH": f"{tmp_path}:/usr/bin:/bin"},
    )
    commands = [part.split("\n") for part in ran.stdout.strip(".\n").split("\n.\n")]
    assert [command[0] for command in commands] == ["build-graph", "export"]
    for command in commands:
        _, settings = parsed(shlex.join(["imgembed", *command]))
        known = beam_options(settings["beam_options"])
        assert known["environment_config"] == "localhost:50000"
        assert known["flink_master"] == "flink:8081"
    assert subprocess.run([script], check=False, capture_output=True).returncode != 0


def stages_of_image():
    """{stage: [(instruction, text)]} of the Dockerfile, in order."""
    text = re.sub(r"\\\n\s*", " ", (ROOT / "Dockerfile").read_text())
    stages = {}
    for line in text.splitlines():
        if not line or line.startswith("#"):
            continue
        word, rest = line.split(maxsplit=1)
        if word == "FROM":
            base, _, name = rest.partition(" AS ")
            stages[name] = [("FROM", base)]
        elif stages:
            list(stages.values())[-1].append((word, rest))
    return stages


def test_the_image_does_not_run_as_root_and_is_a_worker():
    stages = stages_of_image()
    last = stages[list(stages)[-1]]
    users = [rest for word, rest in last if word == "USER"]
    assert users[-1] not in ("root", "0", "")
    assert users[-1] in " ".join(rest for word, rest in last if word == "RUN")
    assert last[0] == ("FROM", "dataflow")
    worker = stages["dataflow"]
    assert ("ENTRYPOINT", '["/opt/apache/beam/boot"]') in worker
    assert ("COPY", "--from=beam /opt/apache/beam /opt/apache/beam") in worker
    assert not any(word == "ENTRYPOINT" for word, _ in last)
    text = (ROOT / "Dockerfile").read_text()
    assert f"ARG BEAM={beam.__version__}" in text
    assert "ADD http" not in text


def test_what_the_image_copies_is_not_ignored():
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    allowed = {line[1:] for line in lines if line.startswith("!")}
    for steps in stages_of_image().values():
        for word, rest in steps:
            if word == "COPY" and not rest.startswith("--from"):
                for source in rest.split()[:-1]:
                    assert (ROOT / source).exists()
                    assert source in allowed


def test_a_launcher_s_parser_takes_no_abbreviation():
    _, rest = driving.parse(["--run_dir=gs://b/r", "--im=x"])
    assert rest == ["--im=x"]
