"""What build-graph would make of its input, estimated from a sample before anything runs.

In: the logs and the settings. Out: a `Plan`: rows, sessions, images, pairs and edges, bytes of
output, memory and disk. A bounded number of rows is read, spread over the files, and counted by the
very functions that count the whole. Where the sample is the whole input, the counts are exact.

Rows, events and sessions grow with the input. Distinct images and distinct pairs do not: the more
of a log is read, the more of its pairs were seen before. How they grow is told by how many pairs
the sample holds once, twice, three times and so on: see `Rates`.
"""

from __future__ import annotations

import itertools
import math
import zlib
from collections import defaultdict, deque
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import fastavro
import numpy as np
import pyarrow as pa

from pipeline import storage
from pipeline.columnar import concatenate
from pipeline.config import EdgesConfig, GraphConfig
from pipeline.errors import ImgembedError
from pipeline.graph import count, counting, holdout, measures, prune, shares
from pipeline.graph.edge_list import find_edge_list
from pipeline.graph.images import IMAGE_COUNTS
from pipeline.graph.job import check_settings, layout_of
from pipeline.graph.names import distinct, look_up
from pipeline.graph.queries import QUERY_COUNTS, QUERY_USER_COUNTS
from pipeline.sessions import read
from pipeline.sessions.events import HIDDEN
from pipeline.sessions.sessionize import sessionize
from pipeline.sorting import run_starts
from pipeline.tables.blocks import Block
from pipeline.tables.files import Part, TableFile
from pipeline.tables.framing import read_records
from pipeline.tables.parts import read_blocks, split_parts

MAX_ROWS = 500_000
# The sample is read in so many runs of rows, spread over the files. A log is in order of time, so
# that a run holds whole sessions but for those at its ends.
_RUNS = 8
_HEAD_BYTES = 1 << 20  # of a file, from which its bytes a row are measured
_CUT_SESSIONS = 0.1  # sessions that a run may cut in two before a note says so
# Weights that are above 0 for whatever is seen at all; the others only above expectation.
_ALWAYS_POSITIVE = ("count", "jaccard", "cosine", "lift")
_RATIO_STEPS, _HALVINGS = 300, 60
# The mixture of rates: counts above this are rates by themselves.
_RATE_POINTS, _RATE_STEPS, _OFTEN = 60, 3_000, 50
_LEAST_SEEN = 0.01  # the smallest rate: so many times in the whole input
_MOST_TERMS = 1_000
# A sample of 1/150 of the benchmark's log takes 200,000 images for 540,000; 1/30 for 300,000.
_LARGE_SCALE = 50.0


@dataclass(frozen=True)
class Costs:
    """Bytes that this program takes, as measured; each within some 20 % on the logs named here.

    Memory and disk: build-graph in 2 threads (Python 3.11, Beam 2.77, pyarrow 25) on the
    benchmark's log (12 M events: 1.74 GB of memory, 1.71 GB of disk), on a quarter of it (1.15 GB,
    0.56 GB), on 100,000 sessions of 18 images (1.76 GB, 0.95 GB), on `imgembed sample` with 20,000
    and 200,000 sessions of JSONL (0.37 and 0.50 GB) and on the emoji's 900 (0.28 GB). The disk's
    are the widths of the tables between steps. Output: the files of those runs, and the same edges
    with UUIDs for ids.
    """

    # Memory: of the process, and for each thread of what it holds at a time.
    process: int = 275_000_000
    row_of_text: int = 700
    row_of_columns: int = 145
    event_in_shard: int = 100
    pair_in_chunk: int = 70
    pair_in_shard: int = 50
    edge_in_file: int = 250
    # Disk: tables between steps.
    names_of_event: int = 4
    pair_of_shard: int = 24
    image_on_disk: int = 250
    frequent_pair: int = 48
    weighed_pair: int = 2 * 64
    edge_on_disk: int = 68 + 75
    query_on_disk: int = 32 + 54
    held_out_on_disk: int = 28 + 50
    # Output: of a file, of a row, and how often a row pays for an image's id.
    file: int = 2_000
    edge: tuple[float, float] = (10.0, 1.2)
    node: tuple[float, float] = (1.0, 1.0)
    query: tuple[float, float] = (1.0, 0.8)
    held_out: tuple[float, float] = (2.5, 1.0)


COSTS = Costs()
_COLUMNAR_ROWS, _TEXT_ROWS = 1_000_000, 131_072  # of a block, as sessions.read has it


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
class Rates:
    """How often things come up, and so how many of them more input would show.

    A thing (an image, a pair) of rate r is seen Poisson(r) times in the sample, and Poisson(s r)
    times in an input s times as large. The numbers of things of each rate are those under which the
    sample's own counts are most likely: the nonparametric maximum-likelihood estimate of a mixture
    of Poissons (L. Simar, 1976; N. Laird, 1978, by EM; for unseen species J. L. Norris and K. H.
    Pollock, 1998), which answers the question of I. J. Good and G. H. Toulmin (1956) and of B.
    Efron and R. Thisted ("How many words did Shakespeare know?", 1976). Their alternating series
    diverges beyond twice the sample; a mixture does not.

    rate, number: [points] float64; number counts the unseen things too. counts: [things] int64, of
    those that were seen.
    """

    rate: np.ndarray
    number: np.ndarray
    counts: np.ndarray

    @classmethod
    def fit(cls, counts: np.ndarray, scale: float) -> Rates:
        """The rates behind the counts of a sample.

        counts: [things] int64, each above 0. scale: how many times as large the whole input is;
        what comes up much less than once in it cannot be told from nothing.
        """
        often, rare = counts[counts > _OFTEN], counts[counts <= _OFTEN]
        points, number = _mixture(rare, _LEAST_SEEN / max(scale, 1.0))
        rates, times = np.unique(often, return_counts=True)
        return cls(np.append(points, rates), np.append(number, times), counts)

    def expected(self, scale: float, *, least: int = 1) -> float:
        """How many things an input `scale` >= 1 times the sample shows at least `least` times.

        Never fewer than the sample shows, nor more than all that is seen can make up.
        """
        seen = int((self.counts >= least).sum())
        mixed = float(self.number @ _at_least(self.rate * scale, least))
        return min(max(mixed, seen), float(self.counts.sum()) * scale / least)


def _mixture(counts: np.ndarray, least_rate: float) -> tuple[np.ndarray, np.ndarray]:
    """(rates, how many things of each, seen or not) by EM over a fixed grid of rates."""
    if not len(counts):
        return np.zeros(0), np.zeros(0)
    times, things = np.unique(counts, return_counts=True)
    rate = np.geomspace(least_rate, _OFTEN + 10.0, _RATE_POINTS)
    share = _most_likely(_seen_chance(times[:, None], rate), things, _RATE_STEPS)
    return rate, share * things.sum() / -np.expm1(-rate)


def _seen_chance(times: np.ndarray, mean: np.ndarray) -> np.ndarray:
    """Chance of so many times for what is seen at all, up to a factor for each row."""
    logs = times * np.log(mean) - mean - np.log(-np.expm1(-mean))
    return np.exp(logs - logs.max(axis=1, keepdims=True))


def _most_likely(chance: np.ndarray, things: np.ndarray, steps: int) -> np.ndarray:
    """[points] float64: the shares of a mixture, by EM.

    chance: [rows, points] of what is in a row under each point; things: [rows], how many there are.
    """
    share = np.full(chance.shape[1], 1.0 / chance.shape[1])
    weight = things / things.sum()
    for _ in range(steps):
        share = share * (chance.T @ (weight / (chance @ share)))
    return share


def _at_least(mean: np.ndarray, least: int) -> np.ndarray:
    """[points] float64: the chance that a Poisson number of each mean is at least `least`."""
    below = np.zeros(len(mean))
    for chance in itertools.islice(_poisson(mean), least):
        below += chance
    return np.clip(1.0 - below, 0.0, 1.0)


def _at_most(mean: np.ndarray, limit: int) -> np.ndarray:
    """[points] float64: the expectation of min(limit, a Poisson number of each mean)."""
    if limit > _MOST_TERMS:
        return np.minimum(mean, limit)
    above, total = np.ones(len(mean)), np.zeros(len(mean))
    for chance in itertools.islice(_poisson(mean), limit):
        above = above - chance
        total += np.maximum(above, 0.0)
    return total


def _poisson(mean: np.ndarray) -> Iterator[np.ndarray]:
    """The chances of 0, 1, 2 … under each mean."""
    logs, log_mean = -mean, np.log(np.maximum(mean, 1e-300))
    for number in itertools.count(1):
        yield np.exp(logs)
        logs = logs + log_mean - np.log(number)


@dataclass
class _Run:
    """Consecutive rows of a part that are in the sample. names: NAME_SCHEMA of images."""

    log: read.Log
    part: Part
    blocks: Iterator[Block]
    rows: int = 0
    rejected: int = 0
    ended: bool = False
    events: list[pa.Table] = field(default_factory=list)
    names: list[pa.Table] = field(default_factory=list)

    def read(self, rows: int, reading: read.Reading) -> int:
        """Reads about so many rows more; returns how many there were."""
        before = self.rows
        while self.rows - before < rows:
            block = next(self.blocks, None)
            if block is None:
                self.ended = True
                break
            outcome = read.read_block((self.log, block), reading)
            self.rows += outcome.counts[read.ROWS]
            self.rejected += outcome.counts[read.ROWS_REJECTED]
            self.events += [keyed[1] for tag, keyed in outcome.outputs if tag == read.EVENTS]
            self.names += [keyed[1] for tag, keyed in outcome.outputs if tag == read.IMAGES]
        return self.rows - before


@dataclass(frozen=True)
class Sample:
    """Rows of the logs as events.

    names: NAME_SCHEMA of images, each once. rows: of the sample; total_rows: of the whole input,
    estimated unless `whole`. cut: share of the sessions that the sample holds in part.
    """

    events: pa.Table
    names: pa.Table
    rows: int
    rejected: int
    total_rows: int
    whole: bool
    cut: float

    @property
    def scale(self) -> float:
        return self.total_rows / self.rows


def take_sample(logs: read.Logs, reading: read.Reading, max_rows: int) -> Sample:
    """About `max_rows` rows in runs that are spread over the logs, or all of them."""
    quota = max(1, max_rows // _RUNS)
    runs = [
        _Run(log, part, read_blocks(part, log.columns, block_rows=quota, hide=HIDDEN))
        for log in logs.files
        for part in split_parts(log.file, rows_a_part=1)
    ]
    rows, waiting = 0, deque(_spread(runs))
    while waiting and rows < max_rows:
        run = waiting.popleft()
        rows += run.read(quota, reading)
        if not run.ended:
            waiting.append(run)
    for run in runs:
        cast(Generator, run.blocks).close()
    events = [table for run in runs for table in run.events if table.num_rows]
    if not events:
        raise ImgembedError(
            f"sessions.path: no event in {rows:,} rows, the first of {logs.files[0].file.path!r}"
        )
    return Sample(
        events=counting.gather(events),
        names=distinct([table for run in runs for table in run.names]),
        rows=rows,
        rejected=sum(run.rejected for run in runs),
        total_rows=rows if not waiting else max(rows, round(_total_rows(runs))),
        whole=not waiting,
        cut=_cut_share(runs) if waiting else 0.0,
    )


def _spread(runs: Sequence[_Run]) -> list[_Run]:
    """In the order of van der Corput: the first of them are spread evenly, however many."""
    order = sorted(range(len(runs)), key=lambda number: f"{number:032b}"[::-1])
    return [runs[number] for number in order]


def _cut_share(runs: Iterable[_Run]) -> float:
    """About the share of sessions that begin before their run of rows or end after it.

    A session that spans so much of a run is cut by its ends with that chance. Sessions that pauses
    cut are left out: nothing names them yet.
    """
    found = []
    for run in runs:
        events = counting.gather(run.events) if run.events else None
        if events is None or run.ended or "cut" in events.column_names:
            continue
        key = events["key"].to_numpy()
        order = np.argsort(key, kind="stable")
        starts = run_starts(key[order])
        ends = np.append(starts[1:], len(key)) - 1
        span = (order[ends] - order[starts])[ends > starts]
        found.append(float(span.mean()) / len(key) if len(span) else 0.0)
    return float(np.mean(found)) if found else 0.0


def _total_rows(runs: Sequence[_Run]) -> float:
    """Rows of all files: counted where the file says so, else by its bytes."""
    measured: dict[tuple[str, str], list[tuple[float, float]]] = defaultdict(list)
    total = 0.0
    unread: list[TableFile] = []
    for run in runs:
        file = run.part.file
        kind = (file.format, file.compression)
        if run.part.rows is not None:
            total += run.part.rows
        elif run.ended:
            total += run.rows
            measured[kind].append((run.rows, file.size))
        else:
            unread.append(file)
            if run.rows:
                measured[kind].append(measure_head(file))
    return total + sum(_rows_of(file, measured) for file in unread)


def _rows_of(
    file: TableFile, measured: Mapping[tuple[str, str], Sequence[tuple[float, float]]]
) -> float:
    """Rows of a file by its bytes, as files of its kind have them, else as all have."""
    alike = measured.get((file.format, file.compression)) or [
        found for kind in measured.values() for found in kind
    ]
    rows, size = map(sum, zip(*alike, strict=True)) if alike else (1, 80)
    return file.size * rows / max(size, 1)


def measure_head(file: TableFile) -> tuple[float, float]:
    """(rows, bytes of the file that hold them) of the beginning of a file that is no Parquet."""
    with storage.open_read(file.path) as source:
        packed = source.read(_HEAD_BYTES)
    content = _unpacked(packed, file.compression)
    if file.format == "avro":
        rows, used = _avro_rows(content)
    elif file.format == "tfrecord":
        rows, used = _records(content, file.path)
    else:
        rows, used = content.count(b"\n"), content.rfind(b"\n") + 1
    if not rows:
        return 1.0, float(len(packed))
    return float(rows), used * len(packed) / max(len(content), 1)


def _unpacked(packed: bytes, compression: str) -> bytes:
    """What the first bytes of a compressed file hold, as far as they go."""
    if compression == "none":
        return packed
    parts: list[bytes] = []
    if compression == "gzip":
        while packed:
            member = zlib.decompressobj(31)
            parts.append(member.decompress(packed))
            packed = member.unused_data
        return b"".join(parts)
    stream = pa.CompressedInputStream(pa.BufferReader(packed), "zstd")
    try:
        while part := stream.read(1 << 12):  # of the last one nothing comes
            parts.append(part)
    except OSError:  # it is cut short, as we cut it
        pass
    return b"".join(parts)


def _records(content: bytes, path: str) -> tuple[int, int]:
    rows = used = 0
    try:
        for record in read_records(cast(Any, pa.BufferReader(content)), path):
            rows, used = rows + 1, used + len(record) + 16
    except ImgembedError:  # the last one is cut short
        pass
    return rows, used


def _avro_rows(content: bytes) -> tuple[int, int]:
    rows = used = 0
    try:
        for block in fastavro.block_reader(cast(Any, pa.BufferReader(content))):
            rows, used = rows + block.num_records, block.offset + block.size
    except Exception:  # of a file that is cut short fastavro raises whatever it meets
        return rows, used
    return rows, used


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
    max_rows: int = MAX_ROWS,
) -> Plan:
    """What `job.build_graph` would make of the logs; reads about `max_rows` of their rows."""
    check_settings(logs, settings)
    layout = layout_of(logs, shards, threads)
    reading = read.Reading(
        user_key=b"plan",  # nothing of what is read here is written
        seed=settings.seed,
        items_separator=settings.sessions.items_separator,
        actions=settings.sessions.actions,
        shards=1,
        hash_bounds=np.zeros(0, np.uint64),
    )
    sample = take_sample(logs, reading, max_rows)
    found = count_sample(sample, settings)
    growth = Rates.fit(found.pairs.sessions, sample.scale)
    counts = _counts(sample, found, growth, settings)
    return Plan(
        exact=sample.whole and settings.privacy.epsilon is None,
        sampled_rows=sample.rows,
        input_bytes=logs.bytes,
        counts=counts,
        output_bytes=_output(counts, _id_bytes(sample.names), layout.files),
        memory_bytes=_memory(logs, counts, growth, layout, sample),
        disk_bytes=_disk(counts, growth, layout, sample),
        shards=layout.shards,
        files=layout.files,
        threads=threads,
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
    ratio = np.geomspace(0.01, 2.0 * float((times / expected).max()) + 1.0, _RATE_POINTS)
    mean = expected[:, None] * ratio
    chance = _seen_chance(times[:, None], mean)
    chance = chance * _most_likely(chance, things, _RATIO_STEPS)
    chance *= (things / chance.sum(axis=1))[:, None]  # seen pairs of each row and ratio
    pairs = chance / -np.expm1(-mean)  # seen or not
    wanted = np.maximum(least, _least_kept(expected * scale, graph))
    kept = float((pairs * _gamma_below(mean * scale, wanted[:, None])).sum())
    return min(1.0, kept / float((pairs * _gamma_below(mean * scale, np.array(least))).sum()))


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


def _gamma_below(mean: np.ndarray, least: np.ndarray) -> np.ndarray:
    """About the chance that a Poisson number of each mean is at least `least` >= 1.

    It is that of a gamma variable of shape `least` below the mean, by E. B. Wilson and M. M.
    Hilferty's cube root (1931); absolute error below 0.02.
    """
    root = np.cbrt(mean / least) - 1.0 + 1.0 / (9.0 * least)
    return (1.0 + _erf(3.0 * np.sqrt(least) * root / np.sqrt(2.0))) / 2.0


_erf = np.vectorize(math.erf, otypes=[np.float64])


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
        degree = np.minimum(degree, _at_most(degree, graph.max_degree))
    kept = float(number @ _at_most(degree, graph.top_k))
    kept = min(kept, 2.0 * weighed)
    if graph.symmetry == "directed":
        return kept
    # An edge is kept by an end with chance q; the two ends agree more often than by chance.
    chance = kept / (2.0 * weighed)
    mutual = 2.0 * weighed * chance**1.5
    return mutual if graph.symmetry == "mutual" else 2.0 * kept - mutual


def _id_bytes(names: pa.Table) -> float:
    """What an image's id takes compressed among others in no order."""
    joined = b"".join(text.encode() for text in names["text"].to_pylist()[:100_000])
    return len(pa.compress(joined, "zstd", asbytes=True)) / max(min(names.num_rows, 100_000), 1)


def _output(counts: Mapping[str, int], id_bytes: float, files: int) -> dict[str, int]:
    rows = {
        "edges": (counts["edges"], COSTS.edge),
        "nodes": (counts["images"], COSTS.node),
        "queries": (counts["query_rows"], COSTS.query),
        "holdout": (counts["held_out_rows"], COSTS.held_out),
    }
    return {
        name: round(files * COSTS.file + number * (own + ids * id_bytes))
        for name, (number, (own, ids)) in rows.items()
    }


def _memory(
    logs: read.Logs,
    counts: Mapping[str, int],
    growth: Rates,
    layout: counting.Layout,
    sample: Sample,
) -> int:
    """Of the embedded runner at its peak: what each thread reads and counts, and a file of edges.

    What one step gives back another one takes, but never all of it: the parts add up.
    """
    columnar = any(log.file.format == "parquet" for log in logs.files)
    block_rows, row = (
        (_COLUMNAR_ROWS, COSTS.row_of_columns) if columnar else (_TEXT_ROWS, COSTS.row_of_text)
    )
    reading = min(counts["rows"], layout.threads * block_rows) * row
    pairs = counts["co_occurrences"] / layout.shards
    shard = counts["events"] / layout.shards * COSTS.event_in_shard
    shard += min(pairs, count.CHUNK_PAIRS) * COSTS.pair_in_chunk
    if pairs > count.CHUNK_PAIRS:
        shard += _pairs_of_shard(counts, growth, layout, sample) * COSTS.pair_in_shard
    edges = counts["edges"] / layout.files * COSTS.edge_in_file
    at_once = min(layout.threads, layout.shards)
    return round(COSTS.process + reading + at_once * shard + edges)


def _pairs_of_shard(
    counts: Mapping[str, int], growth: Rates, layout: counting.Layout, sample: Sample
) -> float:
    """Distinct pairs of one shard of sessions."""
    scale = sample.scale / layout.shards
    if scale >= 1:
        return min(growth.expected(scale), float(counts["pairs"]))
    return min(counts["co_occurrences"] / layout.shards, float(counts["pairs"]))


def _disk(counts: Mapping[str, int], growth: Rates, layout: counting.Layout, sample: Sample) -> int:
    """Of the tables between steps, which stay until the job is done."""
    event = sample.events.nbytes / max(sample.events.num_rows, 1)
    return round(
        counts["events"] * (event + COSTS.names_of_event)
        + layout.shards * _pairs_of_shard(counts, growth, layout, sample) * COSTS.pair_of_shard
        + counts["images"] * COSTS.image_on_disk
        + counts["pairs_of_min_users"] * COSTS.frequent_pair
        + counts["pairs_weighed"] * COSTS.weighed_pair
        + counts["edges"] * COSTS.edge_on_disk
        + counts["query_rows"] * COSTS.query_on_disk
        + counts["held_out_rows"] * COSTS.held_out_on_disk
    )


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


def plan_edges(config: EdgesConfig) -> tuple[int, int, bool]:
    """(rows, bytes, whether the rows are exact) of a ready edge list."""
    files = [found.file for found in find_edge_list(config)]
    parts = [part for file in files for part in split_parts(file)]
    known = sum(part.rows for part in parts if part.rows is not None)
    others = [part.file for part in parts if part.rows is None]
    measured: dict[tuple[str, str], list[tuple[float, float]]] = defaultdict(list)
    for file in others[:_RUNS]:
        measured[file.format, file.compression].append(measure_head(file))
    return (
        known + round(sum(_rows_of(file, measured) for file in others)),
        sum(file.size for file in files),
        not others,
    )
