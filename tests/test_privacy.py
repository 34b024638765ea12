"""Differential privacy: the promise itself, by exact arithmetic and by attack."""

import hashlib
import itertools
import math
from dataclasses import replace

import dp_accounting
import mpmath
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from pipeline.graph import privacy
from pipeline.graph.privacy import Mechanism
from pipeline.hashing import mix

KEY = bytes(range(32))
# (epsilon, delta, contributions, min_count, the noise that is chosen): small enough to enumerate.
SMALL = [
    (1.0, 0.1, 1, 1, "laplace"),
    (0.5, 0.05, 1, 2, "laplace"),
    (2.0, 0.02, 2, 1, "laplace"),
    (1.0, 0.1, 2, 1, "gaussian"),
    (0.5, 0.05, 2, 3, "gaussian"),
    (1.0, 0.05, 2, 2, "gaussian"),
]


def calibrate(epsilon, delta, contributions, min_count=1):
    return privacy.calibrate(
        epsilon=epsilon, delta=delta, contributions=contributions, min_count=min_count
    )


def key(number):
    return number.to_bytes(32, "little")


def names(amount):
    return mix(np.arange(1, amount + 1, dtype=np.uint64))


def above(mechanism, value):
    """P[noise >= value], from scipy."""
    ideal = stats.laplace if mechanism.noise == "laplace" else stats.norm
    return ideal.sf(value, scale=mechanism.scale)


def probability_of_publishing(mechanism, count):
    """P[rint(count + noise) >= threshold]; nothing below min_count."""
    if count < mechanism.min_count:
        return 0.0
    return above(mechanism, mechanism.threshold - 0.5 - count)


@pytest.mark.parametrize("contributions", [1, 3, 10, 100])
@pytest.mark.parametrize(("epsilon", "delta"), [(0.1, 1e-9), (1.0, 1e-6), (8.0, 1e-3)])
def test_the_noise_is_what_the_accountant_asks_for(epsilon, delta, contributions):
    mechanism = calibrate(epsilon, delta, contributions)
    accountant = dp_accounting.pld.PLDAccountant()
    if mechanism.noise == "laplace":
        # All m counts at once: one Laplace mechanism of the L1 bound m. PLD has no exact delta 0.
        accountant.compose(dp_accounting.LaplaceDpEvent(mechanism.scale / contributions))
        found, delta_of_noise = accountant.get_epsilon(1e-12), 0.0
    else:
        delta_of_noise = delta / 2
        event = dp_accounting.GaussianDpEvent(mechanism.scale / math.sqrt(contributions))
        accountant.compose(event)
        found = accountant.get_epsilon(delta_of_noise)
        renyi = dp_accounting.rdp.RdpAccountant()
        renyi.compose(event)
        assert found <= renyi.get_epsilon(delta_of_noise) <= 1.5 * epsilon  # a looser bound
    assert 0.999 * epsilon < found < 1.0001 * epsilon
    # Of the user's own m items, any is published with probability 1 - (1 - p)^m.
    remaining = delta - delta_of_noise
    for threshold, promised in ((mechanism.threshold, True), (mechanism.threshold - 1, False)):
        p = probability_of_publishing(replace(mechanism, threshold=threshold), 1)
        joint = -np.expm1(contributions * np.log1p(-p))
        assert (joint <= remaining * (1 + 1e-9)) == promised


def test_the_noise_with_the_lower_threshold_is_chosen():
    # 1.5 + ln(1 / (2 * 1e-6)) = 14.6
    assert (calibrate(1.0, 1e-6, 1).noise, calibrate(1.0, 1e-6, 1).threshold) == ("laplace", 15)
    thresholds = [calibrate(1.0, 1e-6, m) for m in (2, 3, 10, 50, 100)]
    assert [(m.noise, m.threshold) for m in thresholds] == [
        ("laplace", 30),
        ("gaussian", 41),
        ("gaussian", 76),
        ("gaussian", 175),
        ("gaussian", 252),
    ]
    # Dropping items early moves the threshold by as much.
    assert calibrate(1.0, 1e-6, 10, min_count=5).threshold == 80


def test_the_manifest_has_the_whole_promise():
    assert calibrate(1.0, 1e-6, 1).describe() == {
        "noise": "laplace",
        "scale": 1.0,
        "threshold": 15,
        "epsilon": 1.0,
        "delta": 1e-6,
        "contributions": 1,
        "min_count": 1,
    }


def outcomes(mechanism, count, largest):
    """P of each output of one item: not published, threshold, threshold + 1, …; [outputs]."""
    published = 1.0 if count >= mechanism.min_count else 0.0
    edges = np.arange(mechanism.threshold, largest + 1) - 0.5 - count
    tails = np.append(above(mechanism, edges), 0.0)
    return np.append(1.0 - published * tails[0], published * (tails[:-1] - tails[1:]))


@pytest.mark.parametrize(("epsilon", "delta", "contributions", "min_count", "noise"), SMALL)
def test_no_user_changes_the_probability_of_any_output_by_more_than_promised(
    epsilon, delta, contributions, min_count, noise
):
    """The definition, summed over all outputs, for every mix of own and common items."""
    mechanism = calibrate(epsilon, delta, contributions, min_count)
    assert mechanism.noise == noise
    threshold = mechanism.threshold
    # Users of an item without the one: none or too few, just enough, near the threshold, many.
    others = sorted({0, min_count - 1, min_count, threshold - 1, threshold, threshold + 60})
    largest = threshold + 60 + round(40 * mechanism.scale)
    worst = 0.0
    for of_items in itertools.combinations_with_replacement(others, contributions):
        without, with_user = np.ones(1), np.ones(1)
        for count in of_items:
            without = np.outer(without, outcomes(mechanism, count, largest)).ravel()
            with_user = np.outer(with_user, outcomes(mechanism, count + 1, largest)).ravel()
        for p, q in ((without, with_user), (with_user, without)):
            assert p.sum() == pytest.approx(1.0)
            worst = max(worst, np.maximum(p - math.exp(epsilon) * q, 0.0).sum())
    assert worst <= delta * (1 + 1e-9)
    assert worst > delta / 5  # the bound is no idle one


def test_a_threshold_that_forgets_an_early_filter_breaks_the_promise():
    forgetful = replace(calibrate(1.0, 1e-6, 1), min_count=5)
    assert probability_of_publishing(forgetful, 5) > 20 * forgetful.delta
    assert probability_of_publishing(calibrate(1.0, 1e-6, 1, min_count=5), 5) <= forgetful.delta


@pytest.mark.parametrize("contributions", [1, 5])
def test_items_of_a_single_user_appear_as_rarely_as_calculated(contributions):
    delta, runs = 0.2, 20_000
    mechanism = calibrate(1.0, delta, contributions)
    counts, items = np.ones(contributions, np.int64), names(contributions)
    appeared = sum(
        privacy.publish(counts, items, key(run), mechanism)[0].any() for run in range(runs)
    )
    p = probability_of_publishing(mechanism, 1)
    joint = 1 - (1 - p) ** contributions
    assert joint <= (delta if mechanism.noise == "laplace" else delta / 2)
    assert appeared / runs == pytest.approx(joint, abs=4 * math.sqrt(joint / runs))


def epsilon_shown(mechanism, *, delta, runs=2_000, items=100):
    """What an observer of many runs can prove epsilon to be at least, 99.9 % sure a threshold."""
    samples = []
    for present in (0, 1):
        counts = np.full(items, mechanism.threshold + 10 + present)
        noisy = [
            privacy.publish(counts, names(items), key(2 * run + present), mechanism)[1]
            for run in range(runs)
        ]
        samples.append(np.concatenate(noisy))
    total, shown = runs * items, 0.0
    for bound in np.unique(samples[1]):
        low = stats.beta.ppf(0.001, (k := (samples[1] >= bound).sum()), total - k + 1)
        high = stats.beta.ppf(0.999, (k := (samples[0] >= bound).sum()) + 1, total - k)
        if low > delta:
            shown = max(shown, math.log((low - delta) / high))
    return shown


@pytest.mark.parametrize(("delta", "least"), [(1e-6, 0.9), (0.3, 0.0)])
def test_an_attack_over_many_keys_stays_below_epsilon_and_finds_too_little_noise(delta, least):
    mechanism = calibrate(1.0, delta, 1)
    assert least <= epsilon_shown(mechanism, delta=delta) <= mechanism.epsilon
    if least:
        halved = replace(mechanism, scale=mechanism.scale / 2)
        assert epsilon_shown(halved, delta=delta) > 1.5 * mechanism.epsilon


@pytest.mark.parametrize("noise", ["laplace", "gaussian"])
def test_the_noise_has_the_distribution_it_should(noise):
    # So wide that rounding to whole numbers does not show.
    mechanism = Mechanism(noise, 1e9, 1, epsilon=1.0, delta=1e-6, contributions=1)
    amount = 50_000
    drawn = privacy.add_noise(np.zeros(amount, np.int64), names(amount), KEY, mechanism)
    assert drawn.dtype == np.int64
    ideal = stats.laplace if noise == "laplace" else stats.norm
    assert stats.kstest(drawn / 1e9, ideal.cdf).pvalue > 0.01
    assert stats.kstest(np.abs(drawn) / 1e9, abs_cdf(ideal)).pvalue > 0.01
    # Names that differ in one bit have noise with nothing in common; so have keys.
    neighbours = privacy.add_noise(
        np.zeros(amount, np.int64), names(amount) ^ np.uint64(1), KEY, mechanism
    )
    other_key = privacy.add_noise(np.zeros(amount, np.int64), names(amount), key(7), mechanism)
    for other in (neighbours, other_key):
        assert (other == drawn).mean() < 0.001
        assert abs(np.corrcoef(drawn, other)[0, 1]) < 4 / math.sqrt(amount)


def abs_cdf(distribution):
    return lambda values: 2 * distribution.cdf(values) - 1


def test_the_tails_have_no_steps_and_no_end_within_reach():
    """What the least of all draws, and draws of some size, mean."""
    tail = np.array([2.0**-128, 2.0**-100, 1e-12, 0.5, 1.0])
    assert privacy._magnitude("laplace", tail) == pytest.approx(-np.log(tail), rel=1e-14)
    assert privacy._magnitude("gaussian", tail) == pytest.approx(stats.norm.isf(tail / 2), rel=1e-9)
    sign, drawn = privacy._draw(names(100_000), KEY)
    assert sign.mean() == pytest.approx(0.5, abs=0.007)
    assert drawn.min() > 0
    assert drawn.max() <= 1
    assert stats.kstest(drawn, "uniform").pvalue > 0.01
    assert stats.kstest(drawn[sign], "uniform").pvalue > 0.01


@pytest.mark.parametrize("contributions", [1, 10])
def test_noise_follows_key_and_name_and_neither_order_nor_shard(contributions):
    mechanism = calibrate(1.0, 1e-6, contributions)
    items = names(500)
    counts = np.arange(500)
    mask, noisy = privacy.publish(counts, items, KEY, mechanism)
    assert 0 < mask.sum() < 500
    assert (noisy[mask] >= mechanism.threshold).all()
    assert (noisy[~mask] < mechanism.threshold).all()
    order = np.random.default_rng(0).permutation(500)
    parts = [
        privacy.publish(counts[shard], items[shard], KEY, mechanism)
        for shard in np.array_split(order, 7)
    ]
    assert np.concatenate([part[0] for part in parts]).tolist() == mask[order].tolist()
    assert np.concatenate([part[1] for part in parts]).tolist() == noisy[order].tolist()
    assert (privacy.publish(counts, items, key(1), mechanism)[1] != noisy).mean() > 0.5


def noise_by_hand(noise, scale, name, secret):
    """Big integers from the digest, and 60 digits."""
    digest = hashlib.blake2b(int(name).to_bytes(8, "little"), key=secret, digest_size=16).digest()
    high, low = int.from_bytes(digest[:8], "little"), int.from_bytes(digest[8:], "little")
    with mpmath.workdps(60):
        tail = (mpmath.mpf(high * 2**63 + (low >> 1)) + 0.5) / 2**127
        gaussian = mpmath.sqrt(2) * mpmath.erfinv(1 - tail)
        size = -mpmath.log(tail) if noise == "laplace" else gaussian
        return int(mpmath.nint(scale * size)) * (-1 if low & 1 else 1)


@pytest.mark.parametrize("noise", ["laplace", "gaussian"])
def test_the_noise_is_what_key_and_name_say_by_hand(noise):
    mechanism = Mechanism(noise, 1e4, 1, epsilon=1.0, delta=1e-6, contributions=1)
    found = privacy.add_noise(np.arange(200), names(200), KEY, mechanism) - np.arange(200)
    assert found.tolist() == [noise_by_hand(noise, 1e4, name, KEY) for name in names(200)]


def test_no_item_is_no_result_and_a_short_key_is_refused():
    mechanism = calibrate(1.0, 1e-6, 1)
    mask, noisy = privacy.publish(np.zeros(0, np.int64), names(0), KEY, mechanism)
    assert (mask.tolist(), noisy.tolist()) == ([], [])
    with pytest.raises(ValueError, match="the key has 8 bytes; wanted: 16 to 64"):
        privacy.add_noise(np.zeros(1, np.int64), names(1), b"12345678", mechanism)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"epsilon": 0.0}, "epsilon is 0.0; wanted: above 0"),
        ({"epsilon": math.inf}, "epsilon is inf"),
        ({"epsilon": math.nan}, "epsilon is nan"),
        ({"delta": 0.0}, "delta is 0.0; wanted: above 0 and below 1"),
        ({"delta": 1.0}, "delta is 1.0"),
        ({"contributions": 0}, "contributions is 0, min_count 1; wanted: 1 or more"),
        ({"min_count": 0}, "min_count 0"),
    ],
)
def test_a_budget_that_promises_nothing_is_refused(change, message):
    budget = {"epsilon": 1.0, "delta": 1e-6, "contributions": 10, "min_count": 1}
    with pytest.raises(ValueError, match=message):
        privacy.calibrate(**(budget | change))


def test_a_budget_is_split_in_proportion():
    parts = privacy.split_budget(2.0, 1e-6, [2, 1, 1])
    assert parts == [(1.0, 5e-7), (0.5, 2.5e-7), (0.5, 2.5e-7)]
    assert privacy.split_budget(1.0, 1e-6, [3]) == [(1.0, 1e-6)]
    for wrong in ([], [1, 0], [2, -1]):
        with pytest.raises(ValueError, match="wanted: numbers above 0"):
            privacy.split_budget(1.0, 1e-6, wrong)


def keep_by_hand(rows, limit, seed):
    """{(user, item) kept}, one user at a time with Python's integers."""
    of_user = {}
    for user, item in rows:
        of_user.setdefault(user, []).append(item)
    kept = set()
    for user, items in of_user.items():
        salt = mix_by_hand((user + seed) % 2**64)
        items.sort(key=lambda item: mix_by_hand(salt ^ item))
        kept |= {(user, item) for item in items[:limit]}
    return kept


def mix_by_hand(value):
    value = (value ^ value >> 30) * 0xBF58476D1CE4E5B9 % 2**64
    value = (value ^ value >> 27) * 0x94D049BB133111EB % 2**64
    return value ^ value >> 31


@given(
    rows=st.lists(
        st.tuples(st.integers(-3, 3), st.integers(0, 20) | st.integers(0, 2**64 - 1)), unique=True
    ),
    limit=st.integers(1, 6),
    seed=st.integers(0, 2**32),
    shuffle=st.randoms(use_true_random=False),
)
def test_a_user_keeps_at_most_the_limit_whatever_the_order(rows, limit, seed, shuffle):
    expected = keep_by_hand(rows, limit, seed)
    for _ in range(2):
        user = np.array([row[0] for row in rows], np.int64)
        item = np.array([row[1] for row in rows], np.uint64)
        mask = privacy.bound_contributions(user, item, limit=limit, seed=seed)
        assert {row for row, stays in zip(rows, mask, strict=True) if stays} == expected
        shuffle.shuffle(rows)


def test_which_items_a_user_keeps_follows_seed_and_user():
    user, item = np.repeat(np.arange(200), 20), np.tile(names(20), 200)
    masks = [privacy.bound_contributions(user, item, limit=5, seed=seed) for seed in (0, 1)]
    assert [mask.sum() for mask in masks] == [1000, 1000]
    assert not np.array_equal(*masks)
    # Every item is kept by about a quarter of the users: 50, with a deviation of 6.
    of_item = masks[0].reshape(200, 20).sum(axis=0)
    assert of_item.min() >= 30
    assert of_item.max() <= 70
