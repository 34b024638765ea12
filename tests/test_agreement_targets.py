"""Agreement without labels, from clicks: against a look at every pair."""

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainer.agreement import targets as of_clicks
from trainer.agreement.targets import (
    agreeing_pairs,
    never_meeting_pairs,
    query_targets,
    surest_pairs,
)

CLICKS = st.lists(
    st.tuples(st.integers(0, 3), st.integers(0, 7), st.integers(0, 2)), max_size=25
).map(lambda rows: np.array(rows, np.int64).reshape(-1, 3).T)


def pairs_of(array: np.ndarray) -> set[tuple[int, int]]:
    found = list(map(tuple, array.tolist()))
    assert len(set(found)) == len(found)
    assert all(one < other for one, other in found)
    return set(found)


@given(CLICKS, st.integers(0, 3))
def test_images_that_two_users_click_for_one_query_agree(clicks: np.ndarray, seed: int) -> None:
    wanted = {
        tuple(sorted((one[1], other[1])))
        for one, other in combinations(clicks.T.tolist(), 2)
        if one[0] == other[0] and one[2] != other[2] and one[1] != other[1]
    }
    query, node, user = clicks
    assert pairs_of(agreeing_pairs(query, node, user, partners=25, seed=seed)) == wanted
    few = pairs_of(agreeing_pairs(query, node, user, partners=1, seed=seed))
    assert few <= wanted


def test_popular_queries_do_not_become_quadratic() -> None:
    draw = np.random.default_rng(0)
    query, node = np.zeros(5_000, np.int64), draw.integers(0, 4_000, 5_000)
    found = agreeing_pairs(query, node, np.arange(5_000), partners=4, seed=0)
    assert 15_000 < len(found) <= 20_000


@pytest.mark.parametrize("at_once", [1, 7, 1 << 20])
@given(clicks=CLICKS, seed=st.integers(0, 3))
def test_images_that_never_meet_are_of_no_common_query_and_no_edge(
    clicks: np.ndarray, seed: int, at_once: int
) -> None:
    query, node, user = clicks
    like = agreeing_pairs(query, node, user, partners=25, seed=seed)
    met = np.array([[0, 1], [5, 2]])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(of_clicks, "_PAIRS_AT_ONCE", at_once)
        found = pairs_of(never_meeting_pairs(like, query, node, met=met, seed=seed))
    queries = {n: {q for q, other in zip(query, node, strict=True) if other == n} for n in range(8)}
    for one, other in found:
        assert not queries[one] & queries[other]
        assert (one, other) not in {(0, 1), (2, 5)}
    assert len(found) <= len(like)
    assert {end for pair in found for end in pair} <= set(like.ravel().tolist())


def test_clicks_of_a_world_of_topics_teach_who_belongs_together() -> None:
    draw = np.random.default_rng(0)
    topic = draw.integers(0, 5, 3_000)  # of each click
    query, node = topic * 10 + draw.integers(0, 10, 3_000), topic * 40 + draw.integers(0, 40, 3_000)
    users = np.ones(3_000, np.int64)
    pairs, targets = query_targets(query, node, draw.integers(0, 50, 3_000), users, seed=1)
    same = pairs[:, 0] // 40 == pairs[:, 1] // 40
    assert same[targets].all()
    assert 0.4 < targets.mean() < 0.7
    assert same[~targets].mean() < 0.1
    # An image is in pairs of either kind as often as it is clicked.
    often = [np.bincount(pairs[kind].ravel(), minlength=200) for kind in (targets, ~targets)]
    assert np.corrcoef(*often)[0, 1] > 0.3


@pytest.mark.parametrize(("enough", "fewest_users"), [(1, 4), (70, 3), (130, 2), (1_000, 1)])
def test_pairs_are_of_clicks_of_as_many_users_as_leave_enough(
    monkeypatch: pytest.MonkeyPatch, enough: int, fewest_users: int
) -> None:
    # Ten images a query, so 45 pairs; images 0 to 9 by four users, the next ten by three, ...
    query, node = np.repeat(np.arange(4), 10), np.arange(40)
    users = 4 - query
    monkeypatch.setattr(of_clicks, "ENOUGH_PAIRS", enough)
    found = surest_pairs(query, node, np.arange(40), users, partners=9, seed=0)
    images = 10 * (5 - fewest_users)
    assert set(found.ravel().tolist()) == set(range(images))
    assert len(found) == 45 * images // 10
    unknown = surest_pairs(query, node, np.arange(40), np.zeros(40, int), partners=9, seed=0)
    assert len(unknown) == 180


def test_what_wanderers_click_is_no_pair_where_others_are_surer() -> None:
    draw = np.random.default_rng(0)
    topic = draw.integers(0, 5, 4_000)
    wanders = draw.random(4_000) < 0.4
    node = np.where(wanders, draw.integers(0, 400, 4_000), topic * 80 + draw.integers(0, 80, 4_000))
    clicks, users = np.unique(np.stack([topic, node]), axis=1, return_counts=True)
    query, node = clicks
    share = {}
    for name, counts in (("all", np.ones_like(users)), ("surest", users)):
        pairs, targets = query_targets(query, node, np.arange(len(node)), counts, seed=0)
        right = pairs[:, 0] // 80 == pairs[:, 1] // 80
        share[name] = right[targets].mean()
    assert share["all"] < 0.5
    assert share["surest"] > 0.9


def test_no_clicks_are_no_pairs() -> None:
    none = np.zeros(0, np.int64)
    pairs, targets = query_targets(none, none, none, none, seed=0)
    assert pairs.shape == (0, 2)
    assert targets.shape == (0,)
