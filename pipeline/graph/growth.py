"""How many distinct things a larger input would show, told from the counts of a sample.

In: how often each thing (an image, a pair) was seen, and how many times as large the whole input
is. Out: `Rates`, which says how many things the whole shows so many times, and the mixtures and
Poisson chances behind it. Numbers alone: what they count is the caller's business.

Rows, events and sessions grow with the input. Distinct images and distinct pairs do not: the more
of a log is read, the more of its pairs were seen before. How they grow is told by how many pairs
the sample holds once, twice, three times and so on.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

# The mixture of rates: counts above this are rates by themselves.
RATE_POINTS, _RATE_STEPS, _OFTEN = 60, 3_000, 50
_LEAST_SEEN = 0.01  # the smallest rate: so many times in the whole input
_MOST_TERMS = 1_000


@dataclass(frozen=True)
class Rates:
    """How often things come up, and so how many of them more input would show.

    A thing (an image, a pair) of rate r is seen Poisson(r) times in the sample, and Poisson(s r)
    times in an input s times as large. The numbers of things of each rate are those under which the
    sample's own counts are most likely: the nonparametric maximum-likelihood estimate of a mixture
    of Poissons (L. Simar, 1976; N. Laird, 1978, by EM; for unseen species J. L. Norris and K. H.
    Pollock, 1998), which answers the question of I. J. Good and G. H. Toulmin (1956) and of B.
    Efron and R. Thisted ("How many words did Shakespeare know?", 1976). Their alternating series
    diverges beyond twice the sample; a mixture does not.

    rate, number: [points] float64; number counts the unseen things too. counts: [things] int64, of
    those that were seen.
    """

    rate: np.ndarray
    number: np.ndarray
    counts: np.ndarray

    @classmethod
    def fit(cls, counts: np.ndarray, scale: float) -> Rates:
        """The rates behind the counts of a sample.

        counts: [things] int64, each above 0. scale: how many times as large the whole input is;
        what comes up much less than once in it cannot be told from nothing.
        """
        often, rare = counts[counts > _OFTEN], counts[counts <= _OFTEN]
        points, number = _mixture(rare, _LEAST_SEEN / max(scale, 1.0))
        rates, times = np.unique(often, return_counts=True)
        return cls(np.append(points, rates), np.append(number, times), counts)

    def expected(self, scale: float, *, least: int = 1) -> float:
        """How many things an input `scale` >= 1 times the sample shows at least `least` times.

        Never fewer than the sample shows, nor more than all that is seen can make up.
        """
        seen = int((self.counts >= least).sum())
        mixed = float(self.number @ at_least(self.rate * scale, least))
        return min(max(mixed, seen), float(self.counts.sum()) * scale / least)


def _mixture(counts: np.ndarray, least_rate: float) -> tuple[np.ndarray, np.ndarray]:
    """(rates, how many things of each, seen or not) by EM over a fixed grid of rates."""
    if not len(counts):
        return np.zeros(0), np.zeros(0)
    times, things = np.unique(counts, return_counts=True)
    rate = np.geomspace(least_rate, _OFTEN + 10.0, RATE_POINTS)
    share = most_likely(seen_chance(times[:, None], rate), things, _RATE_STEPS)
    return rate, share * things.sum() / -np.expm1(-rate)


def seen_chance(times: np.ndarray, mean: np.ndarray) -> np.ndarray:
    """Chance of so many times for what is seen at all, up to a factor for each row."""
    logs = times * np.log(mean) - mean - np.log(-np.expm1(-mean))
    return np.exp(logs - logs.max(axis=1, keepdims=True))


def most_likely(chance: np.ndarray, things: np.ndarray, steps: int) -> np.ndarray:
    """[points] float64: the shares of a mixture, by EM.

    chance: [rows, points] of what is in a row under each point; things: [rows], how many there are.
    """
    share = np.full(chance.shape[1], 1.0 / chance.shape[1])
    weight = things / things.sum()
    for _ in range(steps):
        share = share * (chance.T @ (weight / (chance @ share)))
    return share


def at_least(mean: np.ndarray, least: int) -> np.ndarray:
    """[points] float64: the chance that a Poisson number of each mean is at least `least`."""
    below = np.zeros(len(mean))
    for chance in itertools.islice(_poisson(mean), least):
        below += chance
    return np.clip(1.0 - below, 0.0, 1.0)


def at_most(mean: np.ndarray, limit: int) -> np.ndarray:
    """[points] float64: the expectation of min(limit, a Poisson number of each mean)."""
    if limit > _MOST_TERMS:
        return np.minimum(mean, limit)
    above, total = np.ones(len(mean)), np.zeros(len(mean))
    for chance in itertools.islice(_poisson(mean), limit):
        above = above - chance
        total += np.maximum(above, 0.0)
    return total


def _poisson(mean: np.ndarray) -> Iterator[np.ndarray]:
    """The chances of 0, 1, 2 … under each mean."""
    logs, log_mean = -mean, np.log(np.maximum(mean, 1e-300))
    for number in itertools.count(1):
        yield np.exp(logs)
        logs = logs + log_mean - np.log(number)


def gamma_below(mean: np.ndarray, least: np.ndarray) -> np.ndarray:
    """About the chance that a Poisson number of each mean is at least `least` >= 1.

    It is that of a gamma variable of shape `least` below the mean, by E. B. Wilson and M. M.
    Hilferty's cube root (1931); absolute error below 0.02.
    """
    root = np.cbrt(mean / least) - 1.0 + 1.0 / (9.0 * least)
    return (1.0 + _erf(3.0 * np.sqrt(least) * root / np.sqrt(2.0))) / 2.0


_erf = np.vectorize(math.erf, otypes=[np.float64])
