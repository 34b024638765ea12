"""The measures against rankings sorted in full, arithmetic written out, and scikit-learn."""

import itertools
import math
import tracemalloc

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, ndcg_score, roc_auc_score

from trainer import metrics


def sorted_rank(row: np.ndarray, column: int) -> int:
    """Where an item stands when all are sorted: by score, then by column."""
    order = sorted(range(len(row)), key=lambda index: (-row[index], index))
    return order.index(column) + 1


def tied_scores(rows: int, columns: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 5, (rows, columns)).astype(np.float32)


def test_a_rank_is_the_place_in_the_sorted_row_with_ties_by_column() -> None:
    scores = tied_scores(6, 11, seed=1)
    rows, columns = (part.ravel() for part in np.mgrid[:6, :11])
    expected = [sorted_rank(scores[r], c) for r, c in zip(rows, columns, strict=True)]
    np.testing.assert_array_equal(metrics.ranks_in_rows(scores, rows, columns), expected)


@pytest.mark.parametrize("chunk_bytes", [1, 100, 1 << 20])
def test_ranks_of_pairs_do_not_depend_on_the_chunks(
    chunk_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(metrics, "CHUNK_BYTES", chunk_bytes)
    scores = tied_scores(9, 13, seed=2)
    generator = np.random.default_rng(3)
    queries, targets = generator.integers(0, 9, 40), generator.integers(-1, 13, 40)
    ranks = metrics.rank_pairs(lambda n: scores[n], queries, targets, corpus=13)
    expected = [
        sorted_rank(scores[q], t) if t >= 0 else math.inf
        for q, t in zip(queries, targets, strict=True)
    ]
    np.testing.assert_array_equal(ranks, expected)


def test_what_is_no_candidate_is_missed_and_stands_in_nobodys_way() -> None:
    scores = np.array([[3.0, -np.inf, 1.0]])
    ranks = metrics.rank_pairs(
        lambda n: scores[n].copy(), np.array([0, 0]), np.array([1, 2]), corpus=3
    )
    np.testing.assert_array_equal(ranks, [np.inf, 2.0])


def test_no_pairs_have_no_ranks() -> None:
    none = np.zeros(0, np.int64)
    assert len(metrics.rank_pairs(lambda n: np.zeros((len(n), 3)), none, none, corpus=3)) == 0


def test_recall_mrr_map_and_ndcg_of_ranks_written_out() -> None:
    # Query 0: relevant at 1, 4 and nowhere. Query 1: relevant at 3.
    ranks = np.array([4.0, 1.0, np.inf, 3.0])
    query = np.array([0, 0, 0, 1])
    found = metrics.retrieval_measures(ranks, query, queries=2, ks=[1, 3, 10])
    assert metrics.measure_names([1, 3, 10]) == [
        "recall@1", "recall@3", "recall@10", "mrr", "map", "ndcg@1", "ndcg@3", "ndcg@10",
    ]  # fmt: skip
    ideal_of_three = 1 + 1 / math.log2(3) + 1 / math.log2(4)
    first = [
        1 / 3, 1 / 3, 2 / 3, 1.0, (1 / 1 + 2 / 4) / 3,
        1.0, 1 / ideal_of_three, (1 + 1 / math.log2(5)) / ideal_of_three,
    ]  # fmt: skip
    second = [0.0, 1.0, 1.0, 1 / 3, 1 / 3, 0.0, 1 / math.log2(4), 1 / math.log2(4)]
    np.testing.assert_allclose(found, [first, second])


def test_a_query_without_a_relevant_item_is_a_fault_of_the_caller() -> None:
    with pytest.raises(ValueError, match="without a relevant item"):
        metrics.retrieval_measures(np.ones(1), np.array([1]), queries=2, ks=[1])


@pytest.mark.parametrize(("present", "relevant"), [(1, 1), (2, 2), (3, 4), (0, 2)])
def test_the_expectation_of_a_random_ranking_is_the_mean_over_all_rankings(
    present: int, relevant: int
) -> None:
    candidates, ks = 6, [1, 3, 10]
    all_measures = []
    for places in itertools.combinations(range(1, candidates + 1), present):
        ranks = np.array([*map(float, places), *[np.inf] * (relevant - present)])
        query = np.zeros(relevant, np.int64)
        all_measures.append(metrics.retrieval_measures(ranks, query, queries=1, ks=ks)[0])
    found = metrics.random_measures(
        np.array([present]), np.array([relevant]), candidates=candidates, ks=ks
    )
    np.testing.assert_allclose(found[0], np.mean(all_measures, axis=0), atol=1e-12)


def test_a_list_longer_than_any_corpus_holds_all_of_it() -> None:
    ks, two = [10, 10**13], np.array([2])
    found = metrics.retrieval_measures(np.array([2.0, 3.0]), np.zeros(2, int), queries=1, ks=ks)
    of_chance = metrics.random_measures(two, two, candidates=5, ks=ks)
    for (values,) in (found, of_chance):
        assert values[0] == values[1] == 1.0
        assert values[-2] == values[-1] > 0.0


def test_a_random_ranking_of_nothing_finds_nothing() -> None:
    found = metrics.random_measures(np.array([0]), np.array([2]), candidates=0, ks=[1])
    np.testing.assert_array_equal(found, [[0.0, 0.0, 0.0, 0.0]])


def plain_measures(scores: list[float], relevant: set[int], k: int) -> list[float]:
    """recall@k, MRR, MAP, NDCG@k by sorting everything; of equal scores the lower index first."""
    order = sorted(range(len(scores)), key=lambda index: (-scores[index], index))
    places = [place for place, index in enumerate(order, 1) if index in relevant]
    precisions = [number / place for number, place in enumerate(places, 1)]
    gain = sum(1 / math.log2(place + 1) for place in places if place <= k)
    ideal = sum(1 / math.log2(place + 1) for place in range(1, min(k, len(relevant)) + 1))
    return [
        sum(place <= k for place in places) / len(relevant),
        1 / places[0],
        sum(precisions) / len(relevant),
        gain / ideal,
    ]


def test_measures_of_tied_scores_are_those_of_a_plain_loop() -> None:
    generator, k = np.random.default_rng(7), 4
    scores = tied_scores(20, 15, seed=8)
    relevant = [set(generator.choice(15, 1 + row % 6, replace=False)) for row in range(20)]
    pairs = [(row, int(index)) for row, of in enumerate(relevant) for index in of]
    query, target = np.array(pairs).T
    ranks = metrics.rank_pairs(lambda n: scores[n].copy(), query, target, corpus=15)
    found = metrics.retrieval_measures(ranks, query, queries=20, ks=[k])
    expected = [
        plain_measures(row.tolist(), of, k) for row, of in zip(scores, relevant, strict=True)
    ]
    np.testing.assert_allclose(found, expected)


def judged_rows(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Scores without ties and gains of every item, [30 queries, 25 items] each."""
    generator = np.random.default_rng(seed)
    scores = generator.permuted(np.tile(np.arange(25.0), (30, 1)), axis=1)
    gains = generator.choice([0.0, 0.0, 1.0, 3.0, 7.0], (30, 25))
    gains[:, 0] = 1.0
    return scores, gains


@pytest.mark.parametrize("k", [1, 5, 25, 100])
def test_graded_ndcg_is_that_of_scikit_learn(k: int) -> None:
    scores, gains = judged_rows(seed=9)
    query, item = np.nonzero(gains)
    ranks = metrics.rank_pairs(lambda n: scores[n].copy(), query, item, corpus=25)
    found = metrics.graded_ndcg(ranks, gains[query, item], query, queries=30, ks=[k])
    expected = [
        ndcg_score([gain], [row], k=k, ignore_ties=True)
        for gain, row in zip(gains, scores, strict=True)
    ]
    np.testing.assert_allclose(found[:, 0], expected)


def test_binary_measures_are_those_of_scikit_learn() -> None:
    scores, gains = judged_rows(seed=10)
    relevant = gains > 0
    query, item = np.nonzero(relevant)
    ranks = metrics.rank_pairs(lambda n: scores[n].copy(), query, item, corpus=25)
    found = metrics.retrieval_measures(ranks, query, queries=30, ks=[10])
    names = metrics.measure_names([10])
    for name, of in (
        ("map", average_precision_score),
        ("ndcg@10", lambda truth, row: ndcg_score([truth], [row], k=10, ignore_ties=True)),
    ):
        expected = [of(truth, row) for truth, row in zip(relevant, scores, strict=True)]
        np.testing.assert_allclose(found[:, names.index(name)], expected)


def test_auc_with_ties_is_that_of_scikit_learn() -> None:
    scores = tied_scores(1, 200, seed=11)[0]
    truths = np.random.default_rng(12).random(200) < 0.3
    assert metrics.auc(scores, truths) == pytest.approx(roc_auc_score(truths, scores))


def test_graded_ndcg_written_out() -> None:
    # Grades 3, 1 and 2 at ranks 2, 5 and nowhere; the best order is 3, 2, 1.
    gains = np.array([7.0, 1.0, 3.0])
    ranks, query = np.array([2.0, 5.0, np.inf]), np.zeros(3, np.int64)
    found = metrics.graded_ndcg(ranks, gains, query, queries=1, ks=[1, 3, 5])
    ideal = 7 + 3 / math.log2(3) + 1 / math.log2(4)
    at_3, at_5 = 7 / math.log2(3), 7 / math.log2(3) + 1 / math.log2(6)
    np.testing.assert_allclose(found[0], [0.0, at_3 / ideal, at_5 / ideal])


def test_the_graded_expectation_is_the_mean_over_all_rankings() -> None:
    # Of five candidates two gain 3 and 1; a third judged image, of gain 7, is no candidate.
    gains, query = np.array([3.0, 1.0, 7.0]), np.zeros(3, np.int64)
    rankings = [
        metrics.graded_ndcg(
            np.array([first, second, np.inf]), gains, query, queries=1, ks=[1, 3, 9]
        )[0]
        for first, second in itertools.permutations([1.0, 2.0, 3.0, 4.0, 5.0], 2)
    ]
    found = metrics.random_graded_ndcg(
        gains, query, np.array([True, True, False]), candidates=np.array([5]), ks=[1, 3, 9]
    )
    np.testing.assert_allclose(found[0], np.mean(rankings, axis=0))


def test_places_within_a_query_leave_the_others_out() -> None:
    ranks = np.array([9.0, 2.0, np.inf, 1.0, 4.0, 4.0])
    query = np.array([0, 0, 0, 1, 1, 1])
    assert metrics.places_within(ranks, query).tolist() == [2, 1, 3, 1, 2, 3]


def test_sessions_count_alike_however_many_queries_they_hold() -> None:
    values = np.array([[1.0], [0.0], [0.0], [0.0], [1.0]])
    session = np.array([7, 3, 3, 7, 9])
    np.testing.assert_array_equal(metrics.session_means(values, session), [[0.0], [0.5], [1.0]])


def test_the_interval_of_a_mean_is_near_the_one_of_the_normal_law() -> None:
    values = np.random.default_rng(4).normal(size=(400, 1))
    estimate = metrics.bootstrap(values, resamples=2_000, seed=0)
    spread = 1.96 * values.std() / math.sqrt(400)
    assert estimate.value[0] == pytest.approx(values.mean())
    assert estimate.low[0] == pytest.approx(values.mean() - spread, abs=0.01)
    assert estimate.high[0] == pytest.approx(values.mean() + spread, abs=0.01)


def test_the_same_seed_gives_the_same_interval() -> None:
    values = np.random.default_rng(5).random((50, 3))
    first, second = (metrics.bootstrap(values, resamples=100, seed=9) for _ in range(2))
    np.testing.assert_array_equal(first.low, second.low)
    other = metrics.bootstrap(values, resamples=100, seed=10)
    assert (first.low != other.low).any()


@pytest.mark.parametrize("chunk_bytes", [1, 3_000, 1 << 24])
def test_intervals_do_not_depend_on_the_chunks(
    chunk_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = np.random.default_rng(13).random((70, 2))
    # Draw by draw, as the definition says.
    generator, means = np.random.default_rng(3), []
    for _ in range(200):
        means.append(values[generator.integers(70, size=70)].mean(axis=0))
    low, high = np.percentile(means, [2.5, 97.5], axis=0)
    monkeypatch.setattr(metrics, "CHUNK_BYTES", chunk_bytes)
    estimate = metrics.bootstrap(values, resamples=200, seed=3)
    np.testing.assert_allclose((estimate.low, estimate.high), (low, high))


def unit(*angles: float) -> np.ndarray:
    """Unit vectors at angles in degrees, [n, 2]."""
    radians = np.radians(np.array(angles))
    return np.stack([np.cos(radians), np.sin(radians)], axis=1).astype(np.float32)


def test_the_nearer_of_two_minorities_can_outvote_by_cosine() -> None:
    # cos 10 = 0.985 for label 3; cos 60 = 0.5 + cos 70 = 0.342 = 0.842 for label 1.
    neighbors, labels = unit(60, 10, 70), np.array([1, 3, 1])
    assert metrics.knn_labels(unit(0), neighbors, labels, k=3).tolist() == [3]


def test_equal_votes_go_to_the_label_of_the_nearest_neighbour() -> None:
    neighbors, labels = unit(20, -20), np.array([5, 2])
    assert metrics.knn_labels(unit(0, 5, -5), neighbors, labels, k=1).tolist() == [5, 5, 2]
    # All cosines are below 0: no vote counts, the nearest decides.
    assert metrics.knn_labels(unit(180), unit(20, 60), labels, k=5).tolist() == [2]


@pytest.mark.parametrize("k", [1, 5, 50])
def test_labels_by_neighbours_are_those_of_a_plain_loop(k: int) -> None:
    generator = np.random.default_rng(6)
    vectors = generator.normal(size=(60, 4))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    queries, neighbors, labels = vectors[:20], vectors[20:], generator.integers(0, 4, 40)
    expected = []
    for query in queries:
        nearest = sorted(range(40), key=lambda index: -float(query @ neighbors[index]))[:k]
        votes: dict[int, float] = {}
        for index in nearest:
            votes.setdefault(int(labels[index]), 0.0)
            votes[int(labels[index])] += max(0.0, float(query @ neighbors[index]))
        expected.append(max(votes, key=lambda label: votes[label]))
    assert metrics.knn_labels(queries, neighbors, labels, k=k).tolist() == expected


def test_images_of_many_labels_take_no_more_memory_than_others() -> None:
    """Each of 5 * 40 named labels is compared with each, for every image that is asked."""
    generator = np.random.default_rng(14)
    vectors = generator.normal(size=(600, 8)).astype(np.float32)
    labels = generator.integers(0, 90, (100, 40))
    tracemalloc.start()
    metrics.knn_labels(vectors[100:], vectors[:100], labels)
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert most < 3 * metrics.CHUNK_BYTES


def test_rank_me_counts_the_directions_that_are_used() -> None:
    one_point = np.tile(unit(30), (10, 1))
    assert metrics.rank_me(one_point) == pytest.approx(1.0, abs=1e-4)
    axes = np.tile(np.eye(8), (5, 1))
    assert metrics.rank_me(axes) == pytest.approx(8.0, abs=1e-4)
    # Singular values 3 and 1: shares 3/4 and 1/4.
    uneven = np.array([[3.0, 0.0], [0.0, 1.0]])
    entropy = -(0.75 * math.log(0.75) + 0.25 * math.log(0.25))
    assert metrics.rank_me(uneven) == pytest.approx(math.exp(entropy), abs=1e-4)


def test_uniformity_is_the_log_of_the_mean_over_pairs() -> None:
    assert metrics.uniformity(np.tile(unit(10), (4, 1))) == pytest.approx(0.0, abs=1e-6)
    # Pairs: two at a right angle, |x - y|^2 = 2, and one opposite, 4.
    expected = math.log((2 * math.exp(-2 * 2) + math.exp(-2 * 4)) / 3)
    assert metrics.uniformity(unit(0, 90, 180)) == pytest.approx(expected, abs=1e-5)


def test_alignment_is_the_mean_squared_distance_of_pairs() -> None:
    # A right angle: 2. The same point: 0.
    assert metrics.alignment(unit(0, 40), unit(90, 40)) == pytest.approx(1.0, abs=1e-6)
