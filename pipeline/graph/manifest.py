"""What a graph's manifest says: every row accounted for, every step of pruning counted."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pipeline.config import GraphConfig, SessionsConfig
from pipeline.errors import ImgembedError
from pipeline.graph import clicks, counting, edges, output, prune
from pipeline.graph.holdout import latest
from pipeline.graph.noise import NoisyCounts
from pipeline.graph.previous import Previous
from pipeline.sessions import read
from pipeline.sessions.lengths import by_length

Counts = Mapping[str, int]
# What a manifest tells without noise, also where counts are private.
NOT_COVERED = "this manifest's totals and its newest event: not for publication"


def check_counts(
    counts: Counts, rejected: Counts, sessions: SessionsConfig, graph: GraphConfig
) -> None:
    """ImgembedError where rows went missing, or where the logs give no graph, and why."""
    _check_balance(counts, rejected)
    if not _of(counts, "events"):
        raise ImgembedError(
            f"sessions.path: no event in {sessions.path!r} "
            f"({counts.get('sessions/rows', 0):,} rows read)"
        )
    if not _of(counts, edges.PAIRS_COUNTED):
        of_graph = _of(counts, counting.SESSIONS)
        raise ImgembedError(
            f"sessions.path: none of {of_graph:,} sessions holds two images, so there is no edge; "
            "does sessions.columns name the right session_id?"
        )
    check_edges(counts, graph)


def check_edges(counts: Counts, graph: GraphConfig) -> None:
    """ImgembedError where pruning left no edge, with what each step left."""
    if _of(counts, edges.EDGES_KEPT):
        return
    steps = ", ".join(f"{left:,} after {step}" for step, left in _steps(counts, graph).items())
    raise ImgembedError(
        f"graph: no edge is left of {_of(counts, edges.PAIRS_COUNTED):,} pairs: {steps}"
    )


def _of(counts: Counts, name: str) -> int:
    return counts.get(f"{counting.NAMESPACE}/{name}", 0)


def _check_balance(counts: Counts, rejected: Counts) -> None:
    """Fails where a row went missing on its way: an engine that loses data must not go unseen."""
    parts = ("visits", "repeated", "of_bots", "beyond_max_images", "beyond_max_sessions")
    kept = _of(counts, counting.SESSIONS) + _of(counts, counting.SESSIONS_HELD_OUT)
    balances = {
        "rejected rows": (_read(counts, read.ROWS_REJECTED), sum(rejected.values())),
        "events read": (_read(counts, read.EVENTS_READ), _of(counts, "events")),
        "events": (_of(counts, "events"), sum(_of(counts, part) for part in parts)),
        "sessions": (_of(counts, "sessions"), kept),
    }
    for what, (before, after) in balances.items():
        if before != after:
            raise ImgembedError(f"{what}: {before:,} were read and {after:,} arrived; run it again")


def _read(counts: Counts, name: str) -> int:
    return counts.get(f"{read.NAMESPACE}/{name}", 0)


def summarize(
    counts: Counts,
    folder: str,
    settings: counting.Counting,
    previous: Previous | None,
    noise: NoisyCounts | None,
) -> dict[str, Any]:
    """The manifest's part about the job."""
    found = output.read_findings(folder)
    newest = found[output.NEWEST]
    if previous:
        newest = latest(newest, previous.newest)
    content: dict[str, Any] = {
        "population": found[output.POPULATION],
        "newest": newest,
        "counts": {**_log_counts(counts), **graph_counts(counts, settings.graph)},
        **hubs(folder),
    }
    if previous:
        content["previous"] = {
            "name": previous.version.name,
            "path": previous.version.path,
            "population": previous.population,
            "differs_from_one_run": _differences(counts, settings),
        }
    if noise:
        content["privacy"] = {**noise.describe(), "not_covered": NOT_COVERED}
    return content


def _differences(counts: Counts, settings: counting.Counting) -> dict[str, Any]:
    """In what counts added to earlier ones differ from those of one run over all logs."""
    differences: dict[str, Any] = {
        "sessions_across_the_cut": _of(counts, counting.SESSIONS_ACROSS),
        "users": "a lower bound: the largest number over the parts",
    }
    if settings.sessions.max_sessions_per_user is not None:
        differences["max_sessions_per_user"] = "of each part"
    if settings.holdout.by == "time" and settings.holdout.fraction:
        differences["held_out"] = "the latest sessions of each part"
    return differences


def hubs(folder: str) -> dict[str, Any]:
    """The images that most edges lead to, before hub control and top_k, and in the graph."""
    found = output.read_findings(folder)
    return {"hubs": {"before": found[output.HUBS_BEFORE], "after": found[output.HUBS_AFTER]}}


def _log_counts(counts: Counts) -> dict[str, Any]:
    rows = {name: _read(counts, name) for name in (read.ROWS, read.ROWS_REJECTED, read.ROWS_EMPTY)}
    return {
        "rows": {
            "read": rows[read.ROWS],
            "kept": rows[read.ROWS] - rows[read.ROWS_REJECTED] - rows[read.ROWS_EMPTY],
            "rejected": rows[read.ROWS_REJECTED],
            "without_images": rows[read.ROWS_EMPTY],
        },
        "events": {
            "read": _read(counts, read.EVENTS_READ),
            "visits": _of(counts, "visits"),
            "repeated": _of(counts, "repeated"),
            "of_bots": _of(counts, "of_bots"),
            "beyond_max_images": _of(counts, "beyond_max_images"),
            "beyond_max_sessions_per_user": _of(counts, "beyond_max_sessions"),
        },
        "sessions": {
            "all": _of(counts, "sessions"),
            "in_graph": _of(counts, counting.SESSIONS),
            "held_out": _of(counts, counting.SESSIONS_HELD_OUT),
            "of_one_image": _of(counts, "sessions_of_one_image"),
            "bots": _of(counts, "bots"),
            "beyond_max_sessions_per_user": _of(counts, "sessions_beyond_user_limit"),
        },
        "sessions_by_images": by_length(counts, counting.NAMESPACE),
        "queries": {
            "counted": _of(counts, clicks.QUERIES_READ),
            "published": _of(counts, clicks.QUERIES_PUBLISHED),
        },
        "pairs": {"counted": _of(counts, edges.PAIRS_COUNTED)},
    }


def graph_counts(
    counts: Counts, graph: GraphConfig, *, listed: int | None = None
) -> dict[str, Any]:
    """How many pairs, then edges, each step of pruning left; listed: of a ready edge list."""
    steps = _steps(counts, graph)
    if listed is not None:
        steps = {name: left for name, left in steps.items() if name not in _OF_COUNTS}
        steps = {"positive_weight": listed, **steps}
    return {
        "pruning": steps,
        "edges": {"kept": _of(counts, edges.EDGES_KEPT)},
    }


_OF_COUNTS = ("min_sessions", "min_users", "min_significance", "positive_weight")


def _steps(counts: Counts, graph: GraphConfig) -> dict[str, int]:
    """In their order, those that are in force: pairs up to the weight, edges from there on."""
    users = _of(counts, edges.PAIRS_OF_MIN_USERS)
    significant = users - _of(counts, prune.NOT_SIGNIFICANT)
    steps = {
        "min_sessions": (True, _of(counts, edges.PAIRS_OF_MIN_SESSIONS)),
        "min_users": (graph.min_users > 1, users),
        "min_significance": (graph.min_significance is not None, significant),
        "positive_weight": (True, _of(counts, edges.EDGES_WEIGHED)),
        "max_degree": (graph.max_degree is not None, _of(counts, edges.EDGES_WITHIN_DEGREE)),
        "top_k": (True, _of(counts, edges.EDGES_WITHIN_TOP_K)),
        graph.symmetry: (graph.symmetry != "directed", _of(counts, edges.EDGES_KEPT)),
    }
    return {name: left for name, (in_force, left) in steps.items() if in_force}
