"""`imgembed run`: what it makes, what it leaves, what it says, and who may run at a time."""

import ast
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from small_logs import clicks, run_command, write_log

from cli.running import STAGES, between, stage_named
from pipeline import schema
from pipeline.artifacts import RunDir
from pipeline.errors import ConfigError

FAST = ("--set", "examples.subword_length=0")  # pieces of words take long to trace
ROOT = Path(__file__).parent.parent
PROGRAM = Path(sys.executable).with_name("imgembed")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """A folder with a log and a catalog of ready features, which take no decoding."""
    folder = tmp_path_factory.mktemp("data")
    write_log(folder / "log.jsonl", clicks(sessions=200))
    rows = (
        {"image_id": f"image-{n}", "features": [n, n % 5, 1.0], "label": n // 5} for n in range(30)
    )
    (folder / "catalog.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


@pytest.fixture
def run(data, tmp_path, capfd):
    """`imgembed run --to examples`: gives (exit code, what it printed, what it said)."""

    def call(*options, folder=tmp_path / "run", last="examples"):
        arguments = ["run", "--run-dir", folder, "--to", last, "--sessions", data / "log.jsonl"]
        code = run_command(*arguments, "--images", data / "catalog.jsonl", *FAST, *options)
        return code, *capfd.readouterr()  # the summary, and the lines meanwhile

    return call


def done(printed):
    """{stage: (version, done)} of a summary."""
    return {row["stage"]: (row["version"], row["done"]) for row in json.loads(printed)["stages"]}


def test_each_stage_is_made_once_and_anew_where_something_changed(run, tmp_path, capfd):
    code, first, _ = run("--json")
    assert code == 0
    assert done(first) == {"graph": ("v0001", "made"), "examples": ("v0001", "made")}
    graph, examples = json.loads(first)["stages"]
    assert graph["rows"] > 30
    assert examples["rows"] == 30
    assert all(row["seconds"] > 0 and row["peak_memory_bytes"] > 1e7 for row in (graph, examples))
    assert os.path.isdir(graph["path"])

    _, again, said = run("--json")
    assert done(again) == {"graph": ("v0001", "reused"), "examples": ("v0001", "reused")}
    assert "graph v0001 is up to date" in said

    # Another setting, and then the former one: what was made with that is still there.
    _, printed, _ = run("--json", "--set", "graph.top_k=2", last="graph")
    assert done(printed) == {"graph": ("v0002", "made")}
    _, printed, said = run("--json")
    assert done(printed) == {"graph": ("v0001", "taken back"), "examples": ("v0001", "reused")}
    assert "graph v0001 is up to date: in force again, v0002 no longer" in said

    # Put in force by hand: a run from the next stage on goes on from there.
    put_in_force = ("runs", "rollback", "graph", "--run-dir", tmp_path / "run")
    assert run_command(*put_in_force, "v0002") == 0
    assert "examples was made of graph v0001" in capfd.readouterr().out
    _, printed, _ = run("--json", "--from", "examples")
    assert done(printed) == {"examples": ("v0002", "made")}
    made = RunDir.open(str(tmp_path / "run")).require("examples")
    assert made.manifest["upstream"] == {"graph": "v0002"}

    # And back again, where nothing has to be made.
    assert run_command(*put_in_force) == 0
    capfd.readouterr()
    _, printed, _ = run("--json", "--from", "examples")
    assert done(printed) == {"examples": ("v0001", "taken back")}
    _, printed, _ = run("--json", "--force", last="graph")
    assert done(printed) == {"graph": ("v0003", "made")}


def test_the_table_says_what_became_of_each_stage_and_so_does_the_log(run, tmp_path):
    code, printed, said = run(last="graph")
    assert code == 0
    lines = printed.splitlines()
    assert re.fullmatch(r"  stage +version +done +rows +time +peak memory", lines[0])
    assert re.fullmatch(r"  graph +v0001 +made +\d+ +\d+ s +[\d.]+ [MG]B", lines[2])
    assert re.fullmatch(r"  all +\d+ s", lines[3])
    log = Path(lines[4].removeprefix("  log: "))
    assert log.parent == tmp_path / "run" / "logs"
    assert lines[2] in log.read_text()
    assert "Building the graph" in said
    assert "Building the graph" in log.read_text()


def test_a_stage_that_fails_is_in_the_summary_and_the_earlier_ones_stay(run, tmp_path):
    strange = tmp_path / "strange.jsonl"
    strange.write_text('{"image_id": "stranger", "features": [1, 2, 3]}\n')
    code, printed, said = run("--json", "--images", strange)
    summary = json.loads(printed)
    assert code == 1
    assert [row["stage"] for row in summary["stages"]] == ["graph"]
    assert summary["failed"]["stage"] == "examples"
    assert "stranger" in summary["failed"]["error"]
    last = said.splitlines()[-1]
    assert last == f"imgembed: {summary['failed']['error']}"
    assert f"ended: {summary['failed']['error']}" in Path(summary["log"]).read_text()
    assert RunDir.open(str(tmp_path / "run")).require("graph").name == "v0001"


def test_what_is_wrong_with_the_catalog_is_said_before_the_graph_is_made(run, tmp_path):
    code, printed, said = run("--images", tmp_path / "nowhere.jsonl")
    assert (code, printed) == (1, "")
    assert "nowhere.jsonl" in said
    assert not (tmp_path / "run" / "graph").exists()
    assert run_command("run", "--run-dir", tmp_path / "run") == 2


def test_what_dataflow_s_workers_cannot_see_is_said_before_anything_is_made(run, data, tmp_path):
    code, printed, said = run("--runner", "dataflow", "--set", f"images.root={tmp_path}")
    assert (code, printed) == (2, "")
    assert said.startswith(f"imgembed: run_dir: '{tmp_path / 'run'}' is a path of this machine")
    assert not (tmp_path / "run").exists()


def test_a_second_run_ends_at_once_with_one_line_and_leaves_no_trace(run, data, tmp_path):
    code = (
        "import sys; from pipeline.locking import alone_in\n"
        "with alone_in(sys.argv[1]): print('held', flush=True); sys.stdin.read()"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "run")]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout.readline() == "held\n"
        code, printed, said = run("--json")
        assert (code, printed) == (1, "")
        assert said.count("\n") == 1
        assert f"is in use by process {other.pid} on " in said
        assert os.listdir(tmp_path / "run") == [".lock"]
        other.stdin.close()
    assert run("--json", last="graph")[0] == 0


def test_without_a_terminal_nothing_is_asked_and_every_line_is_whole(data, tmp_path):
    command = [PROGRAM, "run", "--run-dir", tmp_path / "run", "--to", "graph", "--quiet"]
    ended = subprocess.run(
        [*command, "--sessions", data / "log.jsonl", "--images", data / "catalog.jsonl"],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=True,
    )
    assert ended.stderr == ""
    assert "\x1b" not in ended.stdout
    assert "\r" not in ended.stdout


@pytest.mark.parametrize(("log", "code"), [("log.jsonl", 0), ("nowhere.jsonl", 1)])
def test_that_nobody_reads_the_summary_changes_nothing(data, tmp_path, log, code):
    command = [PROGRAM, "run", "--run-dir", tmp_path / "run", "--to", "graph", "--quiet"]
    with subprocess.Popen(
        [*command, "--sessions", data / log],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as ended:
        ended.stdout.close()  # as `head` does when it has had enough
        said = ended.stderr.read()
    assert ended.returncode == code, said
    assert "pipe" not in said.lower()
    assert ("nowhere.jsonl" in said) == (code == 1)


def test_no_command_asks_anything():
    for path in (ROOT / "cli").rglob("*.py"):
        if path.name == "prompt.py":  # of the search, on a terminal only
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call):
                name = ast.unparse(node.func).split(".")[-1]
                assert name not in ("prompt", "confirm", "input", "getpass", "pause"), path
                options = {keyword.arg for keyword in node.keywords}
                assert not options & {"prompt", "confirmation_prompt"}, path


def test_stages_go_by_their_names_and_by_those_of_their_commands():
    names = [name for name, _ in STAGES]
    assert names == [name for name in schema.STAGE_COMMANDS if name in names]
    assert between(None, None) == names
    assert between("train", "evaluate") == ["model", "embeddings", "index", "evaluation"]
    assert between("model", "model") == ["model"]
    assert between("build-graph", "examples") == ["graph", "examples"]
    assert [stage_named(name, "--from") for name in ("export", "embeddings")] == ["embeddings"] * 2
    with pytest.raises(ConfigError, match="--to: 'denoise' is no stage; there are graph, examples"):
        between(None, "denoise")
    with pytest.raises(ConfigError, match="--from train --to graph: graph comes before train"):
        between("train", "graph")


def test_of_several_workers_the_chief_alone_runs_every_stage(run, monkeypatch):
    cluster = {"cluster": {"worker": ["a:1", "b:1"]}, "task": {"type": "worker", "index": 1}}
    monkeypatch.setenv("TF_CONFIG", json.dumps(cluster))
    code, printed, said = run()
    assert (code, printed) == (2, "")
    assert "this is worker 1, and the chief alone makes every stage" in said
