"""The benchmark of faults finds what it looks for: lost files, other bytes, damage, leftovers."""

import json
import os
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

sys.path.insert(0, str(Path(__file__).parent.parent / "benchmarks"))

import fault_rows
import fault_runs
from fault_runs import Bench, Ended

from pipeline.artifacts import RunDir


@pytest.fixture
def run_dir(tmp_path):
    """A run directory with a version of the graph and one of the index, read and found sound."""
    run = RunDir.open(str(tmp_path / "run"))
    with run.begin("graph") as new:
        pq.write_table(pa.table({"src": ["a", "b"] * 500}), new.file("edges.parquet"))
        new.commit({})
    with run.begin("index") as new:
        np.save(new.file("vectors.npy"), np.eye(9))
        new.commit({})
    folder = tmp_path / "run"
    assert fault_runs.losses(fault_runs.read_back(folder), folder) == []
    assert fault_runs.leftovers(folder) == []
    return folder


def test_what_was_lost_is_found(run_dir):
    before = fault_runs.read_back(run_dir)
    edges = run_dir / "graph" / "v0001" / "edges.parquet"
    content = edges.read_bytes()

    edges.unlink()
    assert fault_runs.losses(before, run_dir) == [
        "graph v0001/edges.parquet is gone",
        "graph v0001/edges.parquet: is gone",
    ]
    edges.write_bytes(content[:-1])
    (other, cut) = fault_runs.losses(before, run_dir)
    assert other == "graph v0001/edges.parquet has other bytes"
    assert cut.endswith(f"{len(content) - 1} bytes, and {len(content)} were committed")
    # Of the same length, and what only reading it tells.
    edges.write_bytes(content[:4] + bytes(len(content) - 8) + content[-4:])
    (_, unreadable) = fault_runs.losses(before, run_dir)
    assert unreadable.startswith("graph v0001/edges.parquet: ")
    edges.write_bytes(content)
    assert fault_runs.losses(before, run_dir) == []

    # A version that takes its place is no loss, one without a manifest is.
    os.rename(run_dir / "graph" / "v0001", run_dir / "graph" / "v0002")
    (run_dir / "graph" / "CURRENT").write_text("v0002\n")
    assert "graph v0001/edges.parquet is gone" in fault_runs.losses(before, run_dir)
    (run_dir / "graph" / "v0002" / "manifest.json").unlink()
    assert any("no manifest" in line for line in fault_runs.losses(before, run_dir))
    assert fault_runs.leftovers(run_dir) == ["graph/v0002"]


def test_results_that_differ_are_named():
    wanted = {"graph": {"edges": "1", "nodes": "2"}, "index": {"ids": "3"}}
    assert fault_runs.differences(wanted, wanted) == []
    found = {"graph": {"edges": "0", "nodes": "2", "more": "4"}}
    assert fault_runs.differences(wanted, found) == ["graph edges", "graph more", "index ids"]


def test_a_traceback_or_the_name_of_an_exception_is_not_what_a_person_is_to_see():
    good = Ended(1, "", "Building …\nimgembed: edges.parquet: no space left\n")
    assert good.is_one_line
    assert good.is_explained
    raw = Ended(1, "", "imgembed: run failed: KeyError: 'x' (details: a.log)\n")
    assert raw.is_one_line
    assert not raw.is_explained
    for ended in (
        Ended(0, "", ""),
        Ended(-9, "", ""),
        Ended(1, "", "Traceback (most recent call last):\nKeyError: 'x'\n"),
        Ended(1, "", "imgembed: one\nimgembed: two\n"),
    ):
        assert not ended.is_one_line


def test_a_row_is_not_sound_where_something_was_lost(run_dir, monkeypatch):
    bench = Bench(run_dir.parent, {}, {}, 0.0, {})
    monkeypatch.setattr(Bench, "check", lambda *_, **__: [])
    ended = Ended(1, "", f"imgembed: {run_dir}: is what it is\n")

    def look():
        return fault_rows.row(
            bench, "fault", "case", run_dir, before=before, ended=ended, rerun=lambda: done
        )

    done, before = Ended(0, "", ""), fault_runs.read_back(run_dir)
    found = look()
    assert found.sound
    assert found.sees == "1: imgembed: …/run: is what it is"
    assert (found.lost, found.rerun) == ("nothing", fault_rows.same_bytes())
    (run_dir / "index" / "v0001" / "vectors.npy").unlink()
    found = look()
    assert not found.sound
    assert "index v0001/vectors.npy is gone" in found.lost
    assert found.rerun.startswith("differs: ")
    assert json.dumps(found.__dict__)
    assert str(found).endswith("**(!)** |")
