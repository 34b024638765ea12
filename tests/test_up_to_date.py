"""A run of which nothing is to be made finds that out without Beam and TensorFlow."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from small_logs import clicks, run_command, write_log

from cli.running import STAGES

ROOT = Path(__file__).parent.parent
HEAVY = ("apache_beam", "tensorflow", "keras", "faiss", "matplotlib", "sklearn")
FAST = (
    *("--set", "examples.subword_length=0", "--set", "model.dim=8", "--set", "model.size=tiny"),
    *("--set", "training.epochs=1", "--set", "evaluation.bootstrap=10"),
)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """A folder with logs of two days, a catalog of ready features, and an edge list."""
    folder = tmp_path_factory.mktemp("data")
    write_log(folder / "monday.jsonl", clicks(sessions=200))
    write_log(folder / "tuesday.jsonl", clicks(sessions=100))
    rows = (
        {"image_id": f"image-{n}", "features": [n, n % 5, 1.0], "label": n // 5} for n in range(30)
    )
    (folder / "catalog.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "edges.csv").write_text("src,dst,weight\na,b,1\nb,c,2\n")
    return folder


def run_again(*arguments):
    """({stage: what became of it}, the heavy packages that a fresh process loaded for it)."""
    code = (
        "import sys; from cli import main\n"
        "code = main.run(['run', '--json', '--quiet', *sys.argv[1:]])\n"
        f"print('loaded', *[name for name in {HEAVY!r} if name in sys.modules]); sys.exit(code)"
    )
    command = [sys.executable, "-c", code, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT)
    printed, _, loaded = done.stdout.rpartition("loaded")
    rows = json.loads(printed)["stages"]
    return {row["stage"]: row["done"] for row in rows}, set(loaded.split())


def test_all_stages_of_a_run_are_found_up_to_date_without_a_heavy_import(data, tmp_path):
    inputs = ("--sessions", data / "monday.jsonl", "--images", data / "catalog.jsonl", *FAST)
    arguments = (*inputs, "--run-dir", tmp_path / "run")
    assert run_command("run", "--quiet", *arguments) == 0
    outcomes, loaded = run_again(*arguments)
    assert outcomes == {stage: "reused" for stage, _ in STAGES}
    assert loaded == set()


@pytest.mark.parametrize(
    "inputs", [("--edges", "edges.csv"), ("--sessions", "tuesday.jsonl")], ids=["edges", "since"]
)
def test_so_are_a_graph_of_edges_and_one_that_adds_to_another(data, tmp_path, inputs):
    before = ("build-graph", "--quiet", "--sessions", data / "monday.jsonl", "--keep-counts")
    assert run_command(*before, "--run-dir", tmp_path / "before") == 0
    option, name = inputs
    since = ("--set", f"sessions.previous={tmp_path / 'before'}") if option == "--sessions" else ()
    arguments = ("--to", "graph", option, data / name, *since, "--run-dir", tmp_path / "run")
    assert run_command("run", "--quiet", *arguments) == 0
    assert run_again(*arguments) == ({"graph": "reused"}, set())
