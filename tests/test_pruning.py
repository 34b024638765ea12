"""From counted pairs to edges: weights, ranks, limits, symmetry against plain sorting and sets."""

import math
import random
from collections import Counter, defaultdict

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy.stats import chi2

from pipeline.config import GraphConfig
from pipeline.graph import edges as steps
from pipeline.graph import measures, prune
from pipeline.graph.images import IMAGE_SCHEMA
from pipeline.graph.strength import UNIT

TOP = 2**64 - 1
hashes = st.sampled_from((0, 1, 2, 3, 2**32, 2**63 - 1, 2**63, TOP - 1, TOP))


def log_likelihood_ratio(c, a, b, n):
    """2 Σ k ln(k N / (row column)), negative where c is below expectation."""
    cells = ((c, a, b), (a - c, a, n - b), (b - c, n - a, b), (n - a - b + c, n - a, n - b))
    ratio = 2 * math.fsum(k * math.log(k * n / (row * column)) for k, row, column in cells if k)
    return ratio if c * n >= a * b else -ratio


FORMULAS = {
    "jaccard": lambda c, a, b, n: c / (a + b - c),
    "cosine": lambda c, a, b, n: c / math.sqrt(a * b),
    "lift": lambda c, a, b, n: c * n / (a * b),
    "pmi": lambda c, a, b, n: math.log(c * n / (a * b)),
    "ppmi": lambda c, a, b, n: max(0.0, math.log(c * n / (a * b))),
    "npmi": lambda c, a, b, n: 1.0 if c == n else -math.log(c * n / (a * b)) / math.log(c / n),
    "llr": log_likelihood_ratio,
}


# Weights.

POPULATION = 40


@st.composite
def counted_pairs(draw):
    """{(low, high): (sessions, users, units, sessions of low, of high)} of one population."""
    images = draw(st.lists(hashes, unique=True, min_size=2, max_size=5))
    of_image = {image: draw(st.integers(1, POPULATION)) for image in images}
    found = {}
    for low in images:
        for high in images:
            a, b = of_image[low], of_image[high]
            if low < high and draw(st.booleans()):
                c = draw(st.integers(max(1, a + b - POPULATION), min(a, b)))
                units = draw(st.integers(0, 3 * UNIT * c))
                found[low, high] = (c, draw(st.integers(0, c)), units, a, b)
    return found


def pair_table(pairs):
    rows = [(*pair, *row[:4]) for pair, row in pairs.items()]
    columns = list(zip(*rows, strict=True)) or [[]] * 6
    return pa.table([list(column) for column in columns], schema=prune.PAIR_SCHEMA)


@settings(deadline=None)
@given(
    pairs=counted_pairs(),
    measure=st.sampled_from(measures.WEIGHTS),
    p_value=st.sampled_from((None, 1.0, 0.3, 0.05, 1e-6)),
)
def test_pairs_become_edges_of_positive_weight_in_both_directions(pairs, measure, p_value):
    config = GraphConfig(measure=measure, min_significance=p_value)
    of_high = np.array([row[4] for row in pairs.values()], np.int64)
    edges, removed = prune.weigh(pair_table(pairs), of_high, config, population=POPULATION)
    assert edges.schema == prune.EDGE_SCHEMA

    expected, insignificant, not_positive = {}, 0, 0
    for (low, high), (c, users, units, a, b) in pairs.items():
        if p_value is not None:
            ratio = log_likelihood_ratio(c, a, b, POPULATION)
            p_found = chi2.sf(max(ratio, 0.0), 1)
            assume(abs(p_found - p_value) > 1e-9 or p_value == 1.0)
            if c * POPULATION < a * b or p_found > p_value:
                insignificant += 1
                continue
        strength = units / UNIT
        weight = strength if measure == "count" else FORMULAS[measure](c, a, b, POPULATION)
        if weight <= 0 or (c * POPULATION == a * b and measure in ("pmi", "ppmi", "llr")):
            not_positive += 1
            continue
        if measure == "npmi" and c * POPULATION == a * b and c != POPULATION:
            not_positive += 1
            continue
        expected[low, high] = (weight, c, users, strength, a, b)
        expected[high, low] = (weight, c, users, strength, b, a)
    found = {(row["src"], row["dst"]): tuple(list(row.values())[2:]) for row in edges.to_pylist()}
    assert edges.num_rows == len(found)
    assert found.keys() == expected.keys()
    for (src, dst), row in found.items():
        assert row[0] == pytest.approx(expected[src, dst][0], rel=1e-9, abs=1e-12)
        assert row[0] == found[dst, src][0]
        assert row[1:] == expected[src, dst][1:]
    assert removed == {
        prune.NOT_SIGNIFICANT: insignificant,
        prune.NOT_POSITIVE: not_positive,
    }


# Ranks.


def edge_table(edges):
    """EDGE_SCHEMA of {(src, dst): weight}; the sessions of an image are a number of its own."""
    src, dst = ([pair[end] for pair in edges] for end in (0, 1))
    of_src, of_dst = ([image % 1000 + 1 for image in end] for end in (src, dst))
    number = range(len(src))
    columns = [src, dst, list(edges.values()), number, number, number, of_src, of_dst]
    return pa.table(
        [
            pa.array(column, field.type)
            for column, field in zip(columns, prune.EDGE_SCHEMA, strict=True)
        ],
        schema=prune.EDGE_SCHEMA,
    )


def ranks(table):
    """{(src, dst): rank}."""
    pairs = zip(table["src"].to_pylist(), table["dst"].to_pylist(), strict=True)
    return dict(zip(pairs, table["rank"].to_pylist(), strict=True))


weights = st.sampled_from((1.0, 1.0, 1.0, 2.0, 1e-300, 5e-324, 0.1, math.nextafter(0.1, 1), 1e300))
some_edges = st.dictionaries(
    st.tuples(hashes, hashes).filter(lambda pair: pair[0] != pair[1]), weights, max_size=30
)


@settings(deadline=None)
@given(
    edges=some_edges,
    limit=st.integers(1, 5),
    by=st.sampled_from(("src", "dst")),
    seed=st.integers(0, 3),
    shuffle=st.randoms(use_true_random=False),
)
def test_the_strongest_edges_of_each_image_are_kept_and_ranked(edges, limit, by, seed, shuffle):
    table = edge_table(edges)
    found = prune.keep_strongest(table, limit, by=by, seed=seed)
    of_image = defaultdict(list)
    for pair in edges:
        of_image[pair[by == "dst"]].append(pair)
    kept = ranks(found)
    for image, pairs in of_image.items():
        mine = sorted((rank, pair) for pair, rank in kept.items() if pair[by == "dst"] == image)
        assert [rank for rank, _ in mine] == list(range(1, min(limit, len(pairs)) + 1))
        strongest = sorted((edges[pair] for pair in pairs), reverse=True)[:limit]
        assert [edges[pair] for _, pair in mine] == strongest
    assert sum(min(limit, len(pairs)) for pairs in of_image.values()) == len(kept)
    rows = {(row["src"], row["dst"]): row for row in table.to_pylist()}
    for row in found.to_pylist():  # a kept edge keeps all its columns
        row.pop("rank")
        assert row == rows[row["src"], row["dst"]]
    # Ties do not depend on the order of the rows, nor on the other edges.
    order = shuffle.sample(range(len(edges)), len(edges))
    again = prune.keep_strongest(table.take(pa.array(order, pa.int64())), limit, by=by, seed=seed)
    assert ranks(again) == kept
    for pairs in of_image.values():
        alone = edge_table({pair: edges[pair] for pair in pairs})
        mine = {pair: kept[pair] for pair in pairs if pair in kept}
        assert ranks(prune.keep_strongest(alone, limit, by=by, seed=seed)) == mine


@pytest.mark.parametrize("by", ["src", "dst"])
def test_equal_weights_make_no_hubs_of_small_ids(by):
    draw = random.Random(0)
    images = sorted(draw.getrandbits(64) for _ in range(12))
    table = edge_table({(src, dst): 1.0 for src in images for dst in images if src != dst})
    chosen, winners = Counter(), set()
    for seed in range(200):
        kept = ranks(prune.keep_strongest(table, 3, by=by, seed=seed))
        chosen.update(pair[by == "src"] for pair in kept)
        winners.add(frozenset(kept))
    assert len(winners) == 200
    # Each of 12 images is one of 3 of 11 chosen by 11 others, 200 times: 600, deviation 21.
    assert set(chosen) == set(images)
    assert all(abs(times - 600) < 105 for times in chosen.values())


def test_ties_of_the_two_directions_of_an_edge_are_drawn_apart():
    images = range(1, 31)
    table = edge_table({(src, dst): 1.0 for src in images for dst in images if src != dst})
    kept = set(ranks(prune.keep_strongest(table, 3, by="src", seed=0)))
    mutual = sum((dst, src) in kept for src, dst in kept)
    assert mutual < 30  # of 90 about 9 by chance


finite = st.floats(allow_nan=False, width=64)


@given(values=st.lists(st.one_of(finite, st.sampled_from((0.0, -0.0, math.inf, -math.inf)))))
def test_numbers_that_ascend_as_the_weights_fall(values):
    keys = prune.falling(np.array(values, np.float64))
    assert keys.dtype == np.int64
    for one, key in zip(values, keys.tolist(), strict=True):
        for other, other_key in zip(values, keys.tolist(), strict=True):
            assert (one > other) == (key < other_key)
            assert (one == other) == (key == other_key)


# Symmetry.

a_pair_weight = st.dictionaries(
    st.tuples(hashes, hashes).filter(lambda pair: pair[0] < pair[1]),
    st.tuples(weights, st.sampled_from(("there", "back", "both"))),
    max_size=15,
)


@settings(deadline=None)
@given(pairs=a_pair_weight, shuffle=st.randoms(use_true_random=False))
def test_mutual_keeps_edges_of_both_directions_and_union_adds_the_other(pairs, shuffle):
    edges = {}
    for (low, high), (weight, ways) in pairs.items():
        edges |= {(low, high): weight} if ways != "back" else {}
        edges |= {(high, low): weight} if ways != "there" else {}
    edges = dict(shuffle.sample(list(edges.items()), len(edges)))
    table = edge_table(edges)
    mutual = {(src, dst) for src, dst in edges if (dst, src) in edges}
    union = {pair for src, dst in edges for pair in ((src, dst), (dst, src))}
    for symmetry, expected in (("mutual", mutual), ("union", union)):
        found = prune.symmetrize(table, symmetry)
        assert found.schema == table.schema
        rows = {(row["src"], row["dst"]): row for row in found.to_pylist()}
        assert found.num_rows == len(rows)
        assert rows.keys() == expected
        for (src, dst), row in rows.items():
            assert row["weight"] == pairs[min(src, dst), max(src, dst)][0]
            assert (row["src_sessions"], row["dst_sessions"]) == (src % 1000 + 1, dst % 1000 + 1)
    assert prune.symmetrize(table, "mutual").num_rows == len(mutual)


def test_an_edge_reversed_twice_is_itself():
    table = edge_table({(1, 2): 0.5, (2, 9): 0.25})
    once = prune.reverse(table)
    assert once["src"].to_pylist() == [2, 9]
    assert once["dst_sessions"].to_pylist() == [2, 3]
    assert once.schema == table.schema
    assert prune.reverse(once) == table


@settings(deadline=None)
@given(
    pairs=st.lists(
        st.tuples(hashes, hashes).filter(lambda pair: pair[0] < pair[1]), unique=True, max_size=25
    ),
    max_degree=st.integers(1, 4),
    top_k=st.integers(1, 4),
    symmetry=st.sampled_from(("mutual", "union")),
    shuffle=st.randoms(use_true_random=False),
)
def test_hub_control_then_top_k_then_symmetry_is_what_plain_sorting_gives(
    pairs, max_degree, top_k, symmetry, shuffle
):
    values = shuffle.sample(range(1, 100), len(pairs))  # all different: no ties
    edges = {}
    for (low, high), weight in zip(pairs, values, strict=True):
        edges[low, high] = edges[high, low] = float(weight)

    def strongest(kept, end, limit):
        of_image = defaultdict(list)
        for pair in sorted(kept, key=lambda pair: -edges[pair]):
            of_image[pair[end]].append(pair)
        return {pair for mine in of_image.values() for pair in mine[:limit]}

    kept = strongest(strongest(edges, 1, max_degree), 0, top_k)
    expected = {
        pair
        for src, dst in kept
        for pair in ((src, dst), (dst, src))
        if symmetry == "union" or {(src, dst), (dst, src)} <= kept
    }
    table = prune.keep_strongest(edge_table(edges), max_degree, by="dst", seed=0)
    table = prune.keep_strongest(table.drop_columns(["rank"]), top_k, by="src", seed=0)
    table = prune.symmetrize(table.drop_columns(["rank"]), symmetry)
    found = list(zip(table["src"].to_pylist(), table["dst"].to_pylist(), strict=True))
    assert len(found) == len(set(found))
    assert set(found) == expected


# Hubs.


@given(st.lists(st.integers(0, 25), max_size=120), st.integers(1, 4))
def test_hubs_are_the_ten_images_of_most_edges_over_all_shards(targets, shards):
    images = pa.table(
        [range(26), [f"image-{image:02}" for image in range(26)], [1] * 26], schema=IMAGE_SCHEMA
    )
    parts = [[image for image in targets if image % shards == shard] for shard in range(shards)]
    found = steps.top_hubs(steps.find_hubs(np.array(part, np.uint64), images) for part in parts)
    expected = sorted(Counter(targets).items(), key=lambda hub: (-hub[1], hub[0]))[:10]
    assert [tuple(row.values()) for row in found.to_pylist()] == [
        (f"image-{image:02}", degree) for image, degree in expected
    ]
