"""build-graph: session logs in, a version of the graph out. Read | transform | write."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping
from typing import Any

import apache_beam as beam

from pipeline import runner, schema
from pipeline.artifacts import NewVersion
from pipeline.columnar import SplitByColumn
from pipeline.config import GraphConfig, HoldoutConfig, SessionsConfig
from pipeline.errors import ImgembedError
from pipeline.graph import transforms
from pipeline.sessions import read
from pipeline.writing import (
    WriteParquet,
    WriteRejected,
    check_rejected,
    file_count,
    shard_count,
)


def build_graph(
    *,
    sessions: SessionsConfig,
    holdout: HoldoutConfig,
    graph: GraphConfig,
    seed: int,
    shards: int | str,
    out: NewVersion,
    make_pipeline: Callable[[], beam.Pipeline],
) -> dict[str, Any]:
    """Runs the job, writes its files into `out`, and returns what its manifest says."""
    logs = read.find_logs(sessions)
    size = sum(log.file.size for log in logs)
    root = make_pipeline()
    _write(
        _assemble(root, logs, sessions, holdout, graph, seed, shard_count(shards, size)),
        out.path,
        file_count(size),
    )
    counts = runner.run(root)
    rejected = check_rejected(
        out.path,
        rows=counts.get("sessions/rows", 0),
        allowed=sessions.max_rejected_fraction,
        key="sessions.max_rejected_fraction",
    )
    _check(counts, sessions, graph)
    summary = _summary(counts)
    _check_balance(summary, rejected)
    return {
        "inputs": {"files": len(logs), "bytes": size, "columns": dict(logs[0].columns)},
        "counts": summary,
        "rejected": rejected,
    }


def _assemble(
    root: beam.Pipeline,
    logs: list[read.Log],
    sessions: SessionsConfig,
    holdout: HoldoutConfig,
    graph: GraphConfig,
    seed: int,
    shards: int,
) -> dict[str, beam.PCollection]:
    """The flow from logs to the tables of the graph, by the name of their files."""
    read_events = read.ReadEvents(logs, secrets.token_bytes(32), seed, sessions.items_separator)
    rows = root | "ReadEvents" >> read_events
    visits = rows[read.EVENTS_TAG] | "Sessionize" >> transforms.Sessionize(sessions, seed, shards)
    parted = visits | "HoldOut" >> transforms.HoldOut(holdout)
    kept = parted[transforms.KEPT]
    population = (
        kept
        | "NumberSessions" >> beam.Map(transforms.number_sessions)
        | "AddSessions" >> beam.CombineGlobally(sum)
    )
    images = kept | "CountImages" >> transforms.CountImages(shards)
    pairs = kept | "CountPairs" >> transforms.CountPairs(graph.min_sessions, shards)
    strongest = (
        {"pairs": pairs, "images": images}
        | "ResolveImages" >> transforms.ResolveImages(shards)
        | "KeepStrongest"
        >> transforms.KeepStrongest(graph, seed, beam.pvalue.AsSingleton(population))
    )
    return {
        schema.EDGES: strongest[transforms.EDGES],
        schema.NODES: strongest[transforms.NODES],
        schema.QUERIES: kept | "CountQueries" >> transforms.CountQueries(shards),
        schema.HOLDOUT: parted[transforms.HELD_OUT],
        schema.REJECTED_FOLDER: rows[read.REJECTED_TAG],
    }


def _write(tables: Mapping[str, beam.PCollection], folder: str, files: int) -> None:
    holdout = tables[schema.HOLDOUT] | "NumberHoldout" >> transforms.NumberHoldout(files)
    layouts = (
        (schema.EDGES, "src", schema.EDGE_SCHEMA, ("src", "rank")),
        (schema.NODES, "image_id", schema.NODE_SCHEMA, ("image_id",)),
        (schema.QUERIES, "query", schema.QUERY_SCHEMA, ("query", "image_id")),
    )
    for prefix, column, table_schema, order in layouts:
        _ = (
            tables[prefix]
            | f"Split{prefix.title()}" >> SplitByColumn(column, files)
            | f"Write{prefix.title()}" >> WriteParquet(folder, prefix, files, table_schema, order)
        )
    _ = holdout | "WriteHoldout" >> WriteParquet(
        folder, schema.HOLDOUT, files, schema.HOLDOUT_SCHEMA, ("session", "position", "query")
    )
    _ = tables[schema.REJECTED_FOLDER] | "WriteRejected" >> WriteRejected(folder)


def _check(counts: Mapping[str, int], sessions: SessionsConfig, graph: GraphConfig) -> None:
    """ImgembedError where the logs give no graph, with what to look at."""
    if not counts.get("sessions/events"):
        raise ImgembedError(
            f"sessions.path: no event in {sessions.path!r} "
            f"({counts.get('sessions/rows', 0):,} rows read)"
        )
    of_graph = counts.get(f"graph/{transforms.SESSIONS}", 0)
    if not counts.get(f"graph/{transforms.PAIRS}"):
        raise ImgembedError(
            f"sessions.path: none of {of_graph:,} sessions holds two images, so there is no edge; "
            "does sessions.columns name the right session_id?"
        )
    if not counts.get(f"graph/{transforms.EDGES_KEPT}"):
        frequent = counts.get(f"graph/{transforms.PAIRS_FREQUENT}", 0) // 2
        raise ImgembedError(
            f"graph: no edge is left of {counts[f'graph/{transforms.PAIRS}'] // 2:,} pairs; "
            f"{frequent:,} lie in graph.min_sessions = {graph.min_sessions} sessions or more"
        )


def _check_balance(summary: Mapping[str, Any], rejected: Mapping[str, int]) -> None:
    """Fails where a row went missing on its way: an engine that loses data must not go unseen."""
    rows, events, sessions = (summary[name] for name in ("rows", "events", "sessions"))
    parts = ("visits", "repeated", "of_bots", "beyond_max_images")
    balances = {
        "rejected rows": (rows["rejected"], sum(rejected.values())),
        "events": (events["read"], sum(events[part] for part in parts)),
        "sessions": (sessions["all"], sessions["in_graph"] + sessions["held_out"]),
    }
    for what, (before, after) in balances.items():
        if before != after:
            raise ImgembedError(f"{what}: {before:,} were read and {after:,} arrived; run it again")


def _summary(counts: Mapping[str, int]) -> dict[str, Any]:
    """The counts as the manifest has them, with the two equations that nothing is lost by."""
    of = {name.split("/")[1]: value for name, value in counts.items()}

    def get(name: str) -> int:
        return of.get(name, 0)

    return {
        "rows": {
            "read": get(read.ROWS),
            "kept": get(read.ROWS) - get(read.ROWS_REJECTED) - get(read.ROWS_EMPTY),
            "rejected": get(read.ROWS_REJECTED),
            "without_images": get(read.ROWS_EMPTY),
        },
        "events": {
            "read": get(read.EVENTS_READ),
            "visits": get("visits"),
            "repeated": get("repeated"),
            "of_bots": get("of_bots"),
            "beyond_max_images": get("beyond_max_images"),
        },
        "sessions": {
            "all": get("sessions"),
            "in_graph": get(transforms.SESSIONS),
            "held_out": get(transforms.SESSIONS_HELD_OUT),
            "of_one_image": get("sessions_of_one_image"),
            "bots": get("bots"),
        },
        "pairs": {
            "counted": get(transforms.PAIRS) // 2,
            "of_min_sessions": get(transforms.PAIRS_FREQUENT) // 2,
        },
        "edges": {
            "not_positive": get("edges_not_positive"),
            "beyond_top_k": get("edges_beyond_top_k"),
            "kept": get(transforms.EDGES_KEPT),
        },
    }
