"""What the report computes, against plain references: graph figures, verdicts, samples, the map."""

import re
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cli.report import atlas, charts, edges, figures, gallery, graph, page, questions, training
from cli.report.runs import Run
from cli.report.verdict import of_run
from pipeline import schema
from pipeline.artifacts import RunDir, Version
from pipeline.sessions import lengths
from trainer.evaluation.queries import Queries

pairs_of_images = st.lists(st.tuples(st.integers(0, 11), st.integers(0, 11)), max_size=30)


# The graph ----------------------------------------------------------------------------------------


def links(images: int, pairs: list[tuple[int, int]]) -> graph.Links:
    ends = np.array(pairs, np.int32).reshape(-1, 2)
    ids = pa.array([str(number) for number in range(images)])
    weight = np.arange(len(pairs), dtype=float)
    return graph.Links(ids, np.zeros(images, int), ends[:, 0], ends[:, 1], weight)


def flood(images: int, pairs: list[tuple[int, int]]) -> list[int]:
    """Sizes of components, by walking."""
    near = {number: {number} for number in range(images)}
    for one, other in pairs:
        near[one].add(other)
        near[other].add(one)
    sizes, left = [], set(near)
    while left:
        found, waiting = set(), [left.pop()]
        while waiting:
            one = waiting.pop()
            found.add(one)
            waiting += near[one] - found
        sizes.append(len(found))
        left -= found
    return sizes


@settings(deadline=None)
@given(pairs_of_images)
def test_components_are_those_that_one_can_walk(pairs):
    found = graph.components(links(12, pairs))
    sizes = flood(12, pairs)
    assert found.alone == sizes.count(1)
    assert found.number == sum(size > 1 for size in sizes)
    assert found.largest == max([size for size in sizes if size > 1], default=0)
    assert sum(found.sizes.counts) == found.number


@settings(deadline=None)
@given(st.lists(st.integers(0, 300), min_size=1))
def test_degrees_are_counted_in_powers_of_two(numbers):
    steps = graph.by_powers(np.array(numbers))
    assert sum(steps.counts) == len(numbers)
    for name, count in zip(steps.names, steps.counts, strict=True):
        low, _, high = name.partition("–")
        assert count == sum(int(low) <= number <= int(high or low) for number in numbers)


@settings(deadline=None)
@given(st.lists(st.floats(-1e6, 1e6), min_size=1), st.sampled_from(graph.QUANTILES))
def test_a_quantile_is_the_least_value_that_so_many_are_at_most(values, share):
    ((_, found),) = graph.quantiles(np.array(values), [share])
    enough = [v for v in values if sum(w <= v for w in values) >= share * len(values) - 1e-9]
    assert found == min(enough)


def write(version: Path, prefix: str, rows: list[dict], wanted: pa.Schema, files: int) -> None:
    version.mkdir(parents=True, exist_ok=True)
    for number, part in enumerate(np.array_split(np.arange(len(rows)), files)):
        table = pa.Table.from_pylist([rows[i] for i in part], schema=wanted)
        pq.write_table(table, version / schema.shard_name(prefix, number, files, "parquet"))


def a_graph(folder: Path, pairs: list[tuple[int, int]], *, images: int, files: int = 1) -> Version:
    nodes = [{"image_id": f"i{n}", "sessions": n, "degree": 0} for n in range(images)]
    rows = [
        {"src": f"i{src}", "dst": f"i{dst}", "rank": 1, "weight": float(place % 4)}
        for place, (src, dst) in enumerate(pairs)
    ]
    write(folder / "v0001", schema.NODES, nodes, schema.NODE_SCHEMA, files)
    write(folder / "v0001", schema.EDGES, rows, schema.EDGE_SCHEMA, files)
    return Version(schema.GRAPH, "v0001", str(folder / "v0001"), {})


def test_edges_are_read_from_several_files_and_images_that_are_no_nodes_count(tmp_path):
    found = graph.read_links(a_graph(tmp_path, [(0, 1), (1, 9), (8, 0)], images=3, files=2))
    names = found.ids.to_pylist()
    pairs = [(names[a], names[b]) for a, b in zip(found.src, found.dst, strict=True)]
    assert pairs == [("i0", "i1"), ("i1", "i9"), ("i8", "i0")]
    assert sorted(names) == ["i0", "i1", "i2", "i8", "i9"]
    assert found.sessions.tolist() == [0, 1, 2, 0, 0]


@settings(deadline=None, max_examples=30)
@given(pairs=pairs_of_images, files=st.integers(1, 3), number=st.integers(1, 6))
def test_the_strongest_edges_are_each_pair_once(tmp_path_factory, pairs, files, number):
    pairs = [pair for pair in pairs if pair[0] != pair[1]]
    version = a_graph(tmp_path_factory.mktemp("g"), pairs, images=12, files=files)
    ranked = sorted(
        (-float(place % 4), f"i{src}", f"i{dst}") for place, (src, dst) in enumerate(pairs)
    )
    expected, seen = [], set()
    for weight, src, dst in ranked:
        if frozenset((src, dst)) not in seen:
            seen.add(frozenset((src, dst)))
            expected.append((-weight, src, dst))
    found = [(edge.weight, edge.src, edge.dst) for edge in edges.strongest(version, number)]
    assert found == expected[:number]


@settings(deadline=None)
@given(st.lists(st.integers(1, 400)))
def test_sessions_are_counted_by_length(images):
    counted = lengths.count_lengths(np.array(images, np.int64))
    found = lengths.by_length({f"n/{name}": n for name, n in counted.items()}, "n")
    assert sum(found.values()) == len(images)
    for name, count in found.items():
        low, _, high = name.replace(" or more", " to 1000").partition(" to ")
        assert count == sum(int(low) <= one <= int(high or low) for one in images)


# The verdict --------------------------------------------------------------------------------------


def a_run(**manifests: dict) -> Run:
    return Run({stage: Version(stage, "v0001", "", of) for stage, of in manifests.items()})


def measured(**values: tuple[float, ...]) -> dict:
    """{method: (value,) or (value, low, high)} as a part of metrics.json."""
    names = {"ours": "trained embedding"}
    methods = {
        names.get(name, name): {"recall@10": dict(zip(("value", "low", "high"), of, strict=False))}
        for name, of in values.items()
    }
    return {"image_to_image": {"queries": 9, "sessions": 7, "methods": methods}}


@pytest.mark.parametrize(
    ("values", "kind", "words"),
    [
        (
            {"ours": (0.6, 0.58, 0.62), "popularity": (0.1, 0.08, 0.12)},
            "better",
            "finds 60.0 % (58.0 to 62.0) of",
        ),
        ({"ours": (0.6, 0.58, 0.62), "raw": (0.61, 0.59, 0.63)}, "even", "does not tell which"),
        (  # the ends touch: that is no difference
            {"ours": (0.6, 0.58, 0.62), "raw": (0.56, 0.54, 0.58)},
            "even",
            "the intervals overlap",
        ),
        (
            {"ours": (0.5, 0.48, 0.52), "raw": (0.6, 0.58, 0.62), "random": (0.1, 0.1, 0.1)},
            "worse",
            "worse than raw; better than the other baseline",
        ),
        (
            {"ours": (0.5, 0.48, 0.52), "a": (0.6, 0.58, 0.62), "b": (0.51, 0.49, 0.53)},
            "worse",
            "worse than a; the intervals overlap, so this run does not tell it apart from b",
        ),
        ({"ours": (0.6,), "raw": (0.5,)}, "even", "ahead of every baseline, but no intervals"),
        ({"ours": (0.5,), "raw": (0.5,)}, "worse", "not better than raw"),
        ({"ours": (0.5, 0.4, 0.6)}, "unknown", "no baseline to compare it with"),
    ],
)
def test_the_verdict_claims_no_more_than_the_intervals(values, kind, words):
    verdict = of_run(a_run(graph={}), measured(**values))
    assert verdict.kind == kind
    (sentence,) = verdict.sentences()
    assert words in sentence.replace("\u00a0", " ")
    assert sentence.startswith("Search by image: On 7 held-out sessions the trained embedding ")


def test_the_worst_task_decides_the_verdict():
    better = measured(ours=(0.6, 0.58, 0.62), raw=(0.1, 0.09, 0.11))
    worse = measured(ours=(0.1, 0.09, 0.11), raw=(0.6, 0.58, 0.62))["image_to_image"]
    verdict = of_run(a_run(graph={}), {**better, "text_to_image": worse})
    assert verdict.kind == "worse"
    assert len(verdict.sentences()) == 2


def test_a_run_without_evaluation_is_told_what_is_next():
    verdict = of_run(a_run(graph={}, examples={}), None)
    assert verdict.kind == "unknown"
    assert verdict.sentences() == [
        "Nothing has been measured yet. This run has graph and examples, but no model; "
        "next: imgembed train"
    ]


def test_held_out_sessions_of_which_nothing_is_embedded_are_told_from_none():
    nothing = {"image_to_image": {"queries": 0, "methods": {}}}
    said = of_run(a_run(graph={}), {**nothing, "held_out": {"sessions": 1234}}).sentences()
    assert "none of 1,234 held-out sessions" in said[0]
    said = of_run(a_run(graph={}), {**nothing, "held_out": {"sessions": 0}}).sentences()
    assert "no session was held out" in said[0]


# Figures ------------------------------------------------------------------------------------------


def test_many_slices_are_cut_to_those_of_most_queries():
    methods = measured(ours=(0.5, 0.4, 0.6), raw=(0.3, 0.2, 0.4))["image_to_image"]["methods"]
    slices = {f"label {n}": {"queries": n, "methods": methods} for n in range(1, 61)}
    (part,) = figures.parts({"labels": {"queries": 3, "methods": methods, "by_label": slices}})
    (table,) = part.slices
    assert [name for name, _ in table.rows] == [f"label {n} ({n})" for n in range(21, 61)]
    assert table.note == "20 slices of fewer queries are left out."


def test_intervals_are_drawn_to_the_scale_of_their_column():
    (part,) = figures.parts(measured(ours=(0.5, 0.4, 0.8), raw=(0.2, 0.1, 0.3)))
    ours, raw = (cells[0] for _, cells in part.table.rows)
    assert (ours.left, ours.width, ours.dot, ours.best) == (50.0, 50.0, 62.5, True)
    assert (raw.left, raw.width, raw.dot, raw.best) == (12.5, 25.0, 25.0, False)


def test_what_is_no_figure_is_passed_over():
    odd = {"a": 3, "b": None, "c": {"methods": {}}, "d": {"methods": {"x": {"y": "z"}}}, "k": [1]}
    assert figures.parts(odd) == []
    assert figures.facts({**odd, "e": {"f": 1.5, "g": None}}) == [("e", [("f", 1.5)])]


def test_charts_are_text_and_variables_and_the_same_each_time():
    hostile = "<script>alert(1)</script> $x$ & \"'"
    drawn = [charts.bars(hostile, ["a", hostile], {"n": [1, 2]}, unit=hostile) for _ in range(2)]
    assert drawn[0] == drawn[1]
    assert "<script" not in drawn[0]
    assert "$x$ &amp;" in drawn[0]
    assert not re.search(r"https?://|<metadata|#0[1-6]0", drawn[0])
    assert "var(--accent)" in drawn[0]


def test_a_history_with_gaps_is_drawn():
    epochs = [{"epoch": 1, "loss": 2.0}, {"epoch": 2, "loss": 1.0, "validation_figure": 0.5}]
    found = training.of_history({"best_epoch": 2, "epochs": epochs})
    assert len(found.curves) == 2
    assert 'aria-label="validation figure by epoch: 0.5 in epoch 2' in found.curves[0]


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.58571, "0.586"),
        (12.345, "12.35"),
        (123.45, "123.5"),
        (1234.5, "1,234"),
        (0.00012, "0.00012"),
        (7.0, "7"),
        (-0.5, "-0.500"),
        (None, "–"),
    ],
)
def test_numbers_have_the_digits_that_count(value, text):
    assert page._figure(value) == text


def test_ids_are_cut_in_their_middle():
    assert page._cut("a" * 14 + "b" * 50 + "c" * 13) == "a" * 14 + "…" + "c" * 13
    assert len(page._cut("x" * 100)) == 28


# Samples ------------------------------------------------------------------------------------------


def embeddings(folder: Path, images: int, files: int) -> Version:
    vectors = np.random.default_rng(0).normal(size=(images, 4)).astype(np.float32)
    rows = [
        {"image_id": f"i{n:03d}", "embedding": vectors[n].tolist(), "model_version": "m"}
        for n in range(images)
    ]
    write(folder, schema.IMAGE_EMBEDDINGS, rows, schema.embedding_schema("image_id", 4), files)
    return Version(schema.EMBEDDINGS, "v0001", str(folder), {"dim": 4})


def test_the_gallery_is_the_same_of_however_many_files_and_a_smaller_one_its_beginning(tmp_path):
    one, three = (embeddings(tmp_path / str(n), 50, n) for n in (1, 3))
    first = gallery.draw(one, None, limit=20, seed=5)
    again = gallery.draw(three, None, limit=20, seed=5)
    smaller = gallery.draw(three, None, limit=7, seed=5)
    assert (len(first), first.corpus) == (20, 50)
    assert first.ids == again.ids
    assert np.array_equal(first.vectors, again.vectors)
    assert smaller.ids.to_pylist() == first.ids.to_pylist()[:7] == first.first(7).ids.to_pylist()
    assert first.ids.to_pylist() != sorted(first.ids.to_pylist())
    assert gallery.draw(one, None, limit=20, seed=6).ids != first.ids


def test_questions_are_ranked_as_by_hand():
    # Cosines to image 0: 0.9 of 1, 0.8 of 2, 0.1 of 3; the model is asked with image 0.
    scores = np.array([[1, 0.9, 0.8, 0.1], [0.9, 1, 0, 0], [0.8, 0, 1, 0], [0.1, 0, 0, 1]]) * 1e6
    drawn = gallery.Gallery(
        pa.array(["a", "b", "c", "d"]), np.eye(4, dtype=np.float32), np.zeros((4, 0)), [None] * 4, 9
    )

    def rows(numbers: np.ndarray) -> np.ndarray:
        found = scores[numbers]
        found[np.arange(len(numbers)), numbers] = -np.inf
        return found

    queries = Queries(
        item=np.array([0, 3, 1]),
        session=np.array([0, 0, 1]),
        query=np.array([0, 0, 1, 2]),
        target=np.array([3, 2, 0, -1]),  # of the last query nothing was drawn
    )
    found = questions._questions(drawn, queries, {questions.MODEL: rows}, rows=5, seed=0)
    assert (found.asked, found.sessions) == (2, 1)
    by_id = {one.image_id: one for one in found.drawn}
    assert set(by_id) == {"a", "d"}
    answers = by_id["a"].answers[0]
    assert answers.rank == 2
    assert [(one.image_id, one.score, one.right) for one in answers.first] == [
        ("b", 0.9, False),
        ("c", 0.8, True),
        ("d", 0.1, True),
    ]
    assert by_id["a"].total == 2
    assert found.worst == []  # all are drawn already


def test_the_worst_are_those_of_the_largest_ranks_and_each_image_once():
    count = 12
    vectors = np.random.default_rng(3).normal(size=(count, 3)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    drawn = gallery.Gallery(
        pa.array([str(n) for n in range(count)]), vectors, vectors, [None] * count, count
    )
    draw = np.random.default_rng(4)
    item = draw.integers(count, size=30)
    target = (item + 1 + draw.integers(count - 1, size=30)) % count
    queries = Queries(item, np.arange(30), np.arange(30), target)
    cosine = np.rint(vectors * np.float32(1e6) @ vectors.T)
    ranks = []
    for one, wanted in zip(item, target, strict=True):
        order = sorted((o for o in range(count) if o != one), key=lambda o: (-cosine[one, o], o))
        ranks.append(order.index(wanted) + 1)

    def rows(numbers: np.ndarray) -> np.ndarray:
        found = cosine[numbers].copy()
        found[np.arange(len(numbers)), numbers] = -np.inf
        return found

    found = questions._questions(drawn, queries, {questions.MODEL: rows}, rows=3, seed=1)
    shown = {one.image_id for one in found.drawn}
    assert len(shown) == 3
    left = [rank for one, rank in zip(item, ranks, strict=True) if str(one) not in shown]
    worst = [one.answers[0].rank for one in found.worst]
    assert len({one.image_id for one in found.worst} | shown) == 6
    assert worst[0] == max(left)
    assert worst == sorted(worst, reverse=True)


# The map ------------------------------------------------------------------------------------------


def test_the_map_is_the_same_each_time_and_keeps_groups_together():
    draw = np.random.default_rng(0)
    kind = np.arange(90) % 3
    vectors = (np.eye(6)[kind] + 0.05 * draw.normal(size=(90, 6))).astype(np.float32)
    (one, method), (again, _) = atlas.positions(vectors), atlas.positions(vectors)
    assert method == "t-SNE"
    assert np.array_equal(one, again)
    away = np.linalg.norm(one[:, None] - one, axis=2)
    np.fill_diagonal(away, np.inf)
    assert (kind[away.argmin(axis=1)] == kind).all()


@pytest.mark.parametrize("images", [1, 2, 5])
def test_a_few_images_are_mapped_by_their_principal_components(images):
    vectors = np.eye(images, 8, dtype=np.float32)
    found = atlas.draw(vectors, [str(n) for n in range(images)], [None] * images, {}, corpus=images)
    assert found.method == "principal components"
    assert found.sprite is None
    assert all(0 <= x <= atlas.WIDTH for x in found.x)
    assert all(0 <= y <= atlas.HEIGHT for y in found.y)


def test_images_that_are_all_the_same_are_one_point():
    found = atlas.draw(
        np.ones((40, 3), np.float32), list(map(str, range(40))), ["a"] * 40, {}, corpus=40
    )
    assert len(set(zip(found.x, found.y, strict=True))) == 1


def test_principal_components_are_those_of_scikit_learn():
    from sklearn.decomposition import PCA

    vectors = np.random.default_rng(1).normal(size=(50, 7)).astype(np.float32)
    ours, theirs = atlas.principal(vectors), PCA(2, svd_solver="full").fit_transform(vectors)
    for column in (0, 1):
        sign = np.sign(ours[:, column] @ theirs[:, column])
        assert ours[:, column] == pytest.approx(sign * theirs[:, column], abs=1e-4)


def test_labels_beyond_those_with_a_colour_are_one_group():
    labels = [f"label {n % 11}" for n in range(60)] + [None] * 4
    vectors = np.random.default_rng(2).normal(size=(64, 3)).astype(np.float32)
    found = atlas.draw(vectors, list(map(str, range(64))), labels, {}, corpus=64)
    named = {group.name: group.points for group in found.groups}
    assert sum(named.values()) == 64
    assert named[atlas.NONE] == 4
    assert named[atlas.OTHER] == 60 - sum(n for name, n in named.items() if name[0] == "l")
    assert len(named) == atlas.COLOURS + 2


def test_the_report_is_a_stage_of_a_run_directory(tmp_path):
    (tmp_path / "report" / "v0001").mkdir(parents=True)
    (tmp_path / "report" / "v0001" / "manifest.json").write_text('{"stage": "report"}')
    (tmp_path / "report" / "CURRENT").write_text("v0001\n")
    assert RunDir.open(str(tmp_path)).require(schema.REPORT).manifest == {"stage": "report"}
