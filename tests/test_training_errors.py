"""What cannot be trained is said in one line, before the first step; what goes wrong later too."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
import tiny_examples
from tiny_examples import Form

from cli import terminal
from pipeline import schema
from pipeline.artifacts import NewVersion, Version
from pipeline.errors import ConfigError, ImgembedError
from trainer.checks import check
from trainer.config import ModelConfig, TrainingConfig
from trainer.example_files import ExampleFiles
from trainer.fit import train
from trainer.progress import Listener, Pace

TERMS = ("supervised", "graph_regularization", "edge_contrast", "text_contrast")
OFF = dict.fromkeys(TERMS, 0.0)
SMALL = {"dim": 8, "image_filters": [4, 8], "feature_hidden": [16], "token_dim": 4}


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Version:
    return tiny_examples.write_examples(tmp_path_factory.mktemp("pictures"))


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Version:
    """Examples without slots for neighbours."""
    folder = tmp_path_factory.mktemp("bare")
    return tiny_examples.write_examples(folder, Form(features=True, neighbors=0))


def says(
    examples: Version,
    folder: Path,
    kind: type[ImgembedError] = ConfigError,
    *,
    model: dict[str, Any] = {},  # noqa: B006
    image_size: int | None = None,
    **training: Any,
) -> str:
    """The line that the training ends with, before it has made a step or written a model."""

    def on_step(pace: Pace) -> None:
        raise AssertionError("it made a step")

    with pytest.raises(kind) as raised:
        train(
            examples=examples,
            model=ModelConfig(**{**SMALL, **model}),
            training=TrainingConfig(**training),
            seed=0,
            out=NewVersion("model", "v0001", str(folder)),
            image_size=image_size,
            listener=Listener(on_step=on_step),
        )
    line = str(raised.value)
    assert "\n" not in line
    assert not (folder / "v0001").exists()
    return line


def with_manifest(examples: Version, **changes: Any) -> Version:
    return Version("examples", "v0001", examples.path, {**examples.manifest, **changes})


def test_examples_of_an_earlier_program(pictures: Version, tmp_path: Path) -> None:
    old = {name: value for name, value in pictures.manifest.items() if name != "layout"}
    line = says(Version("examples", "v0001", pictures.path, old), tmp_path, ImgembedError)
    assert f"{pictures.path}: these examples were written by an earlier imgembed" in line
    assert schema.STAGE_COMMANDS[schema.EXAMPLES] in line


def test_an_empty_training_split(pictures: Version, tmp_path: Path) -> None:
    none = {split: {"records": 3 * (split == "test"), "files": 1} for split in schema.SPLITS}
    line = says(with_manifest(pictures, splits=none), tmp_path, ImgembedError)
    assert "no example is in the training split, of 3 in all" in line


@pytest.mark.parametrize("asked", ["graph_network", "edge_contrast", "graph_regularization"])
def test_neighbours_that_are_not_there(bare: Version, asked: str, tmp_path: Path) -> None:
    model = {asked: "gcn"} if asked == "graph_network" else {}
    training = {} if model else {asked: 0.2}
    section = "model" if model else "training"
    line = says(bare, tmp_path, model=model, **training)
    assert line.startswith(f"{section}.{asked}: wants neighbours, but the examples in {bare.path}")
    assert "without slots for them; raise examples.neighbors or add sessions" in line
    lonely = with_manifest(bare, neighbors=3, counts={"images": {"with_neighbors": 0}})
    assert "none of which has any" in says(lonely, tmp_path, model=model, **training)


def test_neighbours_that_are_there_and_not_taken(pictures: Version, tmp_path: Path) -> None:
    line = says(pictures, tmp_path, edge_contrast=0.2, neighbors=0)
    assert line.startswith("training.edge_contrast: wants neighbours, but training.neighbors is 0")


def test_labels_that_are_not_there(pictures: Version, tmp_path: Path) -> None:
    bare = with_manifest(pictures, labelled=dict.fromkeys(schema.SPLITS, 0), classes=[])
    line = says(bare, tmp_path, supervised=0.5)
    assert line.startswith("training.supervised: 0.5, but no example of the training split")


def test_labels_of_one_class(pictures: Version, tmp_path: Path) -> None:
    line = says(with_manifest(pictures, classes=["cat"]), tmp_path)
    assert "are 'cat': there is nothing to tell apart" in line


def test_defaults_ask_for_nothing_even_where_they_are_written_out(bare: Version) -> None:
    unlabelled = with_manifest(bare, labelled=dict.fromkeys(schema.SPLITS, 0), classes=[])
    written_out = TrainingConfig(**TrainingConfig().model_dump())
    assert written_out.model_fields_set == set(TrainingConfig.model_fields)
    check(ExampleFiles.open(unlabelled), ModelConfig(), written_out)


def test_pictures_of_another_size(pictures: Version, tmp_path: Path) -> None:
    line = says(pictures, tmp_path, image_size=64)
    assert line.startswith(f"images.image_size: 64, but the pictures of {pictures.path} have 16")


@pytest.mark.parametrize("distance", ["kl_divergence", "jensen_shannon_divergence"])
def test_divergences_of_what_is_no_probability(
    pictures: Version, distance: str, tmp_path: Path
) -> None:
    line = says(pictures, tmp_path, distance=distance)
    assert f"training.distance: {distance!r} is between probabilities" in line


def test_weights_of_another_architecture(pictures: Version, tmp_path: Path) -> None:
    import keras

    path = tmp_path / "other.weights.h5"
    other = keras.Sequential([keras.Input([3]), keras.layers.Dense(2)])
    other.save_weights(path)
    model = {"image_tower": "MobileNetV3Small", "backbone_weights": str(path)}
    line = says(with_manifest(pictures, image_size=32), tmp_path, ImgembedError, model=model)
    assert str(path) in line


def test_nothing_to_learn(pictures: Version, tmp_path: Path) -> None:
    zero = dict.fromkeys(schema.SPLITS, 0)
    line = says(pictures, tmp_path, ImgembedError, **OFF)
    assert "are all 0, so there is nothing to learn" in line
    nothing = with_manifest(
        pictures, texts=zero, labelled=zero, counts={"images": {"with_neighbors": 0}}
    )
    assert "nothing to learn from" in says(nothing, tmp_path, ImgembedError)


def test_defaults_ask_for_nothing(bare: Version, tmp_path: Path) -> None:
    """Without neighbours the model trains from the rest."""
    with pytest.raises(AssertionError, match="it made a step"):
        says(bare, tmp_path)


@pytest.mark.parametrize("broken", [0, 20])
def test_a_loss_that_is_no_number_names_the_step_and_its_images(
    broken: int, tmp_path: Path
) -> None:
    """All features are no numbers, or those of one image."""

    def change(index: int, values: tiny_examples.Values) -> tiny_examples.Values:
        if index < broken:
            return values
        own = {"features"} if index == broken else set()
        names = own if broken else {name for name in values if name.endswith("features")}
        return {n: np.full(5, np.nan) if n in names else v for n, v in values.items()}

    examples = tiny_examples.write_examples(
        tmp_path / "examples", Form(features=True), change=change
    )
    steps: list[int] = []
    with pytest.raises(ImgembedError) as raised:
        train(
            examples=examples,
            model=ModelConfig(**SMALL),
            training=TrainingConfig(epochs=1, batch_size=2),
            seed=0,
            out=NewVersion("model", "v0001", str(tmp_path / "model")),
            checkpoints=str(tmp_path / "checkpoints"),
            listener=Listener(on_step=lambda pace: steps.append(pace.step)),
        )
    line = str(raised.value)
    # Which of the two shows first differs with the processor.
    found = re.search(r"(the loss is nan|a weight is no number any more) after (\d+) steps", line)
    assert found is not None
    assert int(found[2]) == len(steps) + 1
    assert "the images of that step are 'img-" in line
    if broken:  # a batch of two, of which one has it
        assert f"'img-{broken}'" in line
    assert "try a lower training.learning_rate" in line
    assert not (tmp_path / "checkpoints").exists()


# Agreement ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("asked", ["gam", "gam_no_graph"])
def test_agreement_of_several_labels(asked: str, tmp_path: Path) -> None:
    several = tiny_examples.write_examples(tmp_path / "examples", Form(multi_label=True))
    line = says(several, tmp_path, model={"agreement": asked})
    assert line.startswith(f"model.agreement: {asked!r} is of images with one label each, but some")


def test_agreement_without_neighbours(bare: Version, pictures: Version, tmp_path: Path) -> None:
    line = says(bare, tmp_path, model={"agreement": "gam"})
    assert line.startswith("model.agreement: wants neighbours, but the examples in")
    line = says(pictures, tmp_path, model={"agreement": "gam"}, neighbors=0)
    assert line.startswith("model.agreement: wants neighbours, but training.neighbors is 0")


def test_agreement_that_nobody_listens_to(pictures: Version, tmp_path: Path) -> None:
    off = {"graph_regularization": 0.0, "edge_contrast": 0.0}
    line = says(pictures, tmp_path, model={"agreement": "gam"}, **off)
    assert "is a factor of training.graph_regularization, which is 0; raise it" in line
    line = says(pictures, tmp_path, model={"agreement": "gam_no_graph"}, graph_regularization=0.0)
    assert "is a factor of training.graph_regularization, which is 0; raise it" in line


def test_agreement_without_a_validation_split(pictures: Version, tmp_path: Path) -> None:
    splits = {"train": {"records": 42, "files": 1}}
    line = says(with_manifest(pictures, splits=splits), tmp_path, model={"agreement": "gam"})
    assert "takes the best iteration by the validation split, which is empty" in line


def test_agreement_with_neither_labels_nor_queries(pictures: Version, tmp_path: Path) -> None:
    bare = with_manifest(pictures, labelled=dict.fromkeys(schema.SPLITS, 0), classes=[])
    line = says(bare, tmp_path, model={"agreement": "gam"})
    assert "has a label, and the graph that they were made of, whose queries could" in line
    assert schema.STAGE_COMMANDS[schema.EXAMPLES] in line
    silent = Version("graph", "v0001", "graph", {"counts": {"queries": {"published": 0}}})
    with pytest.raises(ConfigError, match="graph has no queries to stand in; add labels"):
        check(ExampleFiles.open(bare), ModelConfig(agreement="gam"), TrainingConfig(), graph=silent)
    asked = Version("graph", "v0001", "graph", {"counts": {"queries": {"published": 7}}})
    check(ExampleFiles.open(bare), ModelConfig(agreement="gam"), TrainingConfig(), graph=asked)


def test_a_full_disk_that_tensorflow_meets_is_the_line_of_any_full_disk(tmp_path: Path) -> None:
    def write() -> None:
        with (
            terminal.opened("train", str(tmp_path), quiet=True),
            tf.io.gfile.GFile("/dev/full", "wb") as file,
        ):
            file.write(b"x" * 1_000_000)
            file.flush()

    with pytest.raises(ImgembedError, match=f"^no space left on the disk of {tmp_path}: free some"):
        write()
