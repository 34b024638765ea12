"""`imgembed runs`: what it lists and shows, what it puts in force, what it removes."""

import json
import os
import shutil

import pytest
from small_logs import build, clicks, run_command, write_log

from cli import versions
from pipeline import schema, storage
from pipeline.artifacts import KEEPS, RunDir

CHAIN = ("graph", "examples", "model", "embeddings", "evaluation")


def commit(run, stage, upstream=(), **content):
    """A version of a stage, made of the versions in force of others."""
    made_of = {other: run.require(other).name for other in upstream}
    with run.begin(stage) as new:
        storage.write_atomic(new.file("data.txt"), b"x" * 1_000)
        return new.commit({"upstream": made_of, **content})


@pytest.fixture
def run(tmp_path):
    """A run directory in which every stage was made twice, each of the one before it."""
    found = RunDir.open(str(tmp_path / "run"), keep=9)
    for _ in range(2):
        for before, stage in zip([None, *CHAIN], CHAIN, strict=False):
            commit(found, stage, [before] if before else [])
    return found


@pytest.fixture
def runs(run, capfd):
    """`imgembed runs …`: gives its exit code and what it printed, as JSON where it is."""

    def call(*arguments):
        code = run_command("runs", *arguments, "--run-dir", run.path)
        printed = capfd.readouterr()
        return code, json.loads(printed.out) if "--json" in arguments else printed.out + printed.err

    return call


def names(run, stage="graph"):
    return [version.name for version in run.whole(stage)]


def test_all_versions_are_listed_with_what_they_were_made_of(run, runs):
    code, listed = runs("list", "--json")
    assert code == 0
    assert [(v["stage"], v["version"]) for v in listed] == [
        (stage, name) for stage in CHAIN for name in ("v0001", "v0002")
    ]
    assert [v["in_force"] for v in listed] == [False, True] * 5
    assert listed[3]["upstream"] == {"graph": "v0002"}
    assert not any(v["outdated"] for v in listed if v["in_force"])
    assert all(1_000 < v["bytes"] < 2_000 for v in listed)
    text = runs("list")[1]
    assert "embeddings   v0002     in force" in text
    assert "(!)" not in text


def test_a_stage_that_is_made_of_all_others_is_listed_whole(tmp_path, capfd):
    run = RunDir.open(str(tmp_path / "run"), keep=9)
    others = [stage for stage in schema.STAGE_COMMANDS if stage != schema.REPORT]
    for stage in (*others, schema.REPORT):
        commit(run, stage, others if stage == schema.REPORT else (), made={
            "began": "2026-01-31T02:15:00Z", "seconds": 4_000, "peak_memory_bytes": 10**9
        })  # fmt: skip
    commit(run, schema.GRAPH)
    assert run_command("runs", "list", "--run-dir", run.path) == 0
    lines = capfd.readouterr().out.splitlines()
    (report,) = [line for line in lines if line.lstrip().startswith("report")]
    assert f"{' '.join(f'{stage} v0001' for stage in others)}  (!) " in report
    assert report.endswith(" B") or report.endswith(" kB")
    assert "…" not in report


def test_a_rollback_says_which_stages_were_made_of_another_version(run, runs):
    code, said = runs("rollback", "examples")
    assert code == 0
    assert run.require("examples").name == "v0001"
    lines = said.splitlines()
    assert lines[:5] == [
        "examples v0001 is in force; v0002 no longer is",
        "  it was made of graph v0001, which is not in force; to put that in force too: imgembed "
        "runs rollback graph v0001",
        "  model was made of examples v0002",
        "  embeddings was made of model v0002",
        "  evaluation was made of embeddings v0002",
    ]
    assert (
        "imgembed run --from model, which takes versions that were made of examples v0001" in said
    )
    assert names(run, "examples") == ["v0001", "v0002"]
    assert "(!)" in runs("list")[1]
    # Forward again: everything is in line.
    code, told = runs("rollback", "examples", "v0002", "--json")
    assert (code, told["version"], told["former"], told["outdated"]) == (0, "v0002", "v0001", {})


def test_a_rollback_without_an_older_version_is_one_line(run, runs):
    assert runs("rollback", "graph")[0] == 0
    code, said = runs("rollback", "graph")
    assert code == 1
    assert "graph has no older version; there is v0001, v0002" in said
    code, said = runs("rollback", "graph", "v0009")
    assert code == 1
    assert "graph has no whole version 'v0009'; there is v0001, v0002" in said
    code, said = runs("rollback", "agreement")
    assert code == 1
    assert "agreement has no older version; it was never made" in said
    assert runs("rollback", "nonsense")[0] == 2
    assert run.require("graph").name == "v0001"


def test_a_rollback_mends_a_pointer_that_names_nothing(run, runs):
    path = os.path.join(run.path, "graph", "CURRENT")
    for content in (b"\xff\x00", b"v0077\n"):
        with open(path, "wb") as file:
            file.write(content)
        assert runs("list")[0] == 0
        assert runs("rollback", "graph")[0] == 0
        assert run.require("graph").name == "v0002"


def test_prune_keeps_the_last_ones_what_is_in_force_and_what_that_needs(run, runs):
    for number in range(3, 7):
        commit(run, "graph", **({KEEPS: ["v0003"]} if number == 6 else {}))
    before = {name: sorted(os.listdir(f"{run.path}/{name}")) for name in CHAIN}
    _, told = runs("prune", "--keep", "2", "--dry-run", "--json")
    gone = [("graph", "v0001"), ("graph", "v0004")]
    assert [(v["stage"], v["version"]) for v in told["removed"]] == gone
    assert before == {name: sorted(os.listdir(f"{run.path}/{name}")) for name in CHAIN}

    code, said = runs("prune", "--keep", "2")
    assert code == 0
    assert said.splitlines()[0].startswith("graph v0001 removed (1.")
    # Those that stay: made of by the examples in force, kept by the one in force, and the last two.
    assert names(run) == ["v0002", "v0003", "v0005", "v0006"]
    runs("prune", "--keep", "1", "graph")
    assert names(run) == ["v0002", "v0003", "v0006"]
    assert names(run, "model") == ["v0001", "v0002"]
    runs("rollback", "graph", "v0003")
    runs("prune", "--keep", "1")
    assert names(run) == ["v0002", "v0003"]
    assert names(run, "model") == ["v0002"]


def test_prune_takes_away_what_a_crash_has_left(run, runs):
    os.makedirs(f"{run.path}/graph/v0009")
    runs("prune", "--keep", "2")
    assert sorted(os.listdir(f"{run.path}/graph")) == ["CURRENT", "v0001", "v0002"]
    assert runs("prune", "--keep", "0")[0] == 2
    assert runs("prune")[0] == 2


def test_a_version_is_shown_with_how_it_was_made(tmp_path, capfd):
    write_log(tmp_path / "log.jsonl", clicks(sessions=50))
    command = ("build-graph", "--sessions", tmp_path / "log.jsonl", "--run-dir", tmp_path / "run")
    assert run_command(*command, "--quiet", "--set", "graph.top_k=3") == 0
    capfd.readouterr()
    assert run_command("runs", "show", "graph", "--run-dir", tmp_path / "run") == 0
    shown = capfd.readouterr().out
    assert "sessions held out for evaluation" in shown
    assert "  in force\n" in shown
    assert f'settings: sessions.path = "{tmp_path}/log.jsonl", graph.top_k = 3' in shown
    assert "of memory" in shown
    assert (
        run_command("runs", "show", "graph", "v0001", "--json", "--run-dir", tmp_path / "run") == 0
    )
    manifest = json.loads(capfd.readouterr().out)
    assert manifest["in_force"] is True
    assert manifest["made"]["seconds"] > 0


def test_a_manifest_that_says_less_is_shown_as_far_as_it_goes(run, runs):
    code, shown = runs("show", "model", "v0001")
    assert code == 0
    assert "not in force; imgembed runs rollback model v0001 puts it there" in shown
    assert "made of examples v0001" in shown


def test_where_nothing_was_made_it_says_so(tmp_path, capfd):
    assert run_command("runs", "list", "--run-dir", tmp_path / "none") == 1
    assert "there is nothing in it" in capfd.readouterr().err
    build(tmp_path / "run", _log(tmp_path))
    shutil.rmtree(tmp_path / "run" / "graph")
    (tmp_path / "run" / "logs").mkdir()
    assert run_command("runs", "list", "--run-dir", tmp_path / "run") == 0
    assert "no stage has been made yet" in capfd.readouterr().out


def _log(folder):
    write_log(folder / "log.jsonl", clicks(sessions=30))
    return folder / "log.jsonl"


def test_rows_are_those_that_the_manifest_names(tmp_path):
    run = RunDir.open(str(tmp_path))
    graph = commit(run, "graph", counts={"edges": {"kept": 7}})
    embeddings = commit(run, "embeddings", counts={"images": 5})
    evaluation = commit(run, "evaluation", rows=3)
    found = [versions.rows_of(version) for version in (graph, embeddings, evaluation)]
    assert found == [7, 5, 3]
    assert versions.rows_of(commit(run, "model")) is None
