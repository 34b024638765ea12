"""Small session logs to build graphs of, and what to do with the graphs."""

import json
import logging
import random
from pathlib import Path

import pyarrow.parquet as pq

from cli import main
from pipeline.artifacts import RunDir
from pipeline.config import GraphConfig, HoldoutConfig, PrivacyConfig, RunnerConfig, SessionsConfig
from pipeline.graph.job import build_graph
from pipeline.runner import make_pipeline

TABLES = ("edges", "nodes", "queries", "holdout")


def clicks(sessions=400, seed=0):
    """Rows of a log: 30 images in 6 groups, sessions within a group with some noise."""
    draw = random.Random(seed)
    rows = []
    for session in range(sessions):
        group = draw.randrange(6)
        for step in range(draw.randrange(1, 7)):
            wanders = draw.random() < 0.2
            image = draw.randrange(30) if wanders else group * 5 + draw.randrange(5)
            rows.append(
                {
                    "session_id": f"session-{session}",
                    "user_id": f"user-{session % 37}",
                    "timestamp": 1_600_000_000 + session * 100 + step,
                    "query": f"Query {group}",
                    "image_id": f"image-{image}",
                }
            )
    return rows


def write_log(path, rows):
    """Writes rows as JSONL."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def build(
    run_dir,
    log,
    *,
    shards=1,
    threads=1,
    seed=0,
    holdout=0.0,
    by="hash",
    sessions=None,
    privacy=None,
    **graph,
):
    """The graph of a log, as a committed version of a run directory."""
    run = RunDir.open(str(run_dir))
    with run.begin("graph") as new:
        content = build_graph(
            sessions=SessionsConfig(path=str(log), **(sessions or {})),
            holdout=HoldoutConfig(by=by, fraction=holdout),
            graph=GraphConfig(**graph),
            privacy=PrivacyConfig(**(privacy or {})),
            seed=seed,
            shards=shards,
            threads=threads,
            out=new,
            make_pipeline=lambda: make_pipeline(RunnerConfig()),
        )
        return new.commit(content)


def table(version, prefix):
    """The rows of a version's files of one kind."""
    return pq.read_table(version.shards(prefix)).to_pylist()


def files(version, pattern="*"):
    """{path within the version: bytes} of all its files but the manifest and the list of logs.

    These two tell where the logs were, and when they were written.
    """
    return {
        str(path.relative_to(version.path)): path.read_bytes()
        for path in sorted(Path(version.path).rglob(pattern))
        if path.is_file() and path.name != "manifest.json" and not path.name.startswith("inputs-")
    }


def images_of(rows):
    """{session: its images, each once, in their order} of rows in their order."""
    sessions = {}
    for row in rows:
        sessions.setdefault(row["session_id"], {})[row["image_id"]] = None
    return {session: list(images) for session, images in sessions.items()}


def run_command(*arguments):
    """The exit code of a command, in this process; pytest's `capfd` has what it printed."""
    logger = logging.getLogger()
    handlers, level = logger.handlers[:], logger.level
    try:
        return main.run([str(argument) for argument in arguments])
    finally:  # a command's log takes the place of all handlers
        logger.handlers[:] = handlers
        logger.setLevel(level)
        logging.captureWarnings(False)
