"""`imgembed export` as a user meets it, with a model as the training leaves it."""

import io
import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import tensorflow as tf
import tiny_examples
from PIL import Image
from test_decoding import slow_jpeg
from test_end_to_end import imgembed, one_line

from pipeline import schema
from pipeline.artifacts import RunDir, Version
from pipeline.embeddings.search import QueryEncoder
from pipeline.examples import pictures
from pipeline.examples.catalog.sources import UNREADABLE_URI
from pipeline.examples.decoding import TOO_SLOW
from pipeline.vectors import read_vectors
from pipeline.writing import read_rejected
from trainer import serving
from trainer.attempt import make_model
from trainer.config import ModelConfig, TrainingConfig
from trainer.example_files import ExampleFiles

DIM = 8
GOOD = 63


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run directory with a model of pictures, and the catalog that it knows."""
    root = tmp_path_factory.mktemp("world")
    examples = ExampleFiles.open(tiny_examples.write_examples(root / "examples"))
    transform = examples.transform()
    config = ModelConfig(dim=DIM, image_filters=[4, 8], token_dim=4)
    model = make_model(examples, transform, config, TrainingConfig())
    with RunDir.open(str(root / "imgembed-run")).begin(schema.MODEL) as new:
        signatures = serving.export(model, transform, examples, new.file(schema.SAVED_MODEL_FOLDER))
        of_examples = {
            name: examples.version.manifest[name]
            for name in ("content", "image_size", "image_encoding", "feature_dim", "multi_label")
        }
        manifest = {**of_examples, "fingerprint": "0123456789", "dim": DIM}
        new.commit({**manifest, "signatures": signatures, "config": {}})
    (root / "catalog").mkdir()
    for number in range(GOOD):
        (root / "catalog" / f"img-{number}.png").write_bytes(tiny_examples.picture(number))
    return root


@pytest.fixture(scope="module")
def exported(folder: Path) -> tuple[Version, str]:
    said, _ = imgembed("export", "--images", "catalog", cwd=folder)
    return in_force(folder), said


def in_force(folder: Path) -> Version:
    return RunDir.open(str(folder / "imgembed-run")).require(schema.EMBEDDINGS)


def test_the_command_says_what_it_embedded(exported: tuple[Version, str]) -> None:
    version, said = exported
    assert said.startswith("embeddings v0001: 63 images and 0 queries, 8 dimensions\n")
    assert "taken over" not in said
    assert version.manifest["taken_over"]["images_embedded"] == GOOD


def test_export_search_and_python_give_a_picture_one_vector(
    folder: Path, exported: tuple[Version, str]
) -> None:
    version, _ = exported
    model = RunDir.open(str(folder / "imgembed-run")).require(schema.MODEL)
    ids, vectors = read_vectors(version, "images", "image_id")
    encoder = QueryEncoder.open(model, version)
    served = tf.saved_model.load(model.file(schema.SAVED_MODEL_FOLDER)).signatures["image"]
    for image_id, vector in zip(ids.to_pylist(), vectors, strict=True):
        data = (folder / "catalog" / f"{image_id}.png").read_bytes()
        found = encoder.embed_picture(data, max_pixels=10_000)
        np.testing.assert_allclose(found, vector, atol=1e-6)
        alone = served(image=tf.constant([data]))["embedding"][0]
        np.testing.assert_allclose(alone, vector, atol=1e-6)
    said, _ = imgembed("search", "--image", "catalog/img-7.png", "-k", 1, "--json", cwd=folder)
    (hit,) = json.loads(said)
    assert hit == {"image_id": "img-7", "score": pytest.approx(1.0, abs=2e-6)}


@pytest.mark.usefixtures("exported")
def test_pictures_of_any_size_have_one_vector_too(folder: Path, tmp_path: Path) -> None:
    """What Python hands the model is what `pictures.prepare` makes of the file."""
    shutil.copytree(folder / "imgembed-run" / "model", tmp_path / "imgembed-run" / "model")
    (tmp_path / "photos").mkdir()
    draw = np.random.default_rng(0)
    for number, (side, mode) in enumerate([(40, "RGB"), (15, "RGBA"), (64, "L"), (100, "CMYK")]):
        pixels = draw.integers(0, 256, (side, side + 9, 4), dtype=np.uint8)
        image = Image.fromarray(pixels, "RGBA").convert(mode)
        image.save(tmp_path / "photos" / f"{number}.{'jpg' if mode == 'CMYK' else 'png'}")
    imgembed("export", "--images", "photos", cwd=tmp_path)
    version = in_force(tmp_path)
    model = RunDir.open(str(tmp_path / "imgembed-run")).require(schema.MODEL)
    ids, vectors = read_vectors(version, "images", "image_id")
    encoder = QueryEncoder.open(model, version)
    served = tf.saved_model.load(model.file(schema.SAVED_MODEL_FOLDER)).signatures["image"]
    assert len(ids) == 4
    for image_id, vector in zip(ids.to_pylist(), vectors, strict=True):
        (path,) = (tmp_path / "photos").glob(f"{image_id}.*")
        found = encoder.embed_picture(path.read_bytes(), max_pixels=100_000)
        np.testing.assert_allclose(found, vector, atol=1e-6)
        encoding = pictures.model_encoding(model.manifest["image_encoding"])
        made = pictures.prepare(
            path.read_bytes(), image_size=16, max_pixels=100_000, encoding=encoding
        )
        alone = served(image=tf.constant([made.content]))["embedding"][0]
        np.testing.assert_allclose(alone, vector, atol=1e-6)


def bad_pictures(folder: Path) -> dict[str, str]:
    """Seven files that cannot be embedded, each for another reason: {name: reason}."""
    whole = tiny_examples.picture(0)
    large, other = io.BytesIO(), io.BytesIO()
    Image.new("L", (2500, 2500)).save(large, "PNG")
    Image.new("RGB", (30, 30)).save(other, "GIF")
    contents = {
        "empty.png": (b"", pictures.EMPTY),
        "text.jpg": (b"no picture at all", pictures.NOT_A_PICTURE),
        "cut.png": (whole[: len(whole) // 2], pictures.BROKEN),
        "flipped.png": (whole[:60] + bytes(20) + whole[80:], pictures.BROKEN),
        "large.png": (large.getvalue(), pictures.TOO_MANY_PIXELS),
        "slow.jpg": (slow_jpeg(), TOO_SLOW),
        "cut.gif": (other.getvalue()[:20], pictures.BROKEN),
    }
    for name, (data, _) in contents.items():
        (folder / name).write_bytes(data)
    return {name: reason for name, (_, reason) in contents.items()}


@pytest.mark.usefixtures("exported")
def test_another_catalog_of_which_a_tenth_is_bad_ends_well_and_says_so(
    folder: Path, tmp_path: Path
) -> None:
    shutil.copytree(folder / "imgembed-run", tmp_path / "imgembed-run")
    shutil.copytree(folder / "catalog", tmp_path / "other")
    reasons = bad_pictures(tmp_path / "other")
    settings = ["--set", "images.max_seconds=2", "--set", "images.max_pixels=5000000"]
    command = ["export", "--images", "other", *settings]
    said, _ = imgembed(*command, cwd=tmp_path)
    version = in_force(tmp_path)
    assert (version.name, version.manifest["counts"]["rows"]) == ("v0002", GOOD + len(reasons))
    found = {Path(str(row["file"])).name: row["reason"] for row in read_rejected(version.path)}
    assert found.keys() == reasons.keys()
    assert found == reasons
    assert f"63 images and 0 queries, 8 dimensions; 7 rejected ({pictures.BROKEN}: 3, " in said
    strict = one_line(*command, "--set", "images.max_rejected_fraction=0.05", cwd=tmp_path)
    assert "7 of 70 rows cannot be read, more than images.max_rejected_fraction = 0.05" in strict
    assert in_force(tmp_path).name == "v0002"


@pytest.mark.usefixtures("exported")
def test_a_table_that_names_missing_files_rejects_their_rows(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder / "imgembed-run", tmp_path / "imgembed-run")
    rows = [{"image_id": f"n{n}", "uri": f"{folder}/catalog/img-{n}.png"} for n in range(18)]
    rows += [{"image_id": "gone", "uri": "gone.png"}, {"image_id": None, "uri": "x.png"}]
    path = tmp_path / "table.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    said, _ = imgembed("export", "--images", "table.jsonl", cwd=tmp_path)
    assert in_force(tmp_path).manifest["rejected"] == {
        UNREADABLE_URI: 1,
        "image_id is missing": 1,
    }
    # Under other names the pictures are the same, and so are their vectors.
    assert "18 images and 0 queries were taken over from v0001, 0 and 0 embedded" in said


@pytest.mark.usefixtures("exported")
def test_only_what_changed_is_embedded_and_force_embeds_all(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder / "imgembed-run", tmp_path / "imgembed-run")
    shutil.copytree(folder / "catalog", tmp_path / "catalog")
    shutil.copy(tmp_path / "catalog" / "img-1.png", tmp_path / "catalog" / "copy.png")
    (tmp_path / "catalog" / "new.png").write_bytes(tiny_examples.picture(500))
    said, _ = imgembed("export", "--images", "catalog", cwd=tmp_path)
    assert "64 images and 0 queries were taken over from v0001, 1 and 0 embedded" in said
    _, told = imgembed("export", "--images", "catalog", cwd=tmp_path)
    assert "embeddings v0002 is up to date" in told
    first = in_force(tmp_path)
    said, _ = imgembed("export", "--images", "catalog", "--force", cwd=tmp_path)
    assert "taken over" not in said
    second = in_force(tmp_path)
    assert second.manifest["taken_over"]["images_embedded"] == 65
    for path, twin in zip(first.shards("images"), second.shards("images"), strict=True):
        assert Path(path).read_bytes() == Path(twin).read_bytes()


@pytest.mark.usefixtures("exported")
def test_fewer_bits_are_told_with_what_they_cost(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder / "imgembed-run", tmp_path / "imgembed-run")
    sets = ["--set", "export.dtype=int8", "--set", "export.formats=[parquet, npy]"]
    said, _ = imgembed("export", "--images", folder / "catalog", *sets, cwd=tmp_path)
    version = in_force(tmp_path)
    recall = version.manifest["precision"]["images"]["recall_at_10"]
    assert f"in int8, with recall@10 against float32 {recall:.4f} of 63 images among 63" in said
    assert "63 images and 0 queries were taken over from v0001" in said
    assert pq.read_table(version.shards("images")[0]).schema.field("embedding").type.list_size == 8
    found = json.loads(imgembed("search", "--image-id", "img-3", "--json", cwd=tmp_path)[0])
    assert len(found) == 10
    said, _ = imgembed("export", "--images", folder / "catalog", cwd=tmp_path)
    assert "all were embedded anew: the version before is in int8" in said
    wrong = one_line("export", "--set", "export.dtype=int4", cwd=tmp_path, code=2)
    assert "export.dtype: wanted 'float32', 'float16' or 'int8', found 'int4'" in wrong
