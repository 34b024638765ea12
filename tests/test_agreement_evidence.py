"""What else tells of agreement: classes, and how many edges agree at all."""

import numpy as np
import pytest
import scipy.optimize
import scipy.special
from hypothesis import given
from hypothesis import strategies as st

from trainer.agreement import evidence
from trainer.agreement.evidence import Classes, all_evidence, with_classes, with_prior
from trainer.config import AgreementConfig

PROBABILITIES = np.array([[0.9, 0.1], [0.8, 0.2], [0.1, 0.9], [0.5, 0.5]], np.float32)
CLASSES = Classes.of_probabilities(PROBABILITIES)
EDGES = np.array([[0, 1], [0, 2], [3, 2]], np.int32)


def test_classes_agree_as_often_as_both_draw_the_same() -> None:
    # .9 * .8 + .1 * .2; .9 * .1 + .1 * .9; .5 * .1 + .5 * .9
    assert CLASSES.agreement(EDGES).tolist() == pytest.approx([0.74, 0.18, 0.5])
    # Shares .575 and .425.
    assert CLASSES.chance() == pytest.approx(0.575**2 + 0.425**2)


def test_a_head_sees_what_its_softmax_says(monkeypatch: pytest.MonkeyPatch) -> None:
    draw = np.random.default_rng(0)
    vectors, kernel, bias = (
        draw.standard_normal(shape).astype(np.float32) for shape in ((50, 8), (8, 5), (5,))
    )
    edges = draw.integers(0, 50, (200, 2))
    wanted = scipy.special.softmax(vectors @ kernel + bias, axis=1)
    monkeypatch.setattr(evidence, "_NUMBERS_AT_ONCE", 35)  # seven rows at once
    found = Classes.of_head(vectors, kernel, bias)
    rows = edges[:, 0], edges[:, 1]
    agree = (wanted[rows[0]] * wanted[rows[1]]).sum(axis=1)
    np.testing.assert_allclose(found.agreement(edges), agree, rtol=1e-5)
    assert found.chance() == pytest.approx((wanted.mean(axis=0) ** 2).sum(), rel=1e-5)


def test_the_odds_of_both_views_are_multiplied_the_classes_against_chance() -> None:
    agreement = np.array([0.6, 0.9, 0.5], np.float32)
    prior = CLASSES.chance()
    against = prior / (1 - prior)
    odds = np.array([0.74 / 0.26, 0.18 / 0.82, 1.0]) / against
    alone = with_classes(None, CLASSES, EDGES)
    np.testing.assert_allclose(alone, odds / (1 + odds), rtol=1e-4)
    both = odds * agreement / (1 - agreement)
    found = with_classes(agreement, CLASSES, EDGES)
    np.testing.assert_allclose(found, both / (1 + both), rtol=1e-4)


def test_two_nodes_of_which_nothing_is_known_leave_the_model_as_it_is() -> None:
    even = np.full((4, 10), 0.1, np.float32)
    classes = Classes.of_probabilities(even)
    found = with_classes(np.array([0.9, 0.5, 0.2], np.float32), classes, EDGES)
    np.testing.assert_allclose(found, [0.9, 0.5, 0.2], rtol=1e-3)


@given(st.integers(0, 1_000), st.floats(0.1, 0.9))
def test_the_prior_is_the_mean_of_what_follows_from_it(seed: int, share: float) -> None:
    draw = np.random.default_rng(seed)
    agree = draw.random(4_000) < share
    # Normal scores of means 3/2 and -3/2 and variance 1: log odds of 3 x, with even kinds.
    scores = draw.standard_normal(4_000) + np.where(agree, 1.5, -1.5)
    even = 1.0 / (1.0 + np.exp(-3.0 * scores))
    found = with_prior(even.astype(np.float32))
    assert found.mean() == pytest.approx(share, abs=0.04)

    def loss(prior: float) -> float:
        return -np.log(prior * even + (1 - prior) * (1 - even)).sum()

    best = scipy.optimize.minimize_scalar(loss, bounds=(0.02, 0.98), method="bounded")
    assert found.mean() == pytest.approx(best.x, abs=0.01)


def test_no_edges_have_no_prior() -> None:
    assert with_prior(np.zeros(0, np.float32)).shape == (0,)


def test_what_is_not_wanted_is_left_out_and_of_nothing_there_is_nothing() -> None:
    model = np.array([0.6, 0.9, 0.5], np.float32)
    alone = AgreementConfig(class_evidence=False, edge_prior=False)
    assert all_evidence(model, CLASSES, EDGES, alone) is model
    assert all_evidence(None, CLASSES, EDGES, alone) is None
    assert all_evidence(None, CLASSES, EDGES, AgreementConfig(class_evidence=False)) is None
    assert all_evidence(model, None, EDGES, AgreementConfig()) is model  # no class is trained
    both = AgreementConfig(class_evidence=True, edge_prior=True)
    every = all_evidence(model, CLASSES, EDGES, both)
    wanted = with_prior(with_classes(model, CLASSES, EDGES))
    np.testing.assert_array_equal(every, wanted)
