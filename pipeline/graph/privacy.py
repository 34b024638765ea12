"""Differential privacy of published counts: which items may appear, and with what count.

    calibrate   a budget (epsilon, delta) and a bound on contributions to a Mechanism
    bound_contributions   each user keeps at most that many items
    publish     exact user counts to the published items and their noisy counts

This is the algorithm of A. Korolova, K. Kenthapadi, N. Mishra, A. Ntoulas, "Releasing Search
Queries and Clicks Privately", 2009, and ZEALOUS, M. Götz et al., "Publishing Search Logs", 2012:
noise on the number of distinct users of each item, and only items above a threshold.

What is promised: data sets that differ in all that one user did give every output with nearly the
same probability, P <= exp(epsilon) P' + delta. Let a user hold at most m items, each counted once.

- Items that other users hold too are there with and without the user, and m counts differ by 1:
  Laplace noise of scale m / epsilon makes them (epsilon, 0)-private, Gaussian noise, whose scale
  goes with sqrt(m), (epsilon, delta / 2)-private.
- Items that the user alone holds must not appear at all. They do where noise lifts 1 over the
  threshold, any one of the m with probability 1 - (1 - p)^m for p each: at most delta with Laplace
  noise, delta / 2 with Gaussian noise. The two halves add up to delta.

The weights, ranks and measures that are made of published counts alone cost no further privacy.
Everything else of the same logs does: `strength`, exact counts, the number of pruned items.
"""

from __future__ import annotations

import dataclasses
import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any, Literal

import numpy as np

from pipeline.hashing import mix

Noise = Literal["laplace", "gaussian"]

# The calibration's search ends within 1e-12 of the scale; this keeps it on the safe side.
_SAFE = 1.0 + 1e-9
_DIGEST_BYTES = 16


@dataclass(frozen=True)
class Mechanism:
    """How counts of users are published, and what that promises.

    scale: of the noise, in users; b of Laplace, the standard deviation of Gaussian.
    threshold: an item is published from this noisy count on.
    contributions: the promise holds where no user holds more items.
    min_count: an item of fewer users is dropped before there is any noise.
    """

    noise: Noise
    scale: float
    threshold: int
    epsilon: float
    delta: float
    contributions: int
    min_count: int = 1

    def describe(self) -> dict[str, Any]:
        """What the manifest says."""
        return dataclasses.asdict(self)


def calibrate(*, epsilon: float, delta: float, contributions: int, min_count: int = 1) -> Mechanism:
    """The mechanism of this budget whose threshold is lower; Laplace where they are equal.

    epsilon: above 0. delta: above 0, below 1. contributions: items that a user holds at most.

    min_count: the number of users below which items are dropped early, exactly. That is not free:
    one user's presence can then bring an item up with `min_count` users, not 1, so the threshold
    rises by min_count - 1. Every other exact filter needs the same: after dropping items of fewer
    than s sessions, say `min_count=s`, as s - 1 users may have been there before.
    """
    if not 0 < epsilon < math.inf:
        raise ValueError(f"epsilon is {epsilon!r}; wanted: above 0 and finite")
    if not 0 < delta < 1:
        raise ValueError(f"delta is {delta!r}; wanted: above 0 and below 1")
    if contributions < 1 or min_count < 1:
        raise ValueError(
            f"contributions is {contributions!r}, min_count {min_count!r}; wanted: 1 or more"
        )
    laplace = _calibrate("laplace", epsilon, delta, contributions, min_count)
    gaussian = _calibrate("gaussian", epsilon, delta, contributions, min_count)
    return gaussian if gaussian.threshold < laplace.threshold else laplace


def _calibrate(
    noise: Noise, epsilon: float, delta: float, contributions: int, min_count: int
) -> Mechanism:
    if noise == "laplace":
        scale, delta_of_threshold = contributions / epsilon, delta
    else:
        scale, delta_of_threshold = _gaussian_scale(epsilon, delta / 2, contributions), delta / 2
    # The p with 1 - (1 - p)^m = delta.
    share = -math.expm1(math.log1p(-delta_of_threshold) / contributions)
    # Rounding lifts a count to the threshold from half below it.
    threshold = math.ceil(min_count + _upper_quantile(noise, share) * scale + 0.5)
    return Mechanism(
        noise=noise,
        scale=scale,
        threshold=max(threshold, min_count),
        epsilon=epsilon,
        delta=delta,
        contributions=contributions,
        min_count=min_count,
    )


def _gaussian_scale(epsilon: float, delta: float, contributions: int) -> float:
    """The least standard deviation (B. Balle, Y.-X. Wang, 2018) at an L2 bound of sqrt(m)."""
    import dp_accounting

    return _SAFE * math.sqrt(contributions) * dp_accounting.get_sigma_gaussian(epsilon, delta)


def _upper_quantile(noise: Noise, p: float) -> float:
    """The value that noise of scale 1 exceeds with probability p."""
    if noise == "gaussian":
        return -NormalDist().inv_cdf(p)
    return -math.log(2 * p) if p < 0.5 else math.log(2 * (1 - p))


def publish(
    counts: np.ndarray, names: np.ndarray, key: bytes, mechanism: Mechanism
) -> tuple[np.ndarray, np.ndarray]:
    """(which items are published, the noisy counts): [items] bool, [items] int64.

    counts: [items] int64, distinct users. names, key: as for `add_noise`. Noisy counts of items
    that are not published must not leave the program, and neither must how many these are.
    """
    noisy = add_noise(counts, names, key, mechanism)
    return (counts >= mechanism.min_count) & (noisy >= mechanism.threshold), noisy


def add_noise(
    counts: np.ndarray, names: np.ndarray, key: bytes, mechanism: Mechanism
) -> np.ndarray:
    """Counts with noise, as whole numbers: [items] int64, also below 0.

    names: [items] uint64, a hash of each item. The noise of an item is a function of key and name
    only, so that a repeated bundle draws the same, and neither shards nor order matter. Both
    directions of an edge must have one name, and an edge, an image and a query different ones.

    key: 16 to 64 secret bytes, drawn for each run by `secrets.token_bytes(32)` and never stored:
    who has the key can take the noise away. So two runs over the same logs differ by design, the
    one exception from determinism, and each published run spends the budget anew.

    Noise is rounded: that costs no privacy, and takes away the low-order bits, by which floating
    point noise betrays the count under it (I. Mironov, "On Significance of the Least Significant
    Bits for Differential Privacy", 2012).
    """
    if not 16 <= len(key) <= hashlib.blake2b.MAX_KEY_SIZE:
        raise ValueError(f"the key has {len(key)} bytes; wanted: 16 to 64")
    sign, tail = _draw(names, key)
    noise = np.rint(mechanism.scale * _magnitude(mechanism.noise, tail)).astype(np.int64)
    return counts.astype(np.int64) + np.where(sign, -noise, noise)


def _draw(names: np.ndarray, key: bytes) -> tuple[np.ndarray, np.ndarray]:
    """A fair coin and a uniform number of (0, 1] for each name: [items] bool, [items] float64.

    keyed BLAKE2b is a pseudo-random function; of its 128 bits one is the coin, and 127 the number.
    A float64 holds 53 of these, but of a small number the 53 that count: the tails of the noise
    reach down to probabilities of 2^-128 without steps.
    """
    state = hashlib.blake2b(key=key, digest_size=_DIGEST_BYTES)
    raw = names.astype("<u8").tobytes()
    digests = b"".join([_digest(state, raw[i : i + 8]) for i in range(0, len(raw), 8)])
    words = np.frombuffer(digests, "<u8").reshape(-1, 2)
    high, low = words[:, 0].astype(np.float64), (words[:, 1] >> np.uint64(1)).astype(np.float64)
    return (words[:, 1] & np.uint64(1)).astype(bool), (high + (low + 0.5) * 2.0**-63) * 2.0**-64


def _digest(state: Any, name: bytes) -> bytes:
    """The digest of a name; to copy the keyed state takes two thirds of the time of a new one."""
    keyed = state.copy()
    keyed.update(name)
    return keyed.digest()


def _magnitude(noise: Noise, tail: np.ndarray) -> np.ndarray:
    """What |noise| of scale 1 exceeds with probability `tail`: [items] float64."""
    if noise == "laplace":
        return -np.log(tail)
    from scipy.special import ndtri

    return -ndtri(tail / 2.0)


def split_budget(epsilon: float, delta: float, parts: Sequence[float]) -> list[tuple[float, float]]:
    """The (epsilon, delta) of each part, in proportion to `parts`, which are above 0.

    Basic composition: what is published of one user's data in several ways is as private as the
    sums of epsilon and of delta say. Edges, nodes and queries are such parts.
    """
    if not parts or min(parts) <= 0:
        raise ValueError(f"parts is {list(parts)!r}; wanted: numbers above 0")
    total = math.fsum(parts)
    return [(epsilon * part / total, delta * part / total) for part in parts]


def bound_contributions(user: np.ndarray, item: np.ndarray, *, limit: int, seed: int) -> np.ndarray:
    """Which rows stay so that a user has at most `limit` items: [rows] bool.

    user: [rows] int64, a user's own number wherever they appear (a hash, no number in order of
    arrival). item: [rows] uint64, a hash. No (user, item) may be there twice. All of a user's rows
    must be given at once. Which stay follows a hash of user, item and seed, not the rows' order.
    """
    draw = mix(mix(user.astype(np.uint64) + np.uint64(seed)) ^ item)
    # No ties: `mix` is a bijection, so distinct items of one user have distinct draws.
    order = np.lexsort((draw, user))
    ordered = user[order]
    rank = np.arange(len(order)) - np.searchsorted(ordered, ordered)
    mask = np.zeros(len(order), bool)
    mask[order] = rank < limit
    return mask
