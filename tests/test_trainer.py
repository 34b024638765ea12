"""Training as a whole: examples in, a served model out."""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
import tiny_examples
from pydantic import ValidationError
from tiny_examples import Form

from pipeline import schema
from pipeline.artifacts import NewVersion, Version
from pipeline.examples import pictures as preparation
from pipeline.examples import transform as analysis
from trainer import dataset, parsing, serving
from trainer.attempt import make_model
from trainer.config import ModelConfig, TrainingConfig
from trainer.example_files import ExampleFiles
from trainer.fit import train
from trainer.progress import Listener
from trainer.towers.pictures import Standardize

MODEL = ModelConfig(dim=8, image_filters=[4, 8], feature_hidden=[16], token_dim=4)


def training(**changes: Any) -> TrainingConfig:
    settings = {"epochs": 3, "batch_size": 16, "learning_rate": 0.01}
    return TrainingConfig(**{**settings, **changes})


def run(examples: Version, folder: Path, *, seed: int = 0, **changes: Any) -> dict[str, Any]:
    manifest = train(
        examples=examples,
        model=MODEL,
        training=training(**changes),
        seed=seed,
        out=NewVersion("model", "v0001", str(folder)),
    )
    assert manifest is not None
    return manifest


def saved(folder: Path) -> Path:
    return folder / "v0001" / schema.SAVED_MODEL_FOLDER


def weights(folder: Path) -> Mapping[str, np.ndarray]:
    checkpoint = tf.train.load_checkpoint(str(saved(folder) / "variables" / "variables"))
    names = [n for n in checkpoint.get_variable_to_shape_map() if "OBJECT_GRAPH" not in n]
    return {name: checkpoint.get_tensor(name) for name in names}


def history(folder: Path) -> list[dict[str, float]]:
    return json.loads((folder / "v0001" / schema.HISTORY_FILE).read_text())["epochs"]


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Version:
    return tiny_examples.write_examples(tmp_path_factory.mktemp("pictures"))


@pytest.fixture(scope="module")
def features(tmp_path_factory: pytest.TempPathFactory) -> Version:
    return tiny_examples.write_examples(tmp_path_factory.mktemp("features"), Form(features=True))


@pytest.fixture(scope="module")
def trained(pictures: Version, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of pictures, moved away from where it was written, its transform out of reach."""
    folder = tmp_path_factory.mktemp("trained")
    run(pictures, folder / "written")
    shutil.move(str(saved(folder / "written")), str(folder / "moved"))
    return folder


@pytest.fixture(scope="module")
def signatures(trained: Path) -> Mapping[str, Any]:
    return tf.saved_model.load(str(trained / "moved")).signatures


def embed_pictures(signatures: Mapping[str, Any], *encoded: bytes) -> np.ndarray:
    outputs = signatures[schema.IMAGE_SIGNATURE](image=tf.constant(encoded))
    return outputs[schema.EMBEDDING_OUTPUT].numpy()


def embed_texts(signatures: Mapping[str, Any], *texts: str) -> np.ndarray:
    outputs = signatures[schema.TEXT_SIGNATURE](text=tf.constant(texts))
    return outputs[schema.EMBEDDING_OUTPUT].numpy()


def test_training_learns_and_tells_what_it_did(
    pictures: Version, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    epochs, steps, notes = [], [], []
    manifest = train(
        examples=pictures,
        model=MODEL,
        training=training(epochs=20),
        seed=1,
        out=NewVersion("model", "v0001", str(tmp_path)),
        listener=Listener(
            on_epoch=lambda epoch, of, figures: epochs.append((epoch, of, figures)),
            on_step=steps.append,
            on_note=notes.append,
        ),
    )
    assert manifest is not None
    assert notes == []
    assert capfd.readouterr().out == ""
    assert [(epoch, of) for epoch, of, _ in epochs] == [(i, 20) for i in range(1, 1 + len(epochs))]
    assert [(pace.step, pace.steps) for pace in steps] == [
        (i, 60) for i in range(1, 1 + 3 * len(epochs))
    ]
    assert steps[8].figures == {}  # 42 seeds are 3 steps of 16; every tenth step takes a look
    assert steps[9].figures.keys() == steps[-1].figures.keys() >= {"loss", "learning_rate"}
    assert steps[0].examples_per_second is None
    assert steps[-1].examples_per_second > 0
    assert steps[-2].seconds_left > 0
    assert epochs[-1][2]["loss"] < 0.7 * epochs[0][2]["loss"]
    assert [{"epoch": e, **figures} for e, _, figures in epochs] == history(tmp_path)
    # Colours are easy to tell apart: texts find a picture of their colour at the first rank.
    assert manifest["metrics"]["validation_text_mrr"] > 0.9
    assert manifest["metrics"] == history(tmp_path)[manifest["best_epoch"] - 1]
    assert manifest["signatures"] == [schema.IMAGE_SIGNATURE, schema.TEXT_SIGNATURE]
    assert manifest["classes"] == ["blue", "green", "red"]
    assert (manifest["dim"], manifest["image_size"], manifest["feature_dim"]) == (8, 16, None)
    assert (manifest["image_encoding"], manifest["multi_label"]) == ("png", False)


def test_event_files_hold_the_figures(pictures: Version, tmp_path: Path) -> None:
    run(pictures, tmp_path, epochs=4)
    (path,) = (tmp_path / "v0001" / schema.TENSORBOARD_FOLDER).glob("events.out.tfevents.*")
    events = [tf.compat.v1.Event.FromString(r.numpy()) for r in tf.data.TFRecordDataset(str(path))]
    found = {
        (event.step, value.tag): float(tf.make_ndarray(value.tensor))
        for event in events
        for value in event.summary.value
    }
    for epoch in history(tmp_path):
        assert found[epoch["epoch"], "epoch/loss"] == pytest.approx(epoch["loss"], rel=1e-6)
    # 12 steps in all, of 42 seeds by 16: the tenth is the first of the last epoch, after the ninth
    # has ended one; its learning rate is on the way down from 0.01.
    assert {step for step, tag in found if tag == "step/loss"} == {10}
    assert 0.0001 < found[10, "step/learning_rate"] < 0.005


def test_the_same_seed_trains_to_identical_weights(pictures: Version, tmp_path: Path) -> None:
    for name, seed in (("once", 5), ("again", 5), ("other", 6)):
        run(pictures, tmp_path / name, seed=seed, epochs=1)
    once, again, other = (weights(tmp_path / name) for name in ("once", "again", "other"))
    assert once.keys() == again.keys()
    for name, value in once.items():
        np.testing.assert_array_equal(value, again[name], err_msg=name)
    assert any((value != other[name]).any() for name, value in once.items())


def test_labels_held_out_do_not_train(pictures: Version, tmp_path: Path) -> None:
    """The leak canary: other labels outside the training split change no weight."""

    def permuted(index: int, values: tiny_examples.Values) -> tiny_examples.Values:
        held_out = schema.HELDOUT_LABEL.name
        return {name: (v + 1) % 3 if name == held_out else v for name, v in values.items()}

    changed = tiny_examples.write_examples(tmp_path / "examples", change=permuted)
    run(pictures, tmp_path / "true", epochs=1)
    run(changed, tmp_path / "permuted", epochs=1)
    one, two = weights(tmp_path / "true"), weights(tmp_path / "permuted")
    for name, value in one.items():
        np.testing.assert_array_equal(value, two[name])


def test_signatures_give_what_the_model_in_memory_gives(
    pictures: Version, features: Version, tmp_path: Path
) -> None:
    for version, name in ((pictures, "pictures"), (features, "features")):
        files = ExampleFiles.open(version)
        transform = files.transform()
        model = make_model(files, transform, MODEL, training())
        (batch,) = dataset.evaluation_batches(
            files, transform, "train", batch_size=100, neighbors=1
        )
        if name == "features":
            raw = np.stack([tiny_examples.raw_features(i) for i in range(42)]).astype(np.float32)
            batch["content"] = transform.features(raw)
            given: Any = tf.constant(raw)
        else:
            given = tf.constant([tiny_examples.picture(i) for i in range(42)])
        outputs = model(batch, training=False)
        serving.export(model, transform, files, str(tmp_path / name))
        loaded = tf.saved_model.load(str(tmp_path / name)).signatures
        kind = files.version.manifest["content"]
        found = loaded[kind](**{kind: given})
        difference = found[schema.EMBEDDING_OUTPUT] - outputs["seeds"]
        assert float(tf.reduce_max(tf.abs(difference))) < 1e-6
        expected = tf.nn.softmax(outputs["logits"])
        assert float(tf.reduce_max(tf.abs(found["probabilities"] - expected))) < 1e-6
        asked = loaded[schema.TEXT_SIGNATURE](text=tf.constant(["red", "blue"]))
        texts = tf.gather(outputs["texts"], [3, 5])  # seeds 3 and 5 are red and blue
        assert float(tf.reduce_max(tf.abs(asked["embedding"] - texts))) < 1e-6


def test_the_served_model_scales_raw_features(features: Version) -> None:
    raw = np.stack([tiny_examples.raw_features(i) for i in range(42)]).astype(np.float32)
    scaled = ExampleFiles.open(features).transform().features(tf.constant(raw)).numpy()
    expected = (raw - raw.mean(axis=0)) / raw.std(axis=0)
    np.testing.assert_allclose(scaled, expected, atol=1e-3)


@pytest.mark.parametrize("encoding", ["jpeg", "png", "raw"])
@pytest.mark.parametrize("side", [16, 19])
def test_a_prepared_picture_is_bit_for_bit_what_training_saw(encoding: str, side: int) -> None:
    """The catalog's picture of any size, prepared for the examples and for the served model."""
    draw = np.random.default_rng(1)
    source = draw.integers(0, 256, (40, 31, 3)).astype(np.uint8)
    data = tf.io.encode_png(source).numpy()
    size = {"image_size": side, "max_pixels": 10_000}
    written = preparation.prepare(data, **size, encoding=encoding).content
    examples = ExampleFiles(
        Version("examples", "v0001", "", {}),
        schema.ExampleSpec(neighbors=0, image_encoding=encoding),
        side, (), "", 0, 0, 0, (), 0,
    )  # fmt: skip
    trained = parsing.decode(tf.constant([written]), examples).numpy()
    handed_over = preparation.prepare(
        data, **size, encoding=preparation.model_encoding(encoding)
    ).content
    served = serving.decode_pictures(tf.constant([handed_over]), side).numpy()
    np.testing.assert_array_equal(served, trained)
    if encoding != "jpeg":  # and that is the picture itself
        plain = preparation.prepare(data, **size, encoding="raw").content
        assert trained.tobytes() == plain


def test_pictures_of_the_examples_are_bit_for_bit_what_serving_decodes(pictures: Version) -> None:
    files = ExampleFiles.open(pictures)
    (batch,) = dataset.evaluation_batches(
        files, files.transform(), "train", batch_size=100, neighbors=0
    )
    encoded = tf.constant([tiny_examples.picture(i) for i in range(42)])
    served = serving.decode_pictures(encoded, tiny_examples.SIDE)
    np.testing.assert_array_equal(served, batch["content"])


def test_tokens_are_bit_for_bit_those_of_training(pictures: Version, tmp_path: Path) -> None:
    texts = ["Plain RED, bridges!", "東京 zebra", "", "ünïcode 🚀 x"]
    files = ExampleFiles.open(pictures)
    transform = files.transform()
    model = make_model(files, transform, MODEL, training())
    serving.export(model, transform, files, str(tmp_path))
    tokens = transform.tokens(tf.constant(texts))
    assert model.text_tower is not None
    expected = model.text_tower(tokens.to_tensor(-1), training=False)
    found = tf.saved_model.load(str(tmp_path)).signatures[schema.TEXT_SIGNATURE]
    np.testing.assert_array_equal(found(text=tf.constant(texts))["embedding"], expected)


def test_scaled_features_are_bit_for_bit_what_the_pipeline_writes(features: Version) -> None:
    raw = np.random.default_rng(3).normal(100, 80, (37, 5)).astype(np.float32)
    written = analysis.scaled_features(features.file(schema.TRANSFORM_FOLDER), raw)
    transform = ExampleFiles.open(features).transform()
    served = tf.function(transform.features)(tf.constant(raw)).numpy()
    assert written.tobytes() == served.tobytes()


def test_channels_are_standardized_by_the_statistics_of_the_catalog(pictures: Version) -> None:
    pixels = np.stack([tiny_examples.pixels(i) for i in range(42)]).reshape(-1, 3)
    means, deviations = ExampleFiles.open(pictures).transform().channels()
    np.testing.assert_allclose(means, pixels.mean(axis=0), rtol=1e-6)
    np.testing.assert_allclose(deviations, pixels.std(axis=0), rtol=1e-5)
    layer = Standardize(means, deviations)
    picture = tf.constant(pixels[None, None, :5], tf.float32)
    found = layer(picture).numpy()[0, 0]
    np.testing.assert_allclose(found[:, :3], (pixels[:5] - means) / deviations, rtol=1e-5)
    # The fourth channel: eight times the difference of the extremes, on the scale -1 to 1.
    apart = np.ptp(pixels[:5].astype(np.float64), axis=1)
    np.testing.assert_allclose(found[:, 3], 8 * apart / 127.5 - 1, rtol=1e-5)
    assert layer.trainable_variables == []


def test_transparent_pixels_are_white_and_half_transparent_ones_half_so() -> None:
    pixels = np.zeros((16, 16, 4), np.uint8)
    pixels[0, 0] = (255, 0, 0, 255)
    pixels[0, 1] = (0, 0, 0, 51)  # a fifth black
    pixels[0, 2] = (90, 90, 90, 0)
    (found,) = serving.decode_pictures(tf.io.encode_png(pixels)[None], 16).numpy()
    assert found[0, :3].tolist() == [[255, 0, 0], [204, 204, 204], [255, 255, 255]]


def test_pictures_of_any_kind_and_size_have_unit_embeddings(signatures: Mapping[str, Any]) -> None:
    draw = np.random.default_rng(0)
    grey = draw.integers(0, 256, (40, 24, 1)).astype(np.uint8)
    colour = draw.integers(0, 256, (7, 90, 3)).astype(np.uint8)
    encoded = [
        tf.io.encode_png(grey).numpy(),
        tf.io.encode_png(np.repeat(grey, 4, axis=2)).numpy(),
        tf.io.encode_jpeg(colour).numpy(),
        tf.io.encode_jpeg(grey).numpy(),
        tiny_examples.picture(0),
    ]
    embeddings = embed_pictures(signatures, *encoded)
    assert embeddings.shape == (5, 8)
    np.testing.assert_allclose(np.linalg.norm(embeddings, axis=1), 1.0, atol=1e-5)


def test_a_flat_picture_keeps_its_colour_when_it_is_scaled() -> None:
    flat = np.full((50, 31, 3), (200, 100, 50), np.uint8)
    (found,) = serving.decode_pictures(tf.io.encode_png(flat)[None], 16).numpy()
    assert np.unique(found.reshape(-1, 3), axis=0).tolist() == [[200, 100, 50]]


def test_any_text_has_a_unit_embedding_whatever_stands_beside_it(
    signatures: Mapping[str, Any],
) -> None:
    texts = ["red", "", "...", "quetzalcoatl", "a red thing with a long text beside blue"]
    together = embed_texts(signatures, *texts)
    np.testing.assert_allclose(np.linalg.norm(together, axis=1), 1.0, atol=1e-5)
    alone = np.concatenate([embed_texts(signatures, text) for text in texts])
    np.testing.assert_allclose(together, alone, atol=1e-6)
    np.testing.assert_array_equal(together[1], together[2])


def test_a_model_of_features_serves_features(features: Version, tmp_path: Path) -> None:
    manifest = run(features, tmp_path, epochs=6)
    assert manifest["signatures"] == [schema.FEATURES_SIGNATURE, schema.TEXT_SIGNATURE]
    assert manifest["feature_dim"] == 5
    assert history(tmp_path)[-1]["loss"] < history(tmp_path)[0]["loss"]


def test_without_texts_and_labels_there_is_no_text_signature_and_no_class(
    tmp_path: Path,
) -> None:
    def bare(index: int, values: tiny_examples.Values) -> tiny_examples.Values:
        return {n: v for n, v in values.items() if not n.startswith("text") and "label" not in n}

    none = {"train": 0, "validation": 0, "test": 0}
    version = tiny_examples.write_examples(
        tmp_path / "examples", change=bare, texts=none, labelled=none, classes=[]
    )
    manifest = run(version, tmp_path / "model", epochs=1)
    assert manifest["signatures"] == [schema.IMAGE_SIGNATURE]
    loaded = tf.saved_model.load(str(saved(tmp_path / "model"))).signatures
    outputs = loaded[schema.IMAGE_SIGNATURE](image=tf.constant([tiny_examples.picture(0)]))
    assert list(outputs) == [schema.EMBEDDING_OUTPUT]


TERMS = ("supervised", "graph_regularization", "edge_contrast", "text_contrast")


@pytest.mark.parametrize("term", TERMS)
def test_each_term_alone_counts_with_its_weight(pictures: Version, term: str) -> None:
    files = ExampleFiles.open(pictures)
    only = {other: 2.0 * (other == term) for other in TERMS}
    transform = files.transform()
    model = make_model(files, transform, MODEL, training(**only))
    (batch,) = dataset.evaluation_batches(files, transform, "train", batch_size=100, neighbors=2)
    loss = model.compute_loss(batch, y_pred=model(batch))
    reported = {metric.name: float(metric.result()) for metric in model.metrics}
    assert set(reported) == {term, "mean_cosine"}
    assert reported[term] > 0
    assert float(loss) == pytest.approx(2.0 * reported[term], rel=1e-6)
    # What is not trained is not there to be asked.
    assert (model.text_tower is not None) == (term == "text_contrast")
    assert (model.class_head is not None) == (term == "supervised")


@pytest.mark.parametrize("layout", ["nsl", "compact"])
def test_several_labels_train_a_question_for_each_class(
    tmp_path: Path, layout: schema.Layout
) -> None:
    form = Form(layout=layout, encoding="raw", multi_label=True)
    version = tiny_examples.write_examples(tmp_path / "examples", form)
    manifest = run(version, tmp_path / "model", epochs=8)
    assert (manifest["image_encoding"], manifest["multi_label"]) == ("raw", True)
    assert (
        history(tmp_path / "model")[-1]["supervised"] < history(tmp_path / "model")[0]["supervised"]
    )
    assert manifest["metrics"]["validation_accuracy"] > 0.9
    loaded = tf.saved_model.load(str(saved(tmp_path / "model"))).signatures
    given = tf.constant([tiny_examples.picture(i) for i in range(42)])
    found = loaded[schema.IMAGE_SIGNATURE](image=given)["probabilities"].numpy()
    assert ((found >= 0) & (found <= 1)).all()
    assert not np.allclose(found.sum(axis=1), 1.0)  # each class by itself


def test_without_validation_data_the_training_loss_decides(
    pictures: Version, tmp_path: Path
) -> None:
    splits = {**pictures.manifest["splits"], "validation": {"records": 0, "files": 0}}
    bare = Version("examples", "v0001", pictures.path, {**pictures.manifest, "splits": splits})
    manifest = run(bare, tmp_path, epochs=3)
    losses = [epoch["loss"] for epoch in history(tmp_path)]
    assert manifest["best_epoch"] == 1 + int(np.argmin(losses))
    assert not any(name.startswith("validation") for name in manifest["metrics"])


def test_patience_ends_a_training_that_gets_no_better(pictures: Version, tmp_path: Path) -> None:
    manifest = run(pictures, tmp_path, epochs=9, patience=2, learning_rate=1e-9)
    assert manifest["epochs"] < 9
    assert manifest["epochs"] == manifest["best_epoch"] + 2


def test_settings_out_of_range_are_refused() -> None:
    for bad in ({"temperature": 0}, {"epochs": 0}, {"batch_size": 1}, {"unknown": 1}):
        with pytest.raises(ValidationError):
            TrainingConfig(**bad)
    for bad in ({"dim": 1}, {"image_filters": []}, {"dropout": 1.0}, {"token_dim": float("nan")}):
        with pytest.raises(ValidationError):
            ModelConfig(**bad)
