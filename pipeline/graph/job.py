"""build-graph: session logs in, a version of the graph out. Read | transform | write."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping
from typing import Any

import apache_beam as beam

from pipeline import limits, runner, schema, storage
from pipeline.artifacts import NewVersion
from pipeline.columnar import JoinShards, Keyed
from pipeline.config import GraphConfig, HoldoutConfig, PrivacyConfig, SessionsConfig
from pipeline.errors import ConfigError
from pipeline.graph import clicks, counting, edges, output
from pipeline.graph.earlier import ReadCounts, decay_counts
from pipeline.graph.finish import write_graph
from pipeline.graph.manifest import check_counts, summarize
from pipeline.graph.noise import NoisyCounts
from pipeline.graph.previous import Previous
from pipeline.sessions import events, read
from pipeline.writing import (
    WriteParquet,
    WriteRejected,
    check_rejected,
    check_written,
    file_count,
)

# Events of a shard: some 100 MB of columns and of pairs.
_EVENTS_A_SHARD = 1_500_000
# Bytes that are held, as costs.Costs has them; of an event with the pairs of a session of ten.
_PROCESS, _BLOCK, _EVENT = 275_000_000, 145_000_000, 500


def layout_of(
    logs: read.Logs, shards: int | str, threads: int, max_memory: int | None = None
) -> counting.Layout:
    """Into how many parts the work is cut: by size, or as `runner.shards` says.

    max_memory: bytes that it is cut to fit into, by more shards unless their number is given, and
    by fewer threads.
    """
    files = file_count(logs.bytes)
    size = sum(map(read.estimate_events, logs.files))
    number = shards if isinstance(shards, int) else max(1, -(-size // _EVENTS_A_SHARD))
    if isinstance(shards, str) and size > _EVENTS_A_SHARD // 4:
        number = max(number, 2 * threads)
    held = limits.Held(_PROCESS, min(_BLOCK, size * _EVENT), size * _EVENT)
    number, threads = limits.cut(shards, held, limit=max_memory, shards=number, threads=threads)
    # A file holds whole shards.
    return counting.Layout(shards=-(-number // files) * files, files=files, threads=threads)


def build_graph(
    *,
    sessions: SessionsConfig,
    holdout: HoldoutConfig,
    graph: GraphConfig,
    privacy: PrivacyConfig | None = None,
    seed: int,
    shards: int | str,
    threads: int = 1,
    max_memory: int | None = None,
    out: NewVersion,
    make_pipeline: Callable[[], beam.Pipeline],
    logs: read.Logs | None = None,
    previous: Previous | None = None,
) -> dict[str, Any]:
    """Runs the job, writes its files into `out`, and returns what its manifest says.

    logs: what `read.find_logs` found, where that was done already.
    """
    privacy = privacy or PrivacyConfig()
    logs = logs or read.find_logs(sessions)
    settings = counting.Counting(
        sessions, holdout, graph, privacy, seed, previous.newest if previous else None
    )
    check_settings(logs, settings)
    layout = layout_of(logs, shards, threads, max_memory)
    noise = None
    if privacy.epsilon is not None:
        noise = NoisyCounts.calibrated(privacy, secrets.token_bytes(32), queries=logs.has_queries)
    root = make_pipeline()
    _assemble(root, logs, previous, settings, layout, noise, out.path)
    counts = runner.run(root, work=storage.join(out.path, output.WORK_FOLDER))
    rejected = check_rejected(
        out.path,
        rows=counts.get("sessions/rows", 0),
        allowed=sessions.max_rejected_fraction,
        key="sessions.max_rejected_fraction",
    )
    check_counts(counts, rejected, sessions, graph)
    check_written(out.path, {schema.EDGES: counts[f"{counting.NAMESPACE}/{edges.EDGES_KEPT}"]})
    content = {
        "inputs": {
            "files": len(logs.files),
            "bytes": logs.bytes,
            "detected": logs.detected(),
            "skipped": list(logs.skipped),
        },
        **summarize(counts, out.path, settings, previous, noise),
        "rejected": rejected,
        "counters": runner.counters_of(counts, read.NAMESPACE, counting.NAMESPACE),
    }
    _write_rest(logs, previous, graph, out)
    storage.remove_tree(storage.join(out.path, output.WORK_FOLDER))
    return content


def check_settings(logs: read.Logs, settings: counting.Counting) -> None:
    """ConfigError where settings do not go with one another or with the logs."""
    sessions, holdout, graph = settings.sessions, settings.holdout, settings.graph
    if graph.min_users > 1 and not logs.has_users:
        raise ConfigError(
            f"graph.min_users: is {graph.min_users}, and the logs have no user_id to count users by"
        )
    if sessions.max_sessions_per_user is not None and not logs.has_users:
        raise ConfigError("sessions.max_sessions_per_user: the logs have no user_id")
    timed = all(events.TIMESTAMP in log.columns for log in logs.files)
    for key, needed in (
        ("holdout.by: time", holdout.by == "time" and holdout.fraction > 0),
        ("graph.half_life_days", graph.half_life_days is not None),
    ):
        if needed and not timed:
            raise ConfigError(f"{key}: needs a timestamp, and not every log has one")
    if settings.privacy.epsilon is not None:
        _check_privacy(logs, settings)


def _check_privacy(logs: read.Logs, settings: counting.Counting) -> None:
    """ConfigError where something would be published that the noise does not cover."""
    sessions, holdout, graph = settings.sessions, settings.holdout, settings.graph
    if not logs.has_users:
        raise ConfigError("privacy.epsilon: the logs have no user_id, so nobody can be protected")
    for key, wrong, wanted in (
        ("holdout.fraction", holdout.fraction > 0, "0: held-out sessions are written as they are"),
        ("graph.keep_counts", graph.keep_counts, "false: counts are written as they are"),
        ("sessions.previous", sessions.previous is not None, "null: those counts have no noise"),
        ("graph.discount", graph.discount != "none", "none: private counts are of users"),
        ("graph.half_life_days", graph.half_life_days is not None, "null: counts are of users"),
        ("sessions.actions", bool(sessions.actions), "{}: private counts are of users"),
    ):
        if wrong:
            raise ConfigError(f"{key}: with privacy.epsilon it must be {wanted}")


def _assemble(
    root: beam.Pipeline,
    logs: read.Logs,
    previous: Previous | None,
    settings: counting.Counting,
    layout: counting.Layout,
    noise: NoisyCounts | None,
    folder: str,
) -> None:
    """The flow from logs to the files of the graph."""
    rows = root | "ReadEvents" >> read.ReadEvents(
        logs.files, _reading(settings, layout), layout.threads
    )
    by_session = {counting.EVENTS: rows[read.EVENTS]} | "GatherEvents" >> JoinShards()
    clock = None
    if settings.need_clock:
        clock = beam.pvalue.AsSingleton(by_session | "ReadClock" >> counting.ReadClock(settings))
    counts = by_session | "CountSessions" >> counting.CountSessions(settings, layout, clock)
    population = (
        counts[counting.POPULATION]
        | "AddSessions" >> beam.CombineGlobally(sum)
        | "Population" >> beam.Map(_population, previous=previous, noise=noise)
    )
    before = _previous_counts(root, previous, settings, layout, clock)
    images = {
        edges.IMAGES: counts[counting.IMAGES],
        edges.NAMES: rows[read.IMAGES],
        **_named(before, {edges.PREVIOUS: schema.COUNTED_IMAGES}),
    } | "Images" >> edges.MergeImages(layout, noise)
    pairs = {
        edges.PAIRS: counts[counting.PAIRS],
        edges.OF_PAIRS: images[edges.OF_PAIRS],
        **_named(before, {edges.PREVIOUS: schema.COUNTED_PAIRS}),
    } | "Pairs" >> edges.MergePairs(settings.graph, layout, noise)
    weighed = {
        edges.PAIRS: pairs[edges.PAIRS],
        edges.IMAGES: images[edges.IMAGES],
    } | "WeighPairs" >> edges.WeighPairs(
        settings.graph, layout, beam.pvalue.AsSingleton(population)
    )
    findings = write_graph(
        weighed,
        images,
        settings.graph,
        layout,
        settings.seed,
        folder,
        users=logs.has_users,
        only_linked=noise is not None,
    )
    queries = None
    if logs.has_queries or previous:
        queries = {
            clicks.QUERIES: counts[counting.QUERIES],
            clicks.QUERY_USERS: counts[counting.QUERY_USERS],
            clicks.NAMES: rows[read.QUERIES],
            **_named(
                before,
                {
                    clicks.PREVIOUS: schema.COUNTED_QUERIES,
                    clicks.PREVIOUS_USERS: schema.COUNTED_QUERY_USERS,
                },
            ),
        } | "Queries" >> clicks.PublishQueries(
            settings.graph.min_users, settings.graph.keep_counts, layout, noise
        )
    _write_queries(queries, images, layout, folder)
    _write_holdout(counts, images, queries, settings, previous, layout, folder)
    _ = rows[read.REJECTED] | "WriteRejected" >> WriteRejected(folder)
    numbered = population | "NotePopulation" >> beam.Map(_note).with_output_types(Keyed)
    _ = {
        **findings,
        output.POPULATION: numbered,
        output.NEWEST: counts[counting.NEWEST],
    } | "Findings" >> output.WriteFindings(folder)
    if settings.graph.keep_counts:
        _write_counts(pairs, images, queries, layout, folder)


def _named(
    tables: Mapping[str, beam.PCollection], names: Mapping[str, str]
) -> dict[str, beam.PCollection]:
    """Tables of an earlier run by the names they have in a step; none where there is no run."""
    return {name: tables[prefix] for name, prefix in names.items() if tables}


def _note(population: int) -> Keyed:
    return 0, output.one_number(population)


def _reading(settings: counting.Counting, layout: counting.Layout) -> read.Reading:
    return read.Reading(
        user_key=secrets.token_bytes(32),
        seed=settings.seed,
        items_separator=settings.sessions.items_separator,
        actions=settings.sessions.actions,
        shards=layout.shards,
        hash_bounds=layout.hash_bounds,
        # What the noise does not cover is not shown.
        hide=events.LOG_COLUMNS if settings.privacy.epsilon is not None else events.HIDDEN,
    )


def _population(counted: int, previous: Previous | None, noise: NoisyCounts | None) -> int:
    """N of all that is counted."""
    if noise is not None:
        return noise.noisy_population(counted)
    return counted + (previous.population if previous else 0)


def _previous_counts(
    root: beam.Pipeline,
    previous: Previous | None,
    settings: counting.Counting,
    layout: counting.Layout,
    clock: beam.pvalue.AsSingleton | None,
) -> dict[str, beam.PCollection[Keyed]]:
    """Tables of an earlier run for the shards of this one; none where there is no such run."""
    if previous is None:
        return {}
    places = {
        schema.COUNTED_PAIRS: ("low", layout.pair_bounds),
        schema.COUNTED_IMAGES: ("image", layout.hash_bounds),
        schema.COUNTED_QUERIES: ("query", layout.hash_bounds),
        schema.COUNTED_QUERY_USERS: ("query", layout.hash_bounds),
    }
    tables = {
        prefix: root | f"Previous_{prefix}" >> ReadCounts(previous.files(prefix), *place)
        for prefix, place in places.items()
    }
    if settings.graph.half_life_days is not None:
        tables[schema.COUNTED_PAIRS] = tables[schema.COUNTED_PAIRS] | "Decay" >> beam.Map(
            decay_counts,
            clock,
            counted_until=previous.newest,
            half_life_days=settings.graph.half_life_days,
        ).with_output_types(Keyed)
    return tables


def _write_queries(
    queries: Mapping[str, beam.PCollection[Keyed]] | None,
    images: Mapping[str, beam.PCollection[Keyed]],
    layout: counting.Layout,
    folder: str,
) -> None:
    if queries is None:
        output.write_empty(folder, schema.QUERIES, layout.files, schema.QUERY_SCHEMA)
        return
    _ = (
        {clicks.ROWS: queries[clicks.ROWS], clicks.IMAGES: images[edges.IMAGES]}
        | "NameQueries" >> clicks.NameQueryImages(layout)
        | "WriteQueries"
        >> WriteParquet(
            folder, schema.QUERIES, layout.files, schema.QUERY_SCHEMA, ("query", "image_id")
        )
    )


def _write_holdout(
    counts: Mapping[str, beam.PCollection],
    images: Mapping[str, beam.PCollection[Keyed]],
    queries: Mapping[str, beam.PCollection[Keyed]] | None,
    settings: counting.Counting,
    previous: Previous | None,
    layout: counting.Layout,
    folder: str,
) -> None:
    if not settings.holdout.fraction and previous is None:
        output.write_empty(folder, schema.HOLDOUT, layout.files, schema.HOLDOUT_SCHEMA)
        return
    before = previous.version.shards(schema.HOLDOUT) if previous else ()
    texts = {clicks.NAMES: queries[clicks.NAMES]} if queries else {}
    _ = (
        {clicks.ROWS: counts[counting.HELD_OUT], clicks.IMAGES: images[edges.IMAGES], **texts}
        | "NameHeldOut" >> clicks.NameHeldOut(layout)
        | "NumberHoldout" >> output.NumberHoldout(layout.files, before)
        | "WriteHoldout"
        >> WriteParquet(
            folder,
            schema.HOLDOUT,
            layout.files,
            schema.HOLDOUT_SCHEMA,
            ("session", "position", "query"),
        )
    )


def _write_counts(
    pairs: Mapping[str, beam.PCollection[Keyed]],
    images: Mapping[str, beam.PCollection[Keyed]],
    queries: Mapping[str, beam.PCollection[Keyed]] | None,
    layout: counting.Layout,
    folder: str,
) -> None:
    """All counts before pruning, for a later run."""
    folder = storage.join(folder, schema.COUNTS_FOLDER)
    of_queries = {
        schema.COUNTED_QUERIES: (clicks.COUNTS, schema.QUERY_COUNT_SCHEMA),
        schema.COUNTED_QUERY_USERS: (clicks.COUNTS_USERS, schema.QUERY_USER_COUNT_SCHEMA),
    }
    counts = {
        schema.COUNTED_PAIRS: (pairs[edges.COUNTS], schema.PAIR_COUNT_SCHEMA, "low"),
        schema.COUNTED_IMAGES: (images[edges.OF_FILES], schema.IMAGE_COUNT_SCHEMA, "image"),
    }
    for prefix, (tag, table_schema) in of_queries.items():
        if queries is None:
            output.write_empty(folder, prefix, layout.files, table_schema)
        else:
            counts[prefix] = (queries[tag], table_schema, "query")
    for prefix, (tables, table_schema, order) in counts.items():
        _ = tables | f"WriteCounted_{prefix}" >> WriteParquet(
            folder, prefix, layout.files, table_schema, (order,), in_order=True
        )


def _write_rest(
    logs: read.Logs, previous: Previous | None, graph: GraphConfig, out: NewVersion
) -> None:
    """What is made of the job's files, or not by the job."""
    if graph.keep_counts:
        before = previous.files(schema.COUNTED_INPUTS) if previous else ()
        files = (log.file for log in logs.files)
        found = [storage.FileInfo(file.path, file.size, file.modified) for file in files]
        output.write_inputs(out.path, found, before)
    if graph.edges_tsv:
        output.write_edges_tsv(out.path)
