"""Co-training: what it learns of edges and of images, what it may know, and that it goes on."""

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tiny_examples
import training_runs
from tiny_examples import Form, Values

from pipeline import schema
from pipeline.artifacts import NewVersion, Version
from pipeline.errors import ConfigError
from trainer import cotraining
from trainer.agreement.judge import Judge
from trainer.agreement.labels import Labels
from trainer.config import AgreementConfig, ModelConfig, TrainingConfig
from trainer.cotraining import Story, Turn
from trainer.edge_judge import EdgeJudge
from trainer.fit import train
from trainer.graph_edges import FEATURES, GraphEdges
from trainer.metrics import auc
from trainer.progress import Interrupted, Listener, Pace

MODEL = {"dim": 8, "feature_hidden": [16], "token_dim": 4, "dropout": 0.0}
FORM = Form(features=True)
TOTAL = sum(tiny_examples.RECORDS.values())
NOBODY = Listener()
NO_SETTINGS: Mapping[str, Any] = MappingProxyType({})


def other_colour(index: int) -> int:
    """An image that has nothing to do with it."""
    return (index + 1 + index % 2 * 3) % TOTAL


def noisy(index: int, values: Values) -> Values:
    """Every second example's strongest neighbour is one of another colour."""
    if index % 2 and values["NL_num_nbrs"]:
        for name, value in tiny_examples._node(other_colour(index), FORM).items():
            values[f"NL_nbr_0_{name}"] = value
    return values


@pytest.fixture(scope="module")
def examples(tmp_path_factory: pytest.TempPathFactory) -> Version:
    folder = tmp_path_factory.mktemp("noisy")
    return tiny_examples.write_examples(folder, FORM, change=noisy)


def run(
    examples: Version,
    folder: Path,
    *,
    model: Mapping[str, Any] = NO_SETTINGS,
    agreement: Mapping[str, Any] = NO_SETTINGS,
    listener: Listener = NOBODY,
    graph: Version | None = None,
    checkpoints: bool = False,
    **training: Any,
) -> dict[str, Any]:
    given = {"epochs": 4, "batch_size": 8, "learning_rate": 0.01, "checkpoint_minutes": 1e-9}
    manifest = train(
        examples=examples,
        model=ModelConfig(**{**MODEL, "agreement": "gam", **model}),
        training=TrainingConfig(**{**given, **training}),
        agreement=AgreementConfig(
            **{"iterations": 1, "min_confidence": 0.35, "steps": 200, **agreement}
        ),
        graph=graph,
        seed=3,
        out=NewVersion("model", "v0001", str(folder)),
        checkpoints=str(folder / ".checkpoints") if checkpoints else None,
        listener=listener,
    )
    assert manifest is not None
    return manifest


def history(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "v0001" / schema.HISTORY_FILE).read_text())


def files_of(folder: Path) -> dict[str, Any]:
    """All that a version says, byte by byte."""
    version = folder / "v0001"
    names = (
        schema.HISTORY_FILE,
        schema.PSEUDO_LABELS_FILE,
        *(p.name for p in version.glob("agr*")),
    )
    return {
        "weights": training_runs.weights(str(version)),
        **{name: (version / name).read_bytes() for name in names},
    }


def edges(folder: Path) -> dict[tuple[int, int], float]:
    """{(source, target): agreement} of images by their numbers."""
    (path,) = (folder / "v0001").glob(f"{schema.AGREEMENTS}-*.parquet")
    table = pq.read_table(path)
    assert table.schema.equals(schema.AGREEMENT_SCHEMA)
    ends = ([int(one.removeprefix("img-")) for one in table[c].to_pylist()] for c in ("src", "dst"))
    return dict(zip(zip(*ends, strict=True), table["agreement"].to_pylist(), strict=True))


def same_colour(found: dict[tuple[int, int], float]) -> np.ndarray:
    colour = tiny_examples.colour_of
    return np.array([colour(one) == colour(other) for one, other in found])


@pytest.fixture(scope="module")
def trained(examples: Version, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any, Any]:
    """(folder, manifest, (notes, iterations that were told of)) of a training."""
    folder, notes, turns = tmp_path_factory.mktemp("trained"), [], []
    listener = Listener(on_note=notes.append, on_iteration=lambda *turn: turns.append(turn))
    return folder, run(examples, folder, listener=listener), (notes, turns)


# What it learns -----------------------------------------------------------------------------------


def test_edges_between_images_of_one_colour_are_trusted_more_than_others(trained: Any) -> None:
    found = edges(trained[0])
    same = same_colour(found)
    assert same.sum() > 40
    assert (~same).sum() > 20
    assert auc(np.array(list(found.values())), same) > 0.95
    assert trained[1]["agreement"]["learned"]
    assert trained[1]["agreement"]["agreement_validation_auc"] > 0.9


def test_unlabelled_images_get_labels_that_one_can_look_at(trained: Any) -> None:
    table = pq.read_table(trained[0] / "v0001" / schema.PSEUDO_LABELS_FILE)
    assert table.schema.equals(schema.PSEUDO_LABEL_SCHEMA)
    rows = table.to_pylist()
    numbers = [int(row["image_id"].removeprefix("img-")) for row in rows]
    assert len(set(numbers)) == len(rows) == trained[1]["agreement"]["self_labelled"] > 10
    # Of the training split, where nobody had given a label.
    assert all(tiny_examples.split_of(i) == "train" for i in numbers)
    assert not any(tiny_examples.is_labelled(i) for i in numbers)
    right = [
        tiny_examples.colour_of(i) == row["label"] for i, row in zip(numbers, rows, strict=True)
    ]
    assert np.mean(right) > 0.8
    assert [row["iteration"] for row in rows] == sorted(row["iteration"] for row in rows)
    assert all(0.0 < row["confidence"] <= 1.0 for row in rows)


def test_the_first_iteration_is_a_plain_training_and_each_is_told_of(
    examples: Version, trained: Any, tmp_path: Path
) -> None:
    run(examples, tmp_path, model={"agreement": "none"})
    found, plain = history(trained[0]), history(tmp_path)
    assert found["iterations"][0]["epochs"] == plain["epochs"]
    assert plain.keys() == {"best_epoch", "epochs"}
    entries = found["iterations"]
    best = max(range(len(entries)), key=lambda i: entries[i]["figure"])
    assert found["best_iteration"] == best
    assert found["epochs"] == entries[best]["epochs"]
    assert trained[1]["metrics"] == found["epochs"][found["best_epoch"] - 1]
    assert [entry["iteration"] for entry in entries] == list(range(len(entries)))
    assert entries[1]["with_agreement"] or entries[1]["self_labelled"]
    assert not entries[0]["with_agreement"]
    assert all(entry["agreement_auc"] > 0.6 for entry in entries)
    assert trained[2][1] == [(0, 1), (1, 1)]


@pytest.mark.parametrize(
    ("model", "training"),
    [
        ({"agreement": "gam"}, {"regularized": "probabilities", "graph_regularization": 1.0}),
        ({"agreement": "gam_no_graph"}, {"regularized": "probabilities"}),
        ({"graph_network": "gcn"}, {}),
    ],
)
def test_every_way_to_use_the_agreement_trains(
    examples: Version, tmp_path: Path, model: Any, training: Any
) -> None:
    pooled = {"class_evidence": True, "edge_prior": True}
    manifest = run(examples, tmp_path, model=model, agreement=pooled, epochs=1, **training)
    entries = history(tmp_path)["iterations"]
    assert [entry["with_agreement"] for entry in entries] == [False, True]
    # It learned something else than a training without.
    assert entries[1]["epochs"][0]["graph_regularization"] != pytest.approx(
        entries[0]["epochs"][0]["graph_regularization"], rel=1e-2
    )
    assert manifest["agreement"]["iterations"] == 2
    trusted = entries[manifest["agreement"]["best_iteration"]]["with_agreement"]
    served = schema.EXAMPLE_SIGNATURE in manifest["signatures"]
    assert served == ("graph_network" in model and not trusted)


def test_a_graph_network_that_trusts_all_edges_alike_is_served_with_neighbours(
    examples: Version, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Iteration 1 has the labels that iteration 0 gave, but no agreement (guard A)."""
    add = Story.add

    def later_is_better(self: Story, entry: dict[str, Any], *found: Any) -> None:
        add(self, {**entry, "figure": float(entry["iteration"])}, *found)

    monkeypatch.setattr(Story, "add", later_is_better)
    settings = {"min_positive_pairs": 10**6, "min_confidence": 0.0, "class_evidence": False}
    found = run(examples, tmp_path, model={"graph_network": "gcn"}, agreement=settings, epochs=1)
    assert found["agreement"]["best_iteration"] == 1
    assert found["agreement"]["unusable"]
    assert schema.EXAMPLE_SIGNATURE in found["signatures"]


def graph_of(folder: Path, *, queries: bool) -> Version:
    """The graph of the noisy examples, and who clicked what for a colour's name."""
    folder.mkdir()
    rows: list[dict[str, Any]] = []
    for index in range(TOTAL):
        for rank, (other, weight) in enumerate(tiny_examples.neighbors_of(index), 1):
            wrong = rank == 1 and index % 2
            end = other_colour(index) if wrong else other
            counts = {"sessions": 2 if wrong else 9, "users": 2, "strength": weight}
            ends = {"src": f"img-{index}", "dst": f"img-{end}", "rank": rank, "weight": weight}
            rows.append({**ends, **counts, "src_sessions": 20, "dst_sessions": 30})
    clicks = [
        {
            "query": tiny_examples.colour_of(i),
            "image_id": f"img-{i}",
            "sessions": 5,
            "users": 1 + i % 3,
        }
        for i in range(TOTAL)
    ]
    for name, found, form in (
        (schema.EDGES, rows, schema.EDGE_SCHEMA),
        (schema.QUERIES, clicks if queries else [], schema.QUERY_SCHEMA),
    ):
        path = folder / schema.shard_name(name, 0, 1, "parquet")
        pq.write_table(pa.Table.from_pylist(found, form), path)
    counts = {"queries": {"published": len(clicks) if queries else 0}}
    return Version(schema.GRAPH, "v0001", str(folder), {"population": 500, "counts": counts})


def write_unlabelled(folder: Path) -> Version:
    def unlabelled(index: int, values: Values) -> Values:
        values = noisy(index, values)
        return {name: -1 if name.endswith("label") else value for name, value in values.items()}

    bare = {"labelled": dict.fromkeys(schema.SPLITS, 0), "classes": [], "images_of_class": {}}
    return tiny_examples.write_examples(folder, FORM, change=unlabelled, **bare)


def test_without_labels_queries_tell_which_images_agree(tmp_path: Path) -> None:
    version = write_unlabelled(tmp_path / "e")
    graph = graph_of(tmp_path / "graph", queries=True)
    manifest = run(version, tmp_path, graph=graph)
    assert manifest["agreement"]["learned"]
    assert manifest["agreement"]["agreement_auc"] > 0.8
    found = edges(tmp_path)
    assert auc(np.array(list(found.values())), same_colour(found)) > 0.9
    assert [entry["with_agreement"] for entry in history(tmp_path)["iterations"]] == [False, True]
    assert pq.read_table(tmp_path / "v0001" / schema.PSEUDO_LABELS_FILE).num_rows == 0


def test_what_the_logs_tell_of_an_edge_is_looked_at(examples: Version, tmp_path: Path) -> None:
    notes: list[str] = []
    listener = Listener(on_note=notes.append)
    run(examples, tmp_path, graph=graph_of(tmp_path / "graph", queries=False), listener=listener)
    assert not any("is gone" in note for note in notes)
    with np.load(tmp_path / "v0001" / schema.AGREEMENT_MODEL_FILE) as file:
        names = file[file.files[0]]
    assert [FEATURES[place] for place in names] == [
        "weight",
        "strength",
        "sessions",
        "users",
        "rarer",
        "commoner",
        "npmi",
    ]
    assert len(edges(tmp_path)) == sum(len(tiny_examples.neighbors_of(i)) for i in range(TOTAL))


@pytest.mark.parametrize("classes", [False, True])
def test_an_agreement_that_is_no_better_than_chance_is_not_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, classes: bool
) -> None:
    """Guard A: labels that the features do not tell; the training ends or goes on without it.

    Nor do the classes tell which of these few validation images are of one label.
    """
    monkeypatch.setattr(cotraining, "FEWEST_PAIRS", 1)

    def shuffled(index: int, values: Values) -> Values:
        values = noisy(index, values)
        drawn = int(np.random.default_rng(index).integers(3))
        return values | ({"label": drawn} if values["label"] >= 0 else {})

    version = tiny_examples.write_examples(tmp_path / "e", FORM, change=shuffled)
    notes: list[str] = []
    listener = Listener(on_note=notes.append)
    settings = {"min_auc": 0.99, "min_confidence": 0.98, "class_evidence": classes}
    manifest = run(version, tmp_path, agreement=settings, listener=listener)
    (note,) = [note for note in notes if note.startswith("agreement: ")]
    assert "AUC of held-out pairs" in note
    assert note.endswith("below 0.99; it is left out from here on")
    assert not manifest["agreement"]["learned"]
    assert manifest["agreement"]["iterations"] == 1
    assert not list((tmp_path / "v0001").glob(f"{schema.AGREEMENTS}-*"))
    assert not (tmp_path / "v0001" / schema.AGREEMENT_MODEL_FILE).exists()


def test_where_the_model_tells_too_little_edges_are_judged_by_classes(
    examples: Version, tmp_path: Path
) -> None:
    """Guard A where there is something else to judge by, as in the library's loop."""
    notes: list[str] = []
    listener = Listener(on_note=notes.append)
    settings = {"min_positive_pairs": 10**6}
    manifest = run(examples, tmp_path, agreement=settings, listener=listener, epochs=12)
    said = [note for note in notes if note.startswith("agreement: ")]
    assert said[0].endswith("fewer than 1000000; edges are judged by classes alone")
    assert [entry["with_agreement"] for entry in history(tmp_path)["iterations"]] == [False, True]
    assert manifest["agreement"]["learned"]
    assert "fewer than 1000000" in manifest["agreement"]["unusable"]
    found = edges(tmp_path)
    assert auc(np.array(list(found.values())), same_colour(found)) > 0.9


def test_classes_that_tell_too_little_judge_no_edge() -> None:
    draw = np.random.default_rng(0)
    labels = np.arange(60) % 3
    vectors = np.eye(3, dtype=np.float32)[labels] * 5.0
    judge = Judge(AgreementConfig(), [], 0, unusable="too few pairs")
    pairs = np.stack(np.triu_indices(60, 1), axis=1)
    agree = labels[pairs[:, 0]] == labels[pairs[:, 1]]
    between = GraphEdges(pairs, np.ones(len(pairs), "i4"), np.ones(len(pairs)), pairs[:, :0], ())
    head = np.eye(3, dtype=np.float32), np.zeros(3, np.float32)
    alone = EdgeJudge(judge, (), np.zeros(0), np.ones(0), head)
    found = alone.of_classes_checked_by(vectors, pairs, agree).of_edges(vectors, between)
    assert found is not None
    assert auc(found, agree) == 1.0
    unlike = vectors[draw.permutation(60)]
    assert alone.of_classes_checked_by(unlike, pairs, agree).of_edges(unlike, between) is None


def test_pairs_of_a_batch_are_judged_by_the_model_or_not_at_all(
    examples: Version, tmp_path: Path
) -> None:
    settings = {"min_positive_pairs": 10**6}
    manifest = run(
        examples, tmp_path, model={"agreement": "gam_no_graph"}, agreement=settings, epochs=1
    )
    assert not manifest["agreement"]["learned"]
    assert not (tmp_path / "v0001" / schema.AGREEMENT_MODEL_FILE).exists()


def test_all_edges_count_alike_where_that_is_wanted(
    examples: Version, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Graph regularization with self-training: the same as an agreement of 1, and none is kept."""
    always = run(examples, tmp_path / "always", agreement={"always_agree": True}, epochs=1)
    assert not always["agreement"]["learned"]
    assert always["agreement"]["unusable"] is None
    entries = history(tmp_path / "always")["iterations"]
    assert [entry["with_agreement"] for entry in entries] == [False, True]
    assert entries[1]["self_labelled"] == 0  # labels are given by a model that knew the edges
    assert not list((tmp_path / "always" / "v0001").glob(f"{schema.AGREEMENTS}-*"))

    def sure(self: EdgeJudge, vectors: np.ndarray, edges: Any) -> np.ndarray:
        return np.ones(len(edges), np.float32)

    monkeypatch.setattr(EdgeJudge, "of_edges", sure)
    run(examples, tmp_path / "learned", epochs=1)
    learned = history(tmp_path / "learned")["iterations"]
    assert learned[1]["epochs"] == entries[1]["epochs"]


def test_all_edges_alike_want_neither_labels_nor_clicks(tmp_path: Path) -> None:
    """Trained once more and not again: nothing would be another."""
    version = write_unlabelled(tmp_path / "e")
    settings = {"always_agree": True, "iterations": 5}
    manifest = run(version, tmp_path, agreement=settings, epochs=1)
    assert manifest["agreement"]["iterations"] == 2


def test_all_edges_alike_want_edges(examples: Version, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"^agreement\.always_agree is of edges, .* to gam$"):
        run(
            examples,
            tmp_path,
            model={"agreement": "gam_no_graph"},
            agreement={"always_agree": True},
        )


def test_a_story_says_when_agreement_did_not_help() -> None:
    """Guard B: the weight 0 is tried next."""

    def story(*entries: tuple[float, bool]) -> Story:
        made = Story()
        for figure, with_agreement in entries:
            entry = {"figure": figure, "with_agreement": with_agreement}
            made.add(entry, Turn(0, Labels.of_known(np.zeros(1))), Weights())
        return made

    class Weights:
        def get_weights(self) -> list[np.ndarray]:
            return []

    assert story((0.5, False)).lost_with_agreement() is None
    assert story((0.5, False), (0.6, True)).lost_with_agreement() is None
    lost = story((0.5, False), (0.5, True))
    assert lost.lost_with_agreement() == (
        "iteration 1 is no better with it, 0.5000, than the best before it, 0.5000"
    )
    assert (lost.best, lost.since_best) == (0, 1)
    again = story((0.5, False), (0.4, True), (0.7, False))
    assert again.lost_with_agreement() is not None
    assert (again.best, again.since_best) == (2, 0)
    assert story((0.5, False), (0.6, True), (0.7, True)).lost_with_agreement() is None


# What it may know ---------------------------------------------------------------------------------


def turns_of(examples: Version, folder: Path, **settings: Any) -> list[list[np.ndarray]]:
    """All that each iteration began with, and the best weights, as the checkpoints hold them."""
    seen: dict[str, list[np.ndarray]] = {}

    def look(_: Pace) -> None:
        for path in sorted((folder / ".checkpoints").glob("*.npz")):
            if path.name not in seen and "-00000000000" in path.name:
                with np.load(path) as file:
                    notes = json.loads(file["notes"].tobytes())
                    if "iterations" in notes:
                        seen[path.name] = [file[n] for n in file.files if n != "notes"]

    run(examples, folder, listener=Listener(on_step=look), checkpoints=True, **settings)
    look(Pace(0, 0))
    return list(seen.values())


def test_labels_of_held_out_images_change_no_weight(tmp_path: Path) -> None:
    """Of one epoch each: validation's labels may decide which epoch is the best, as they do in any
    training, but not what an epoch or an iteration learns."""
    found = []
    for shift in (0, 1):

        def change(index: int, values: Values, shift: int = shift) -> Values:
            values = noisy(index, values)
            if values.get("heldout_label", -1) >= 0:
                values["heldout_label"] = (values["heldout_label"] + shift) % 3
            return values

        version = tiny_examples.write_examples(tmp_path / f"e{shift}", FORM, change=change)
        found.append(turns_of(version, tmp_path / f"m{shift}", batch_size=4, epochs=1))
    ours, theirs = found
    assert len(ours) == len(theirs) == 2
    for one, other in zip(ours, theirs, strict=True):
        assert len(one) == len(other)
        for mine, yours in zip(one, other, strict=True):
            np.testing.assert_array_equal(mine, yours)


# That it goes on ----------------------------------------------------------------------------------


class PowerCut(BaseException):
    pass


def cut_at(iteration: int, step: int) -> Listener:
    now = [0]

    def on_step(pace: Pace) -> None:
        if (now[0], pace.step) == (iteration, step):
            raise PowerCut

    return Listener(on_step=on_step, on_iteration=lambda turn, _: now.__setitem__(0, turn))


def test_it_goes_on_from_any_iteration_to_the_same_files(
    examples: Version, trained: Any, tmp_path: Path
) -> None:
    for moment in ((0, 24), (1, 1), (1, 13)):
        with pytest.raises(PowerCut):
            run(examples, tmp_path, listener=cut_at(*moment), checkpoints=True)
    notes: list[str] = []
    manifest = run(examples, tmp_path, listener=Listener(on_note=notes.append), checkpoints=True)
    assert any("goes on from iteration 1" in note for note in notes)
    assert any("goes on from step 12" in note for note in notes)
    assert not any("was removed" in note for note in notes)
    assert files_of(tmp_path) == files_of(trained[0])
    assert manifest["agreement"] == trained[1]["agreement"]


def test_asked_to_stop_it_says_in_which_iteration(examples: Version, tmp_path: Path) -> None:
    turns: list[int] = []
    listener = Listener(
        on_iteration=lambda turn, _: turns.append(turn),
        is_asked_to_stop=lambda: turns[-1:] == [1],
    )
    with pytest.raises(Interrupted) as stopped:
        run(examples, tmp_path, listener=listener, checkpoints=True)
    assert (stopped.value.iteration, stopped.value.step, stopped.value.kept) == (1, 1, True)
    names = [path.name for path in (tmp_path / ".checkpoints").iterdir()]
    assert len(names) == 2  # of the end of iteration 0, and of a step of the next


def test_checkpoints_of_another_agreement_are_removed(examples: Version, tmp_path: Path) -> None:
    with pytest.raises(PowerCut):
        run(examples, tmp_path, listener=cut_at(1, 2), checkpoints=True)
    notes: list[str] = []
    stop = dataclasses.replace(cut_at(0, 1), on_note=notes.append)
    with pytest.raises(PowerCut):
        run(examples, tmp_path, agreement={"min_confidence": 0.3}, listener=stop, checkpoints=True)
    assert any("was removed (of another configuration" in note for note in notes)
    assert not list((tmp_path / ".checkpoints").glob("*.npz"))
