"""The towers by themselves: what they are made of, and where their weights come from."""

from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras_state import bfloat16, fixed_seed  # noqa: F401 - fixtures

from pipeline.errors import ConfigError, ImgembedError
from trainer.config import ModelConfig
from trainer.towers import build
from trainer.towers.backbones import IMAGENET_DEVIATIONS, BackboneTower, load_weights
from trainer.towers.layers import Augment
from trainer.towers.texts import TextTower

SIDE = 32
CHANNELS = np.full(3, 120.0, np.float32), np.full(3, 60.0, np.float32)
PICTURES = np.random.default_rng(0).integers(0, 256, (4, SIDE, SIDE, 3)).astype(np.uint8)
FEATURES = np.random.default_rng(1).normal(size=(4, 10)).astype(np.float32)
TOKENS = tf.constant([[0, 1, 2], [2, -1, -1], [-1, -1, -1]], tf.int64)


def picture_tower(**config: Any) -> keras.Model:
    tower = build.image_tower(
        ModelConfig(**config), channels=CHANNELS, image_size=SIDE, augmentation="none"
    )
    tower(PICTURES)
    return tower


def feature_tower(**config: Any) -> keras.Model:
    tower = build.image_tower(
        ModelConfig(**config), channels=None, image_size=None, augmentation="none"
    )
    tower(FEATURES)
    return tower


def text_tower(**config: Any) -> keras.Model:
    tower = build.text_tower(ModelConfig(**config), 50)
    tower(TOKENS)
    return tower


@pytest.mark.parametrize("make", [picture_tower, feature_tower, text_tower])
def test_each_size_has_several_times_the_parameters_of_the_one_before(make: Any) -> None:
    tiny, small, base = (make(size=size).count_params() for size in ("tiny", "small", "base"))
    assert 1.5 * tiny < small < base / 1.5


def test_a_key_that_is_set_goes_before_the_size() -> None:
    small = build.resolve_sizes(ModelConfig())
    assert small == build.Sizes((32, 64, 192), (256, 256), 64, 2)
    mixed = build.resolve_sizes(ModelConfig(size="tiny", image_filters=[8], feature_hidden=[]))
    assert mixed == build.Sizes((8,), (), 32, 1)
    assert picture_tower(size="base", image_filters=[32, 64, 192]).count_params() == (
        picture_tower().count_params()
    )


@pytest.mark.usefixtures("bfloat16")
@pytest.mark.parametrize(
    ("tower", "given"), [(picture_tower, PICTURES), (feature_tower, FEATURES), (text_tower, TOKENS)]
)
def test_in_mixed_precision_embeddings_are_float32_of_length_1(tower: Any, given: Any) -> None:
    made = tower()
    found = made(given, training=True)
    assert found.dtype == tf.float32
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1.0, atol=1e-6)
    assert {v.dtype for v in made.trainable_variables} == {"float32"}
    inner = [layer for layer in made._flatten_layers() if isinstance(layer, keras.layers.Dense)]
    assert {layer.compute_dtype for layer in inner} == {"bfloat16"}


def test_words_count_alike_or_by_what_was_learned() -> None:
    """The bag's own vector v0 and the words' v1, v2, v3, before the dense layers."""
    vectors = np.random.default_rng(2).normal(size=(4, 5)).astype(np.float32)
    options: dict[str, Any] = {"dim": 3, "num_tokens": 3, "token_dim": 5, "hidden": 4}
    mean = TextTower(**options, pooling="mean", dropout=0.0)
    attention = TextTower(**options, pooling="attention", dropout=0.0)
    for tower in (mean, attention):
        tower(TOKENS)
        tower._vectors.set_weights([vectors])
        tower._hidden = lambda bag: bag
        tower._project = lambda bag, training: bag
    expected = [vectors.mean(axis=0), vectors[[0, 3]].mean(axis=0), vectors[0]]
    np.testing.assert_allclose(mean(TOKENS), expected, rtol=1e-5)
    np.testing.assert_allclose(attention(TOKENS), expected, rtol=1e-5)  # scores begin at 0
    attention._scores.set_weights([np.log([[1.0], [1.0], [2.0], [5.0]])])
    weighted = vectors[0] / 6 + vectors[3] * 5 / 6
    np.testing.assert_allclose(attention(TOKENS)[1], weighted, rtol=1e-5)


# -------------------------------------------------------------------------------------------------
# Classes of keras.applications
# -------------------------------------------------------------------------------------------------

BACKBONE = "MobileNetV3Small"


def make_class(name: str = BACKBONE, **options: Any) -> keras.Model:
    made = getattr(keras.applications, name)(
        include_top=False, weights=None, input_shape=(SIDE, SIDE, 3), pooling="avg", **options
    )
    draw = np.random.default_rng(3)
    for variable in made.weights:  # statistics of normalizations too, unlike those of a new one
        noise = draw.uniform(0.5, 1.5, variable.shape)
        variable.assign(variable * noise + 0.01 * noise)
    return made


@pytest.fixture(scope="module")
def trained_class() -> keras.Model:
    return make_class()


@pytest.mark.parametrize("extension", [".weights.h5", ".keras", ".h5"])
def test_a_class_sees_with_the_weights_of_the_file_and_its_own_scaling(
    trained_class: keras.Model, tmp_path: Path, extension: str
) -> None:
    path = str(tmp_path / f"of-class{extension}")
    (trained_class.save_weights if extension == ".weights.h5" else trained_class.save)(path)
    tower = picture_tower(image_tower=BACKBONE, backbone_weights=path)
    seen: list[tf.Tensor] = []
    tower._center = lambda x, training: seen.append(x) or x
    tower(PICTURES)
    np.testing.assert_allclose(seen[0], trained_class(PICTURES.astype(np.float32)), rtol=1e-4)


def test_pixels_are_scaled_as_the_class_wants_them(tmp_path: Path) -> None:
    made = make_class("MobileNet", alpha=1.0)
    made.save_weights(tmp_path / "x.weights.h5")
    tower = picture_tower(image_tower="MobileNet", backbone_weights=str(tmp_path / "x.weights.h5"))
    seen: list[tf.Tensor] = []
    tower._center = lambda x, training: seen.append(x) or x
    tower(PICTURES)
    np.testing.assert_allclose(seen[0], made(PICTURES / 127.5 - 1.0), rtol=1e-3, atol=1e-4)


def test_efficient_nets_of_imagenet_divide_by_the_deviation_and_its_root(tmp_path: Path) -> None:
    """As the models of Keras do that have downloaded their weights."""
    means = np.array([0.485, 0.456, 0.406])
    written = make_class("EfficientNetB0")
    (normalization,) = (x for x in written.layers if isinstance(x, keras.layers.Normalization))
    for variances, power in ((IMAGENET_DEVIATIONS**2, 1.5), (IMAGENET_DEVIATIONS, 0.5)):
        normalization.set_weights([means, variances, np.array(1)])
        written.save_weights(tmp_path / "x.weights.h5")
        read = keras.applications.EfficientNetB0(
            include_top=False, weights=None, input_shape=(SIDE, SIDE, 3), pooling="avg"
        )
        load_weights(read, str(tmp_path / "x.weights.h5"), "EfficientNetB0")
        (layer,) = (x for x in read.layers if isinstance(x, keras.layers.Normalization))
        found = layer(PICTURES / 255.0)
        expected = (PICTURES / 255.0 - means) / IMAGENET_DEVIATIONS**power
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("fine_tune", [False, True])
def test_a_class_stays_as_it_is_unless_it_is_fine_tuned(
    trained_class: keras.Model, tmp_path: Path, fine_tune: bool
) -> None:
    path = str(tmp_path / "x.weights.h5")
    trained_class.save_weights(path)
    tower = picture_tower(image_tower=BACKBONE, backbone_weights=path, fine_tune=fine_tune)
    before = [np.array(v) for v in tower.network.weights]
    others = [np.array(v) for v in tower._project.weights]
    optimizer = keras.optimizers.SGD(0.1)
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(tower(PICTURES, training=True)[:, 0])
    optimizer.apply(tape.gradient(loss, tower.trainable_variables), tower.trainable_variables)
    after = [np.array(v) for v in tower.network.weights]
    changed = [bool((b != a).any()) for b, a in zip(before, after, strict=True)]
    assert sum(changed) > 100 if fine_tune else not any(changed)
    assert (np.array(tower._project.weights[0]) != others[0]).any()


def test_an_unknown_class_is_one_line_with_a_suggestion() -> None:
    with pytest.raises(ConfigError) as error:
        picture_tower(image_tower="mobilenetv3smal", fine_tune=True)
    assert str(error.value) == (
        "model.image_tower: unknown tower 'mobilenetv3smal'; did you mean 'MobileNetV3Small'?"
    )
    with pytest.raises(ConfigError, match="there are ConvNeXtBase, .*Xception"):
        picture_tower(image_tower="zzz", fine_tune=True)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"image_tower": "Xception", "fine_tune": True}, "not take pictures of 32 x 32.*71x71"),
        ({"image_tower": BACKBONE}, "would stay at random weights.*set model.fine_tune"),
        ({"backbone_weights": "x.keras"}, "'x.keras' is for a class of keras.applications"),
    ],
)
def test_what_does_not_go_together_is_one_line(config: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as error:
        picture_tower(**config)
    assert "\n" not in str(error.value)


def test_a_class_for_pictures_is_not_for_ready_features() -> None:
    with pytest.raises(ConfigError, match="is for pictures, but the catalog's images are ready"):
        feature_tower(image_tower=BACKBONE, fine_tune=True)


def with_top(path: Path) -> None:
    keras.applications.MobileNetV3Small(weights=None, classes=7).save_weights(path)


def of_another_class(path: Path) -> None:
    make_class("MobileNetV2").save_weights(path)


def of_another_class_whole(path: Path) -> None:
    make_class("MobileNetV2").save(path)


def no_weights(path: Path) -> None:
    path.write_bytes(b"no such thing")


@pytest.mark.parametrize(
    ("write", "name"),
    [
        (with_top, "x.weights.h5"),
        (of_another_class, "x.weights.h5"),
        (of_another_class_whole, "x.keras"),
        (of_another_class_whole, "x.h5"),
        (no_weights, "x.weights.h5"),
        (no_weights, "x.keras"),
        (no_weights, "x.h5"),
    ],
)
def test_a_file_of_something_else_is_one_line(tmp_path: Path, write: Any, name: str) -> None:
    path = tmp_path / name
    write(path)
    with pytest.raises(ImgembedError, match=f"{name}': is not of {BACKBONE} without") as error:
        picture_tower(image_tower=BACKBONE, backbone_weights=str(path))
    assert "\n" not in str(error.value)


def test_a_file_that_is_not_there_or_of_no_known_kind_is_named(tmp_path: Path) -> None:
    with pytest.raises(ImgembedError, match="no.keras': there is no such file"):
        picture_tower(image_tower=BACKBONE, backbone_weights=str(tmp_path / "no.keras"))
    (tmp_path / "x.ckpt").touch()
    with pytest.raises(ImgembedError, match="x.ckpt': is neither"):
        picture_tower(image_tower=BACKBONE, backbone_weights=str(tmp_path / "x.ckpt"))


@pytest.mark.usefixtures("bfloat16")
def test_a_class_works_in_mixed_precision() -> None:
    tower = picture_tower(image_tower=BACKBONE, fine_tune=True)
    assert isinstance(tower, BackboneTower)
    found = tower(PICTURES, training=True)
    assert found.dtype == tf.float32
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1.0, atol=1e-6)


def coordinates(rows: int, side: int = 16) -> np.ndarray:
    """Pictures whose red says which line a pixel is of, green which column, and blue nothing."""
    line, column = np.meshgrid(np.arange(side), np.arange(side), indexing="ij")
    picture = np.stack([line, column, np.full((side, side), 7)], axis=2)
    return np.repeat(picture[None].astype("u1"), rows, axis=0)


def orientations(parts: np.ndarray) -> set[tuple[int, ...]]:
    """In which directions numbers grow: of lines down and right, of columns down and right."""
    found = set()
    for part in parts:
        down, right = part[-1, 0] - part[0, 0], part[0, -1] - part[0, 0]
        slopes = np.array([down[0], right[0], down[1], right[1]])
        assert (np.abs(slopes[np.abs(slopes) > 1e-3]) >= 0.75 * 15 - 1e-3).all()
        assert (np.abs(slopes) <= 15 + 1e-3).all()
        found.add(tuple(np.sign(np.round(slopes, 2)).astype(int).tolist()))
    return found


@pytest.mark.parametrize(
    ("kind", "wanted"),
    [
        ("mirror", {(1, 0, 0, 1), (1, 0, 0, -1)}),
        (
            "turn",
            {(a, 0, 0, b) for a in (1, -1) for b in (1, -1)}
            | {(0, a, b, 0) for a in (1, -1) for b in (1, -1)},
        ),
    ],
)
def test_in_training_a_part_of_a_picture_is_shown_in_each_way_of_its_kind(
    kind: str, wanted: set[tuple[int, ...]]
) -> None:
    keras.utils.set_random_seed(0)
    pictures = coordinates(200)
    parts = Augment(kind)(pictures, training=True).numpy()
    assert parts.shape == pictures.shape
    assert orientations(parts) == wanted
    assert parts.min() >= 0.0
    assert parts.max() <= 15.0 + 1e-3
    np.testing.assert_allclose(parts[..., 2], 7.0, atol=1e-4)
    # Parts begin and end at different places.
    assert len(np.unique(np.round(parts[:, 0, 0, 0], 3))) > 50


@pytest.mark.parametrize("kind", ["none", "mirror", "turn"])
def test_pictures_stay_as_they_are_where_they_are_served(kind: str) -> None:
    pictures = coordinates(3)
    np.testing.assert_array_equal(Augment(kind)(pictures, training=False), pictures)
    if kind == "none":
        np.testing.assert_array_equal(Augment(kind)(pictures, training=True), pictures)
