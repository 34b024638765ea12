"""A job on an engine is told of while it runs: Prism's own counters, its state and its time."""

import re

import engine_runs as engines
import numpy as np
import pytest
from small_logs import clicks, write_log

from pipeline import progress, watching
from pipeline.config import RunnerConfig, SessionsConfig
from pipeline.runner import make_pipeline, run
from pipeline.sessions import read


def test_counters_are_worded_as_the_line_of_the_embedded_runner_words_them():
    counted = {
        "sessions/rows": 120,
        "graph/sessions_in_graph": 30,
        "graph/sessions_held_out": 4,
        "graph/edges_kept": 7,
        "examples/rows": 9,
        "examples/neighbors/0": 2,
        "examples/neighbors/5": 6,
        "Embed/rows": 8,
        "Embed/num_inferences": 1,
    }
    assert watching.tallies(counted) == {
        "rows": 120,
        "sessions": 34,
        "images": 9,
        "examples": 8,
        "embeddings": 8,
    }
    assert watching.tallies({"graph/rows": 5}) == {"rows": 5}
    assert watching.tallies({"graph/rows": 0}) == {}


def test_a_tally_never_falls_and_a_new_job_begins_without_any():
    progress.reset()
    assert progress.job() is None
    progress.add("rows", 10)
    progress.tell(progress.Job("prism job a", "running", 2.0), {"rows": 4, "images": 3})
    assert progress.snapshot() == {"rows": 10, "images": 3}
    assert progress.job() == progress.Job("prism job a", "running", 2.0)
    progress.reset()
    assert (progress.snapshot(), progress.job()) == ({}, None)


@pytest.mark.engine
def test_prism_tells_its_counters_while_a_job_runs(tmp_path, monkeypatch):
    """Workers are other processes, so that what is shown can only come from the engine."""
    reason = engines.missing("prism")
    if reason:
        pytest.skip(reason)
    rows = clicks(30_000)
    for part in range(8):
        write_log(tmp_path / "log" / f"{part}.jsonl", rows[part::8])
    looks = []
    monkeypatch.setattr(watching, "_OTHERS_SECONDS", 0.2)
    tell = progress.tell

    def noted(job, tallies=None):
        looks.append((job, tallies or {}))
        tell(job, tallies)

    monkeypatch.setattr(progress, "tell", noted)
    progress.reset()
    with engines.worker_pool(tmp_path / "pool") as (_, address):
        options = [
            f"--prism_location={engines.PRISM}",
            "--environment_type=EXTERNAL",
            f"--environment_config={address}",
        ]
        root = make_pipeline(RunnerConfig(name="prism", options=options))
        logs = read.find_logs(SessionsConfig(path=str(tmp_path / "log")))
        reading = read.Reading(
            user_key=b"key",
            seed=0,
            items_separator=None,
            actions={},
            shards=2,
            hash_bounds=np.zeros(0, np.uint64),
        )
        _ = root | read.ReadEvents(logs.files, reading, 1)
        counts = run(root)
    assert counts["sessions/rows"] == len(rows)
    states = {job.state for job, _ in looks}
    assert "running" in states
    assert re.match(r"prism job \S+", looks[-1][0].name)
    seconds = [job.seconds for job, _ in looks]
    assert seconds == sorted(seconds)
    seen = [tallies.get("rows", 0) for _, tallies in looks]
    assert seen == sorted(seen)
    assert any(0 < number < len(rows) for number in seen), seen
