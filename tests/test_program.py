"""What counts as the program that makes a stage: the source files that can matter to it."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from cli import program
from pipeline import schema

ROOT = Path(__file__).parent.parent
SHOW = "import sys; from cli.program import code_version; print(*map(code_version, sys.argv[1:]))"


def test_every_stage_begins_in_modules_that_are_there():
    for stage, entries in program._ENTRIES.items():
        assert stage in schema.STAGE_COMMANDS
        assert set(entries) <= program._modules().keys(), stage


@pytest.mark.parametrize(
    ("stage", "within", "without"),
    [
        (schema.GRAPH, {"pipeline.graph.count", "pipeline.tables.jsonl"}, {"trainer", "cli"}),
        (schema.EXAMPLES, {"pipeline.examples.wire"}, {"trainer", "pipeline.graph.count"}),
        (schema.MODEL, {"trainer.losses", "trainer.gnn.networks"}, {"pipeline.graph", "cli"}),
        (schema.EMBEDDINGS, {"pipeline.embeddings.embed"}, {"trainer", "pipeline.graph.count"}),
        (schema.EVALUATION, {"trainer.evaluation.leaks", "pipeline.judgments"}, {"cli"}),
    ],
)
def test_a_stage_reaches_what_it_imports_and_nothing_else(stage, within, without):
    found = program.reachable(program._ENTRIES[stage])
    assert within <= found
    assert not without & found


def test_what_python_loads_for_a_stage_is_reachable_for_it():
    """Imports inside functions count too, so that there may be more than Python loads at first."""
    entries = program._ENTRIES[schema.MODEL]
    code = (
        f"import sys, {', '.join(entries)}\n"
        "print(*[m for m in sys.modules if m.split('.')[0] in ('pipeline', 'trainer', 'cli')])"
    )
    command = [sys.executable, "-c", code]
    loaded = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT).stdout
    assert set(loaded.split()) <= program.reachable(entries)


@pytest.fixture
def copy(tmp_path):
    """Another copy of the program: gives its marks of some stages."""
    for package in ("pipeline", "trainer", "cli"):
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / package, tmp_path / package, ignore=ignored)

    def marks(*stages):
        command = [sys.executable, "-c", SHOW, *stages]
        options = {"capture_output": True, "text": True, "check": True, "cwd": tmp_path}
        return subprocess.run(command, env={"PYTHONPATH": str(tmp_path)}, **options).stdout.split()

    return marks


def test_a_change_counts_for_the_stages_it_can_matter_to(copy, tmp_path):
    stages = (schema.GRAPH, schema.MODEL, schema.EVALUATION, "another")
    before = copy(*stages)
    assert before[:3] == [program.code_version(stage) for stage in stages[:3]]
    with open(tmp_path / "trainer" / "losses.py", "a") as file:
        file.write("# changed\n")
    graph, model, evaluation, another = copy(*stages)
    assert (graph, evaluation) == (before[0], before[2])
    assert model != before[1]
    assert another != before[3]
