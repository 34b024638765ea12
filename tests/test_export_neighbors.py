"""A graph network's embeddings of images with their neighbours, exported from the examples."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import tensorflow as tf
import tiny_examples
from export_cases import export
from tiny_examples import Form

from pipeline import schema
from pipeline.artifacts import INPUTS, Version, file_marks
from pipeline.config import ExportConfig, ImagesConfig
from pipeline.embeddings import losses, with_neighbors
from pipeline.examples.catalog import find
from pipeline.vectors import read_vectors
from pipeline.writing import read_rejected, rejected_file
from trainer import dataset, serving
from trainer.attempt import make_model
from trainer.config import ModelConfig, TrainingConfig
from trainer.example_files import ExampleFiles

DIM = 8
NEIGHBORS = 2  # of the three that an example has
ALL = sum(tiny_examples.RECORDS.values())
FORMS = {
    "pictures": Form(),
    "compact": Form(layout="compact", encoding="raw", multi_label=True),
    "features": Form(features=True),
    "compact features": Form(features=True, layout="compact"),
}


def save_catalog(folder: Path, form: Form) -> ImagesConfig:
    """The images of the examples."""
    folder.mkdir(parents=True)
    if form.features:
        path = folder / "catalog.jsonl"
        lines = [
            f'{{"image_id": "img-{n}", "features": {tiny_examples.raw_features(n).tolist()}}}\n'
            for n in range(ALL)
        ]
        path.write_text("".join(lines))
        return ImagesConfig(path=str(path), image_size=tiny_examples.SIDE)
    for number in range(ALL):
        (folder / f"img-{number}.png").write_bytes(tiny_examples.picture(number))
    return ImagesConfig(path=str(folder), image_size=tiny_examples.SIDE)


def reject_one(examples: Version) -> None:
    """The examples' own reading of the catalog has rejected a row."""
    path = Path(rejected_file(examples.path))
    path.parent.mkdir(exist_ok=True)
    path.write_text('{"file": "x.png", "row": 1, "reason": "broken", "content": "x"}\n')


class Run:
    """A catalog, its examples, and an untrained model with a graph network, in memory and saved."""

    def __init__(self, folder: Path, form: Form, network: str = "message_passing") -> None:
        self.images = save_catalog(folder / "catalog", form)
        self.marks = file_marks(find.input_files(self.images))
        counts = {"rows": {"read": ALL + 1}, "images": {"with_neighbors": 48}}
        self.examples = tiny_examples.write_examples(
            folder / "examples",
            form,
            counts=counts,
            config={"images": self.images.model_dump()},
            **{INPUTS: self.marks},
        )
        reject_one(self.examples)
        self.files = ExampleFiles.open(self.examples)
        transform = self.files.transform()
        config = ModelConfig(dim=DIM, size="tiny", graph_network=network)
        training = TrainingConfig(neighbors=NEIGHBORS)
        self.network = make_model(self.files, transform, config, training)
        saved = folder / "model" / schema.SAVED_MODEL_FOLDER
        signatures = serving.export(
            self.network, transform, self.files, str(saved), neighbors=NEIGHBORS
        )
        of_examples = {
            name: self.examples.manifest[name]
            for name in ("content", "image_size", "image_encoding", "feature_dim", "multi_label")
        }
        manifest = {
            **of_examples,
            "fingerprint": "0123456789abcdef",
            "dim": DIM,
            "signatures": signatures,
            "example_form": self.files.spec.to_manifest(),
            "config": {"model": config.model_dump()},
            "upstream": {schema.EXAMPLES: "v0001"},
        }
        self.model = Version(schema.MODEL, "v0001", str(folder / "model"), manifest)

    def expected(self, output: str) -> dict[str, np.ndarray]:
        """What the model in memory gives for each image."""
        found = {}
        for split in schema.SPLITS:
            batches = dataset.evaluation_batches(
                self.files,
                self.files.transform(),
                split,
                batch_size=64,
                neighbors=NEIGHBORS,
                edges=True,
            )
            paths = self.files.files(split)
            ids = [
                tf.train.Example.FromString(record.numpy())
                .features.feature["image_id"]
                .bytes_list.value[0]
                .decode()
                for record in tf.data.TFRecordDataset(paths, "GZIP")
            ]
            vectors = np.concatenate([self.network(batch)[output].numpy() for batch in batches])
            found.update(zip(ids, vectors, strict=True))
        return found

    def choose(self, **changes: Any) -> tuple[Version | None, str | None]:
        given = {"images": self.images, "export": ExportConfig(), **changes}
        files = given.pop("files", find.input_files(self.images))
        model, examples = given.pop("model", self.model), given.pop("examples", self.examples)
        return with_neighbors.choose(model, examples, files=files, **given)


@pytest.fixture(scope="module", params=FORMS)
def run(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Run:
    form = FORMS[request.param]
    network = "gcn" if form.layout == "compact" else "message_passing"
    return Run(tmp_path_factory.mktemp("run"), form, network)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return Run(tmp_path_factory.mktemp("pictures"), FORMS["pictures"])


def test_images_are_embedded_with_their_neighbours(run: Run, tmp_path: Path) -> None:
    chosen, note = run.choose()
    assert (chosen, note) == (run.examples, None)
    version = export(tmp_path / "e", images=run.images, model=run.model, examples=chosen)
    ids, vectors = read_vectors(version, "images", "image_id")
    expected = run.expected("seeds")
    assert ids.to_pylist() == sorted(expected)
    assert len(ids) == ALL
    np.testing.assert_allclose(
        vectors, np.stack([expected[image_id] for image_id in ids.to_pylist()]), atol=1e-5
    )
    # Neighbours matter, and an image without any is as it would be alone.
    alone = run.expected("isolated")
    apart = [np.abs(expected[f"img-{n}"] - alone[f"img-{n}"]).max() for n in range(ALL)]
    assert all((apart[n] > 1e-4) == bool(tiny_examples.neighbors_of(n)) for n in range(ALL))
    assert version.manifest["neighbors"] == {"examples": "v0001", "images_with_neighbors": 48}
    assert version.manifest["counts"]["rows"] == ALL + 1
    assert [row["reason"] for row in read_rejected(version.path)] == ["broken"]


def test_each_image_is_the_same_whatever_it_is_embedded_with(run: Run, tmp_path: Path) -> None:
    versions = [
        export(
            tmp_path / str(size),
            images=run.images,
            model=run.model,
            examples=run.examples,
            export=ExportConfig(batch_size=size),
        )
        for size in (16, 64)
    ]
    (names, first), (same, second) = (read_vectors(v, "images", "image_id") for v in versions)
    assert names.equals(same)
    np.testing.assert_allclose(first, second, atol=1e-6)


def test_alone_images_are_what_the_picture_signature_gives(pictures: Run, tmp_path: Path) -> None:
    chosen, note = pictures.choose(export=ExportConfig(neighbors="none"))
    assert chosen is None
    assert note == (
        "export.neighbors is none: images are embedded alone, though the model has a graph network"
    )
    version = export(tmp_path, images=pictures.images, model=pictures.model, examples=chosen)
    ids, vectors = read_vectors(version, "images", "image_id")
    expected = pictures.expected("isolated")
    np.testing.assert_allclose(
        vectors, np.stack([expected[image_id] for image_id in ids.to_pylist()]), atol=1e-5
    )
    assert version.manifest["neighbors"] is None


def test_the_loss_of_fewer_bits_is_measured_with_neighbours_too(
    pictures: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = {
        "images": pictures.images,
        "model": pictures.model,
        "examples": pictures.examples,
        "export": ExportConfig(dtype="int8"),
    }
    first = export(tmp_path / "1", **given)
    assert first.manifest["precision"]["images"]["searched"] == ALL
    # Nothing is taken over: what an earlier sample was cut off at must not cut this one.
    monkeypatch.setattr(losses, "MOST_ROWS", ALL)
    again = export(tmp_path / "2", "v0002", previous=first, **given)
    samples = [pq.read_table(version.shards("sample_images")[0]) for version in (first, again)]
    assert samples[0].equals(samples[1])


def test_vectors_made_with_neighbours_are_never_taken_for_others(
    pictures: Run, tmp_path: Path
) -> None:
    given = {"images": pictures.images, "model": pictures.model}
    beside = export(tmp_path / "1", examples=pictures.examples, **given)
    alone = export(tmp_path / "2", "v0002", previous=beside, **given)
    assert alone.manifest["taken_over"]["why_nothing"] == "what it is shown changed"
    again = export(tmp_path / "3", "v0003", previous=beside, examples=pictures.examples, **given)
    assert again.manifest["taken_over"]["images"] == 0


def changed(version: Version, **manifest: Any) -> Version:
    return replace(version, manifest={**version.manifest, **manifest})


def test_a_model_without_a_graph_network_asks_for_no_examples(pictures: Run) -> None:
    plain = changed(pictures.model, config={"model": {"graph_network": "none"}})
    assert pictures.choose(model=plain) == (None, None)
    assert pictures.choose(model=plain, examples=None) == (None, None)


def test_why_images_are_embedded_alone_is_said(pictures: Run) -> None:
    cases = {
        "there are no examples": {"examples": None},
        "the examples are of another catalog": {"images": ImagesConfig(path="/elsewhere")},
        "the catalog changed since": {"files": []},
        "an earlier imgembed wrote the examples": {
            "examples": changed(pictures.examples, **{INPUTS: None})
        },
        "the examples have another form": {"examples": changed(pictures.examples, neighbors=9)},
        "the model cannot be asked with neighbours": {
            "model": changed(pictures.model, signatures=["image"])
        },
    }
    for words, given in cases.items():
        chosen, note = pictures.choose(**given)
        assert chosen is None
        assert note is not None
        assert note.startswith(words)
        assert "images are embedded alone" in note


def test_features_are_scaled_as_the_model_knows_them(tmp_path: Path) -> None:
    run = Run(tmp_path, FORMS["features"])
    assert run.choose(examples=replace(run.examples, name="v0002"))[1].startswith(
        "the examples' features are scaled otherwise"
    )


def test_a_model_without_slots_for_neighbours_has_no_such_signature(
    pictures: Run, tmp_path: Path
) -> None:
    transform = pictures.files.transform()
    names = serving.export(pictures.network, transform, pictures.files, str(tmp_path))
    assert schema.EXAMPLE_SIGNATURE not in names
    assert schema.EXAMPLE_SIGNATURE in pictures.model.manifest["signatures"]
