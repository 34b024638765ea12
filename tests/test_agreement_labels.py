"""Labels that are known, given and hidden."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainer.agreement.labels import Labels, hide, label_more, proportions, self_label


def test_nothing_but_the_known_labels_is_left_of_the_truth() -> None:
    truth = np.array([3, 1, 2, 0])
    assert hide(truth, np.array([True, False, True, False])).tolist() == [3, -1, 2, -1]
    assert hide(truth, np.array([3])).tolist() == [-1, -1, -1, 0]


def test_proportions_are_of_labelled_nodes_alone() -> None:
    assert proportions(np.array([0, 0, 2, -1, -1, 0]), 4).tolist() == [0.75, 0.0, 0.25, 0.0]
    assert proportions(np.array([-1]), 2).tolist() == [0.0, 0.0]


def plainly(
    probabilities: np.ndarray,
    candidates: np.ndarray,
    number: int,
    min_confidence: float,
    shares: list[float] | None,
) -> list[tuple[int, int]]:
    """learning.md's words, node by node."""
    sure = [
        (-float(row.max()), node, int(row.argmax()))
        for node, row in enumerate(probabilities)
        if candidates[node] and row.max() > min_confidence
    ]
    chosen, taken = [], {}
    for _, node, label in sorted(sure):
        room = number if shares is None else int(np.floor(shares[label] * number + 1e-9))
        key = None if shares is None else label
        if taken.get(key, 0) < room:
            taken[key] = taken.get(key, 0) + 1
            chosen.append((node, label))
    return chosen


@given(
    st.integers(0, 10**6),
    st.integers(0, 30),
    st.sampled_from([0.0, 0.4, 0.5, 0.9]),
    st.sampled_from([None, [0.5, 0.3, 0.2], [1.0, 0.0, 0.0]]),
)
def test_the_surest_are_labelled_up_to_the_share_of_their_class(
    seed: int, number: int, least: float, shares: list[float] | None
) -> None:
    draw = np.random.default_rng(seed)
    probabilities = draw.dirichlet([0.5] * 3, 25).round(2).astype(np.float32)  # with ties
    candidates = draw.random(25) < 0.7
    rows, labels, confidence = self_label(
        probabilities,
        candidates,
        number=number,
        min_confidence=least,
        shares=None if shares is None else np.array(shares),
    )
    found = list(zip(rows.tolist(), labels.tolist(), strict=True))
    assert found == plainly(probabilities, candidates, number, least, shares)
    np.testing.assert_array_equal(confidence, probabilities[rows].max(axis=1))


def test_a_confidence_that_only_equals_the_threshold_is_not_enough() -> None:
    probabilities = np.array([[0.5, 0.5], [0.75, 0.25], [0.5, 0.5]], np.float32)
    every = np.ones(3, bool)
    rows, _, _ = self_label(probabilities, every, number=9, min_confidence=0.5)
    assert rows.tolist() == [1]
    rows, _, _ = self_label(probabilities, every, number=9, min_confidence=0.75)
    assert rows.tolist() == []


SURE = np.array([[0.9, 0.1], [0.2, 0.8], [0.7, 0.3], [0.4, 0.6]], np.float32)
CANDIDATES = np.array([True, True, True, False])


def test_labels_once_given_stay_and_known_ones_always_do() -> None:
    labels = Labels.of_known(np.array([1, -1, -1, -1]))
    options = {"candidates": CANDIDATES, "min_confidence": 0.5}
    labels, new = label_more(labels, SURE, iteration=1, number=1, **options)
    assert (labels.current.tolist(), new) == ([1, 1, -1, -1], 1)
    labels, new = label_more(labels, 1.0 - SURE, iteration=2, number=1, **options)
    assert (labels.current.tolist(), new) == ([1, 1, 1, -1], 1)
    labels, new = label_more(labels, SURE, iteration=3, number=1, **options)
    assert new == 0  # the last node is no candidate
    table = {name: column.tolist() for name, column in labels.table().items()}
    assert table == {
        "node": [1, 2],
        "label": [1, 1],
        "iteration": [1, 2],
        "confidence": pytest.approx([0.8, 0.7]),
    }
    assert labels.known().tolist() == [1, -1, -1, -1]


def test_labels_that_need_not_stay_are_given_anew_and_become_more() -> None:
    labels = Labels.of_known(np.array([1, -1, -1, -1]))
    options = {"candidates": CANDIDATES, "min_confidence": 0.5, "sticky": False}
    labels, new = label_more(labels, SURE, iteration=1, number=1, **options)
    assert (labels.current.tolist(), new) == ([1, 1, -1, -1], 1)
    labels, new = label_more(labels, 1.0 - SURE, iteration=2, number=1, **options)
    assert (labels.current.tolist(), new) == ([1, 0, 1, -1], 1)
    labels, new = label_more(labels, 1.0 - SURE, iteration=3, number=1, **options)
    assert new == 0
