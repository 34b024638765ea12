"""`imgembed plan` of the index and the report beside what they take; every stage and its budget."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import report_runs
from small_indexes import clustered, names, save_run
from small_logs import run_command

from cli.report import costs as report_costs
from cli.settings import load
from pipeline.artifacts import RunDir
from pipeline.embeddings import costs

PROGRAM = Path(sys.executable).with_name("imgembed")
STAGES = ("graph", "examples", "model", "embeddings", "index", "evaluation", "report")


def within_twice(found, expected):
    assert expected / 2 < found < expected * 2, f"{found:,} and {expected:,}"


def made(run, stage, *options):
    """(peak bytes, bytes of its files) of a stage, made by a process of its own."""
    command = [PROGRAM, "run", "--from", stage, "--to", stage, "--force", "--json", "--quiet"]
    done = subprocess.run(
        [*command, "--run-dir", run, *options], capture_output=True, text=True, check=True
    )
    (row,) = json.loads(done.stdout)["stages"]
    files = [path for path in Path(row["path"]).rglob("*") if path.name != "manifest.json"]
    return row["peak_memory_bytes"], sum(path.stat().st_size for path in files)


@pytest.mark.parametrize("kind", ["exact", "approximate"])
def test_an_index_takes_what_is_planned(tmp_path, kind):
    images, dim = 3_000, 24
    save_run(tmp_path, dict(zip(names(images), clustered(images, dim), strict=True)), dim)
    sets = ("--set", f"index.kind={kind}", "--set", "index.min_recall=0.5")
    peak, written = made(tmp_path, "index", *sets)
    config = load(None, flags={"index.kind": kind}).index
    within_twice(costs.index_memory(images, dim, 9, config), peak)
    planned = costs.index_bytes(images, dim, 9, config)
    assert planned == pytest.approx(written, rel=0.05)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run of 48 pictures, and its catalog and log."""
    folder = tmp_path_factory.mktemp("run")
    run = report_runs.build(folder)
    report_runs.add_model(run)
    report_runs.add_embeddings(run)
    return run


def test_a_report_takes_what_is_planned(run):
    peak, written = made(run, "report")
    images, edges = report_runs.IMAGES, RunDir.open(str(run)).require("graph").manifest["counts"]
    config = load(None).report
    planned = report_costs.memory_bytes(
        images=images, edges=edges["edges"]["kept"], dim=report_runs.DIM, config=config
    )
    within_twice(planned, peak)
    within_twice(report_costs.page_bytes(images=images, pictures=True, config=config), written)


def test_every_stage_has_a_plan_and_a_budget_that_refuses_it(run, capfd):
    inputs = ("--sessions", run.parent / "log.jsonl", "--images", run.parent / "catalog")
    command = ("plan", *inputs[:3], inputs[3] / "catalog.jsonl", "--run-dir", run)
    assert run_command(*command, "--json", "--budget", "memory=1kB,disk=1kB") == 1
    content = json.loads(capfd.readouterr().out)
    for stage in STAGES:
        plan = content[stage]
        assert plan["memory_bytes"] > 0
        assert plan["input_bytes"] > 0
        written = plan["output_bytes"]
        assert written if isinstance(written, int) else all(written.values())
        for kind in ("memory", "disk"):
            refused = [line for line in content["beyond_budget"] if f" of {kind}" in line]
            assert any(line.startswith(f"{stage} takes about ") for line in refused), stage
    for stage in ("graph", "examples", "embeddings"):
        assert content[stage]["shards"] >= 1
    shuffled = content["embeddings"]["shuffled_bytes"]
    assert shuffled > content["embeddings"]["counts"]["images"] * report_runs.DIM * 4
    assert run_command(*command, "--runner", "flink") == 0
    shown = capfd.readouterr().out
    assert (
        shown.count("shuffled") == 3
    )  # graph, examples, embeddings: the others are no jobs of Beam's
    assert shown.count("memory of a worker") == 3


# Refused before the work --------------------------------------------------------------------------


def test_what_cannot_be_cut_is_refused_in_one_line(run, capfd):
    before = {stage: RunDir.open(str(run)).current(stage) for stage in STAGES}
    for stage, what in (("report", "lower report.map_images"), ("index", "search without")):
        options = ("--from", stage, "--to", stage, "--force", "--quiet", "--max-memory", "60MB")
        assert run_command("run", *options, "--run-dir", run) == 2
        said = capfd.readouterr().err
        assert said.count("\n") == 1
        assert said.startswith("imgembed: runner.max_memory: 60 MB are too little for this stage")
        assert what in said
    assert before == {stage: RunDir.open(str(run)).current(stage) for stage in STAGES}
