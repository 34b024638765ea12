"""Counts of images, pairs, queries and held-out sessions against plain dictionaries."""

import itertools
import math
import random
from collections import Counter, defaultdict

import apache_beam as beam
import numpy as np
import pyarrow as pa
import pytest
from apache_beam.testing.util import assert_that
from hypothesis import example, given, settings
from hypothesis import strategies as st

from pipeline import schema
from pipeline.config import GraphConfig, HoldoutConfig, PrivacyConfig, RunnerConfig
from pipeline.errors import ImgembedError
from pipeline.graph import clicks, count, holdout, names, queries, shares, strength
from pipeline.graph.count import Users, count_images, count_images_by_user, count_pairs
from pipeline.graph.counting import Layout
from pipeline.graph.edges import counts_table
from pipeline.graph.images import IMAGE_COUNTS, IMAGE_SCHEMA, join, merge_images
from pipeline.ids import NAME_SCHEMA
from pipeline.parcels import TableCoder
from pipeline.runner import make_pipeline
from pipeline.sessions.sessionize import Sessions, Visits, visits_of

UNIT = strength.UNIT
DAY = 86_400_000_000
TOP = 2**64 - 1


def sessions_of(plain, *, time=None):
    """Sessions and visits of a list of dicts: user, images as {hash: weight}, queries, start."""
    images = np.unique(np.array([image for one in plain for image in one["images"]], np.uint64))
    events = [
        (number, image, weight, query)
        for number, one in enumerate(plain)
        for image, weight in one["images"].items()
        for query in one.get("queries", {}).get(image, (None,))
    ]
    number, image, weight, query = zip(*events, strict=True) if events else ((),) * 4
    sessions = Sessions(
        user=np.array([one["user"] for one in plain], np.uint64),
        draw=np.array([one.get("draw", row) for row, one in enumerate(plain)], np.uint64),
        start=np.array([one.get("start", 0) for one in plain], np.int64),
        session=np.array(number, np.int64),
        image=np.searchsorted(images, np.array(image, np.uint64)),
        images=images,
        time=None if time is None else np.array(time, np.int64),
        order=None,
        query=np.array([query or 0 for query in query], np.uint64),
        asked=np.array([query is not None for query in query], bool),
        weight=np.array(weight, np.float64),
    )
    return sessions, visits_of(sessions)


def pairs_of(plain, *, factors=None, weighted=True, **options):
    """count_pairs of plain sessions."""
    sessions, visits = sessions_of(plain)
    if not weighted:
        visits = Visits(visits.session, visits.image, None)
    factors = None if factors is None else np.array(factors, np.float64)
    return count_pairs(
        visits, images=sessions.images, users=Users.of(sessions), factors=factors, **options
    )


def as_dict(counts):
    """{(low, high): (sessions, users, strength)} of hashes; checks what PairCounts promises."""
    pairs = list(zip(counts.low.tolist(), counts.high.tolist(), strict=True))
    assert pairs == sorted(set(pairs))
    assert all(low < high for low, high in pairs)
    assert (np.diff(counts.images.astype(object)) > 0).all()
    images = counts.images.tolist()
    columns = (counts.sessions, counts.users, shares.strength_of(counts))
    return {
        (images[low], images[high]): row
        for (low, high), row in zip(
            pairs, zip(*(column.tolist() for column in columns), strict=True), strict=True
        )
    }


def reference_pairs(plain, factors=None):
    """The same by a dictionary."""
    found = defaultdict(lambda: [0, set(), 0])
    for one, factor in zip(plain, factors or [1.0] * len(plain), strict=True):
        for low, high in itertools.combinations(sorted(one["images"]), 2):
            cell = found[low, high]
            cell[0] += 1
            cell[1] |= {one["user"]} - {0}
            cell[2] += round(one["images"][low] * one["images"][high] * factor * UNIT)
    return {pair: (n, len(users), units) for pair, (n, users, units) in found.items()}


hashes = st.sampled_from((0, 1, 2, 2**32, 2**63 - 1, 2**63, TOP - 1, TOP))
a_session = st.fixed_dictionaries(
    {
        "user": st.sampled_from((0, 0, 1, 5, 2**63, TOP)),
        "images": st.dictionaries(hashes, st.sampled_from((1.0, 3.0, 0.5)), min_size=1),
    }
)
a_factor = st.sampled_from((1.0, 1 / 3, 2**-10, 1e-9))


# Pairs.


@settings(deadline=None)
@given(plain=st.lists(a_session, max_size=25), chunk=st.integers(1, 40), slow=st.booleans())
def test_pairs_are_those_of_a_dictionary_whatever_the_chunks(plain, chunk, slow):
    unweighted = [{**one, "images": dict.fromkeys(one["images"], 1.0)} for one in plain]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(count, "CHUNK_PAIRS", chunk)
        if slow:
            patch.setattr(count, "_WORD_BITS", 1)
        found = pairs_of(unweighted, weighted=False)
        assert as_dict(found) == reference_pairs(unweighted)
        assert found.strength is None
        assert as_dict(pairs_of(plain)) == reference_pairs(plain)


@settings(deadline=None)
@given(
    plain=st.lists(st.tuples(a_session, a_factor), max_size=25),
    chunk=st.integers(1, 40),
    weighted=st.booleans(),
)
def test_strength_is_the_sum_of_what_each_session_adds(plain, chunk, weighted):
    plain, factors = [one for one, _ in plain], [factor for _, factor in plain]
    if not weighted:
        plain = [{**one, "images": dict.fromkeys(one["images"], 1.0)} for one in plain]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(count, "CHUNK_PAIRS", chunk)
        found = pairs_of(plain, factors=factors, weighted=weighted)
    assert as_dict(found) == reference_pairs(plain, factors)
    for pair, (sessions, _, units) in as_dict(found).items():
        exact = math.fsum(
            one["images"][pair[0]] * one["images"][pair[1]] * factor
            for one, factor in zip(plain, factors, strict=True)
            if one["images"].keys() >= set(pair)
        )
        assert abs(units / UNIT - exact) <= sessions * 0.51 / UNIT


@settings(deadline=None)
@given(
    plain=st.lists(st.tuples(a_session, a_factor), max_size=20),
    parts=st.integers(1, 4),
    shuffle=st.randoms(use_true_random=False),
)
def test_sums_are_the_same_for_any_order_and_any_split_of_the_sessions(plain, parts, shuffle):
    whole = as_dict(pairs_of([one for one, _ in plain], factors=[factor for _, factor in plain]))
    shuffled = shuffle.sample(plain, len(plain))
    split = defaultdict(list)
    for one, factor in shuffled:
        # All sessions of a user are in one shard, those of nobody anywhere.
        split[(one["user"] or shuffle.randrange(99)) % parts].append((one, factor))
    counted = [
        pairs_of([one for one, _ in part], factors=[factor for _, factor in part])
        for part in split.values()
    ]
    assert as_dict(shares.combine(counted)) == whole


def test_one_giant_session_among_small_ones_has_all_its_pairs(monkeypatch):
    monkeypatch.setattr(count, "CHUNK_PAIRS", 1000)
    giant = {"user": 7, "images": dict.fromkeys(range(10, 160), 1.0)}
    small = {"user": 7, "images": {10: 1.0, 11: 1.0}}
    found = as_dict(pairs_of([small, giant, small]))
    assert len(found) == 150 * 149 // 2
    assert found.pop((10, 11)) == (3, 1, 3 * UNIT)
    assert set(found.values()) == {(1, 1, UNIT)}


def test_no_session_and_sessions_of_one_image_make_no_pair():
    for plain in ([], [{"user": 1, "images": {5: 1.0}}] * 3):
        assert as_dict(pairs_of(plain)) == {}
        assert as_dict(pairs_of(plain, factors=[0.5] * len(plain))) == {}
        assert list(shares.to_tables(pairs_of(plain), shares.pair_bounds(4))) == []


def test_many_images_and_users_are_counted_where_their_bits_do_not_fit_into_one_word():
    draw = random.Random(0)
    plain = [
        {"user": draw.getrandbits(64), "images": dict.fromkeys(draw.sample(range(3000), 4), 1.0)}
        for _ in range(600)
    ]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(count, "_WORD_BITS", 30)  # 24 bits of a pair, 10 of a user
        found = as_dict(pairs_of(plain, weighted=False))
    assert found == reference_pairs(plain)


def test_an_image_is_counted_once_a_session_and_unheld_images_not_at_all():
    plain = [{"user": 1, "images": {3: 1.0, 4: 1.0}}, {"user": 0, "images": {4: 1.0}}]
    sessions, visits = sessions_of(plain)
    images, counts = count_images(visits, sessions.images)
    assert dict(zip(images.tolist(), counts.tolist(), strict=True)) == {3: 1, 4: 2}
    images, counts = count_images(visits.of_sessions(np.array([False, True])), sessions.images)
    assert dict(zip(images.tolist(), counts.tolist(), strict=True)) == {4: 1}


# Bounded contributions.


@settings(deadline=None)
@given(
    plain=st.lists(a_session, max_size=25),
    limit=st.integers(1, 6),
    seed=st.integers(0, 2),
    shuffle=st.randoms(use_true_random=False),
)
def test_a_user_adds_one_to_a_limited_number_of_pairs_and_nobody_to_none(
    plain, limit, seed, shuffle
):
    found = as_dict(pairs_of(plain, weighted=False, max_pairs_per_user=(limit, seed)))
    of_users = defaultdict(set)
    for one in plain:
        of_users[one["user"]] |= set(itertools.combinations(sorted(one["images"]), 2))
    unknown = of_users.pop(0, set())
    holders = Counter(pair for pairs in of_users.values() for pair in pairs)
    assert sum(n for n, *_ in found.values()) == sum(min(limit, len(p)) for p in of_users.values())
    for pair, (sessions, users, _) in found.items():
        assert 1 <= sessions == users <= holders[pair]
    assert not (unknown - set(holders)) & set(found)
    for user, pairs in of_users.items():  # what a user adds does not depend on the others
        alone = [one for one in plain if one["user"] == user]
        mine = as_dict(pairs_of(alone, weighted=False, max_pairs_per_user=(limit, seed)))
        assert len(mine) == min(limit, len(pairs))
        assert set(mine) <= pairs & set(found)
    shuffled = shuffle.sample(plain, len(plain))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(count, "CHUNK_PAIRS", 3)
        again = pairs_of(shuffled, weighted=False, max_pairs_per_user=(limit, seed))
    assert as_dict(again) == found


@settings(deadline=None)
@given(plain=st.lists(a_session, min_size=1, max_size=25), limit=st.integers(1, 8))
def test_a_user_adds_one_to_a_limited_number_of_images(plain, limit):
    sessions, visits = sessions_of(plain)
    users = Users.of(sessions)
    images, counts = count_images_by_user(visits, sessions.images, users, limit=limit, seed=1)
    of_users = defaultdict(set)
    for one in plain:
        of_users[one["user"]] |= set(one["images"])
    of_users.pop(0, None)
    holders = Counter(image for held in of_users.values() for image in held)
    found = dict(zip(images.tolist(), counts.tolist(), strict=True))
    assert sum(found.values()) == sum(min(limit, len(held)) for held in of_users.values())
    assert all(0 < number <= holders[image] for image, number in found.items())
    if limit == 8:
        assert found == holders


# Shares: from shards of sessions to shards of pairs.


@settings(deadline=None)
@given(
    plain=st.lists(st.tuples(a_session, a_factor), max_size=25),
    session_shards=st.integers(1, 4),
    pair_shards=st.integers(1, 9),
    weighted=st.booleans(),
)
def test_counts_through_any_number_of_shards_are_those_of_one(
    plain, session_shards, pair_shards, weighted
):
    bounds = shares.pair_bounds(pair_shards)
    split, arrived, whole = defaultdict(list), defaultdict(list), reference_pairs
    for number, (one, factor) in enumerate(plain):
        split[(one["user"] or number) % session_shards].append((one, factor))
    coder = TableCoder()
    for part in split.values():
        factors = [factor for _, factor in part] if weighted else None
        counts = pairs_of([one for one, _ in part], factors=factors, weighted=weighted)
        for shard, table in shares.to_tables(counts, bounds):
            arrived[shard].append(coder.decode(coder.encode(table)))
    found = {}
    for shard, tables in arrived.items():
        merged = shares.merge(tables)
        low = merged.images[merged.low]
        assert (shares.shard_of(low, bounds) == shard).all()
        found |= as_dict(merged)
    sessions = [
        one if weighted else {**one, "images": dict.fromkeys(one["images"], 1.0)}
        for one, _ in plain
    ]
    assert found == whole(sessions, [factor if weighted else 1.0 for _, factor in plain])


@settings(deadline=None)
@given(old=st.lists(a_session, max_size=15), new=st.lists(a_session, max_size=15))
def test_earlier_counts_are_added_and_their_users_are_a_lower_bound(old, new):
    before, now = pairs_of(old), pairs_of(new)
    (kept,) = [shares.merge([counts_table(before)])]
    assert as_dict(kept) == as_dict(before)
    found = as_dict(shares.combine([now, kept], users=np.maximum))
    either = reference_pairs([*old, *new])
    assert found.keys() == either.keys()
    nothing = (0, 0, 0)
    for pair, (sessions, users, units) in found.items():
        parts = [reference_pairs(part).get(pair, nothing) for part in (old, new)]
        assert users == max(part[1] for part in parts) <= either[pair][1]
        assert (sessions, units) == (either[pair][0], either[pair][2])


def test_sums_beyond_32_bits_are_exact():
    images = np.array([3, 9], np.uint64)
    one = np.array([1])
    large = count.PairCounts(
        images, one * 0, one, one * (2**40 + 1), one * 2**33, one * (2**60 + 1)
    )
    for part in (
        large,
        shares.merge([table for _, table in shares.to_tables(large, shares.pair_bounds(1))]),
    ):
        found = as_dict(shares.combine([part, part, part]))
        assert found == {(3, 9): (3 * (2**40 + 1), 3 * 2**33, 3 * (2**60 + 1))}


def test_merging_nothing_gives_nothing():
    assert as_dict(shares.merge([])) == {}
    assert as_dict(shares.combine([pairs_of([]), pairs_of([])])) == {}
    empty = schema.PAIR_COUNT_SCHEMA.empty_table()
    assert as_dict(shares.merge([empty, empty])) == {}


def test_some_of_the_pairs_are_kept_with_all_their_counts():
    counts = pairs_of([{"user": 1, "images": {1: 1.0, 2: 3.0, 3: 0.5}}] * 2)
    rows = np.array([True, False, True])
    expected = {pair: row for pair, row in as_dict(counts).items() if pair != (1, 3)}
    assert as_dict(shares.keep(counts, rows)) == expected


@pytest.mark.parametrize("make", [shares.pair_bounds, shares.image_bounds])
@pytest.mark.parametrize("files", [1, 2, 3, 7, 16])
def test_shards_that_are_a_multiple_of_files_never_cross_a_file(make, files):
    for times in (1, 2, 3, 5, 12):
        few, many = make(files), make(files * times)
        assert len(many) == files * times - 1
        assert np.isin(few, many).all()
        assert many[times - 1 :: times].tolist() == few.tolist()
        assert (np.diff(many.astype(object)) > 0).all()


def test_shards_of_pairs_and_of_images_have_equal_parts():
    random_hashes = np.random.default_rng(0).integers(0, 2**64, (2, 200_000), np.uint64)
    of_pairs = shares.shard_of(random_hashes.min(axis=0), shares.pair_bounds(16))
    of_images = shares.shard_of(random_hashes[0], shares.image_bounds(16))
    for shard in (of_pairs, of_images):
        parts = np.bincount(shard, minlength=16)
        assert len(parts) == 16
        # 12,500 each, with a standard deviation of 108.
        assert abs(parts - 12_500).max() < 550


def test_a_hash_at_a_bound_belongs_to_the_shard_that_begins_there():
    bounds = shares.pair_bounds(5)
    assert shares.shard_of(bounds, bounds).tolist() == [1, 2, 3, 4]
    assert shares.shard_of(bounds - np.uint64(1), bounds).tolist() == [0, 1, 2, 3]
    plain = [
        {"user": 1, "images": {int(low): 1.0, TOP: 1.0}}
        for bound in bounds
        for low in (bound - np.uint64(1), bound)
    ]
    found = {
        shard: as_dict(shares.merge([table]))
        for shard, table in shares.to_tables(pairs_of(plain), bounds)
    }
    assert set(found) == {0, 1, 2, 3, 4}
    assert found[1].keys() == {(int(bounds[0]), TOP), (int(bounds[1]) - 1, TOP)}


# Strength.


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("size", [1.0, 1.0, 1 / 2, 1 / 49]),  # 1/(n-1)
        ("log", [1.0, 1.0, 1 / math.log2(3), 1 / math.log2(50)]),
    ],
)
def test_a_discount_falls_with_the_images_of_a_session(name, expected):
    images = np.array([1, 2, 3, 50])
    assert strength.discounts(name, images) == pytest.approx(expected, rel=1e-15)
    assert strength.discounts("none", images) is None


def test_a_session_adds_half_as_much_for_each_half_life_of_age():
    config = GraphConfig(half_life_days=10, discount="size")
    ages = np.array([0, 10, 20, 5, 3650])
    factors = strength.session_factors(
        config, images=np.array([2, 2, 2, 3, 2]), start=100 * DAY - ages * DAY, newest=100 * DAY
    )
    expected = [1.0, 0.5, 0.25, 0.5 * 2**-0.5, 2.0**-365]
    assert factors == pytest.approx(expected, rel=1e-14)
    only_decay = strength.session_factors(
        GraphConfig(half_life_days=10), images=np.array([9]), start=np.array([0]), newest=10 * DAY
    )
    assert only_decay.tolist() == [0.5]
    assert strength.session_factors(GraphConfig(), images=ages, start=None, newest=None) is None


@given(units=st.lists(st.integers(0, 2**52), max_size=5), halves=st.integers(0, 60))
def test_earlier_strength_is_halved_for_each_half_life_since(units, halves):
    units = np.array(units, np.int64)
    found = strength.decayed(units, days=halves * 3.5, half_life_days=3.5)
    assert found.dtype == np.int64
    assert found.tolist() == [round(value / 2**halves) for value in units.tolist()]
    assert strength.decayed(units, days=9.0, half_life_days=None) is units


def test_what_a_session_adds_is_rounded_to_a_unit():
    left, right = np.array([1.0, 3.0, 0.5, 0.5]), np.array([1.0, 0.5, 0.5, 0.5])
    factor = np.array([1.0, 1 / 3, 5.6 / UNIT, 1.6 / UNIT])
    # 1, 1/2, and 1.4 and 0.4 units.
    assert strength.pair_units(left, right, factor).tolist() == [UNIT, UNIT // 2, 1, 0]


@pytest.mark.parametrize("weight", [1e-2, 1.0, 1e2])
def test_strength_is_close_to_the_products_of_the_weights(weight):
    found = pairs_of([{"user": 1, "images": {1: weight, 2: weight}}] * 3)
    assert found.strength[0] / UNIT == pytest.approx(3 * weight**2, rel=1e-6, abs=2 / UNIT)


# Held-out sessions.


def test_by_hash_the_share_that_is_held_out_is_the_fraction():
    draws = np.random.default_rng(0).integers(0, 2**64, 100_000, np.uint64)
    sessions, _ = sessions_of([{"user": 1, "images": {1: 1.0}, "draw": draw} for draw in draws])
    before = np.zeros(len(draws), bool)
    for fraction in (0.0, 0.01, 0.1, 0.5, 1.0):
        held = holdout.held_out(sessions, HoldoutConfig(fraction=fraction), math.inf)
        assert abs(held.mean() - fraction) < 0.01 * math.sqrt(fraction) + 1e-9
        assert held[before].all()  # a larger fraction holds out the same ones and more
        before = held


a_clock = st.lists(st.integers(-3_000_000, 3_000_000), max_size=12)


def clock_of(starts, newest=0):
    plain = [{"user": 1, "images": {1: 1.0}, "start": start} for start in starts]
    sessions, _ = sessions_of(plain, time=[start + newest for start in starts])
    return holdout.clock_of(sessions)


def clock_dict(clock):
    assert (np.diff(clock.seconds) > 0).all()
    return dict(zip(clock.seconds.tolist(), clock.sessions.tolist(), strict=True)), clock.newest


@given(parts=st.lists(a_clock, max_size=5), cut=st.integers(0, 5))
def test_clocks_add_up_in_any_grouping(parts, cut):
    clocks = [clock_of(starts, newest=17) for starts in parts]
    starts = [start for part in parts for start in part]
    expected = (
        dict(Counter(start // 1_000_000 for start in starts)),
        max(starts) + 17 if starts else None,
    )
    left, right = holdout.add_clocks(clocks[:cut]), holdout.add_clocks(clocks[cut:])
    assert clock_dict(holdout.add_clocks(clocks)) == expected
    assert clock_dict(holdout.add_clocks(reversed(clocks))) == expected
    assert clock_dict(holdout.add_clocks([left, right])) == expected


@given(
    starts=st.lists(st.integers(-3_000_000, 3_000_000), min_size=1, max_size=12),
    percent=st.integers(0, 100),
)
@example(starts=[0, 1_000_000, 2_000_000], percent=50)
def test_by_time_the_latest_sessions_are_held_out_whole_seconds_and_never_more(starts, percent):
    bound = holdout.cutoff(clock_of(starts), percent / 100)
    plain = [{"user": 1, "images": {1: 1.0}, "start": start} for start in starts]
    sessions, _ = sessions_of(plain)
    held = holdout.held_out(sessions, HoldoutConfig(by="time", fraction=percent / 100), bound)
    later = {start // 1_000_000 for start, out in zip(starts, held, strict=True) if out}
    kept = {start // 1_000_000 for start, out in zip(starts, held, strict=True) if not out}
    assert not later & kept
    assert not later or not kept or min(later) > max(kept)
    assert held.sum() * 100 <= percent * len(starts)
    if kept:  # and no second more would have fitted
        more = sum(start // 1_000_000 == max(kept) for start in starts)
        assert (held.sum() + more) * 100 > percent * len(starts)


def held_out_of(events, *, seed=0):
    """Rows of one held-out session as (position, image, query); events: (time, image, query)."""
    images = np.unique(np.array([image for _, image, _ in events], np.uint64))
    rows = holdout.held_out_rows(
        Sessions(
            user=np.zeros(1, np.uint64),
            draw=np.array([77], np.uint64),
            start=None,
            session=np.zeros(len(events), np.int64),
            image=np.searchsorted(images, np.array([event[1] for event in events], np.uint64)),
            images=images,
            time=np.array([event[0] for event in events], np.int64),
            order=None,
            query=np.array([event[2] or 0 for event in events], np.uint64),
            asked=np.array([event[2] is not None for event in events]),
            weight=None,
        ),
        seed,
    )
    assert rows.schema == holdout.HELD_OUT_SCHEMA
    assert set(rows["draw"].to_pylist()) == {77}
    return [(row["position"], row["image"], row["query"]) for row in rows.to_pylist()]


@settings(deadline=None)
@given(
    events=st.lists(
        st.tuples(st.sampled_from((5, 8, 9, TOP)), st.sampled_from((None, 0, 3, TOP))),
        min_size=1,
        max_size=12,
    )
)
def test_a_held_out_session_has_a_row_for_each_image_and_query_in_order(events):
    timed = [(time, image, query) for time, (image, query) in enumerate(events)]
    place = {image: i for i, image in enumerate(dict.fromkeys(image for image, _ in events))}
    expected = Counter({(place[image], image, query): 1 for image, query in events})
    assert Counter(held_out_of(timed)) == expected
    assert Counter(held_out_of(timed[::-1])) == expected


def test_held_out_sessions_are_numbered_over_all_files_without_collision_or_trace():
    draws = np.random.default_rng(0).permutation(30).astype(np.uint64) * np.uint64(2**58)
    bounds = shares.image_bounds(3)
    rows = pa.table(
        {
            "draw": np.repeat(draws, 2),
            "position": pa.array([1, 0] * 30, pa.int32()),
            "image_id": [f"{draw}-{place}" for draw in draws for place in (1, 0)],
            "query": ["q", None] * 30,
        }
    )
    found = []
    for file, part in names.split_by(rows, "draw", bounds):
        table = holdout.holdout_rows(file, part, files=3, first=100)
        assert table.schema == schema.HOLDOUT_SCHEMA
        found += table.to_pylist()
    numbers = [row["session"] for row in found]
    assert [row["position"] for row in found] == [0, 1] * 30
    assert numbers[::2] == numbers[1::2]
    assert len(set(numbers)) == 30
    assert min(numbers) >= 100
    one_session = [row["image_id"].partition("-")[0] for row in found]
    assert one_session[::2] == one_session[1::2]


# Queries.

a_query_session = st.fixed_dictionaries(
    {
        "user": st.sampled_from((0, 1, 5, TOP)),
        "images": st.dictionaries(hashes, st.just(1.0), min_size=1, max_size=4),
    }
).flatmap(
    lambda one: st.fixed_dictionaries(
        {
            **{key: st.just(value) for key, value in one.items()},
            "queries": st.fixed_dictionaries(
                {
                    image: st.lists(st.sampled_from((None, 0, 3, TOP)), min_size=1, max_size=3)
                    for image in one["images"]
                }
            ),
        }
    )
)


def reference_queries(plain):
    """({(query, image): (sessions, users)}, {query: users})."""
    rows, of_query = defaultdict(lambda: (set(), set())), defaultdict(set)
    for number, one in enumerate(plain):
        for image, asked in one["queries"].items():
            for query in set(asked) - {None}:
                rows[query, image][0].add(number)
                rows[query, image][1].update({one["user"]} - {0})
                of_query[query].update({one["user"]} - {0})
    return (
        {key: (len(sessions), len(users)) for key, (sessions, users) in rows.items()},
        {query: len(users) for query, users in of_query.items()},
    )


def query_dicts(rows, users):
    """The same of tables of counts; they are in order and hold each row once."""
    keys = list(zip(rows["query"].to_pylist(), rows["image"].to_pylist(), strict=True))
    assert keys == sorted(set(keys))
    assert users["query"].to_pylist() == sorted(set(users["query"].to_pylist()))
    values = zip(rows["sessions"].to_pylist(), rows["users"].to_pylist(), strict=True)
    return (
        dict(zip(keys, values, strict=True)),
        dict(zip(users["query"].to_pylist(), users["users"].to_pylist(), strict=True)),
    )


def count_queries(plain, privacy=None, seed=0):
    sessions, _ = sessions_of(plain)
    users = Users.of(sessions)
    return (
        queries.count_queries(sessions, users, privacy or PrivacyConfig(), seed),
        queries.count_query_users(sessions, users),
    )


@settings(deadline=None)
@given(plain=st.lists(a_query_session, max_size=15), parts=st.integers(1, 3))
def test_queries_are_counted_as_by_a_dictionary_and_add_up_over_shards(plain, parts):
    assert query_dicts(*count_queries(plain)) == reference_queries(plain)
    split = defaultdict(list)
    for number, one in enumerate(plain):
        split[(one["user"] or number) % parts].append(one)
    counted = [count_queries(part) for part in split.values()]
    merged = (
        queries.merge_queries(rows for rows, _ in counted),
        queries.merge_query_users(users for _, users in counted),
    )
    assert query_dicts(*merged) == reference_queries(plain)


@settings(deadline=None)
@given(plain=st.lists(a_query_session, max_size=15), limit=st.integers(1, 4))
def test_with_privacy_a_user_adds_to_a_limited_number_of_queries(plain, limit):
    privacy = PrivacyConfig(epsilon=1, max_pairs_per_user=limit)
    rows, users = count_queries(plain, privacy)
    found, _ = query_dicts(rows, users)
    exact, _ = reference_queries(plain)
    of_users = Counter(
        user
        for user, _ in {
            (one["user"], (query, image))
            for one in plain
            for image, asked in one["queries"].items()
            for query in set(asked) - {None}
        }
        if user
    )
    assert sum(n for n, _ in found.values()) == sum(min(limit, n) for n in of_users.values())
    for key, (sessions, number) in found.items():
        assert 1 <= sessions == number <= exact[key][1]


def test_sessions_without_queries_have_no_counts_of_queries():
    sessions, _ = sessions_of([{"user": 1, "images": {1: 1.0}}])
    found = queries.count_queries(sessions, Users.of(sessions), PrivacyConfig(), 0)
    assert found == queries.QUERY_COUNTS.empty_table()
    assert queries.merge_queries([]) == queries.QUERY_COUNTS.empty_table()
    assert queries.merge_query_users([]) == queries.QUERY_USER_COUNTS.empty_table()


@pytest.mark.parametrize(("min_users", "published"), [(1, "abc"), (2, "ab"), (3, "a"), (4, "")])
def test_a_query_is_published_from_enough_distinct_users_on(min_users, published):
    # a: users 1, 2, 3, each of whom opened another image; b: 4 and 5; c: user 6, in many sessions.
    asked = {"a": (1, 2, 3), "b": (4, 5, 4), "c": (6, 6, 6, 6, 0, 0)}
    code = {"a": 10, "b": 20, "c": 30}
    plain = [
        {"user": user, "images": {user + 1: 1.0}, "queries": {user + 1: [code[query]]}}
        for query, users in asked.items()
        for user in users
    ]
    rows, users = count_queries(plain)
    texts = pa.table([list(code.values()), list(code)], schema=NAME_SCHEMA)
    with make_pipeline(RunnerConfig()) as root:
        inputs = {
            name: root | f"Create_{name}" >> beam.Create([(0, table)])
            for name, table in (
                (clicks.QUERIES, rows),
                (clicks.QUERY_USERS, users),
                (clicks.NAMES, texts),
            )
        }
        step = clicks.PublishQueries(min_users, False, Layout(1, 1, 1), None)
        outputs = inputs | "Publish" >> step

        def check_texts(tables):
            found = sorted(text for _, p in tables for text in p.table()["text"].to_pylist())
            assert found == list(published)

        def check_rows(tables):
            found = {text for _, p in tables for text in p.table()["text"].to_pylist()}
            assert found == set(published)

        assert_that(outputs[clicks.NAMES], check_texts, label="Texts")
        assert_that(outputs[clicks.ROWS], check_rows, label="Rows")


# Names and images.


def names_table(named):
    return pa.table([list(named), list(named.values())], schema=NAME_SCHEMA)


def test_images_have_their_counts_from_all_shards_and_runs():
    counts = [
        pa.table([[2, 9], [1, 5]], schema=IMAGE_COUNTS),
        pa.table([[9], [2]], schema=IMAGE_COUNTS),
    ]
    named = [names_table({9: "i", 2: "b"}), names_table({2: "b", 5: "e"})]
    previous = [pa.table([[1, 9], ["a", "i"], [7, 70]], schema=IMAGE_SCHEMA)]
    found = merge_images(counts, named, previous)
    assert found.schema == IMAGE_SCHEMA
    assert [tuple(row.values()) for row in found.to_pylist()] == [
        (1, "a", 7),
        (2, "b", 1),
        (5, "e", 0),
        (9, "i", 77),
    ]
    rows = join(pa.table({"x": pa.array([9, 2, 9], pa.uint64())}), found, column="x", id_column="y")
    assert rows["y"].to_pylist() == ["i", "b", "i"]
    with pytest.raises(ImgembedError, match="1 names were lost between two steps"):
        join(pa.table({"x": pa.array([9, 3], pa.uint64())}), found, column="x", id_column="y")


def test_two_names_of_one_hash_are_told_apart_and_one_name_twice_is_one():
    assert names.distinct([names_table({4: "a"}), names_table({4: "a", TOP: ""})]) == names_table(
        {4: "a", TOP: ""}
    )
    assert names.distinct([]) == NAME_SCHEMA.empty_table()
    with pytest.raises(ImgembedError, match="'[aA]' and '[aA]' have the same 64-bit hash"):
        names.distinct([names_table({1: "x", 4: "a"}), names_table({4: "A"})])


@settings(deadline=None)
@given(values=st.lists(hashes, max_size=20), shards=st.integers(1, 9))
def test_tables_are_cut_at_the_bounds_whether_they_are_sorted_or_not(values, shards):
    bounds = shares.image_bounds(shards)
    table = pa.table({"x": pa.array(values, pa.uint64()), "row": range(len(values))})
    expected = defaultdict(list)
    for row, value in enumerate(values):
        expected[sum(int(bound) <= value for bound in bounds)].append((value, row))
    cut = {
        shard: [tuple(row.values()) for row in part.to_pylist()]
        for shard, part in names.split_by(table, "x", bounds)
    }
    assert cut == expected
    cut = {
        shard: [tuple(row.values()) for row in part.to_pylist()]
        for shard, part in names.split_sorted(table.sort_by("x"), "x", bounds)
    }
    assert {shard: sorted(rows) for shard, rows in cut.items()} == {
        shard: sorted(rows) for shard, rows in expected.items()
    }
