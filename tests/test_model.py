"""The model as a whole, on batches small enough to follow by hand."""

from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
import tiny_examples
from keras_state import bfloat16, fixed_seed  # noqa: F401 - fixtures
from tiny_examples import Form

from pipeline import schema
from pipeline.errors import ConfigError
from trainer import contrast, dataset, distinct, gnn, losses, serving
from trainer.attempt import make_model
from trainer.config import ModelConfig, TrainingConfig
from trainer.example_files import ExampleFiles
from trainer.model import TERMS, EmbeddingModel
from trainer.popularity import Popularity

DIM, FEATURES, CLASSES = 8, 6, 3
Batch = dict[str, tf.Tensor]


def settings(*terms: str, **changes: Any) -> TrainingConfig:
    """Only these terms, each with the weight 1."""
    return TrainingConfig(**{**{term: float(term in terms) for term in TERMS}, **changes})


def make(training: TrainingConfig, *, config: Any = None, **options: Any) -> EmbeddingModel:
    """A model of ready features without dropout."""
    model = ModelConfig(dim=DIM, feature_hidden=[16], dropout=0.0, **(config or {}))
    given = {"channels": None, "num_classes": CLASSES, "num_tokens": 0, **options}
    return EmbeddingModel(model, training, **given)


def make_batch(content: np.ndarray, neighbors: np.ndarray, weights: Any, **changes: Any) -> Batch:
    """Seeds 1, 2 … and neighbours 100,001, 100,002 …, all different images."""
    batch, drawn = neighbors.shape[:2]
    present = np.asarray(weights) > 0
    near = np.where(present, 100_001 + np.arange(batch * drawn).reshape(batch, drawn), 0)
    made = {
        "content": content.astype(np.float32),
        "neighbor_content": neighbors.astype(np.float32),
        "neighbor_weight": np.asarray(weights, np.float32),
        "id": np.arange(1, batch + 1),
        "neighbor_id": near,
        "graph_id": near,
        "label": np.full(batch, -1),
        "neighbor_label": np.full((batch, drawn), -1),
        **changes,
    }
    return {name: tf.constant(value) for name, value in made.items()}


def some_batch(**changes: Any) -> Batch:
    """Five seeds of up to two neighbours; seeds 2 and 4 have labels."""
    draw = np.random.default_rng(1)
    return make_batch(
        draw.normal(size=(5, FEATURES)),
        draw.normal(size=(5, 2, FEATURES)),
        [[3, 1], [2, 0], [0, 0], [1, 1], [5, 2]],
        **{"label": np.array([-1, 2, -1, 0, -1]), **changes},
    )


def with_copies() -> Batch:
    """Image 1, a seed, is two neighbours too; image 100,002 is a neighbour of three seeds."""
    batch = {name: values.numpy() for name, values in some_batch().items()}
    for row, slot in ((1, 0), (3, 1)):
        batch["neighbor_id"][row, slot] = 1
        batch["neighbor_content"][row, slot] = batch["content"][0]
    for row, slot in ((3, 0), (4, 1)):
        batch["neighbor_id"][row, slot] = 100_002
        batch["neighbor_content"][row, slot] = batch["neighbor_content"][0, 1]
    batch["graph_id"] = batch["neighbor_id"].copy()
    return {name: tf.constant(values) for name, values in batch.items()}


class Counting(keras.layers.Layer):
    """A tower that also tells how many rows it saw last."""

    def __init__(self, tower: keras.Model) -> None:
        super().__init__()
        self.tower = tower
        self.rows = 0

    def call(self, inputs: tf.Tensor, training: bool | None = None) -> tf.Tensor:
        self.rows = inputs.shape[0]
        return self.tower(inputs, training=training)


def test_an_image_is_encoded_once_however_often_it_stands_in_a_batch() -> None:
    model, batch = make(settings("edge_contrast")), with_copies()
    model.image_tower = Counting(model.image_tower)
    outputs = model(batch)
    # Seven neighbours that there are and five seeds, of which four stand elsewhere already.
    assert model.image_tower.rows == 8
    assert distinct.count_images(batch) == (8, 12)
    tower = model.image_tower.tower
    np.testing.assert_allclose(outputs["seeds"], tower(batch["content"]), atol=1e-6)
    present = (batch["neighbor_weight"].numpy() > 0)[:, :, None]
    near = tf.reshape(tower(tf.reshape(batch["neighbor_content"], [-1, FEATURES])), [5, 2, DIM])
    np.testing.assert_allclose(outputs["neighbors"], near * present, atol=1e-6)


def test_copies_bring_the_gradient_that_encoding_each_would() -> None:
    model, batch = make(settings("edge_contrast", "graph_regularization")), with_copies()
    tower = model.image_tower
    with tf.GradientTape() as tape:
        loss = model.compute_loss(batch, y_pred=model(batch))
    ours = tape.gradient(loss, tower.trainable_variables)
    with tf.GradientTape() as tape:
        near = tf.reshape(tower(tf.reshape(batch["neighbor_content"], [-1, FEATURES])), [5, 2, DIM])
        outputs = {"seeds": tower(batch["content"]), "neighbors": near}
        loss = model.compute_loss(batch, y_pred=outputs)
    for one, each in zip(ours, tape.gradient(loss, tower.trainable_variables), strict=True):
        assert np.abs(each).max() > 1e-4
        np.testing.assert_allclose(one, each, atol=1e-6)


def test_distinct_images_come_in_the_order_in_which_they_stand_first() -> None:
    first, place = distinct.first_of_each(tf.constant([7, 5, 7, 9, 5, 5], tf.int64))
    assert (first.numpy().tolist(), place.numpy().tolist()) == ([0, 1, 3], [0, 1, 0, 2, 1, 1])


def test_hard_negatives_count_after_their_share_of_the_steps() -> None:
    training = settings("edge_contrast", hard_negatives=2, hard_negatives_after=0.5)
    model, batch = make(training, steps=10), some_batch()
    outputs = model(batch)
    given = {
        "seed_ids": batch["id"],
        "neighbor_ids": batch["neighbor_id"],
        "graph_ids": batch["graph_id"],
        "seed_labels": batch["label"][:, None],
        "neighbor_labels": batch["neighbor_label"][:, :, None],
        "temperature": training.temperature,
    }
    sides = outputs["seeds"], outputs["neighbors"]
    every = float(contrast.edge_contrast(*sides, **given))
    hardest = float(contrast.edge_contrast(*sides, **given, hardest=tf.constant(2)))
    assert hardest < every - 0.1
    loss = tf.function(lambda: model.compute_loss(batch, y_pred=outputs))
    for step, expected in ((0, every), (4, every), (5, hardest), (9, hardest)):
        model.step.assign(step)
        assert float(loss()) == pytest.approx(expected, rel=1e-5)


def test_each_correction_for_popularity_is_taken() -> None:
    batch = with_copies()
    ids = np.unique(np.concatenate([batch["id"], np.ravel(batch["neighbor_id"])]))[1:]
    popularity = Popularity(ids, np.linspace(1.0, 9.0, len(ids)))
    found = {}
    for correction in ("none", "batch", "popularity"):
        keras.utils.set_random_seed(0)
        training = settings("edge_contrast", logq_correction=correction)
        model = make(training, popularity=popularity)
        found[correction] = float(model.compute_loss(batch, y_pred=model(batch)))
    assert len({round(loss, 3) for loss in found.values()}) == 3


def test_above_a_number_of_classes_a_step_looks_at_some_of_them() -> None:
    draw = np.random.default_rng(2)
    labels = draw.integers(0, 50, 5)
    batch = some_batch(label=labels)
    few = settings("supervised", sampled_softmax_above=49, sampled_classes=5)
    model = make(few, num_classes=50)
    outputs = model(batch, training=True)
    assert "logits" not in outputs  # nobody computes them
    losses_of_steps = {
        round(float(model.compute_loss(batch, y_pred=outputs, training=True)), 5) for _ in range(9)
    }
    assert len(losses_of_steps) > 3  # other classes in each step
    evaluated = model(batch, training=False)
    expected = losses.supervised(evaluated["logits"], batch["label"])
    found = model.compute_loss(batch, y_pred=evaluated, training=False)
    assert float(found) == pytest.approx(float(expected), rel=1e-6)
    every = make(
        settings("supervised", sampled_softmax_above=50, sampled_classes=5), num_classes=50
    )
    assert "logits" in every(batch, training=True)


def test_a_sampled_softmax_learns_the_classes() -> None:
    draw = np.random.default_rng(3)
    content = draw.normal(size=(40, FEATURES))
    batch = make_batch(content, np.zeros((40, 0, FEATURES)), np.zeros((40, 0)), label=np.arange(40))
    few = settings("supervised", sampled_softmax_above=1, sampled_classes=8)
    model = make(few, num_classes=40)
    learn(model, batch, 300)
    right = np.argmax(model(batch)["logits"], axis=1) == np.arange(40)
    assert right.mean() > 0.8


def learn(model: EmbeddingModel, batch: Batch, steps: int, rate: float = 0.01) -> list[float]:
    """The losses of some steps on one batch."""
    optimizer = keras.optimizers.Adam(rate)
    model(batch)
    optimizer.build(model.trainable_variables)

    @tf.function(autograph=False)
    def step() -> tf.Tensor:
        with tf.GradientTape() as tape:
            loss = model.compute_loss(x=batch, y_pred=model(batch, training=True), training=True)
        gradients = tape.gradient(loss, model.trainable_variables)
        optimizer.apply(gradients, model.trainable_variables)
        return loss

    return [float(step()) for _ in range(steps)]


def test_balanced_labels_count_by_how_rare_their_class_is() -> None:
    batch = some_batch()
    model = make(settings("supervised", class_weights="balanced"), class_counts=[6, 3, 1])
    outputs = model(batch)
    found = float(model.compute_loss(batch, y_pred=outputs))
    costs = -np.log(tf.nn.softmax(outputs["logits"]).numpy()[[1, 3], [2, 0]])
    assert found == pytest.approx((costs[0] * 10 / 3 + costs[1] * 10 / 18) / 2, rel=1e-5)


@pytest.mark.parametrize("regularized", ["embedding", "logits", "probabilities"])
def test_graph_regularization_compares_what_it_is_told_to(regularized: str) -> None:
    training = settings(
        "supervised",
        "graph_regularization",
        regularized=regularized,
        graph_loss_normalization="weighted_mean",
    )
    model, batch = make(training), some_batch()
    outputs = model(batch)
    sides = [outputs["seeds"].numpy(), outputs["neighbors"].numpy()]
    if regularized != "embedding":
        kernel, bias = (v.numpy() for v in model.class_head.variables)
        sides = [side @ kernel + bias for side in sides]
    if regularized == "probabilities":
        sides = [tf.nn.softmax(side).numpy() for side in sides]
    weights = batch["neighbor_weight"].numpy()
    distances = ((sides[0][:, None] - sides[1]) ** 2).sum(axis=2)
    expected = (weights * distances).sum() / weights.sum()
    model.compute_loss(batch, y_pred=outputs)
    (found,) = (m.result() for m in model.metrics if m.name == "graph_regularization")
    assert float(found) == pytest.approx(expected, rel=1e-5)


def test_divergences_are_of_probabilities() -> None:
    options = {"regularized": "probabilities", "distance": "jensen_shannon_divergence"}
    training = settings("supervised", "graph_regularization", **options)
    model, batch = make(training), some_batch()
    outputs = model(batch)
    sides = (tf.nn.softmax(model.class_head(outputs[name])) for name in ("seeds", "neighbors"))
    expected = gnn.graph_loss(
        *sides, batch["neighbor_weight"], gnn.DistanceConfig(options["distance"])
    )
    model.compute_loss(batch, y_pred=outputs)
    (found,) = (m.result() for m in model.metrics if m.name == "graph_regularization")
    assert float(found) == pytest.approx(float(expected), rel=1e-6)
    assert float(expected) > 0


@pytest.mark.parametrize(
    ("changes", "options", "message"),
    [
        ({"regularized": "logits"}, {"num_classes": 0}, "'logits' are those of classes, but no"),
        ({"distance": "kl_divergence"}, {}, "sum to 1, not of 'embedding'; set training.regular"),
        (
            {"distance": "kl_divergence", "regularized": "probabilities"},
            {"multi_label": True},
            "sum to 1, not of several labels an image",
        ),
    ],
)
def test_what_cannot_be_compared_is_one_line(
    changes: dict[str, Any], options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message) as error:
        make(settings("supervised", "graph_regularization", **changes), **options)
    assert "\n" not in str(error.value)


def test_without_any_label_the_model_learns_from_the_graph_alone() -> None:
    batch = some_batch(label=np.full(5, -1))
    model = make(TrainingConfig(), num_classes=0)
    assert model.class_head is None
    losses_of_steps = learn(model, batch, 30)
    assert {metric.name for metric in model.metrics} == {
        "graph_regularization",
        "edge_contrast",
        "mean_cosine",
    }
    assert losses_of_steps[-1] < 0.5 * losses_of_steps[0]


def test_rows_of_no_image_do_not_count_in_what_is_reported() -> None:
    model, batch = make(settings("supervised")), some_batch()
    outputs = model(batch)
    model.compute_loss(batch, y_pred=outputs)
    model.compute_loss({**batch, "id": tf.zeros_like(batch["id"])}, y_pred=outputs)
    assert [float(metric.count) for metric in model.metrics] == [5.0, 5.0]


# -------------------------------------------------------------------------------------------------
# Graph networks
# -------------------------------------------------------------------------------------------------

KINDS = ["gcn", "message_passing"]


def told_by_neighbors(rows: int, seed: int) -> Batch:
    """Seeds of noise; which of three directions their neighbours lie in is their label."""
    draw = np.random.default_rng(seed)
    labels = draw.integers(0, CLASSES, rows)
    near = np.eye(FEATURES)[labels][:, None] + 0.1 * draw.normal(size=(rows, 2, FEATURES))
    content = draw.normal(size=(rows, FEATURES))
    return make_batch(content, near, np.ones((rows, 2)), label=labels)


def accuracy(logits: tf.Tensor, batch: Batch) -> float:
    return float((np.argmax(logits, axis=1) == batch["label"].numpy()).mean())


@pytest.mark.parametrize("kind", KINDS)
def test_a_graph_network_learns_what_only_neighbours_tell(kind: str) -> None:
    model = make(settings("supervised"), config={"graph_network": kind})
    learn(model, told_by_neighbors(200, seed=1), 100)
    new = told_by_neighbors(200, seed=2)
    outputs = model(new)
    assert accuracy(outputs["logits"], new) > 0.95
    assert accuracy(outputs["isolated_logits"], new) < 0.6
    alone = make(settings("supervised"))
    learn(alone, told_by_neighbors(200, seed=1), 100)
    assert accuracy(alone(new)["logits"], new) < 0.6


@pytest.mark.parametrize("kind", KINDS)
def test_embeddings_of_graphs_have_length_1_and_without_neighbours_are_the_isolated_ones(
    kind: str,
) -> None:
    model, batch = make(TrainingConfig(), config={"graph_network": kind}), some_batch()
    outputs = model(batch)
    for name in ("seeds", "isolated", "tower_seeds"):
        assert outputs[name].shape == (5, DIM)
        np.testing.assert_allclose(np.linalg.norm(outputs[name], axis=1), 1.0, atol=1e-6)
    differ = np.abs(outputs["seeds"] - outputs["isolated"]).max(axis=1)
    assert (differ > 1e-3).tolist() == [True, True, False, True, True]  # seed 3 has no neighbour
    near = model.graph_tower.isolated(outputs["neighbors"][1])
    np.testing.assert_allclose(outputs["isolated_neighbors"][1, 0], near[0], atol=1e-6)
    assert not outputs["isolated_neighbors"].numpy()[1, 1].any()
    # Scaling the weights of a seed's neighbours changes nothing.
    scaled = model({**batch, "neighbor_weight": 7.0 * batch["neighbor_weight"]})
    np.testing.assert_allclose(scaled["seeds"], outputs["seeds"], atol=1e-5)


def test_contrasts_of_neighbours_do_not_see_what_the_graph_network_made_of_them() -> None:
    model, batch = make(TrainingConfig(), config={"graph_network": "gcn"}), some_batch()
    outputs = model(batch)
    made_up = {**outputs, "seeds": tf.roll(outputs["seeds"], 1, axis=0)}

    def reported(y_pred: Batch) -> dict[str, float]:
        model.reset_metrics()
        for metric in model.metrics:
            metric.reset_state()
        model.compute_loss(batch, y_pred=y_pred)
        return {metric.name: float(metric.result()) for metric in model.metrics}

    assert reported(outputs) == pytest.approx(reported(made_up))
    moved = {**outputs, "tower_seeds": tf.roll(outputs["tower_seeds"], 1, axis=0)}
    for term in ("edge_contrast", "graph_regularization"):
        assert reported(moved)[term] != pytest.approx(reported(outputs)[term])
    assert reported(moved)["supervised"] == reported(outputs)["supervised"]


@pytest.mark.parametrize("dropout", [0.0, 0.3, 0.9])
def test_a_share_of_the_seeds_is_trained_without_neighbours_by_the_seed(dropout: float) -> None:
    batch = told_by_neighbors(400, seed=3)
    training = settings("supervised", "edge_contrast", neighbor_dropout=dropout)

    def dropped() -> tuple[np.ndarray, dict[str, tf.Tensor]]:
        keras.utils.set_random_seed(5)
        model = make(training, config={"graph_network": "gcn"})
        outputs = model(batch, training=True)
        alone = model.graph_tower.isolated(outputs["tower_seeds"])
        assert "isolated" not in outputs
        return np.abs(outputs["seeds"] - alone).max(axis=1) < 1e-6, outputs

    (once, outputs), (again, _) = dropped(), dropped()
    assert once.mean() == pytest.approx(dropout, abs=0.07)
    np.testing.assert_array_equal(once, again)
    # The contrastive terms have all neighbours still.
    assert (np.linalg.norm(outputs["neighbors"], axis=2) > 0.99).all()


@pytest.mark.parametrize("kind", KINDS)
def test_edges_among_neighbours_are_used(kind: str) -> None:
    model = make(settings("supervised"), config={"graph_network": kind})
    edges = {
        "graph_senders": tf.constant([[1, -1], [-1, -1], [-1, -1], [2, 1], [1, 2]], tf.int64),
        "graph_receivers": tf.constant([[2, -1], [-1, -1], [-1, -1], [1, 2], [2, 1]], tf.int64),
        "graph_weights": tf.constant([[2.0, 0], [0, 0], [0, 0], [1.0, 3.0], [1.0, 1.0]]),
    }
    without, with_edges = model(some_batch())["seeds"], model({**some_batch(), **edges})["seeds"]
    differ = np.abs(without - with_edges).max(axis=1) > 1e-4
    assert differ.tolist() == [True, False, False, True, True]


@pytest.fixture(scope="module")
def features(tmp_path_factory: pytest.TempPathFactory) -> ExampleFiles:
    folder = tmp_path_factory.mktemp("features")
    return ExampleFiles.open(tiny_examples.write_examples(folder, Form(features=True)))


@pytest.mark.parametrize("kind", KINDS)
def test_a_model_with_a_graph_network_serves_images_without_neighbours(
    features: ExampleFiles, tmp_path: Path, kind: str
) -> None:
    transform = features.transform()
    config = ModelConfig(dim=DIM, size="tiny", graph_network=kind)
    model = make_model(features, transform, config, TrainingConfig())
    (batch,) = dataset.evaluation_batches(
        features, transform, "train", batch_size=99, neighbors=3, edges=True
    )
    raw = np.stack([tiny_examples.raw_features(i) for i in range(42)]).astype(np.float32)
    outputs = model({**batch, "content": transform.features(tf.constant(raw))})
    serving.export(model, transform, features, str(tmp_path))
    signature = tf.saved_model.load(str(tmp_path)).signatures[schema.FEATURES_SIGNATURE]
    found = signature(features=tf.constant(raw))
    np.testing.assert_allclose(found["embedding"], outputs["isolated"], atol=1e-6)
    expected = tf.nn.softmax(outputs["isolated_logits"])
    np.testing.assert_allclose(found["probabilities"], expected, atol=1e-6)


@pytest.mark.usefixtures("bfloat16")
@pytest.mark.parametrize("kind", ["none", *KINDS])
def test_a_step_in_mixed_precision_keeps_embeddings_and_losses_in_float32(
    features: ExampleFiles, kind: str
) -> None:
    transform = features.transform()
    config = ModelConfig(dim=DIM, size="tiny", graph_network=kind)
    model = make_model(features, transform, config, TrainingConfig(epochs=1))
    (batch,) = dataset.evaluation_batches(
        features, transform, "train", batch_size=99, neighbors=2, edges=kind != "none"
    )
    outputs = model(batch, training=True)
    assert {values.dtype for values in outputs.values()} == {tf.float32}
    assert {v.dtype for v in model.trainable_variables} == {"float32"}
    losses_of_steps = learn(model, batch, 20)
    assert np.isfinite(losses_of_steps).all()
    assert losses_of_steps[-1] < losses_of_steps[0]


def test_popularity_is_read_from_the_examples_where_it_is_asked_for(
    features: ExampleFiles,
) -> None:
    found = {}
    for correction in ("batch", "popularity"):
        keras.utils.set_random_seed(0)
        training = settings("edge_contrast", logq_correction=correction)
        transform = features.transform()
        model = make_model(features, transform, ModelConfig(size="tiny"), training)
        (batch,) = dataset.evaluation_batches(
            features, transform, "train", batch_size=99, neighbors=1
        )
        found[correction] = float(model.compute_loss(batch, y_pred=model(batch)))
    assert found["batch"] != pytest.approx(found["popularity"], rel=1e-3)
