"""Queries and whole commands on what strangers wrote: an answer, or one line and an exit code."""

from __future__ import annotations

import io
import tempfile
from pathlib import Path

import pytest
from fuzzing import answer, cases, within
from hypothesis import given
from hypothesis import strategies as st
from malformed_tables import TEXTS, files
from rich.console import Console
from small_indexes import make_index, save_run, unit
from small_logs import run_command
from test_fuzz_tables import EDGES, LOG

from cli import settings
from cli.prompt import Prompt
from cli.searching import Query, Searcher
from cli.terminal import Terminal
from pipeline.artifacts import RunDir

IDS = ("bridge", "castle", "d\x1b[2Jne", "=1+1")
LINES = st.tuples(
    st.sampled_from(("id:", "k:", "image:", "text:", "id", ":", "", "?")),
    TEXTS | st.sampled_from((*IDS, "1", "1" * 30, "/", "\udcff", "/dev/null", ".")),
).map("".join)


@pytest.fixture(scope="module")
def folder():
    with tempfile.TemporaryDirectory() as path:
        yield Path(path)


@pytest.fixture(scope="module")
def searcher(folder):
    vectors = dict(zip(IDS, unit(0, 30, 60, 90), strict=True))
    make_index(folder / "run", save_run(folder / "run", vectors))
    return Searcher.open(settings.load(None, flags={"run_dir": str(folder / "run")}))


@cases(40)
@given(LINES)
def test_a_prompt_answers_every_line_or_says_what_is_wrong(searcher, capsys, line):
    """Without a model: a line that needs one is told that there is none."""
    said = io.StringIO()
    terminal = Terminal(Console(file=said), quiet=False, log_path="")
    prompt = Prompt(searcher, terminal, 3, False)
    answer(lambda: prompt._obey(line.strip()) if line.strip() else None)
    assert "\x1b[2J" not in said.getvalue()
    capsys.readouterr()


@cases(14)
@given(st.lists(st.sampled_from(IDS) | TEXTS, min_size=1, max_size=3), st.integers(-1, 2**70))
def test_ids_of_any_kind_are_found_or_not(searcher, ids, k):
    found = answer(lambda: searcher.search(Query(ids=ids), k))
    if found is not None:
        assert len(found) == min(k, len(set(IDS) - set(ids)))


def check_command(capfd, *arguments):
    """Runs a command: 0, or one line on stderr."""
    with within(120):
        code = run_command(*arguments)
    shown = capfd.readouterr()
    assert code in (0, 1, 2)
    assert "Traceback" not in shown.out + shown.err
    assert "\x1b" not in shown.out + shown.err
    if code:
        last = shown.err.strip().split("\n")[-1]
        assert last.startswith("imgembed: ")
        assert "failed: " not in last, "what nobody expected, with its traceback in the log"
    return code


@cases(4)
@given(files(LOG, most=30))
def test_a_graph_is_built_of_any_log_or_refused_in_one_line(folder, capfd, written):
    own = Path(tempfile.mkdtemp(dir=folder))
    (own / "logs").mkdir()
    (own / "logs" / written.name).write_bytes(written.data)
    sets = ("sessions.max_rejected_fraction=1", "graph.min_sessions=1", "holdout.fraction=0")
    options = [f"--set={one}" for one in sets]
    run = own / "run"
    command = ("build-graph", "--sessions", own / "logs", "--run-dir", run, *options)
    if check_command(capfd, *command) == 0:
        counts = RunDir.open(str(run)).require("graph").manifest["counts"]
        rows = counts["rows"]
        assert rows["read"] == sum(rows.values()) - rows["read"]
        if written.rows is not None:
            assert rows["read"] == len(written.rows)


@cases(2)
@given(files(EDGES, most=30))
def test_a_graph_is_taken_from_any_edge_list_or_refused_in_one_line(folder, capfd, written):
    own = Path(tempfile.mkdtemp(dir=folder))
    path = own / written.name
    path.write_bytes(written.data)
    options = ("--set=edges.max_rejected_fraction=1", "--run-dir", own / "run")
    if check_command(capfd, "build-graph", "--edges", path, *options) == 0:
        rows = RunDir.open(str(own / "run")).require("graph").manifest["counts"]["rows"]
        assert rows["read"] == sum(rows.values()) - rows["read"]
