"""The measures of association against exact arithmetic, scipy and published values."""

from fractions import Fraction

import mpmath
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse
from scipy.stats import chi2, chi2_contingency

from pipeline.graph import measures

mpmath.mp.dps = 60


def log(fraction):
    return mpmath.log(mpmath.mpf(fraction.numerator) / fraction.denominator)


def exact_pmi(c, a, b, n):
    return log(Fraction(c * n, a * b))


def exact_npmi(c, a, b, n):
    return mpmath.mpf(1) if c == n else exact_pmi(c, a, b, n) / -log(Fraction(c, n))


def exact_llr(c, a, b, n):
    cells = [(c, a, b), (a - c, a, n - b), (b - c, n - a, b), (n - a - b + c, n - a, n - b)]
    g = 2 * sum(k * log(Fraction(k * n, row * column)) for k, row, column in cells if k)
    return -g if c * n < a * b else g


EXACT = {
    "jaccard": lambda c, a, b, n: Fraction(c, a + b - c),
    "cosine": lambda c, a, b, n: c / mpmath.sqrt(a * b),
    "lift": lambda c, a, b, n: Fraction(c * n, a * b),
    "pmi": exact_pmi,
    "ppmi": lambda c, a, b, n: max(mpmath.mpf(0), exact_pmi(c, a, b, n)),
    "npmi": exact_npmi,
    "llr": exact_llr,
}


@st.composite
def tables(draw, largest=10**10):
    """(c, n_i, n_j, N) of a population that can be."""
    n = draw(st.integers(1, largest))
    a, b = (draw(st.integers(1, n)) for _ in range(2))
    c = draw(st.integers(max(1, a + b - n), min(a, b)))
    return c, a, b, n


@st.composite
def tables_near_expectation(draw):
    """Large tables in which c is its expectation up to a few sessions: all but nothing is left."""
    n = draw(st.integers(10**6, 10**10))
    a, b = (draw(st.integers(n // 1000, n)) for _ in range(2))
    c = a * b // n + draw(st.integers(-3, 3))
    return min(max(c, 1, a + b - n), a, b), a, b, n


def found(name, table, dtype=np.int64):
    c, a, b, n = table
    columns = (np.array([value], dtype) for value in (c, a, b))
    return measures.MEASURES[name](*columns, n)[0]


@pytest.mark.parametrize("name", measures.MEASURES)
@settings(deadline=None)
@given(table=st.one_of(tables(20), tables(), tables_near_expectation()))
def test_a_measure_is_what_exact_arithmetic_finds(name, table):
    expected = EXACT[name](*table)
    assert found(name, table) == pytest.approx(float(expected), rel=2e-13, abs=0)
    assert found(name, table, np.float64) == found(name, table)


@pytest.mark.parametrize("name", measures.MEASURES)
@given(table=st.one_of(tables(20), tables(), tables_near_expectation()))
def test_both_directions_of_an_edge_have_the_same_weight_bit_for_bit(name, table):
    c, a, b, n = table
    assert found(name, (c, a, b, n)).tobytes() == found(name, (c, b, a, n)).tobytes()


def test_a_weight_does_not_depend_on_the_edges_around_it():
    draw = np.random.default_rng(0)
    n_i, n_j = draw.integers(1, 5000, (2, 301))
    c = np.minimum(draw.integers(1, 90, 301), np.minimum(n_i, n_j))
    for measure in measures.MEASURES.values():
        together = measure(c, n_i, n_j, 10**6)
        alone = [
            measure(c[k : k + 1], n_i[k : k + 1], n_j[k : k + 1], 10**6)[0] for k in range(301)
        ]
        assert together.tolist() == alone


def test_the_llr_keeps_its_digits_where_tiny_cells_meet_ten_billion_sessions():
    n = 10**10
    for table in [(1, 1, 1, n), (1, 2, 3, n), (2, 150_000, 140_000, n), (1, 100_000, 100_000, n)]:
        assert found("llr", table) == pytest.approx(float(exact_llr(*table)), rel=1e-14, abs=0)
    # The last is exactly as expected: 1 = 100,000 * 100,000 / N.
    assert found("llr", table) == 0.0


@settings(deadline=None)
@given(table=tables(3000))
def test_the_llr_is_scipys_g_statistic_with_the_sign_of_the_association(table):
    c, a, b, n = table
    if a == n or b == n:
        assert found("llr", table) == 0.0  # scipy does not take an empty row
        return
    cells = np.array([[c, a - c], [b - c, n - a - b + c]])
    g = chi2_contingency(cells, correction=False, lambda_="log-likelihood").statistic
    sign = 1 if c * n >= a * b else -1
    assert found("llr", table) == pytest.approx(sign * g, rel=1e-9, abs=1e-9)


@pytest.mark.parametrize(
    ("cells", "published"),
    [
        # Cells (both, only i, only j, neither). From the table of bigrams in Dunning's paper: "the
        # swiss", "can be", "previous year", "mineral water".
        ((110, 2442, 111, 29114), 270.72),
        ((29, 13, 123, 31612), 263.90),
        ((31, 23, 139, 31584), 256.84),
        ((10, 0, 3, 31764), 167.23),
        # From the LogLikelihoodTest of Apache Mahout.
        ((1, 0, 0, 1), 2.772589),  # 2 * 2 ln 2
        ((10, 0, 0, 10), 27.72589),
        ((5, 1995, 0, 100000), 39.33052),
        ((1000, 1995, 1000, 100000), 4730.737),
        ((1000, 1000, 1000, 100000), 5734.343),
        ((1000, 1000, 1000, 99000), 5714.932),
    ],
)
def test_the_llr_has_the_published_values(cells, published):
    both, only_i, only_j, _ = cells
    table = (both, both + only_i, both + only_j, sum(cells))
    digits = len(str(published).partition(".")[2])
    assert found("llr", table) == pytest.approx(published, abs=0.51 * 10**-digits)


def test_cosine_and_jaccard_are_those_of_the_columns_of_the_incidence_matrix():
    sessions_to_images = sparse.random(
        500, 40, density=0.1, format="csr", random_state=0, data_rvs=np.ones
    )
    together = (sessions_to_images.T @ sessions_to_images).toarray()
    n = together.diagonal()
    i, j = np.nonzero(np.triu(together, k=1))
    c = together[i, j]
    norms = np.sqrt(np.outer(n, n))
    union = np.add.outer(n, n) - together
    counts = [column.astype(np.int64) for column in (c, n[i], n[j])]
    np.testing.assert_allclose(measures.cosine(*counts, 500), (together / norms)[i, j], rtol=1e-15)
    np.testing.assert_allclose(measures.jaccard(*counts, 500), (together / union)[i, j], rtol=1e-15)


def test_images_that_are_always_together_have_the_same_bounded_weights():
    c = np.array([1, 2, 3, 7, 49, 10**9, 10**10])
    for name in ("jaccard", "cosine", "npmi"):
        assert measures.MEASURES[name](c, c, c, 10**10).tolist() == [1.0] * len(c)


def test_images_as_often_together_as_by_chance_have_no_positive_weight():
    c, n_i, n_j = np.array([6]), np.array([60]), np.array([100])  # 6 = 60 * 100 / 1000
    for name in ("pmi", "ppmi", "npmi", "llr"):
        assert measures.MEASURES[name](c, n_i, n_j, 1000).tolist() == [0.0]
    # In all sessions, both: nothing is learned, and nothing divided by zero; npmi is 1 by rule.
    for name, expected in (("pmi", 0.0), ("llr", 0.0), ("npmi", 1.0), ("lift", 1.0)):
        assert measures.MEASURES[name](c, c, c, 6).tolist() == [expected]


@given(
    counts=st.lists(st.floats(0.5, 1e10), min_size=3, max_size=3),
    population=st.floats(0.5, 1e10),
)
def test_counts_that_noise_made_contradictory_still_have_weights(counts, population):
    with np.errstate(all="raise", under="ignore"):
        for name, measure in measures.MEASURES.items():
            (weight,) = measure(*(np.array([value]) for value in counts), population)
            assert np.isfinite(weight)
            if name in ("jaccard", "cosine"):
                assert 0 < weight <= 1
            if name == "npmi":
                assert -1 <= weight <= 1


def test_no_edge_has_no_weight():
    none = np.zeros(0, np.int64)
    for measure in measures.MEASURES.values():
        assert measure(none, none, none, 0).tolist() == []


def test_every_weight_is_reached_by_its_name_and_count_is_the_strength():
    edge = {
        "sessions": np.array([3]),
        "src_sessions": np.array([9]),
        "dst_sessions": np.array([4]),
        "strength": np.array([4.5]),
        "population": 100,
    }
    weights = {name: measures.weigh(name, **edge) for name in measures.WEIGHTS}
    assert all(weight.dtype == np.float64 for weight in weights.values())
    assert weights["count"].tolist() == [4.5]
    assert weights["cosine"].tolist() == [0.5]  # 3 / sqrt(9 * 4)
    assert weights["jaccard"].tolist() == [0.3]  # 3 / (9 + 4 - 3)
    assert weights["lift"] == pytest.approx([100 / 12])  # 3 * 100 / (9 * 4)


@given(exponent=st.floats(-300, 0))
def test_the_minimum_llr_has_the_p_value_asked_for(exponent):
    p_value = 10.0**exponent
    assert chi2.sf(measures.minimum_llr(p_value), 1) == pytest.approx(p_value, rel=1e-9)


def test_the_minimum_llr_at_known_points():
    assert measures.minimum_llr(1.0) == 0.0
    assert measures.minimum_llr(0.05) == pytest.approx(3.841458820694124, rel=1e-12)
    with mpmath.workdps(30):
        root = mpmath.findroot(lambda x: mpmath.erfc(mpmath.sqrt(x / 2)) - 1e-12, 50)
    assert measures.minimum_llr(1e-12) == pytest.approx(float(root), rel=1e-12)
    for wrong in (0.0, -0.1, 1.5, float("nan")):
        with pytest.raises(ValueError, match="wanted: above 0 and at most 1"):
            measures.minimum_llr(wrong)


def test_significance_asks_for_more_sessions_than_by_chance():
    llr = np.array([-50.0, 0.0, 3.8, 3.9])
    assert measures.significant(llr, 0.05).tolist() == [False, False, False, True]
    assert measures.significant(llr, 1.0).tolist() == [False, True, True, True]
