"""build-graph: session logs in, a version of the graph out. Read | transform | write."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import apache_beam as beam
import pyarrow as pa

from pipeline import runner, schema, storage
from pipeline.artifacts import NewVersion
from pipeline.columnar import JoinShards, Keyed
from pipeline.config import GraphConfig, HoldoutConfig, PrivacyConfig, SessionsConfig
from pipeline.errors import ConfigError
from pipeline.graph import clicks, counting, edges, output
from pipeline.graph.images import IMAGE_SCHEMA
from pipeline.graph.manifest import check_counts, summarize
from pipeline.graph.noise import NoisyCounts
from pipeline.graph.previous import Previous, ReadCounts, decay_counts
from pipeline.sessions import events, read
from pipeline.writing import WriteParquet, WriteRejected, check_rejected, file_count

# Events of a shard: some 100 MB of columns and of pairs.
_EVENTS_A_SHARD = 1_500_000


def layout_of(logs: read.Logs, shards: int | str, threads: int) -> counting.Layout:
    """Into how many parts the work is cut: by size, or as `runner.shards` says."""
    files = file_count(logs.bytes)
    if isinstance(shards, str):
        size = sum(map(read.estimate_events, logs.files))
        shards = max(1, -(-size // _EVENTS_A_SHARD))
        if size > _EVENTS_A_SHARD // 4:
            shards = max(shards, 2 * threads)
    # A file holds whole shards.
    return counting.Layout(shards=-(-shards // files) * files, files=files, threads=threads)


def build_graph(
    *,
    sessions: SessionsConfig,
    holdout: HoldoutConfig,
    graph: GraphConfig,
    privacy: PrivacyConfig | None = None,
    seed: int,
    shards: int | str,
    threads: int = 1,
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
    layout = layout_of(logs, shards, threads)
    noise = None
    if privacy.epsilon is not None:
        noise = NoisyCounts.calibrated(privacy, secrets.token_bytes(32))
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
    content = {
        "inputs": {
            "files": len(logs.files),
            "bytes": logs.bytes,
            "detected": logs.detected(),
            "skipped": list(logs.skipped),
        },
        **summarize(counts, out.path, graph, previous, noise),
        "rejected": rejected,
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
    newest = counts[counting.NEWEST] | "Newest" >> beam.CombineGlobally(_largest)
    population = (
        counts[counting.POPULATION]
        | "AddSessions" >> beam.CombineGlobally(sum)
        | "Population" >> beam.Map(_population, previous=previous, noise=noise)
    )
    before = _previous_counts(root, previous, settings, layout, newest)
    images = {
        edges.IMAGES: counts[counting.IMAGES],
        edges.NAMES: rows[read.IMAGES],
        edges.PREVIOUS: before[schema.COUNTED_IMAGES],
    } | "Images" >> edges.MergeImages(layout, noise)
    pairs = {
        edges.PAIRS: counts[counting.PAIRS],
        edges.PREVIOUS: before[schema.COUNTED_PAIRS],
        edges.OF_PAIRS: images[edges.OF_PAIRS],
    } | "Pairs" >> edges.MergePairs(settings.graph, layout, noise)
    weighed = {
        edges.PAIRS: pairs[edges.PAIRS],
        edges.IMAGES: images[edges.IMAGES],
    } | "WeighPairs" >> edges.WeighPairs(
        settings.graph, layout, beam.pvalue.AsSingleton(population), noise is not None
    )
    queries = {
        clicks.QUERIES: counts[counting.QUERIES],
        clicks.QUERY_USERS: counts[counting.QUERY_USERS],
        clicks.NAMES: rows[read.QUERIES],
        clicks.PREVIOUS: before[schema.COUNTED_QUERIES],
        clicks.PREVIOUS_USERS: before[schema.COUNTED_QUERY_USERS],
    } | "Queries" >> clicks.PublishQueries(
        settings.graph.min_users, settings.graph.keep_counts, layout, noise
    )
    write_graph(
        weighed, images, settings.graph, layout, settings.seed, folder, users=logs.has_users
    )
    _write_clicks(counts, images, queries, previous, layout, folder)
    _ = rows[read.REJECTED] | "WriteRejected" >> WriteRejected(folder)
    _ = newest | "NoteNewest" >> output.WriteFinding(folder, output.NEWEST)
    _ = population | "NotePopulation" >> output.WriteFinding(folder, output.POPULATION)
    if settings.graph.keep_counts:
        _write_counts(pairs, images, queries, layout, folder)


def _reading(settings: counting.Counting, layout: counting.Layout) -> read.Reading:
    return read.Reading(
        user_key=secrets.token_bytes(32),
        seed=settings.seed,
        items_separator=settings.sessions.items_separator,
        actions=settings.sessions.actions,
        shards=layout.shards,
        hash_bounds=layout.hash_bounds,
    )


def _largest(values: Iterable[int | None]) -> int | None:
    """The largest value, None where there is none."""
    return max((value for value in values if value is not None), default=None)


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
    newest: beam.PCollection[int | None],
) -> dict[str, beam.PCollection[Keyed]]:
    """Tables of an earlier run for the shards of this one; empty where there is none."""
    places = {
        schema.COUNTED_PAIRS: ("low", layout.pair_bounds),
        schema.COUNTED_IMAGES: ("image", layout.hash_bounds),
        schema.COUNTED_QUERIES: ("query", layout.hash_bounds),
        schema.COUNTED_QUERY_USERS: ("query", layout.hash_bounds),
    }
    tables = {
        prefix: root
        | f"Previous_{prefix}" >> ReadCounts(previous.files(prefix) if previous else (), *place)
        for prefix, place in places.items()
    }
    if previous and settings.graph.half_life_days is not None:
        tables[schema.COUNTED_PAIRS] = tables[schema.COUNTED_PAIRS] | "Decay" >> beam.Map(
            decay_counts,
            beam.pvalue.AsSingleton(newest),
            counted_until=previous.newest,
            half_life_days=settings.graph.half_life_days,
        ).with_output_types(Keyed)
    return tables


def write_graph(
    weighed: beam.PCollection[Keyed],
    images: Mapping[str, beam.PCollection[Keyed]],
    graph: GraphConfig,
    layout: counting.Layout,
    seed: int,
    folder: str,
    *,
    users: bool,
    counted: bool = True,
) -> None:
    """Edges in both directions to the edges that are kept, and their files.

    weighed: (shard of src, prune.EDGE_SCHEMA); of dst where the edges are not counted but given and
    graph.max_degree is set. images: {edges.IMAGES: (shard, IMAGE_SCHEMA),
    edges.OF_FILES: (file, IMAGE_SCHEMA)}.
    """
    of_shards = images[edges.IMAGES]
    hubs = None
    if graph.max_degree is not None:
        limited = {edges.EDGES: weighed, edges.IMAGES: of_shards} | "LimitDegree" >> (
            edges.LimitDegree(graph, layout, seed, both_ways=counted)
        )
        weighed, hubs = limited[edges.EDGES], limited[edges.HUBS]
    kept = {edges.EDGES: weighed, edges.IMAGES: of_shards} | "KeepTopK" >> edges.KeepTopK(
        graph, layout, seed
    )
    strongest = kept[edges.EDGES]
    if graph.symmetry != "directed":
        strongest = strongest | "Symmetrize" >> edges.Symmetrize(graph, layout, seed)
    named = {edges.EDGES: strongest, edges.IMAGES: of_shards} | "NameTargets" >> (
        edges.NameTargets(layout)
    )
    _ = {output.EDGES: named[edges.EDGES], output.IMAGES: images[edges.OF_FILES]} | (
        "WriteEdges" >> output.WriteEdges(folder, layout.files, users, counted)
    )
    for name, tables in (
        (output.HUBS_BEFORE, kept[edges.HUBS] if hubs is None else hubs),
        (output.HUBS_AFTER, named[edges.HUBS]),
    ):
        _ = (
            tables
            | f"Top_{name}" >> beam.CombineGlobally(edges.top_hubs)
            | f"List_{name}" >> beam.Map(pa.Table.to_pylist)
            | f"Note_{name}" >> output.WriteFinding(folder, name)
        )


def _write_clicks(
    counts: Mapping[str, beam.PCollection],
    images: Mapping[str, beam.PCollection[Keyed]],
    queries: Mapping[str, beam.PCollection[Keyed]],
    previous: Previous | None,
    layout: counting.Layout,
    folder: str,
) -> None:
    _ = (
        {clicks.ROWS: queries[clicks.ROWS], clicks.IMAGES: images[edges.IMAGES]}
        | "NameQueries" >> clicks.NameQueryImages(layout)
        | "WriteQueries"
        >> WriteParquet(
            folder, schema.QUERIES, layout.files, schema.QUERY_SCHEMA, ("query", "image_id")
        )
    )
    before = previous.version.shards(schema.HOLDOUT) if previous else ()
    _ = (
        {
            clicks.ROWS: counts[counting.HELD_OUT],
            clicks.IMAGES: images[edges.IMAGES],
            clicks.NAMES: queries[clicks.NAMES],
        }
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
    queries: Mapping[str, beam.PCollection[Keyed]],
    layout: counting.Layout,
    folder: str,
) -> None:
    """All counts before pruning, for a later run."""
    for prefix, tables, table_schema, order in (
        (schema.COUNTED_PAIRS, pairs[edges.COUNTS], schema.PAIR_COUNT_SCHEMA, "low"),
        (schema.COUNTED_IMAGES, images[edges.OF_FILES], IMAGE_SCHEMA, "image"),
        (
            schema.COUNTED_QUERIES,
            queries[clicks.COUNTS],
            schema.QUERY_COUNT_SCHEMA,
            "query",
        ),
        (
            schema.COUNTED_QUERY_USERS,
            queries[clicks.COUNTS_USERS],
            schema.QUERY_USER_COUNT_SCHEMA,
            "query",
        ),
    ):
        _ = tables | f"WriteCounted_{prefix}" >> WriteParquet(
            storage.join(folder, schema.COUNTS_FOLDER),
            prefix,
            layout.files,
            table_schema,
            (order,),
            in_order=True,
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
