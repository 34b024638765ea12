"""The pair loss against arithmetic that is written out, and where its gradients go."""

from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from trainer.agreement.loss import pair_loss, transformed

# LL (.8, .2) towards class 0, which weighs 0; LU (.6, .4) towards class 0, agreement .9, weight 1;
# UU (.7, .3) and (.2, .8), agreement .4, weight .5.
PAIRS: dict[str, Any] = {
    "pulled": [[0.8, 0.2], [0.6, 0.4]],
    "labels": [0, 0],
    "trust": [0.0, 0.9],
    "left": [[0.7, 0.3]],
    "right": [[0.2, 0.8]],
    "mutual": [0.5 * 0.4],
    "count": 3,
}


def loss_of(**changes: Any) -> tf.Tensor:
    given = {
        name: value if isinstance(value, tf.Variable) else tf.constant(value)
        for name, value in {**PAIRS, **changes}.items()
        if name != "first_stays"
    }
    return pair_loss(**given, first_stays=changes.get("first_stays", False))


def test_the_mean_is_over_the_pairs_of_all_kinds() -> None:
    # LU: .9 * (.4² + .4²) = .288; UU: .5 * .4 * (.5² + .5²) = .1; (0 + .288 + .1) / 3.
    assert float(loss_of()) == pytest.approx(0.388 / 3, abs=1e-6)


def test_only_what_exceeds_a_half_counts_where_that_is_wanted() -> None:
    found = transformed(np.array([0.9, 0.4, 0.5], np.float32), penalize_negative=True)
    np.testing.assert_allclose(found, [0.4, 0.0, 0.0], atol=1e-7)
    same = transformed(np.array([0.9], np.float32), penalize_negative=False)
    assert same.tolist() == [np.float32(0.9)]
    # LU: .4 * .32 = .128; UU: 0.
    found = loss_of(trust=[0.0, 0.4], mutual=[0.0])
    assert float(found) == pytest.approx(0.128 / 3, abs=1e-6)


def gradients(**changes: Any) -> dict[str, np.ndarray | None]:
    names = ("pulled", "trust", "left", "right", "mutual")
    sides = {name: tf.Variable(PAIRS[name]) for name in names}
    with tf.GradientTape() as tape:
        loss = loss_of(**sides, **changes)
    found = tape.gradient(loss, sides)
    return {name: None if each is None else each.numpy() for name, each in found.items()}


def test_gradients_go_into_both_sides_of_unlabelled_pairs_and_never_into_agreement() -> None:
    found = gradients()
    assert found["trust"] is None
    assert found["mutual"] is None
    # d/dv of .9 |(1, 0) - v|² / 3 at (.6, .4): .9 * 2 * (-.4, .4) / 3.
    np.testing.assert_allclose(found["pulled"], [[0, 0], [-0.24, 0.24]], atol=1e-6)
    # .2 * 2 * (.5, -.5) / 3, and the opposite.
    np.testing.assert_allclose(found["left"], [[0.2 / 3, -0.2 / 3]], atol=1e-6)
    np.testing.assert_allclose(found["right"], [[-0.2 / 3, 0.2 / 3]], atol=1e-6)


def test_the_first_of_two_unlabelled_nodes_stays_where_that_is_wanted() -> None:
    found = gradients(first_stays=True)
    assert found["left"] is None
    np.testing.assert_allclose(found["right"], [[-0.2 / 3, 0.2 / 3]], atol=1e-6)


@pytest.mark.parametrize("kinds", [(), ("towards",), ("between",)])
def test_kinds_without_pairs_leave_the_loss_finite(kinds: tuple[str, ...]) -> None:
    none = {
        "pulled": np.zeros((0, 2), "f4"),
        "labels": np.zeros(0, "i4"),
        "trust": np.zeros(0, "f4"),
    }
    apart = {"left": none["pulled"], "right": none["pulled"], "mutual": none["trust"]}
    changes: dict[str, Any] = {}
    changes |= none if "towards" not in kinds else {}
    changes |= apart if "between" not in kinds else {}
    count = 2 * ("towards" in kinds) + ("between" in kinds)
    found = float(loss_of(**changes, count=count))
    assert np.isfinite(found)
    assert (found == 0.0) == (not kinds)
