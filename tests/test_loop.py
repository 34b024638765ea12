"""The parts of a training run: steps, rates, figures, monitors, what is shown of them."""

import io
import json
import math
import os
import signal
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
import tiny_examples
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory, text_format
from rich.console import Console
from tiny_examples import Form

from cli.interruption import Deferred, Ended
from cli.terminal import Terminal
from cli.training import _where_it_stopped
from pipeline import schema
from pipeline.artifacts import NewVersion, Version
from trainer import dataset, monitors, progress
from trainer.attempt import make_model
from trainer.config import ModelConfig, TrainingConfig
from trainer.example_files import ExampleFiles
from trainer.fit import train
from trainer.learner import Learner
from trainer.metrics import rank_me
from trainer.optimizers import learning_rate, make_optimizer, precision
from trainer.progress import Clock, Interrupted, Listener, Pace
from trainer.stopping import Best
from trainer.strategies import Replicas
from trainer.validation import Validator
from trainer.workers import Worker

MODEL = ModelConfig(dim=8, image_filters=[4, 8], feature_hidden=[16], token_dim=4)


@pytest.fixture(scope="module")
def features(tmp_path_factory: pytest.TempPathFactory) -> Version:
    return tiny_examples.write_examples(tmp_path_factory.mktemp("features"), Form(features=True))


def learner_of(examples: Version, **training: Any) -> tuple[Learner, Any]:
    """(a fresh learner, its batches)."""
    files, replicas = ExampleFiles.open(examples), Replicas.open(Worker())
    transform, config = files.transform(), TrainingConfig(batch_size=16, **training)
    keras.utils.set_random_seed(1)
    with precision(config.precision):
        network = make_model(files, transform, MODEL, config)
    for batch in dataset.evaluation_batches(files, transform, "train", batch_size=2, neighbors=1):
        network(batch, training=False)
        break
    learner = Learner(network, make_optimizer(config, 12), replicas)
    batches = replicas.batches(
        lambda shard: dataset.training_batches(
            files, transform, batch_size=16, neighbors=1, epochs=4, seed=1, shuffle_buffer=99
        )
    )
    return learner, batches


# Steps --------------------------------------------------------------------------------------------


def test_a_step_is_what_keras_fit_does(features: Version) -> None:
    """The same model, optimizer and batches: compile and fit end with the same weights."""
    settings = {"schedule": "cosine", "clip_norm": 0.5, "weight_decay": 0.1}
    learner, batches = learner_of(features, **settings)
    losses = [learner.step(number, batches, [0.0, 0.0]).loss for number in range(9)]
    assert int(learner.network.step.numpy()) == 8

    other, _ = learner_of(features, **settings)
    files = ExampleFiles.open(features)
    other.network.compile(optimizer=other.optimizer, jit_compile=False)
    fitted = other.network.fit(
        dataset.training_batches(
            files,
            files.transform(),
            batch_size=16,
            neighbors=1,
            epochs=4,
            seed=1,
            shuffle_buffer=99,
        ),
        epochs=3,
        steps_per_epoch=3,
        verbose=0,
        shuffle=False,
    )
    # Batches of 16, 16 and 10 rows.
    means = [float(np.average(losses[i : i + 3], weights=[16, 16, 10])) for i in (0, 3, 6)]
    assert means == pytest.approx(fitted.history["loss"], rel=1e-6)
    ours, theirs = learner.network, other.network
    for one, two in zip(ours.trainable_variables, theirs.trainable_variables, strict=True):
        np.testing.assert_allclose(one.numpy(), two.numpy(), rtol=1e-6, atol=1e-7)


def test_a_state_goes_into_a_fresh_learner(features: Version) -> None:
    learner, batches = learner_of(features)
    for number in range(4):
        learner.step(number, batches, [0.0, 0.0])
    state = learner.state()
    expected = learner.step(4, batches, [0.0, 0.0]).loss
    other, again = learner_of(features)
    for _ in range(4):
        next(again)
    other.set_state(state)
    assert other.step(4, again, [0.0, 0.0]).loss == expected
    assert other.sums() == learner.sums()
    with pytest.raises(ValueError, match="shape"):
        other.set_state([*state[1:], state[0]])


def test_metrics_add_up_until_they_are_reset(features: Version) -> None:
    learner, batches = learner_of(features)
    losses = [learner.step(number, batches, [0.0, 0.0]).loss for number in range(3)]
    total, rows = learner.sums()["loss"]
    assert rows == 42
    assert total == pytest.approx(np.dot(losses, [16, 16, 10]), rel=1e-6)
    learner.reset_metrics()
    assert set(learner.sums().values()) == {(0.0, 0.0)}


def test_a_gradient_is_cut_to_its_longest_or_left_as_it_is(features: Version) -> None:
    """AdamW's first moment after one step is a tenth of the gradient."""
    lengths = {}
    for longest in (None, 1e-3):
        learner, batches = learner_of(features, clip_norm=longest)
        learner.step(0, batches, [0.0, 0.0])
        moments = [v.numpy() for v in learner.optimizer.variables if "momentum" in v.path]
        lengths[longest] = 10 * math.sqrt(sum(float((m**2).sum()) for m in moments))
    # Keras measures the rows of the table of words before it adds up those of the same word.
    assert lengths[1e-3] == pytest.approx(1e-3, rel=0.05)
    assert lengths[None] > 0.1


@pytest.mark.parametrize("policy", ["float32", "mixed_bfloat16", "mixed_float16"])
def test_layers_compute_in_the_precision_and_weights_stay_float32(
    features: Version, policy: str
) -> None:
    before = keras.config.dtype_policy().name
    learner, batches = learner_of(features, precision=policy)
    assert keras.config.dtype_policy().name == before == "float32"
    assert {v.dtype for v in learner.network.trainable_variables} == {"float32"}
    policies = {layer.dtype_policy.name for layer in learner.network.image_tower.layers}
    assert policy in policies
    losses = [learner.step(number, batches, [0.0, 0.0]).loss for number in range(12)]
    assert np.isfinite(losses).all()
    assert np.mean(losses[9:]) < np.mean(losses[:3])
    scaled = isinstance(learner.optimizer, keras.optimizers.LossScaleOptimizer)
    assert scaled == (policy == "mixed_float16")


def rates(**settings: Any) -> list[float]:
    schedule = learning_rate(TrainingConfig(learning_rate=0.4, **settings), 100)
    return [float(schedule(step)) for step in range(101)]


def test_the_rate_warms_up_and_falls_as_a_cosine_or_stays() -> None:
    # From a tenth of the highest in a line over the first 10 steps: r/w + (r - r/w) s/w.
    up = [0.04 + 0.36 * step / 10 for step in range(10)]
    falls = [0.4 * (0.99 * 0.5 * (1 + math.cos(math.pi * step / 90)) + 0.01) for step in range(91)]
    assert rates(warmup=0.1, schedule="cosine") == pytest.approx(up + falls, rel=1e-5)
    assert rates(warmup=0.1, schedule="constant") == pytest.approx(up + [0.4] * 91, rel=1e-5)
    assert rates(warmup=0.0, schedule="constant") == pytest.approx([0.4] * 101, rel=1e-5)
    assert rates(warmup=0.0)[0] == pytest.approx(0.4)
    assert rates(warmup=0.001)[0] == pytest.approx(0.4)  # of any warm-up, one step at least


# The best weights ---------------------------------------------------------------------------------


def test_the_first_of_equally_good_epochs_is_the_best_and_patience_counts_from_it() -> None:
    class Network:
        def __init__(self) -> None:
            self.epoch = 0

        def get_weights(self) -> list[np.ndarray]:
            return [np.array(self.epoch)]

    best, network = Best(patience=2), Network()
    over = []
    for epoch, figure in enumerate([0.3, 0.5, 0.5, 0.4], start=1):
        network.epoch = epoch
        best.look(epoch, {"validation_figure": figure, "loss": -epoch}, network)  # type: ignore[arg-type]
        over.append(best.is_over(epoch))
    assert (best.epoch, best.figure, best.weights) == (2, 0.5, [np.array(2)])
    assert over == [False, False, False, True]
    again = Best(patience=2)
    again.restore(json.loads(json.dumps(best.notes())), best.weights)
    assert (again.epoch, again.figure) == (2, 0.5)
    fresh = Best(patience=2)
    fresh.restore(json.loads(json.dumps(Best(1).notes())), [])
    assert fresh.figure == -math.inf


# Collapse -----------------------------------------------------------------------------------------


def test_monitors_are_what_their_names_say() -> None:
    draw = np.random.default_rng(0)
    vectors = draw.normal(size=(50, 6)) + 0.5
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    found = monitors.spread(vectors.astype(np.float32))
    pairs = [vectors[i] @ vectors[j] for i in range(50) for j in range(50) if i != j]
    assert found["random_cosine"] == pytest.approx(np.mean(pairs), abs=1e-6)
    assert found["effective_rank"] == pytest.approx(rank_me(vectors), rel=1e-4)
    assert found["deviation"] == pytest.approx(np.mean(np.std(vectors, axis=0)) * 6**0.5, abs=1e-6)
    uniform = draw.normal(size=(5_000, 16))
    uniform /= np.linalg.norm(uniform, axis=1, keepdims=True)
    found = monitors.spread(uniform)
    assert found["deviation"] == pytest.approx(1.0, abs=0.02)
    assert found["random_cosine"] == pytest.approx(0.0, abs=0.01)
    assert found["effective_rank"] == pytest.approx(16.0, abs=0.1)
    point = monitors.spread(np.ones((9, 4)) / 2)
    assert (point["random_cosine"], point["deviation"]) == (pytest.approx(1.0), pytest.approx(0.0))


def test_collapse_is_said_once_and_what_to_change() -> None:
    cosines = [0.9, 0.2, 0.6, 0.7, 0.8, 0.1, 0.9, 0.9]
    history = [{"random_cosine": c, "mean_cosine": 0.8, "effective_rank": 1.5} for c in cosines]
    lines = [monitors.warning(history[:end]) for end in range(len(history) + 1)]
    assert [end for end, line in enumerate(lines) if line] == [4]
    assert lines[4] is not None
    for word in ("0.70", "1.5", "graph_regularization", "edge_contrast", "temperature"):
        assert word in lines[4]
    assert monitors.warning([{"loss": 1.0, "mean_cosine": 0.9}] * 3) is None  # no validation data
    unsettled = [{**figures, "mean_cosine": 0.0} for figures in history]
    assert monitors.warning(unsettled[:4]) is None


def test_a_training_that_collapses_says_so(features: Version, tmp_path: Path) -> None:
    """Nothing but the distance between neighbours: all embeddings become one."""
    notes: list[str] = []
    off = dict.fromkeys(("supervised", "edge_contrast", "text_contrast"), 0.0)
    manifest = train(
        examples=features,
        model=MODEL,
        training=TrainingConfig(epochs=12, batch_size=16, learning_rate=0.02, **off),
        seed=0,
        out=NewVersion("model", "v0001", str(tmp_path)),
        listener=Listener(on_note=notes.append),
    )
    assert manifest is not None
    assert len(notes) == 1
    assert notes[0].startswith("the embeddings are collapsing: the mean cosine of random images is")


# Validation ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("network", ["none", "gcn"])
def test_a_graph_network_is_measured_as_it_is_served_and_with_neighbours(
    features: Version, network: str
) -> None:
    files = ExampleFiles.open(features)
    transform, training = files.transform(), TrainingConfig(batch_size=16)
    keras.utils.set_random_seed(0)
    model = make_model(
        files, transform, MODEL.model_copy(update={"graph_network": network}), training
    )
    batches = dataset.evaluation_batches(
        files, transform, "validation", batch_size=5, neighbors=2, edges=network != "none"
    )
    figures = Validator(model, batches).figures()
    connected = {"validation_accuracy_connected", "validation_text_mrr_connected", "neighbor_skew"}
    assert connected & figures.keys() == (connected if network == "gcn" else set())
    assert figures["validation_figure"] == pytest.approx(
        np.mean([figures[f"validation_{n}"] for n in ("text_mrr", "edge_mrr", "accuracy")])
    )
    if network == "none":
        return
    names = ("accuracy", "text_mrr")
    with_, without = (
        np.mean([figures[f"validation_{name}{end}"] for name in names])
        for end in ("_connected", "")
    )
    assert figures["neighbor_skew"] == pytest.approx(with_ - without)
    # Counted by hand: the class of greatest probability, of images that stand alone.
    logits, labels = [], []
    for batch in batches:
        logits.append(model(batch, training=False)["isolated_logits"].numpy())
        labels.append(batch["heldout_label"].numpy())
    known = np.concatenate(labels) >= 0
    right = np.concatenate(logits).argmax(axis=1)[known] == np.concatenate(labels)[known]
    assert figures["validation_accuracy"] == pytest.approx(right.mean())


def test_edges_are_ranked_where_it_is_asked_for_although_no_term_learns_from_them(
    features: Version,
) -> None:
    files = ExampleFiles.open(features)
    off = TrainingConfig(edge_contrast=0.0, graph_regularization=0.0)
    model = make_model(files, files.transform(), MODEL, off)
    batches = dataset.evaluation_batches(
        files, files.transform(), "validation", batch_size=5, neighbors=1
    )
    plain, asked = (Validator(model, batches, edges=e).figures() for e in (False, True))
    assert asked.keys() - plain.keys() == {"validation_edge_mrr"}


# What TensorBoard reads ---------------------------------------------------------------------------


def projector_config() -> Any:
    """TensorBoard's message of that name, by its projector_config.proto; the part that counts."""
    string, uint32, message = 9, 13, 11
    file = descriptor_pb2.FileDescriptorProto(name="projector_config.proto", package="tensorboard")
    embedding = file.message_type.add(name="EmbeddingInfo")
    for number, name in enumerate(("tensor_name", "metadata_path", "bookmarks_path"), start=1):
        embedding.field.add(name=name, number=number, type=string, label=1)
    embedding.field.add(name="tensor_shape", number=4, type=uint32, label=3)
    embedding.field.add(name="tensor_path", number=6, type=string, label=1)
    config = file.message_type.add(name="ProjectorConfig")
    config.field.add(name="model_checkpoint_path", number=1, type=string, label=1)
    config.field.add(
        name="embeddings", number=2, type=message, label=3, type_name=".tensorboard.EmbeddingInfo"
    )
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    found = pool.FindMessageTypeByName("tensorboard.ProjectorConfig")
    return message_factory.GetMessageClass(found)()


def test_the_projector_has_a_vector_a_line_and_what_it_is_of(
    features: Version, tmp_path: Path
) -> None:
    def awkward(index: int, values: tiny_examples.Values) -> tiny_examples.Values:
        texts = {"text": ["a\ttab\nand a line", "seldom"], "text_weight": [2.0, 1.0]}
        return values | (texts if index == 43 else {})

    examples = tiny_examples.write_examples(
        tmp_path / "examples", Form(features=True), change=awkward
    )
    train(
        examples=examples,
        model=MODEL,
        training=TrainingConfig(epochs=1, batch_size=16),
        seed=0,
        out=NewVersion("model", "v0001", str(tmp_path)),
    )
    folder = tmp_path / "v0001" / schema.TENSORBOARD_FOLDER
    config = text_format.Parse((folder / "projector_config.pbtxt").read_text(), projector_config())
    (embedding,) = config.embeddings
    vectors = np.loadtxt(folder / embedding.tensor_path, delimiter="\t")
    served = tf.saved_model.load(str(tmp_path / "v0001" / schema.SAVED_MODEL_FOLDER))
    files = ExampleFiles.open(examples)
    (batch,) = dataset.evaluation_batches(
        files, files.transform(), "validation", batch_size=99, neighbors=0
    )
    assert vectors.shape == (14, 8)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1.0, atol=1e-5)
    assert served.signatures.keys() >= {"features"}
    lines = (folder / embedding.metadata_path).read_text().splitlines()
    assert lines[0] == "image_id\tlabel\ttext"
    rows = [line.split("\t") for line in lines[1:]]
    assert [row[0] for row in rows] == [f"img-{index}" for index in range(42, 56)]
    for index, (_, label, text) in enumerate(rows, start=42):
        assert label == (tiny_examples.colour_of(index) if tiny_examples.is_labelled(index) else "")
        texts = tiny_examples.texts_of(index)
        assert text == ("a tab and a line" if index == 43 else texts[0][0] if texts else "")
    assert len(batch["id"]) == len(rows)


# Progress -----------------------------------------------------------------------------------------


def test_the_clock_tells_speed_and_time_left(monkeypatch: pytest.MonkeyPatch) -> None:
    now = iter([100.0, 100.0, 110.0])
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(now))
    clock = Clock(1, 41, batch_size=16)
    assert clock.pace(1, {}) == Pace(1, 41)
    assert clock.pace(21, {"loss": 1.0}) == Pace(21, 41, {"loss": 1.0}, 32.0, 10.0)


def shown(*, terminal: bool, iteration: int | None = None) -> str:
    output = io.StringIO()
    console = Console(file=output, force_terminal=terminal, width=200, color_system=None)
    with Terminal(console, quiet=False, log_path="").training("Training") as lines:
        if iteration is not None:
            lines.on_iteration(iteration, 3)
        lines.on_step(Pace(7, 40, {"loss": 1.5, "learning_rate": 0.1}, 1234.4, 7_500.0))
        lines.note("a [line]")
        lines.on_epoch(1, 5, {"loss": 1.25, "validation_figure": 0.5, "random_cosine": 0.1})
    return output.getvalue()


def test_progress_shows_terms_speed_and_time_left() -> None:
    plain = shown(terminal=False).splitlines()
    assert plain[:3] == [
        "Training …",
        "  ! a [line]",
        "  epoch 1/5  loss 1.2500  figure 0.5000  1,234 examples/s  2 h 05 min left",
    ]
    assert plain[3].startswith("✓ Training (")
    live = shown(terminal=True)
    assert "7/40 steps" in live
    assert "loss 1.500  1,234 examples/s  2 h 05 min left" in live
    assert "learning_rate" not in live


def test_progress_names_the_iteration_of_co_training() -> None:
    plain = shown(terminal=False, iteration=2).splitlines()
    assert plain[2].startswith("  iteration 2/3  epoch 1/5  loss 1.2500  figure 0.5000")
    assert "Training, iteration 2/3" in shown(terminal=True, iteration=2)
    stopped = Interrupted(7, 40, kept=True, iteration=2)
    assert _where_it_stopped(stopped).startswith("at step 7 of 40 of iteration 2; imgembed train")


def test_a_first_signal_waits_for_the_step_and_a_second_one_does_not() -> None:
    def at_once(number: int, frame: Any) -> None:
        raise KeyboardInterrupt

    former = signal.signal(signal.SIGTERM, at_once)
    try:
        with Deferred(), pytest.raises(KeyboardInterrupt):  # nothing has begun yet
            os.kill(os.getpid(), signal.SIGTERM)
        with Deferred() as deferred:
            assert not deferred.is_asked()
            os.kill(os.getpid(), signal.SIGTERM)
            assert deferred.is_asked()
            with pytest.raises(KeyboardInterrupt):
                os.kill(os.getpid(), signal.SIGTERM)
        assert signal.getsignal(signal.SIGTERM) is at_once
    finally:
        signal.signal(signal.SIGTERM, former)
    ended = Ended(signal.SIGTERM, "at step 3")
    assert (ended.exit_code, ended.format_message()) == (143, "terminated at step 3")
