"""Formats and precisions of an export: every one read back by somebody else's reader."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tensorflow as tf
from export_cases import PICTURES, QUERIES, export, save_features, save_pictures, save_queries
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from pydantic import ValidationError
from tiny_model import DIM, save_model

from pipeline import precision, schema
from pipeline.artifacts import Version
from pipeline.config import ExportConfig, ImagesConfig
from pipeline.embeddings import files as export_files
from pipeline.embeddings import losses
from pipeline.errors import ImgembedError
from pipeline.vectors import read_vectors

DTYPES = ("float32", "float16", "int8")
ALL = ["tfrecord", "npy"]
WIDE = 48


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Version:
    return save_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def catalog(tmp_path_factory: pytest.TempPathFactory) -> ImagesConfig:
    return save_pictures(tmp_path_factory.mktemp("catalog"))


@pytest.fixture(scope="module")
def graph(tmp_path_factory: pytest.TempPathFactory) -> Version:
    return save_queries(tmp_path_factory.mktemp("graph"))


@pytest.fixture(scope="module", params=DTYPES)
def exported(
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
    model: Version,
    catalog: ImagesConfig,
    graph: Version,
) -> Version:
    settings = ExportConfig(formats=ALL, dtype=request.param)
    folder = tmp_path_factory.mktemp(request.param)
    return export(folder, images=catalog, model=model, graph=graph, export=settings)


@pytest.fixture(scope="module")
def exact(
    tmp_path_factory: pytest.TempPathFactory, model: Version, catalog: ImagesConfig, graph: Version
) -> Version:
    return export(tmp_path_factory.mktemp("exact"), images=catalog, model=model, graph=graph)


KINDS = (("images", "image_id", PICTURES), ("queries", "query", len(QUERIES)))


@pytest.mark.parametrize(("prefix", "key", "rows"), KINDS)
def test_the_reader_gives_unit_vectors_near_those_of_the_model(
    prefix: str, key: str, rows: int, exported: Version, exact: Version
) -> None:
    names, vectors = read_vectors(exported, prefix, key)
    expected_names, expected = read_vectors(exact, prefix, key)
    assert names.equals(expected_names)
    assert vectors.shape == (rows, DIM)
    assert vectors.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1.0, atol=1e-6)
    # Half a step of the coarsest rounding: 2^-12 of a number, or 1/254 of the largest.
    tolerance = {"float32": 0.0, "float16": 2**-11, "int8": 1 / 127}[exported.manifest["dtype"]]
    np.testing.assert_allclose(vectors, expected, atol=tolerance)
    if exported.manifest["dtype"] != "float32":
        assert not np.array_equal(vectors, expected)


def test_parquet_says_how_its_numbers_are_to_be_read(exported: Version) -> None:
    dtype = exported.manifest["dtype"]
    (path,) = exported.shards("images")
    table = pq.read_table(path)
    assert table.schema.field("embedding").type == pa.list_(pa.type_for_alias(dtype), DIM)
    said = table.schema.metadata[precision.METADATA_KEY].decode()
    assert ("norm" in said) == (dtype != "float32")
    if dtype == "int8":
        numbers = np.array(table["embedding"].to_pylist())
        assert np.abs(numbers).max(axis=1).tolist() == [127] * PICTURES
    assert pq.ParquetFile(path).metadata.row_group(0).column(0).compression == "ZSTD"


@pytest.mark.parametrize(("prefix", "key", "rows"), KINDS)
def test_tensorflow_reads_the_records(prefix: str, key: str, rows: int, exported: Version) -> None:
    (path,) = sorted(Path(exported.path, "tfrecord").glob(f"{prefix}-*"))
    parsed = [
        tf.io.parse_single_example(
            record,
            {
                key: tf.io.FixedLenFeature([], tf.string),
                "embedding": tf.io.FixedLenFeature([DIM], tf.float32),
            },
        )
        for record in tf.data.TFRecordDataset(str(path))
    ]
    names, vectors = read_vectors(exported, prefix, key)
    assert [row[key].numpy().decode() for row in parsed] == names.to_pylist()
    np.testing.assert_array_equal(np.stack([row["embedding"] for row in parsed]), vectors)


@pytest.mark.parametrize(("prefix", "key", "rows"), KINDS)
def test_numpy_maps_the_array_and_a_line_each_names_its_rows(
    prefix: str, key: str, rows: int, exported: Version
) -> None:
    folder = Path(exported.path, "npy")
    array = np.load(folder / f"{prefix}-00000-of-00001.npy", mmap_mode="r")
    assert (array.dtype, array.shape) == (exported.manifest["dtype"], (rows, DIM))
    ids = (folder / f"{prefix}-00000-of-00001.ids.txt").read_text().split("\n")
    names, vectors = read_vectors(exported, prefix, key)
    assert ids == [*names.to_pylist(), ""]
    np.testing.assert_array_equal(precision.restored(np.asarray(array)), vectors)


def test_the_manifest_names_formats_and_precision(exported: Version) -> None:
    assert exported.manifest["formats"] == ["npy", "parquet", "tfrecord"]
    found = exported.manifest["precision"]
    if exported.manifest["dtype"] == "float32":
        assert found is None
        return
    assert found["images"].keys() == {"recall_at_10", "queries", "searched"}
    assert (found["images"]["queries"], found["images"]["searched"]) == (PICTURES, PICTURES)
    assert (found["queries"]["queries"], found["queries"]["searched"]) == (len(QUERIES), PICTURES)
    assert 0.8 < found["images"]["recall_at_10"] <= 1.0


@pytest.mark.parametrize("dtype", ["float16", "int8"])
def test_the_loss_of_recall_is_that_of_a_plain_search(dtype: str, tmp_path: Path) -> None:
    model = save_model(tmp_path / "model", signatures=("features",), feature_dim=WIDE)
    images = save_features(tmp_path / "catalog.jsonl", WIDE, [f"{n:04}" for n in range(700)])
    exact = export(tmp_path / "exact", images=images, model=model)
    kept = export(tmp_path / "kept", images=images, model=model, export=ExportConfig(dtype=dtype))
    vectors, rounded = (read_vectors(v, "images", "image_id")[1] for v in (exact, kept))
    found = 0
    for row in range(700):
        nearest = []
        for matrix in (vectors, rounded):
            scores = matrix.astype(np.float64) @ matrix[row]
            scores[row] = -2
            nearest.append(set(np.argsort(-scores)[:10].tolist()))
        found += len(nearest[0] & nearest[1])
    told = kept.manifest["precision"]["images"]
    assert (told["queries"], told["searched"]) == (700, 700)
    assert told["recall_at_10"] == pytest.approx(found / 7_000, abs=2e-3)
    assert told["recall_at_10"] < 1.0 if dtype == "int8" else told["recall_at_10"] > 0.99


def test_the_sample_is_the_lowest_draws_whatever_the_shards(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(losses, "MOST_ROWS", 40)
    model = save_model(tmp_path / "model", signatures=("features",))
    images = save_features(tmp_path / "catalog.jsonl", 4, [f"{n:04}" for n in range(300)])
    told = [
        export(
            tmp_path / str(shards),
            images=images,
            model=model,
            shards=shards,
            export=ExportConfig(dtype="int8", batch_size=16),
        )
        for shards in (1, 3)
    ]
    samples = [pq.read_table(version.shards("sample_images")[0]) for version in told]
    assert samples[0].equals(samples[1])
    assert samples[0].num_rows == 40
    assert told[0].manifest["precision"] == told[1].manifest["precision"]
    hashes = pq.read_table(told[0].shards("images")[0])["content_hash"].to_pylist()
    lowest = sorted(int.from_bytes(digest[:8], "little") for digest in hashes)[:40]
    assert samples[0]["draw"].to_pylist() == lowest


@given(
    arrays.arrays(
        np.float32,
        st.tuples(st.integers(1, 9), st.just(7)),
        elements=st.floats(-1, 1, width=32),
    )
)
def test_rounding_changes_no_vector_by_more_than_half_a_step(raw: np.ndarray) -> None:
    norms = np.linalg.norm(raw.astype(np.float64), axis=1, keepdims=True)
    vectors = (np.where(norms < 1e-6, np.eye(7)[0], raw) / np.where(norms < 1e-6, 1, norms)).astype(
        np.float32
    )
    numbers = precision.stored(vectors, "int8")
    largest = np.abs(vectors).max(axis=1, keepdims=True)
    assert (np.abs(numbers * largest / 127 - vectors) <= largest / 254 + 1e-6).all()
    restored = precision.restored(numbers)
    np.testing.assert_allclose(np.linalg.norm(restored, axis=1), 1.0, atol=1e-6)
    # A vector is stored by itself, and what is read is stored as the same numbers again.
    np.testing.assert_array_equal(precision.stored(vectors[:1], "int8"), numbers[:1])
    np.testing.assert_array_equal(precision.stored(restored, "int8"), numbers)
    assert precision.restored(vectors) is vectors


def test_a_tie_counts_as_found() -> None:
    corpus = np.eye(12, dtype=np.float32)[[0] + [1] * 11]  # eleven equally near
    query = np.eye(12, dtype=np.float32)[[1]]
    other = corpus[::-1]
    assert losses.recall_at(query, corpus, query, corpus, own=False) == 1.0
    # Of the ten found by `other` one, the image that is first there, is not near at all.
    assert losses.recall_at(query, corpus, query, other, own=False) == pytest.approx(1.0, abs=0.1)
    assert losses.recall_at(query, corpus, query, -corpus, own=False) == pytest.approx(0.9)


@pytest.mark.parametrize("files", [1, 3])
def test_files_are_written_a_few_rows_at_a_time_and_read_as_one(
    files: int,
    exact: Version,
    model: Version,
    catalog: ImagesConfig,
    graph: Version,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(export_files, "_MOST_ROWS", 5)
    monkeypatch.setattr("pipeline.embeddings.job.file_count", lambda _: files)
    other = export(
        tmp_path, images=catalog, model=model, graph=graph, export=ExportConfig(formats=ALL)
    )
    assert other.manifest["files"] == {"images": files, "queries": files}
    for prefix, key, rows in KINDS:
        (names, vectors), (same, found) = (
            read_vectors(version, prefix, key) for version in (exact, other)
        )
        assert names.equals(same)
        np.testing.assert_array_equal(vectors, found)
        arrays_of = [
            np.load(path) for path in sorted(Path(other.path, "npy").glob(f"{prefix}*.npy"))
        ]
        assert sum(map(len, arrays_of)) == rows


def test_an_unknown_format_or_precision_is_refused() -> None:
    for bad in ({"dtype": "int4"}, {"formats": ["csv"]}, {"neighbors": "all"}):
        with pytest.raises(ValidationError):
            ExportConfig(**bad)


def test_only_unit_vectors_are_rounded(tmp_path: Path) -> None:
    model = save_model(tmp_path / "model", signatures=("features",), broken=True)
    images = save_features(tmp_path / "catalog.jsonl", 4, ["a", "b"])
    with pytest.raises(ImgembedError, match="no unit norm"):
        export(tmp_path / "e", images=images, model=model, export=ExportConfig(dtype="int8"))


def test_a_catalog_of_one_image_has_no_ten_nearest(tmp_path: Path) -> None:
    model = save_model(tmp_path / "model", signatures=("features",))
    images = save_features(tmp_path / "catalog.jsonl", 4, ["a"])
    version = export(tmp_path / "e", images=images, model=model, export=ExportConfig(dtype="int8"))
    assert version.manifest["precision"] == {"images": None, "queries": None}
    assert read_vectors(version, schema.IMAGE_EMBEDDINGS, "image_id")[0].to_pylist() == ["a"]
