"""Pairs of a step: kinds, passes, pools, balance, and that nothing unknown is in them."""

from collections import Counter

import numpy as np
import pytest
from agreement_cases import make_world
from hypothesis import given
from hypothesis import strategies as st

from trainer.agreement import pairs as of_pairs
from trainer.agreement.pairs import (
    BalancedBatches,
    Cycle,
    GraphPairs,
    KindWeights,
    PairBlock,
    RandomPairs,
    accepted_pairs,
    disagreeing_pairs,
    edges_by_kind,
    hold_out_nodes,
    labelled_pairs,
)

LABELS = st.lists(st.integers(-1, 2), min_size=1, max_size=12).map(np.array)


@given(st.integers(0, 40), st.integers(1, 12), st.lists(st.integers(0, 9), max_size=6))
def test_a_pass_has_no_row_twice_whatever_is_taken_at_once(
    size: int, batch: int, taken: list[int]
) -> None:
    cycle = Cycle(size, batch, np.random.default_rng(0))
    rows = np.concatenate([cycle.take(0), *(cycle.take(steps) for steps in taken)])
    assert rows.shape == (sum(taken), min(batch, size))
    a_pass = size // min(batch, size) if size else 1
    for start in range(0, len(rows), a_pass):
        seen = rows[start : start + a_pass].ravel()
        assert len(set(seen.tolist())) == len(seen)
        assert all(0 <= row < size for row in seen)


@given(st.integers(1, 20), st.integers(1, 8), st.lists(st.integers(0, 9), max_size=6))
def test_what_is_drawn_does_not_depend_on_how_many_steps_are_drawn_at_once(
    size: int, batch: int, taken: list[int]
) -> None:
    one, other = (Cycle(size, batch, np.random.default_rng(4)) for _ in range(2))
    parts = [one.take(0), *(one.take(steps) for steps in taken)]
    np.testing.assert_array_equal(np.concatenate(parts), other.take(sum(taken)))


@given(LABELS, st.data())
def test_kinds_are_those_of_a_look_at_each_edge(labels: np.ndarray, data: st.DataObject) -> None:
    end = st.integers(0, len(labels) - 1)
    edges = np.array(data.draw(st.lists(st.tuples(end, end), max_size=20)), np.int32).reshape(-1, 2)
    wanted: dict[str, list[int]] = {"ll": [], "lu": [], "ul": [], "uu": []}
    for row, (one, other) in enumerate(edges):
        kind = "".join("u" if labels[each] < 0 else "l" for each in (one, other))
        if kind != "ll" or labels[one] == labels[other]:
            wanted[kind].append(row)
    found = edges_by_kind(edges, labels)
    assert {kind: getattr(found, kind).tolist() for kind in wanted} == wanted
    assert all(getattr(found, kind).dtype == np.int32 for kind in wanted)


# 0 and 1 are labelled; of 2 and 3 nothing is known.
LABELLED = np.array([5, 6, -1, -1])


def drawn(edges: list[tuple[int, int]], **weights: float) -> PairBlock:
    agreement = np.linspace(0.1, 0.9, len(edges), dtype=np.float32)
    source = GraphPairs(
        np.array(edges, np.int32).reshape(-1, 2),
        LABELLED,
        agreement,
        weights=KindWeights(**{"ll": 0.0, "lu": 10.0, "uu": 5.0, **weights}),
        pairs=64,
        seed=0,
    )
    return source.draw(3)


def test_the_labelled_end_of_an_edge_pulls_whichever_way_the_edge_is_written() -> None:
    block = drawn([(0, 2), (3, 1)])
    for step in range(3):
        found = {
            (int(label), int(target)): float(trust)
            for label, target, trust in zip(
                block.labels[step], block.targets[step], block.trust[step], strict=True
            )
        }
        assert found == {(5, 2): pytest.approx(1.0), (6, 3): pytest.approx(9.0)}
    assert block.count == 2
    assert block.left.shape == (3, 0)


def test_an_undirected_edge_in_both_directions_comes_twice_in_each_kind() -> None:
    block = drawn([(0, 2), (2, 0), (2, 3), (3, 2)])
    assert (block.labels == 5).all()
    assert (block.targets == 2).all()
    assert block.targets.shape == (3, 2)
    assert Counter(zip(block.left[0].tolist(), block.right[0].tolist(), strict=True)) == {
        (2, 3): 1,
        (3, 2): 1,
    }


def test_labelled_pairs_are_in_the_mean_even_if_they_weigh_nothing() -> None:
    edges = [(0, 0), (0, 1), (0, 2), (2, 3)]
    # (0, 0) agrees; (0, 1) does not, and is no pair at all.
    assert drawn(edges).count == 3
    assert drawn(edges).targets.shape == (3, 1)
    block = drawn(edges, ll=2.0)
    assert block.count == 3
    assert block.targets.tolist() == [[2, 0]] * 3
    assert block.trust[0].tolist()[1] == 2.0


def test_no_edges_are_no_pairs() -> None:
    block = drawn([])
    assert block.count == 0
    assert block.targets.shape == block.left.shape == (3, 0)


def test_pairs_of_a_large_graph_take_their_turns() -> None:
    world = make_world(each=200)
    source = GraphPairs(
        world.edges,
        world.labels,
        np.ones(len(world.edges), np.float32),
        weights=KindWeights(),
        pairs=16,
        seed=1,
    )
    unlabelled = edges_by_kind(world.edges, world.labels).uu
    a_pass = len(unlabelled) // 16
    block = source.draw(a_pass)
    seen = Counter(zip(block.left.ravel().tolist(), block.right.ravel().tolist(), strict=True))
    assert max(seen.values()) == 1
    assert set(seen) <= {tuple(edge) for edge in world.edges[unlabelled].tolist()}


def test_random_pairs_come_from_their_pools_and_ask_for_their_agreement() -> None:
    labels = np.array([0, 0, 1, -1, -1, -1])
    pool = np.array([True, True, True, True, True, False])
    source = RandomPairs(
        labels,
        pool,
        lambda pairs: pairs[:, 0] + 10.0 * pairs[:, 1],
        weights=KindWeights(ll=3.0, lu=2.0, uu=1.0),
        pairs=500,
        seed=0,
    )
    block = source.draw(2)
    assert block.count == 1500
    assert set(block.left.ravel()) == set(block.right.ravel()) == {3, 4}
    np.testing.assert_allclose(block.mutual, block.left + 10.0 * block.right)
    assert set(block.targets[:, :500].ravel()) == {3, 4}
    assert set(block.targets[:, 500:].ravel()) == {0, 1, 2}
    # Trust of the pulled: 2 * (i + 10 j), i labelled.
    ends = block.trust[:, :500] / 2.0 - 10.0 * block.targets[:, :500]
    np.testing.assert_array_equal(labels[ends.round().astype(int)], block.labels[:, :500])
    same = labels[block.targets[:, 500:]] == block.labels[:, 500:]
    np.testing.assert_array_equal(block.trust[:, 500:], 3.0 * same)


def test_random_pairs_of_an_empty_pool_are_none() -> None:
    source = RandomPairs(
        np.array([0, 1]),
        np.array([True, True]),
        lambda pairs: np.ones(len(pairs)),
        weights=KindWeights(),
        pairs=4,
        seed=0,
    )
    block = source.draw(2)
    assert block.count == 4  # LL, which weigh nothing
    assert block.targets.size == block.left.size == 0


@given(LABELS)
def test_few_labelled_nodes_give_all_their_pairs(labels: np.ndarray) -> None:
    found = labelled_pairs(labels, limit=1_000, seed=0)
    known = [node for node, label in enumerate(labels) if label >= 0]
    wanted = [(one, other) for one in known for other in known if one < other]
    assert list(map(tuple, found.tolist())) == wanted


def test_many_labelled_nodes_give_as_many_pairs_of_small_classes_as_of_large_ones() -> None:
    labels = np.repeat([0, 1, 2, -1], [900, 90, 10, 50])
    found = labelled_pairs(labels, limit=6_000, seed=0)
    kinds = Counter(map(tuple, np.sort(labels[found], axis=1).tolist()))
    assert set(kinds) == {(0, 0), (1, 1), (2, 2), (0, 1), (0, 2), (1, 2)}
    for kind, number in kinds.items():
        assert abs(number - 1_000) < 150, kind
    assert (found[:, 0] != found[:, 1]).all()


def test_pairs_that_differ_differ() -> None:
    labels = np.array([0, 0, 1, 2, -1])
    found = disagreeing_pairs(labels, 200, seed=3)
    assert found.shape == (200, 2)
    assert (labels[found[:, 0]] != labels[found[:, 1]]).all()
    assert (labels[found] >= 0).all()
    assert len(disagreeing_pairs(np.array([1, 1]), 5, seed=0)) == 0


@given(LABELS, st.floats(0.0, 0.9), st.integers(0, 5))
def test_held_out_nodes_are_labelled_and_leave_pairs_on_both_sides(
    labels: np.ndarray, share: float, seed: int
) -> None:
    held = hold_out_nodes(labels, share=share, seed=seed)
    assert (labels[held] >= 0).all()
    for label in set(labels.tolist()) - {-1}:
        out, there = int((held & (labels == label)).sum()), int((labels == label).sum())
        assert out == 0 or (out >= 2 and there - out >= 2)


def test_batches_are_half_agreeing_and_pass_through_both_kinds() -> None:
    targets = np.random.default_rng(0).random(500) < 0.2
    batches = BalancedBatches(targets, batch=32, seed=0)
    rows = batches.take(200)
    assert rows.shape == (200, 32)
    assert targets[rows[:, :16]].all()
    assert not targets[rows[:, 16:]].any()
    few = BalancedBatches(np.array([True, True, False, True, False]), batch=64, seed=0)
    assert few.half == 2
    assert BalancedBatches(np.zeros(4, bool), batch=8, seed=0).take(2).shape == (2, 0)


def test_pairs_drawn_without_a_graph_agree_as_1_to_1_minus_r() -> None:
    labels = np.repeat([0, 1, 2, 3, -1], [50, 30, 15, 5, 400])
    ratio = 0.5**2 + 0.3**2 + 0.15**2 + 0.05**2
    # Accepted are the agreeing, r of all, and r of the others: about 1e5.
    pairs, agree = accepted_pairs(labels, int(1e5 / (ratio * (2 - ratio))), seed=0)
    assert len(pairs) == pytest.approx(1e5, rel=0.02)
    np.testing.assert_array_equal(agree, labels[pairs[:, 0]] == labels[pairs[:, 1]])
    assert (~agree).sum() / agree.sum() == pytest.approx(1.0 - ratio, rel=0.02)


def test_a_million_edges_are_sorted_by_kind_and_drawn_without_a_loop_over_them() -> None:
    draw = np.random.default_rng(0)
    edges = draw.integers(0, 100_000, (1_000_000, 2), dtype=np.int32)
    labels = np.where(draw.random(100_000) < 0.3, 1, of_pairs.UNKNOWN)
    source = GraphPairs(
        edges, labels, np.ones(len(edges), np.float32), weights=KindWeights(), pairs=128, seed=0
    )
    block = source.draw(1_000)
    assert block.targets.shape == block.left.shape == (1_000, 128)
    assert (block.labels == 1).all()
    assert (labels[block.targets] < 0).all()
    assert block.left.dtype == np.int32
