"""What build-graph would make of its input, estimated from a sample before anything runs.

In: the logs and the settings. Out: a `Plan`: rows, sessions, images, pairs and edges, bytes of
output, memory and disk. A bounded number of rows is read, spread over the files, and counted by the
very functions that count the whole. Where the sample is the whole input, the counts are exact; else
`growth` tells how many distinct images and pairs the whole has, and `costs` what they take.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from pipeline.columnar import concatenate
from pipeline.config import GraphConfig
from pipeline.errors import ImgembedError
from pipeline.graph import costs, counting, holdout, measures, prune, shares
from pipeline.graph.growth import (
    RATE_POINTS,
    Rates,
    at_most,
    gamma_below,
    most_likely,
    seen_chance,
)
from pipeline.graph.images import IMAGE_COUNTS
from pipeline.graph.job import check_settings, layout_of
from pipeline.graph.names import distinct, look_up
from pipeline.graph.queries import QUERY_COUNTS, QUERY_USER_COUNTS
from pipeline.sessions import read
from pipeline.sessions.sample import Sample, take_sample
from pipeline.sessions.sessionize import sessionize

MAX_ROWS = 500_000
_CUT_SESSIONS = 0.1  # sessions that a run may cut in two before a note says so
# Weights that are above 0 for whatever is seen at all; the others only above expectation.
_ALWAYS_POSITIVE = ("count", "jaccard", "cosine", "lift")
_RATIO_STEPS, _HALVINGS = 300, 60
# A sample of 1/150 of the benchmark's log takes 200,000 images for 540,000; 1/30 for 300,000.
_LARGE_SCALE = 50.0


@dataclass(frozen=True)
class Plan:
    """What a run would read, count, write and need. Bytes are bytes.

    exact: the sample is the whole input, and every count is that of the run. pairs: distinct;
    co_occurrences: the sum over sessions of n (n - 1) / 2. notes: what a person should know.
    """

    exact: bool
    sampled_rows: int
    input_bytes: int
    counts: Mapping[str, int]
    output_bytes: Mapping[str, int]
    memory_bytes: int
    disk_bytes: int
    shards: int
    files: int
    threads: int
    notes: Sequence[str] = ()


@dataclass(frozen=True)
class Found:
    """What the sample's events gave, as one shard of the job.

    population: N. images: IMAGE_COUNTS, ascending. held_out: rows.
    """

    counts: Mapping[str, int]
    population: int
    pairs: shares.PairCounts
    images: pa.Table
    queries: pa.Table
    query_users: pa.Table
    held_out: int

    def sessions_of(self, images: np.ndarray) -> np.ndarray:
        """[images] int64: how many sessions hold each of some hashes."""
        return self.images["sessions"].to_numpy()[look_up(images, self.images)]


def count_sample(sample: Sample, settings: counting.Counting) -> Found:
    """Counts the sample as the job counts a shard."""
    clock = None
    if settings.need_clock:
        sessions, _, _ = sessionize(
            sample.events, settings.sessions, seed=settings.seed, starts="needed"
        )
        clock = holdout.clock_of(sessions)
    one = counting.Layout(shards=1, files=1, threads=1)
    outcome = counting.count_shard(sample.events, settings, one, clock)
    tables: dict[str, list[pa.Table]] = defaultdict(list)
    population = 0
    for tag, value in outcome.outputs:
        if tag == counting.POPULATION:
            population = value
        elif tag != counting.NEWEST:
            tables[tag].append(value[1])
    pairs = shares.merge(tables[counting.PAIRS])
    images = concatenate(tables[counting.IMAGES], IMAGE_COUNTS)
    if not len(pairs.low):
        sessions_in_graph = outcome.counts[counting.SESSIONS]
        raise ImgembedError(
            f"sessions.path: none of {sessions_in_graph:,} sessions in {sample.rows:,} rows holds "
            "two images, so there is no edge; does sessions.columns name the right session_id?"
        )
    return Found(
        outcome.counts,
        population,
        pairs,
        images,
        concatenate(tables[counting.QUERIES], QUERY_COUNTS),
        concatenate(tables[counting.QUERY_USERS], QUERY_USER_COUNTS),
        sum(table.num_rows for table in tables[counting.HELD_OUT]),
    )


def prune_sample(found: Found, settings: counting.Counting) -> dict[str, int]:
    """Pairs, then edges that each step of pruning leaves of the sample's pairs."""
    graph, pairs = settings.graph, found.pairs
    frequent = kept = shares.keep(pairs, pairs.sessions >= graph.min_sessions)
    if graph.min_users > 1:
        kept = shares.keep(frequent, frequent.users >= graph.min_users)
    sessions = found.sessions_of(kept.images)
    columns = [
        kept.images[kept.low],
        kept.images[kept.high],
        kept.sessions,
        kept.users,
        shares.strength_of(kept),
        sessions[kept.low],
    ]
    edges, _ = prune.weigh(
        pa.table(columns, schema=prune.PAIR_SCHEMA),
        sessions[kept.high],
        graph,
        population=found.population,
    )
    weighed = edges.num_rows // 2
    return {
        "pairs_of_min_sessions": len(frequent.low),
        "pairs_of_min_users": len(kept.low),
        "pairs_weighed": weighed,
        "edges": _strongest(edges, graph, settings.seed).num_rows,
    }


def _strongest(edges: pa.Table, graph: GraphConfig, seed: int) -> pa.Table:
    if graph.max_degree is not None:
        edges = prune.keep_strongest(edges, graph.max_degree, by="dst", seed=seed)
        edges = edges.select(prune.EDGE_SCHEMA.names)
    edges = prune.keep_strongest(edges, graph.top_k, by="src", seed=seed)
    if graph.symmetry == "directed":
        return edges
    return prune.symmetrize(edges.select(prune.EDGE_SCHEMA.names), graph.symmetry)


def plan_graph(
    *,
    logs: read.Logs,
    settings: counting.Counting,
    shards: int | str,
    threads: int,
    max_memory: int | None = None,
    max_rows: int = MAX_ROWS,
) -> Plan:
    """What `job.build_graph` would make of the logs; reads about `max_rows` of their rows."""
    check_settings(logs, settings)
    layout = layout_of(logs, shards, threads, max_memory)
    reading = read.Reading(
        user_key=b"plan",  # nothing of what is read here is written
        seed=settings.seed,
        items_separator=settings.sessions.items_separator,
        actions=settings.sessions.actions,
        shards=1,
        hash_bounds=np.zeros(0, np.uint64),
    )
    sample = take_sample(logs, reading, max_rows)
    names = distinct([sample.names])
    found = count_sample(sample, settings)
    growth = Rates.fit(found.pairs.sessions, sample.scale)
    counts = _counts(sample, found, growth, settings)
    return Plan(
        exact=sample.whole and settings.privacy.epsilon is None,
        sampled_rows=sample.rows,
        input_bytes=logs.bytes,
        counts=counts,
        output_bytes=costs.output_bytes(counts, costs.bytes_of_id(names), layout.files),
        memory_bytes=costs.memory_bytes(
            logs=logs, counts=counts, growth=growth, layout=layout, sample=sample
        ),
        disk_bytes=costs.disk_bytes(counts=counts, growth=growth, layout=layout, sample=sample),
        shards=layout.shards,
        files=layout.files,
        threads=layout.threads,
        notes=_notes(sample, settings),
    )


def _counts(
    sample: Sample, found: Found, growth: Rates, settings: counting.Counting
) -> dict[str, int]:
    scale, graph = sample.scale, settings.graph
    linear = {
        "rows": sample.rows,
        "rows_rejected": sample.rejected,
        "events": found.counts["events"],
        "sessions": found.counts["sessions"],
        "sessions_in_graph": found.counts[counting.SESSIONS],
        "held_out_rows": found.held_out,
        "co_occurrences": int(found.pairs.sessions.sum()),
    }
    counts = {name: round(number * scale) for name, number in linear.items()}
    if sample.whole:
        return {
            **counts,
            "images": found.images.num_rows,
            "query_rows": _published(found, graph.min_users, scale)[0],
            "pairs": len(found.pairs.low),
            **prune_sample(found, settings),
        }
    images = Rates.fit(found.images["sessions"].to_numpy(), scale)
    frequent = growth.expected(scale, least=graph.min_sessions)
    of_users = frequent
    if graph.min_users > 1:
        users = found.pairs.users[found.pairs.users > 0]
        of_users = min(frequent, Rates.fit(users, scale).expected(scale, least=graph.min_users))
    weighed = of_users * positive_share(found, scale, graph)
    query_rows, share = _published(found, graph.min_users, scale)
    queries = Rates.fit(found.queries["sessions"].to_numpy(), scale)
    return {
        **counts,
        "images": round(images.expected(scale)),
        "query_rows": round(max(queries.expected(scale) * share, query_rows if share else 0)),
        "pairs": round(growth.expected(scale)),
        "pairs_of_min_sessions": round(frequent),
        "pairs_of_min_users": round(of_users),
        "pairs_weighed": round(weighed),
        "edges": round(edges_kept(weighed, images, scale, graph)),
    }


def positive_share(found: Found, scale: float, graph: GraphConfig) -> float:
    """Of the pairs that are seen often enough, the share whose weight is kept.

    A pair is expected e = n_i n_j / N times, and its rate is e times a ratio; the mixture of the
    ratios is the most likely one, as in W. DuMouchel, "Bayesian Data Mining in Large Frequency
    Tables" (1999), but on a grid. Each ratio says how many such pairs there are, and how many of
    them the whole input shows as often as `min_sessions` and their weight ask for.
    """
    least = float(max(graph.min_sessions, graph.min_users))
    if graph.measure in _ALWAYS_POSITIVE and graph.min_significance is None:
        return 1.0
    times, expected, things = _by_expectation(found)
    ratio = np.geomspace(0.01, 2.0 * float((times / expected).max()) + 1.0, RATE_POINTS)
    mean = expected[:, None] * ratio
    chance = seen_chance(times[:, None], mean)
    chance = chance * most_likely(chance, things, _RATIO_STEPS)
    chance *= (things / chance.sum(axis=1))[:, None]  # seen pairs of each row and ratio
    pairs = chance / -np.expm1(-mean)  # seen or not
    wanted = np.maximum(least, _least_kept(expected * scale, graph))
    kept = float((pairs * gamma_below(mean * scale, wanted[:, None])).sum())
    return min(1.0, kept / float((pairs * gamma_below(mean * scale, np.array(least))).sum()))


def _by_expectation(found: Found) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(times seen, times expected, how many pairs are alike) of the sample's pairs in groups."""
    pairs = found.pairs
    sessions = found.sessions_of(pairs.images).astype(np.float64)
    expected = sessions[pairs.low] * sessions[pairs.high] / max(found.population, 1)
    logs = np.log([pairs.sessions, expected])
    steps = np.rint(logs * np.array([[20.0], [4.0]])).astype(np.int64)
    group = (steps[0] << 32) + steps[1]
    _, number, things = np.unique(group, return_inverse=True, return_counts=True)
    times, means = (np.bincount(number, values) / things for values in logs)
    return np.exp(times), np.exp(means), things


def _least_kept(expected: np.ndarray, graph: GraphConfig) -> np.ndarray:
    """[groups] float64: the least count of a pair that is above expectation, and significant.

    The llr of a rare pair is 2 (k ln(k / e) - k + e), which grows with k above e.
    """
    if graph.min_significance is None:
        return np.floor(expected) + 1.0
    wanted = measures.minimum_llr(graph.min_significance)
    low, high = expected, expected + wanted + 2.0 * np.sqrt(wanted * expected) + 1.0
    for _ in range(_HALVINGS):
        middle = (low + high) / 2.0
        enough = 2.0 * (middle * np.log(middle / expected) - middle + expected) >= wanted
        low, high = np.where(enough, low, middle), np.where(enough, middle, high)
    return np.floor(high) + 1.0


def _published(found: Found, min_users: int, scale: float) -> tuple[int, float]:
    """(rows of queries that enough users asked, their share of all), users as of the whole."""
    rows = found.queries.num_rows
    if min_users <= 1 or not rows:
        return rows, 1.0
    users = found.query_users["users"].to_numpy() * scale >= min_users
    asked = found.query_users["query"].to_numpy()[users]
    published = int(np.isin(found.queries["query"].to_numpy(), asked).sum())
    return published, published / rows


def edges_kept(weighed: float, images: Rates, scale: float, graph: GraphConfig) -> float:
    """How many edges are left of `weighed` pairs.

    An image has neighbours in proportion to its sessions, at most all other images, and keeps the
    `top_k` strongest (`max_degree` bounds them as well).
    """
    number = images.number * -np.expm1(-images.rate * scale)
    total = float(number @ images.rate)
    if not total or weighed <= 0:
        return 0.0
    most = max(images.expected(scale) - 1.0, 1.0)
    degree = np.minimum(2.0 * weighed * images.rate / total, most)
    if graph.max_degree is not None:
        degree = np.minimum(degree, at_most(degree, graph.max_degree))
    kept = float(number @ at_most(degree, graph.top_k))
    kept = min(kept, 2.0 * weighed)
    if graph.symmetry == "directed":
        return kept
    # An edge is kept by an end with chance q; the two ends agree more often than by chance.
    chance = kept / (2.0 * weighed)
    mutual = 2.0 * weighed * chance**1.5
    return mutual if graph.symmetry == "mutual" else 2.0 * kept - mutual


def _notes(sample: Sample, settings: counting.Counting) -> list[str]:
    notes = []
    allowed = settings.sessions.max_rejected_fraction
    if sample.rejected > allowed * sample.rows:
        notes.append(
            f"{sample.rejected:,} of {sample.rows:,} rows of the sample cannot be read, more than "
            f"sessions.max_rejected_fraction = {allowed:g} allows: the run would fail"
        )
    if sample.cut > _CUT_SESSIONS:
        notes.append(
            "the rows of a session are far apart in the logs, so that the sample holds parts of "
            "sessions: there are fewer sessions than it says, and more pairs"
        )
    if sample.scale > _LARGE_SCALE:
        notes.append(
            f"the sample is {1 / sample.scale:.2%} of the input: the numbers of distinct images, "
            "pairs and edges may be off by more than a factor of two"
        )
    if settings.sessions.max_sessions_per_user is not None and not sample.whole:
        notes.append("sessions.max_sessions_per_user leaves out more than a sample can tell")
    if settings.privacy.epsilon is not None:
        notes.append("privacy.epsilon publishes fewer pairs and edges than these")
    if settings.sessions.previous is not None:
        notes.append("the counts that sessions.previous adds are not in these figures")
    return notes
