"""The evaluation on a run small enough to work out by hand, and against plain loops."""

import io
import itertools
import math
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import tensorflow as tf
from evaluation_runs import (
    ANGLES,
    FEATURES,
    HOLDOUT,
    at_angle,
    example,
    feature_examples,
    save_embeddings,
    save_examples,
    save_graph,
)
from PIL import Image
from tiny_model import save_model

from pipeline import schema
from pipeline.artifacts import Version
from pipeline.errors import ImgembedError
from trainer import metrics
from trainer.evaluation import inputs, methods
from trainer.evaluation.config import EvaluationConfig
from trainer.evaluation.leaks import check_trained_on
from trainer.evaluation.measuring import Measure
from trainer.evaluation.queries import Queries, image_queries
from trainer.evaluation.run import evaluate
from trainer.evaluation.slices import label_slices
from trainer.evaluation.tables import tables


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Version]:
    folder = tmp_path_factory.mktemp("run")
    return {
        "embeddings": save_embeddings(folder / "embeddings", ANGLES, {"red": 2}),
        "graph": save_graph(folder / "graph", holdout=HOLDOUT),
        "examples": feature_examples(folder / "examples"),
        "model": save_model(folder / "model"),
    }


@pytest.fixture(scope="module")
def result(run: dict[str, Version]) -> dict[str, Any]:
    return evaluate(**run, config=EvaluationConfig(k=[2, 1], bootstrap=50), seed=0)


def values(part: dict[str, Any], method: str, *names: str) -> list[float]:
    return [part["methods"][method][name]["value"] for name in names]


def test_images_by_image_are_as_worked_out(result: dict[str, Any]) -> None:
    """Session 0 asks a -> b and b -> a, session 1 asks c -> {a, nowhere} and a -> {c, nowhere}."""
    part = result["image_to_image"]
    assert (part["queries"], part["sessions"], part["queries_without_embedding"]) == (4, 2, 1)
    names = ("recall@1", "recall@2", "mrr")
    # Ranks: a -> b 1, b -> a 1; c -> a 2 (behind b), a -> c 2 (behind b).
    assert values(part, "trained embedding", *names) == pytest.approx([0.5, 0.75, 0.75])
    # a -> c | b d: b at 2. b -> a: 1. c has no edge, a b d: a at 1. a -> c: 1.
    assert values(part, "co-occurrence only", *names) == pytest.approx([0.5, 0.75, 0.875])
    # a -> b c d: 1. b -> a: 1. c -> a: 1. a -> c: 2.
    assert values(part, "popularity", *names) == pytest.approx([0.625, 0.75, 0.875])
    # Cosines of FEATURES, whose mean is 0: a -> c b d, b -> d a c, c -> d a b.
    assert values(part, "raw features", *names) == pytest.approx([0.125, 0.75, 0.625])
    # Three candidates; in session 1 one of two relevant images is among them.
    ndcg = part["methods"]["random"]["ndcg@2"]["value"]
    one, two = 1 + 1 / math.log2(3), 1 + 1 / math.log2(3)
    assert values(part, "random", "recall@1", "recall@2") == pytest.approx(
        [(1 / 3 + 1 / 6) / 2, (2 / 3 + 2 / 6) / 2], abs=1e-6
    )
    assert ndcg == pytest.approx((one / 3 / 1 + one / 3 / two) / 2, abs=1e-6)


def test_slices_part_the_queries_by_their_image(result: dict[str, Any]) -> None:
    # By sessions a b c d: the head is a (place 0 < 0.4), the torso b (1 < 2), the tail c and d.
    slices = result["image_to_image"]["slices"]
    sizes = {name: part["queries"] for name, part in slices.items()}
    assert sizes == {"head": 2, "torso": 1, "tail": 1, "cold": 0, "no neighbours": 1}
    # a -> b at 1 in session 0; a -> c at 2 of {c, nowhere} in session 1.
    assert values(slices["head"], "trained embedding", "recall@1", "recall@2") == [0.5, 0.75]
    assert slices["cold"]["methods"] == {}
    assert "low" in slices["head"]["methods"]["random"]["mrr"]


def test_images_by_text_are_as_worked_out(result: dict[str, Any]) -> None:
    """Session 0 asks "red" -> {a, b}, session 2 asks "new" -> d; a blank query asks nothing."""
    part = result["text_to_image"]
    assert (part["queries"], part["sessions"]) == (2, 2)
    seen, unseen = part["slices"]["seen"], part["slices"]["unseen"]
    names = ("recall@1", "recall@2", "mrr")
    # The published vector at 2 degrees: a b c d.
    assert values(seen, "trained embedding", *names) == [0.5, 1.0, 1.0]
    # 3 clicks at 50 degrees and 1 at 10, a mean at 41: c b a d. By clicks: c b, then a d.
    assert values(seen, "mean of clicked images", *names) == [0.0, 0.5, 0.5]
    assert values(seen, "co-occurrence only", *names) == [0.0, 0.5, 0.5]
    assert values(seen, "popularity", *names) == [0.5, 1.0, 1.0]
    for method in ("mean of clicked images", "co-occurrence only", "popularity"):
        assert values(unseen, method, *names) == [0.0, 0.0, 0.25]  # a b c d: d at 4
    assert values(unseen, "random", "recall@1") == [0.25]
    assert values(part, "popularity", "mrr") == [(1.0 + 0.25) / 2]


def test_a_text_that_is_not_published_is_embedded_by_the_model(
    result: dict[str, Any], run: dict[str, Version]
) -> None:
    loaded = tf.saved_model.load(run["model"].file("saved_model"))
    vector = loaded.signatures["text"](text=tf.constant(["new"]))["embedding"].numpy()[0]
    cosines = {name: float(at_angle(angle) @ vector) for name, angle in ANGLES.items()}
    rank = sorted(cosines, key=lambda name: -cosines[name]).index("d") + 1
    unseen = result["text_to_image"]["slices"]["unseen"]
    assert values(unseen, "trained embedding", "mrr")[0] == pytest.approx(1 / rank, abs=1e-6)


def test_labels_of_the_test_split_are_guessed_from_the_training_split(
    result: dict[str, Any],
) -> None:
    part = result["labels"]
    assert (part["queries"], part["neighbors"]) == (2, 2)
    # c at 50: a votes cos 50, b votes cos 40, so 1, wrong; d: both negative, b is nearer, right.
    assert values(part, "trained embedding", "accuracy") == [0.5]
    # c: cosine 0.32 to a, so 0; d: b is nearer, so 1.
    assert values(part, "raw features", "accuracy") == [1.0]
    assert values(part, "most frequent label", "accuracy") == [0.5]


def test_of_several_labels_a_guess_has_to_be_one(tmp_path: Path, run: dict[str, Version]) -> None:
    labels: dict[str, dict[str, list[int]]] = {
        "train": {"a": [0, 2], "b": [1]},
        "validation": {},
        "test": {"c": [2, 0], "d": [2]},
    }
    splits = {
        split: [
            example(
                {
                    "image_id": name.encode(),
                    "features": FEATURES[name],
                    "labels" if split == "train" else "heldout_labels": of,
                }
            )
            for name, of in part.items()
        ]
        for split, part in labels.items()
    }
    examples = save_examples(tmp_path, splits, feature_dim=2, multi_label=True)
    config = EvaluationConfig(k=[1], bootstrap=0)
    part = evaluate(**{**run, "examples": examples}, config=config, seed=0)["labels"]
    assert (part["queries"], part["neighbors"]) == (2, 2)
    # c: a votes cos 50 for 0 and for 2, b cos 40 for 1: wrong. d: b is nearer, so 1: wrong.
    assert values(part, "trained embedding", "accuracy") == [0.0]
    # c: a is the only one of a positive cosine, so 0, its first: right. d: b, so 1: wrong.
    assert values(part, "raw features", "accuracy") == [0.5]
    # All three labels occur once; the lowest of them, 0, is right for c alone.
    assert values(part, "most frequent label", "accuracy") == [0.5]


def test_alignment_is_measured_on_the_edges(result: dict[str, Any]) -> None:
    expected = (2 - 2 * np.cos(np.radians(50)) + 2 - 2 * np.cos(np.radians(10))) / 2
    assert result["collapse"]["alignment"] == pytest.approx(expected, abs=1e-5)
    assert 1.0 < result["collapse"]["rank_me"] <= 2.001


def test_what_is_missing_is_counted(result: dict[str, Any]) -> None:
    assert result["held_out"] == {
        "sessions": 3,
        "sessions_evaluated": 3,
        "images_without_embedding": 1,
    }
    assert (result["images"], result["images_without_example"]) == (4, 0)
    assert result["k"] == [1, 2]


def test_intervals_hold_their_values(result: dict[str, Any]) -> None:
    for part in (result["image_to_image"], result["text_to_image"], result["labels"]):
        for figures in part["methods"].values():
            for figure in figures.values():
                assert figure["low"] <= figure["value"] <= figure["high"]


def test_the_same_run_gives_the_same_numbers(
    result: dict[str, Any], run: dict[str, Version]
) -> None:
    config = EvaluationConfig(k=[1, 2], bootstrap=50)
    assert evaluate(**run, config=config, seed=0) == result


def test_the_tables_say_what_was_measured(result: dict[str, Any]) -> None:
    found = tables(result)
    assert [table.title for table in found] == [
        "image to image (4 queries of 2 sessions)",
        "image to image, recall by slice: recall@2",
        "image to image, by label of the query: recall@2",
        "text to image (2 queries of 2 sessions)",
        "text to image, seen queries (1 queries of 1 sessions)",
        "text to image, unseen queries (1 queries of 1 sessions)",
        "labels by 5 neighbours (2 test images, 2 labelled)",
        "collapse of the trained embedding",
    ]
    assert found[0].columns == ["method", "recall@1", "recall@2", "mrr", "map", "ndcg@2"]
    assert found[0].rows[2][:2] == ["popularity", "0.625 ±0.375"]
    assert found[1].columns == ["method", "head (2)", "torso (1)", "tail (1)", "no neighbours (1)"]
    assert all(len(row) == len(table.columns) for table in found for row in table.rows)


def test_without_text_signature_the_baselines_stand_alone(
    run: dict[str, Version], tmp_path: Path
) -> None:
    manifest = {**run["model"].manifest, "signatures": ["features"]}
    mute = Version(schema.MODEL, "v0001", str(tmp_path), manifest)
    config = EvaluationConfig(k=[1], bootstrap=0)
    found = evaluate(**{**run, "model": mute}, config=config, seed=0)
    assert "trained embedding" not in found["text_to_image"]["methods"]
    assert found["text_to_image"]["methods"]["popularity"]["mrr"] == {"value": 0.625}


def test_embeddings_of_another_model_are_refused(run: dict[str, Version], tmp_path: Path) -> None:
    for name, fingerprint in (("v0002", "0123456789"), ("v0001", "ffffffffff")):
        other = Version(schema.MODEL, name, str(tmp_path), {"fingerprint": fingerprint})
        with pytest.raises(ImgembedError, match="made by model v0001-01234567, not by"):
            evaluate(**{**run, "model": other}, config=EvaluationConfig(), seed=0)


def test_a_run_without_held_out_sessions_still_has_labels(
    run: dict[str, Version], tmp_path: Path
) -> None:
    graph = save_graph(tmp_path, holdout=[])
    found = evaluate(**{**run, "graph": graph}, config=EvaluationConfig(), seed=0)
    assert found["image_to_image"]["methods"] == found["text_to_image"]["methods"] == {}
    assert [table.title.split(" (")[0] for table in tables(found)] == [
        "labels by 5 neighbours",
        "collapse of the trained embedding",
    ]


def test_of_many_sessions_some_are_drawn_by_the_seed(tmp_path: Path) -> None:
    rows = [(s, p, f"i{p}", None) for s in range(50) for p in range(2)]
    graph = save_graph(tmp_path, holdout=rows)
    drawn = [inputs.read_holdout(graph, max_sessions=10, seed=seed) for seed in (1, 1, 2)]
    assert [(d.sessions, len(set(d.session))) for d in drawn] == [(50, 10)] * 3
    assert drawn[0].session.tolist() == drawn[1].session.tolist() != drawn[2].session.tolist()


def test_image_queries_are_those_of_a_plain_loop() -> None:
    generator = np.random.default_rng(0)
    ids = [str(n) for n in range(8)]
    rows_of = {name: n if n < 6 else -1 for n, name in enumerate(ids)}
    session = np.sort(generator.integers(0, 12, 40))
    image = [ids[n] for n in generator.integers(0, 8, 40)]
    holdout = inputs.Holdout(session, pa.array(image), pa.nulls(40, pa.string()), 12)
    queries, missing = image_queries(holdout, np.array([rows_of[i] for i in image]))
    expected, expected_missing = set(), 0
    for number in set(session.tolist()):
        of = {i for i, s in zip(image, session, strict=True) if s == number}
        for name in of if len(of) > 1 else ():
            if rows_of[name] < 0:
                expected_missing += 1
                continue
            targets = tuple(sorted(rows_of[other] for other in of - {name}))
            expected.add((number, rows_of[name], targets))
    found = {
        (
            int(queries.session[q]),
            int(queries.item[q]),
            tuple(sorted(queries.target[queries.query == q].tolist())),
        )
        for q in range(len(queries))
    }
    assert (found, missing, len(queries)) == (expected, expected_missing, len(expected))


def test_measures_are_those_of_sorting_the_whole_corpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics, "CHUNK_BYTES", 1_000)
    generator = np.random.default_rng(1)
    vectors = generator.normal(size=(30, 4)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    sets = [generator.choice(30, 4, replace=False) for _ in range(20)]
    pairs = [(q, t) for q, chosen in enumerate(sets) for t in chosen[1:]]
    queries = Queries(
        item=np.array([chosen[0] for chosen in sets]),
        session=np.arange(20),
        query=np.array([q for q, _ in pairs]),
        target=np.array([t for _, t in pairs]),
    )
    score_rows = methods.without_query(methods.by_cosine(vectors, vectors))
    found = Measure(EvaluationConfig(k=[5]), 0, 30).of(score_rows, queries)
    for row, chosen in zip(found, sets, strict=True):
        others = [n for n in range(30) if n != chosen[0]]
        ranking = sorted(others, key=lambda n: -float(vectors[chosen[0]] @ vectors[n]))
        hits = [place for place, n in enumerate(ranking, 1) if n in chosen[1:]]
        gain = sum(1 / math.log2(place + 1) for place in hits if place <= 5)
        ideal = sum(1 / math.log2(place + 1) for place in (1, 2, 3))
        recall = sum(place <= 5 for place in hits) / 3
        precision = sum(number / place for number, place in enumerate(hits, 1)) / 3
        np.testing.assert_allclose(row, [recall, 1 / hits[0], precision, gain / ideal])


def test_links_of_any_weight_stand_before_all_others() -> None:
    sessions = np.array([5, 9, 0, 3])
    links = inputs.Links.of(
        np.array([1, 1, 0, -1]), np.array([2, 3, 2, 0]), np.array([-7, 1e-9, 1, 1])
    )
    scores = methods.by_links(links, sessions)(np.array([0, 1, 2]))
    ranking = np.argsort(-scores, axis=1).tolist()
    assert ranking == [[2, 1, 0, 3], [3, 2, 1, 0], [1, 0, 3, 2]]


@pytest.mark.parametrize("encoding", ["png", "raw"])
def test_raw_features_of_pictures_are_means_of_pixels(tmp_path: Path, encoding: str) -> None:
    pixels = np.random.default_rng(2).integers(0, 256, (3, 32, 32, 3), dtype=np.uint8)
    records = []
    for name, picture in zip("abc", pixels, strict=True):
        sink = io.BytesIO()
        Image.fromarray(picture).save(sink, "PNG")
        content = sink.getvalue() if encoding == "png" else picture.tobytes()
        records.append(example({"image_id": name.encode(), "image": content}))
    splits = {"train": records[:2], "validation": records[2:], "test": []}
    examples = save_examples(tmp_path, splits, encoding=encoding)
    zeros = np.zeros(4, np.int64)
    corpus = inputs.Corpus(pa.array(["c", "a", "z", "b"]), np.zeros((4, 2)), zeros, zeros)
    content = inputs.read_content(examples, corpus)
    small = pixels.reshape(3, 16, 2, 16, 2, 3).mean(axis=(2, 4)).reshape(3, 768)
    centred = small - small.mean(axis=0)
    expected = centred / np.linalg.norm(centred, axis=1, keepdims=True)
    np.testing.assert_allclose(content.raw[[1, 3, 0]], expected, atol=1e-4)
    assert not content.raw[2].any()
    assert content.found == 3
    labels = itertools.chain(content.train_labels.flat, content.test_labels.flat)
    assert set(labels) == {schema.NO_LABEL}


def test_examples_of_an_earlier_program_are_refused(
    run: dict[str, Version], tmp_path: Path
) -> None:
    old = Version(schema.EXAMPLES, "v0001", str(tmp_path), {"feature_dim": 2})
    with pytest.raises(ImgembedError, match="earlier imgembed.*make the stage anew with"):
        evaluate(**{**run, "examples": old}, config=EvaluationConfig(), seed=0)


# Proofs: what is known of an embedding beforehand ------------------------------------------------


def random_sessions(images: int, sessions: int, size: int, seed: int) -> inputs.Holdout:
    """Sessions of `size` different images each, drawn evenly."""
    generator = np.random.default_rng(seed)
    drawn = [generator.choice(images, size, replace=False) for _ in range(sessions)]
    ids = pa.array([str(image) for session in drawn for image in session])
    session = np.repeat(np.arange(sessions), size)
    return inputs.Holdout(session, ids, pa.nulls(len(ids), pa.string()), sessions)


def measured(
    score_rows: metrics.ScoreRows, holdout: inputs.Holdout, images: int, **settings: Any
) -> dict[str, dict[str, float]]:
    """{measure: value, low, high} of image to image, and those of chance by their closed form."""
    rows = np.array([int(image_id) for image_id in holdout.image_id.to_pylist()])
    queries, _ = image_queries(holdout, rows)
    measure = Measure(EvaluationConfig(k=[1, 10, 100], **settings), 0, images)
    values = {
        "of": measure.of(methods.without_query(score_rows), queries),
        "chance": measure.of_chance(queries, candidates=images - 1),
    }
    found = measure.summary(values, queries)["methods"]
    return {
        name: {**found["of"][name], "chance": found["chance"][name]["value"]}
        for name in found["of"]
    }


def test_a_random_embedding_scores_at_chance() -> None:
    """Of sixty random worlds, about 95 % have the closed form within their interval."""
    worlds, inside = 60, {}
    for seed in range(worlds):
        vectors = np.random.default_rng(seed).normal(size=(120, 32)).astype(np.float32)
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        holdout = random_sessions(120, 150, 3, seed=seed + 100)
        scores = methods.by_cosine(vectors, vectors)
        for name, figure in measured(scores, holdout, 120, bootstrap=200).items():
            held = figure["low"] <= figure["chance"] <= figure["high"]
            inside[name] = inside.get(name, 0) + held
    # Were each interval right 95 times in 100, fewer than 50 of 60 would come once in 5,800 times.
    assert min(inside.values()) >= 50, inside


def test_a_perfect_embedding_scores_one() -> None:
    """A direction a group; each session holds a whole group, so its others are the nearest."""
    groups, size = 30, 4
    vectors = np.repeat(np.eye(groups, dtype=np.float32), size, axis=0)
    ids = pa.array([str(image) for image in range(groups * size)])
    session = np.repeat(np.arange(groups), size)
    holdout = inputs.Holdout(session, ids, pa.nulls(len(ids), pa.string()), groups)
    found = measured(methods.by_cosine(vectors, vectors), holdout, groups * size)
    expected = {"recall@1": 1 / 3}  # one of the three others is all that a list of one can hold
    assert {name: figure["value"] for name, figure in found.items()} == pytest.approx(
        {name: expected.get(name, 1.0) for name in found}, abs=1e-6
    )


def test_popularity_scores_what_its_closed_form_says() -> None:
    """All queries have one ranking, but for themselves."""
    images, sizes = 50, np.arange(50)[::-1] // 3  # three images a number of sessions: ties
    holdout = random_sessions(images, 200, 2, seed=3)
    found = measured(methods.by_popularity(sizes), holdout, images, bootstrap=0)
    first, second = np.array(holdout.image_id.to_pylist()).astype(int).reshape(-1, 2).T
    # Images stand by popularity, ties by row; the query itself is left out of the ranking.
    ranks = np.concatenate([second + 1 - (first < second), first + 1 - (second < first)])
    assert found["recall@10"]["value"] == pytest.approx((ranks <= 10).mean(), abs=1e-6)
    assert found["mrr"]["value"] == pytest.approx((1 / ranks).mean(), abs=1e-6)
    assert found["map"]["value"] == pytest.approx((1 / ranks).mean(), abs=1e-6)
    gain = np.where(ranks <= 10, 1 / np.log2(1 + ranks), 0.0)
    assert found["ndcg@10"]["value"] == pytest.approx(gain.mean(), abs=1e-6)


# Labels of queries, and leaks --------------------------------------------------------------------


def test_queries_are_parted_by_the_label_of_their_image(result: dict[str, Any]) -> None:
    """Queries a (twice) and c are of label 0, b of label 1; d asks nothing."""
    by_label = result["image_to_image"]["by_label"]
    assert [(of["label"], of["queries"]) for of in by_label["shown"]] == [("0", 3), ("1", 1)]
    assert by_label["rest"] == {"labels": 0, "queries": 0, "sessions": 0, "methods": {}}
    # b -> a at 1.
    assert values(by_label["shown"][1], "trained embedding", "recall@1") == [1.0]


def test_the_labels_that_are_not_shown_are_summed_up() -> None:
    none = schema.NO_LABEL
    labels = np.array([[2, none], [0, 1], [1, none], [none, none], [3, 0], [4, none]])
    found = label_slices(labels, most=2)
    # Labels 0 and 1 are of two queries each, 2, 3 and 4 of one.
    assert [(label, rows.nonzero()[0].tolist()) for label, rows in found.shown] == [
        (0, [1, 4]),
        (1, [1, 2]),
    ]
    assert found.rest.nonzero()[0].tolist() == [0, 5]
    assert found.rest_labels == 2  # 2 and 4
    assert found.unlabelled.nonzero()[0].tolist() == [3]
    nothing_shown = label_slices(labels, most=0)
    assert (nothing_shown.shown, nothing_shown.rest_labels) == ([], 5)


def drawn_by(name: str, **settings: Any) -> Version:
    config = {
        "seed": settings.get("seed", 0),
        "holdout": {"by": settings.get("by", "hash"), "fraction": settings.get("fraction", 0.1)},
        "sessions": {"gap_minutes": 30.0},
    }
    return Version(schema.GRAPH, name, f"run/graph/{name}", {"config": config})


@pytest.mark.parametrize(
    ("trained_on", "why"),
    [
        ({"seed": 1}, "seed was 0 for the one and 1 for the other"),
        ({"by": "time"}, "holdout.by was 'hash' for the one and 'time' for the other"),
        ({"fraction": 0.05}, "holdout.fraction is 0.1 for the one and was 0.05 then"),
    ],
)
def test_a_model_that_knows_the_held_out_sessions_is_not_evaluated(
    trained_on: dict[str, Any], why: str
) -> None:
    with pytest.raises(ImgembedError, match=why):
        check_trained_on(drawn_by("v0002"), drawn_by("v0001", **trained_on))


def test_a_model_of_an_older_graph_with_the_same_draw_is_evaluated() -> None:
    for trained_on in (None, drawn_by("v0001"), drawn_by("v0001", fraction=0.2)):
        check_trained_on(drawn_by("v0002"), trained_on)
    of_edges = Version(schema.GRAPH, "v0002", "run", {"config": {"seed": 5}})
    check_trained_on(of_edges, drawn_by("v0001"))  # holds nothing out
    check_trained_on(drawn_by("v0002", seed=1, fraction=0.0), drawn_by("v0001"))  # neither


def test_a_model_of_an_edge_list_may_know_any_session() -> None:
    of_edges = Version(schema.GRAPH, "v0001", "run", {"config": {"seed": 0}})
    with pytest.raises(ImgembedError, match="ready edge list"):
        check_trained_on(drawn_by("v0002"), of_edges)
