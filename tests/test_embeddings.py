"""The export: pictures and ready features through a small SavedModel on Beam."""

import io
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tensorflow as tf
from apache_beam.coders import registry
from apache_beam.internal import pickler
from export_cases import (
    PICTURES,
    QUERIES,
    export,
    picture,
    prepared,
    save_features,
    save_pictures,
    save_queries,
)
from PIL import Image
from small_catalogs import Edge, World, build, everything
from test_decoding import slow_jpeg
from tiny_model import DIM, SIDE, save_model

from pipeline import schema, writing
from pipeline.artifacts import Version
from pipeline.config import ExportConfig, ImagesConfig
from pipeline.embeddings import job as export_job
from pipeline.embeddings import model as models
from pipeline.embeddings.embed import SavedModelHandler
from pipeline.embeddings.search import SearchIndex
from pipeline.errors import ImgembedError
from pipeline.examples import pictures
from pipeline.examples.decoding import TOO_SLOW, decode_pictures
from pipeline.vectors import read_vectors
from pipeline.writing import read_rejected


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Version:
    return save_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def catalog(tmp_path_factory: pytest.TempPathFactory) -> ImagesConfig:
    """A folder of pictures, one of them broken."""
    return save_pictures(tmp_path_factory.mktemp("catalog"))


@pytest.fixture(scope="module")
def graph(tmp_path_factory: pytest.TempPathFactory) -> Version:
    return save_queries(tmp_path_factory.mktemp("graph"))


@pytest.fixture(scope="module")
def exported(
    tmp_path_factory: pytest.TempPathFactory, model: Version, catalog: ImagesConfig, graph: Version
) -> Version:
    folder = tmp_path_factory.mktemp("embeddings")
    return export(folder, images=catalog, model=model, graph=graph)


def test_every_picture_gets_the_vector_that_the_model_gives_it(
    exported: Version, model: Version
) -> None:
    ids, vectors = read_vectors(exported, "images", "image_id")
    assert ids.to_pylist() == [f"{number:02}" for number in range(PICTURES)]
    pixels = np.stack(
        [np.asarray(Image.open(io.BytesIO(prepared(n)))).ravel() for n in range(PICTURES)]
    )
    matrix = models.load_saved_model(model.file(schema.SAVED_MODEL_FOLDER)).of_pixels.numpy()
    expected = (pixels.astype(np.float64) - 127.0) @ matrix
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    np.testing.assert_allclose(vectors, expected, atol=1e-5)


def test_the_files_are_sorted_and_of_the_promised_schema(exported: Version) -> None:
    (path,) = exported.shards("images")
    assert Path(path).name == "images-00000-of-00001.parquet"
    table = pq.read_table(path)
    assert table.schema.equals(schema.embedding_schema("image_id", DIM).append(schema.CONTENT_HASH))
    assert table["image_id"].to_pylist() == sorted(table["image_id"].to_pylist())
    assert set(table["model_version"].to_pylist()) == {"v0001-01234567"}


def test_a_large_catalog_is_written_to_several_files(
    tmp_path: Path, model: Version, catalog: ImagesConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writing, "_BYTES_A_FILE", 20_000)
    version = export(tmp_path, images=catalog, model=model)
    size = sum(path.stat().st_size for path in Path(str(catalog.path)).iterdir())
    assert len(version.shards("images")) == size // 20_000 > 1
    assert len(SearchIndex.open(version).ids) == PICTURES


def test_the_manifest_counts_every_row(exported: Version) -> None:
    assert exported.manifest["counts"] == {
        "rows": PICTURES + 1,
        "images": PICTURES,
        "rejected": 1,
        "queries": len(QUERIES),
        "skipped_files": 0,
    }
    assert exported.manifest["rejected"] == {pictures.BROKEN: 1}
    assert (exported.manifest["dim"], exported.manifest["content"]) == (DIM, "image")
    (row,) = read_rejected(exported.path)
    assert str(row["file"]).endswith("broken.png")


def test_every_published_query_is_embedded_once(exported: Version, model: Version) -> None:
    queries, vectors = read_vectors(exported, "queries", "query")
    assert queries.to_pylist() == QUERIES
    saved_model = models.load_saved_model(model.file(schema.SAVED_MODEL_FOLDER))
    rows = np.array([query.encode() for query in QUERIES], dtype=object)
    expected = models.embed_rows(saved_model, "text", rows, 16)
    np.testing.assert_allclose(vectors, expected, atol=1e-5)


@pytest.mark.parametrize(("shards", "batch_size"), [(1, 256), (5, 256), (3, 16), (1, 1)])
def test_a_vector_depends_neither_on_shards_nor_on_batches(
    shards: int,
    batch_size: int,
    exported: Version,
    model: Version,
    catalog: ImagesConfig,
    graph: Version,
    tmp_path: Path,
) -> None:
    settings = ExportConfig(batch_size=batch_size)
    other = export(
        tmp_path, images=catalog, model=model, graph=graph, shards=shards, export=settings
    )
    for prefix, key in (("images", "image_id"), ("queries", "query")):
        (names, first), (same, second) = (
            read_vectors(version, prefix, key) for version in (exported, other)
        )
        assert names.equals(same)
        np.testing.assert_allclose(first, second, atol=1e-6)
        if batch_size == 256:
            files, others = (version.shards(prefix) for version in (exported, other))
            for path, its_twin in zip(files, others, strict=True):
                assert Path(path).read_bytes() == Path(its_twin).read_bytes()


def test_the_place_of_a_row_in_its_batch_does_not_show(model: Version) -> None:
    saved_model = models.load_saved_model(model.file(schema.SAVED_MODEL_FOLDER))
    data = [prepared(number) for number in range(PICTURES)]
    rows = np.array(data, dtype=object)
    size = models.call_size(256)
    forward = models.embed_rows(saved_model, "image", rows, size)
    np.testing.assert_array_equal(
        models.embed_rows(saved_model, "image", rows[::-1], size)[::-1], forward
    )
    np.testing.assert_array_equal(
        models.embed_rows(saved_model, "image", rows[:5], size), forward[:5]
    )


@pytest.mark.parametrize(("batch_size", "size"), [(1, 16), (16, 16), (100, 96), (256, 256)])
def test_the_model_is_called_with_whole_blocks_of_rows(batch_size: int, size: int) -> None:
    assert models.call_size(batch_size) == size


def test_features_are_embedded_as_the_catalog_has_them(tmp_path: Path) -> None:
    model = save_model(tmp_path / "model", signatures=("features",))
    images = save_features(tmp_path / "catalog.jsonl", 4, ["b", "a", "c"])
    version = export(tmp_path / "embeddings", images=images, model=model)
    index = SearchIndex.open(version)
    assert list(index.ids) == ["a", "b", "c"]
    assert version.manifest["rejected"] == {}
    raw = np.random.default_rng(1).normal(size=(3, 4))[0]
    matrix = models.load_saved_model(model.file(schema.SAVED_MODEL_FOLDER)).of_features.numpy()
    expected = raw @ matrix / np.linalg.norm(raw @ matrix)
    np.testing.assert_allclose(index.vector_of("b"), expected, atol=1e-5)
    assert version.shards("queries") == []


@pytest.mark.parametrize("shards", [1, 5])
def test_an_id_that_is_there_twice_fails_the_job_and_names_both_places(
    shards: int, tmp_path: Path
) -> None:
    model = save_model(tmp_path / "model", signatures=("features",))
    images = save_features(tmp_path / "catalog.jsonl", 4, ["b", "a", "b", "c"])
    with pytest.raises(ImgembedError) as caught:
        export(tmp_path / "embeddings", images=images, model=model, shards=shards)
    assert str(caught.value) == (
        f"images: the id 'b' is there twice, at {images.path} row 1 and at {images.path} row 3; "
        "every image needs an id of its own"
    )
    assert not (tmp_path / "embeddings" / schema.MANIFEST_FILE).exists()


# Pictures as in training --------------------------------------------------------------------------


@pytest.mark.parametrize("encoding", ["jpeg", "png", "raw"])
def test_the_model_is_shown_the_pixels_of_its_examples(
    encoding: schema.ImageEncoding, model: Version, tmp_path: Path
) -> None:
    rows = [
        {"image_id": f"{n:02}", "image": picture(n), "split": "train", "label": None, "text": None}
        for n in range(PICTURES)
    ]
    world = World(rows, [Edge("00", "01", 1, 1.0)])
    examples = build(
        tmp_path / "examples",
        world,
        images={"image_size": SIDE},
        neighbors=0,
        image_encoding=encoding,
    )
    pixels = {
        image_id: decoded(example["image"][0], encoding)
        for image_id, example in everything(examples).items()
    }
    trained = replace(model, manifest={**model.manifest, "image_encoding": encoding})
    images = ImagesConfig(path=str(tmp_path / "examples" / "catalog"))
    version = export(tmp_path / "embeddings", images=images, model=trained)

    matrix = models.load_saved_model(model.file(schema.SAVED_MODEL_FOLDER)).of_pixels.numpy()
    ids, vectors = read_vectors(version, "images", "image_id")
    shown_pixels = np.stack([pixels[image_id].ravel() for image_id in ids.to_pylist()])
    flat = shown_pixels.astype(np.float64) - 127.0
    expected = flat @ matrix / np.linalg.norm(flat @ matrix, axis=1, keepdims=True)
    np.testing.assert_allclose(vectors, expected, atol=1e-5)

    # Bit for bit: what the export's decoding processes hand to the model.
    settings = export_job._pictures(images, trained)
    shown = decode_pictures([picture(n) for n in range(PICTURES)], settings)
    for image_id, found in zip(sorted(pixels), shown, strict=True):
        assert isinstance(found, pictures.Picture)
        served = tf.io.decode_image(found.content, channels=3, expand_animations=False).numpy()
        np.testing.assert_array_equal(served, pixels[image_id])
    lossless = np.asarray(Image.open(io.BytesIO(prepared(0))))
    assert np.array_equal(pixels["00"], lossless) == (encoding != "jpeg")


def decoded(content: bytes, encoding: schema.ImageEncoding) -> np.ndarray:
    """[side, side, 3] uint8 of a picture in an example, as TensorFlow decodes it."""
    if encoding == "raw":
        return tf.reshape(tf.io.decode_raw(content, tf.uint8), [SIDE, SIDE, 3]).numpy()
    return tf.io.decode_image(content, channels=3, expand_animations=False).numpy()


def test_a_picture_that_takes_too_long_costs_one_row(model: Version, tmp_path: Path) -> None:
    folder = tmp_path / "catalog"
    folder.mkdir()
    for number in range(3):
        (folder / f"{number:02}.png").write_bytes(picture(number))
    (folder / "slow.jpg").write_bytes(slow_jpeg())
    images = ImagesConfig(path=str(folder), max_seconds=0.5, max_rejected_fraction=0.3)
    version = export(tmp_path / "embeddings", images=images, model=model)
    assert version.manifest["rejected"] == {TOO_SLOW: 1}
    assert list(SearchIndex.open(version).ids) == ["00", "01", "02"]


def test_a_catalog_of_another_kind_than_the_model_is_refused(
    tmp_path: Path, model: Version, catalog: ImagesConfig
) -> None:
    of_features = save_model(tmp_path / "model", signatures=("features",))
    features = save_features(tmp_path / "catalog.jsonl", 3, ["a"])
    with pytest.raises(ImgembedError, match=r"holds pictures, but model .* on ready features"):
        export(tmp_path / "a", images=catalog, model=of_features)
    with pytest.raises(ImgembedError, match=r"has 3 features an image, but model .* trained on 4"):
        export(tmp_path / "b", images=features, model=of_features)
    with pytest.raises(ImgembedError, match=r"holds ready features, but model .* on pictures"):
        export(tmp_path / "c", images=features, model=model)


def test_vectors_without_unit_norm_fail_the_job_in_one_line(tmp_path: Path) -> None:
    model = save_model(tmp_path / "model", signatures=("features",), broken=True)
    images = save_features(tmp_path / "catalog.jsonl", 4, ["a", "b"])
    with pytest.raises(ImgembedError, match="2 of 2 embeddings have no unit norm") as caught:
        export(tmp_path / "embeddings", images=images, model=model)
    assert "\n" not in str(caught.value)


def test_vectors_that_are_no_number_have_no_unit_norm() -> None:
    with pytest.raises(ImgembedError, match="1 of 2 embeddings"):
        models.check_unit_norm(np.array([[1.0, 0.0], [np.nan, 0.0]]), "model")


def test_all_threads_of_a_process_share_one_model(model: Version) -> None:
    path = model.file(schema.SAVED_MODEL_FOLDER)
    models._loaded.cache_clear()
    with ThreadPoolExecutor(8) as pool:
        found = set(map(id, pool.map(models.load_saved_model, [path] * 8)))
    assert len(found) == 1
    assert models._loaded.cache_info().misses == 1


def test_a_model_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ImgembedError, match="nowhere: cannot be loaded as a SavedModel"):
        models.load_saved_model(str(tmp_path / "nowhere"))


def test_too_many_rejected_pictures_fail_the_job(
    tmp_path: Path, model: Version, catalog: ImagesConfig
) -> None:
    strict = catalog.model_copy(update={"max_rejected_fraction": 0.01})
    with pytest.raises(ImgembedError, match=r"1 of 24 rows cannot be read.*max_rejected_fraction"):
        export(tmp_path, images=strict, model=model)


def test_the_handler_travels_and_takes_tables_of_any_size(model: Version) -> None:
    handler = SavedModelHandler(
        path=model.file(schema.SAVED_MODEL_FOLDER),
        signature="text",
        content="text",
        model_version="m",
        batch_size=16,
    )
    loaded = pickler.loads(pickler.dumps(handler))
    words = pa.table({"query": ["a"] * 40, "text": ["a"] * 40})
    batch = [words.slice(0, 0), words.slice(0, 1), words.slice(1, 39)]
    answers = list(loaded.run_inference(batch, loaded.load_model()))
    assert [answer.num_rows for answer in answers] == [1, 39]
    assert answers[0].column_names == ["query", "embedding", "model_version"]
    assert list(loaded.run_inference([], loaded.load_model())) == []
    assert registry.get_coder(pa.Table).is_deterministic()
