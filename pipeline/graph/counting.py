"""From events to counts of one population: the Beam steps of the first half of the graph.

A shard of sessions is cut into sessions and counted in one go, in numpy; what leaves it are counts,
as tables for the shards of pairs, images and queries, where they are added up.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from dataclasses import dataclass

import apache_beam as beam
import numpy as np
import pyarrow as pa

from pipeline import progress
from pipeline.columnar import Joined, Keyed
from pipeline.config import GraphConfig, HoldoutConfig, PrivacyConfig, SessionsConfig
from pipeline.graph import count, holdout, shares
from pipeline.graph.images import IMAGE_COUNTS
from pipeline.graph.names import split_by, split_sorted
from pipeline.graph.queries import count_queries, count_query_users
from pipeline.graph.strength import session_factors
from pipeline.parallel import InThreads, Outcome
from pipeline.parcels import Shipped
from pipeline.sessions.lengths import count_lengths
from pipeline.sessions.sessionize import Sessions, Starts, Visits, sessionize

NAMESPACE = "graph"
PAIRS, IMAGES, POPULATION = "pairs", "images", "population"
QUERIES, QUERY_USERS, HELD_OUT = "queries", "query_users", "held_out"
NEWEST, EVENTS = "newest", "events"
SESSIONS, SESSIONS_HELD_OUT = "sessions_in_graph", "sessions_held_out"
SESSIONS_ACROSS = "sessions_across_the_cut"


@dataclass(frozen=True)
class Layout:
    """Into how many parts the work is cut; no result depends on it.

    shards: of sessions, pairs, images and queries each. files: of each output. threads: at work at
    once in one process.
    """

    shards: int
    files: int
    threads: int

    @property
    def pair_bounds(self) -> np.ndarray:
        return shares.pair_bounds(self.shards)

    @property
    def hash_bounds(self) -> np.ndarray:
        return shares.image_bounds(self.shards)

    @property
    def file_bounds(self) -> np.ndarray:
        return shares.image_bounds(self.files)


@dataclass(frozen=True)
class Counting:
    """The settings that counting depends on."""

    sessions: SessionsConfig
    holdout: HoldoutConfig
    graph: GraphConfig
    privacy: PrivacyConfig
    seed: int
    counted_until: int | None = None  # the newest event of the counts that these are added to

    @property
    def starts(self) -> Starts:
        """Whether counting looks at the start of each session."""
        if self.need_clock:
            return "needed"
        return "unknown" if self.counted_until is None else "wanted"

    @property
    def need_clock(self) -> bool:
        """Whether a shard must know of all others before it is counted."""
        by_time = self.holdout.by == "time" and self.holdout.fraction > 0
        return by_time or self.graph.half_life_days is not None


def gather(parts: Iterable[pa.Table]) -> pa.Table:
    """One table of events; columns that some logs lack are null there."""
    return pa.concat_tables(list(parts), promote_options="default").combine_chunks()


@dataclass
class ReadClock(beam.PTransform):
    """When the sessions begin, over all shards.

    Input: (shard, {EVENTS: tables of EVENT_SCHEMA}). Output: one holdout.Clock.
    """

    counting: Counting

    def expand(self, events: beam.PCollection[Joined]) -> beam.PCollection[holdout.Clock]:
        return (
            events
            | "ClockOfShard" >> beam.Map(self._clock)
            | "AddClocks" >> beam.CombineGlobally(holdout.add_clocks)
        )

    def _clock(self, element: Joined) -> holdout.Clock:
        _, group = element
        config, seed = self.counting.sessions, self.counting.seed
        sessions, _, _ = sessionize(gather(group[EVENTS]), config, seed=seed, starts="needed")
        return holdout.clock_of(sessions)


@dataclass
class CountSessions(beam.PTransform):
    """Events of sessions to counts.

    Input: (shard, {EVENTS: tables of EVENT_SCHEMA}). Output: {PAIRS: (shard of pairs, table),
    IMAGES: (shard, IMAGE_COUNTS), QUERIES: (shard, queries.QUERY_COUNTS), QUERY_USERS: (shard,
    queries.QUERY_USER_COUNTS), HELD_OUT: (shard of images, holdout.HELD_OUT_SCHEMA), POPULATION:
    int, NEWEST: (0, a table of one number)}. Counters: the fields of SessionCounts; SESSIONS,
    SESSIONS_HELD_OUT, SESSIONS_ACROSS; those of count_lengths.
    """

    counting: Counting
    layout: Layout
    clock: beam.pvalue.AsSingleton | None

    def expand(self, events: beam.PCollection[Joined]) -> dict[str, beam.PCollection]:
        tables = dict.fromkeys((PAIRS, IMAGES, QUERIES, QUERY_USERS, HELD_OUT), Shipped)
        return events | "CountShard" >> InThreads(
            self._count,
            {**tables, POPULATION: int, NEWEST: Keyed},
            self.layout.threads,
            NAMESPACE,
            side=self.clock,
        )

    def _count(self, element: Joined, clock: holdout.Clock | None = None) -> Outcome:
        _, group = element
        return count_shard(gather(group[EVENTS]), self.counting, self.layout, clock)


def count_shard(
    events: pa.Table, counting: Counting, layout: Layout, clock: holdout.Clock | None
) -> Outcome:
    """All that one shard's events give, as the outputs of CountSessions."""
    sessions, visits, counts = sessionize(
        events, counting.sessions, seed=counting.seed, starts=counting.starts
    )
    bound = holdout.cutoff(clock, counting.holdout.fraction) if clock else float("inf")
    apart = holdout.held_out(sessions, counting.holdout, bound)
    kept, kept_visits = sessions.of_sessions(~apart), visits.of_sessions(~apart)
    outcome = Outcome(
        counts={
            **dataclasses.asdict(counts),
            **count_lengths(np.bincount(visits.session, minlength=len(sessions.draw))),
            SESSIONS: len(kept.draw),
            SESSIONS_HELD_OUT: int(apart.sum()),
            SESSIONS_ACROSS: _across(sessions, counting),
        }
    )
    newest = holdout.latest(clock.newest, counting.counted_until) if clock else None
    users = count.Users.of(kept)
    asked = count_queries(kept, users, counting.privacy, counting.seed)
    rows = holdout.held_out_rows(sessions.of_sessions(apart), counting.seed)
    for tag, tables in (
        (PAIRS, _pairs(kept, kept_visits, users, counting, layout, newest)),
        (IMAGES, _images(kept, kept_visits, users, counting, layout)),
        (QUERIES, split_sorted(asked, "query", layout.hash_bounds)),
        (QUERY_USERS, split_sorted(count_query_users(kept, users), "query", layout.hash_bounds)),
        (HELD_OUT, split_by(rows, "image", layout.hash_bounds)),
    ):
        outcome.outputs += [(tag, keyed) for keyed in tables]
    outcome.outputs.append((POPULATION, _population(kept, counting)))
    if sessions.time is not None and len(sessions.time):
        newest_here = pa.table([pa.array([int(sessions.time.max())])], ["newest"])
        outcome.outputs.append((NEWEST, (0, newest_here)))
    progress.add("sessions", len(sessions.draw))
    return outcome


def _pairs(
    sessions: Sessions,
    visits: Visits,
    users: count.Users,
    counting: Counting,
    layout: Layout,
    newest: int | None,
) -> Iterable[Keyed]:
    images = np.bincount(visits.session, minlength=len(sessions.draw))
    private = counting.privacy.epsilon is not None
    counts = count.count_pairs(
        visits,
        images=sessions.images,
        users=users,
        factors=session_factors(counting.graph, images=images, start=sessions.start, newest=newest),
        max_pairs_per_user=(counting.privacy.max_pairs_per_user, counting.seed)
        if private
        else None,
    )
    return shares.to_tables(counts, layout.pair_bounds)


def _images(
    sessions: Sessions,
    visits: Visits,
    users: count.Users,
    counting: Counting,
    layout: Layout,
) -> Iterable[Keyed]:
    if counting.privacy.epsilon is None:
        hashes, held = count.count_images(visits, sessions.images)
    else:
        limit = counting.privacy.max_pairs_per_user
        hashes, held = count.count_images_by_user(
            visits, sessions.images, users, limit=limit, seed=counting.seed
        )
    table = pa.table([pa.array(hashes), pa.array(held)], schema=IMAGE_COUNTS)
    return split_sorted(table, "image", layout.hash_bounds)


def _across(sessions: Sessions, counting: Counting) -> int:
    """Sessions that may have begun before the cut, in logs that were counted already."""
    if counting.counted_until is None or sessions.start is None:
        return 0
    gap = counting.sessions.gap_minutes * 60e6
    return int((sessions.start <= counting.counted_until + gap).sum())


def _population(sessions: Sessions, counting: Counting) -> int:
    """N: sessions, or users where counts are private."""
    if counting.privacy.epsilon is None:
        return len(sessions.draw)
    return len(np.unique(sessions.user[sessions.user != 0]))
