"""Catalog and graph become neighbour-augmented examples that a plain-Python reading confirms."""

from __future__ import annotations

import gzip
import io
import json
import zlib
from pathlib import Path
from typing import Any, NamedTuple

import apache_beam as beam
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tensorflow as tf
import tensorflow_transform as tft
from apache_beam.runners.portability.fn_api_runner import fn_runner
from PIL import Image

from pipeline import artifacts, progress, schema
from pipeline.config import ExamplesConfig, ImagesConfig, SplitConfig
from pipeline.errors import ImgembedError
from pipeline.examples import job, neighbors, tf_examples, transform

SIZE = 8
NEIGHBORS = 3
CANARY = "canaryspecies"
TRAINING_LABELS = ["cat", "dog", "owl"]


class Built(NamedTuple):
    """A version of the examples, with what it was made from."""

    version: artifacts.Version
    images: dict[str, dict]
    edges: list[tuple[str, str, int, float]]


# Data -------------------------------------------------------------------------------------------


def picture(index: int) -> bytes:
    sink = io.BytesIO()
    Image.new("RGB", (20, 12), (index * 5 % 256, index * 11 % 256, 90)).save(sink, "PNG")
    return sink.getvalue()


def make_images(count: int, *, features: int | None = None) -> list[dict]:
    rng = np.random.default_rng(7)
    rows = []
    for index in range(count):
        split = schema.SPLITS[(0, 0, 0, 1, 2)[index % 5]]
        label = TRAINING_LABELS[index % 3] if index % 2 else None
        # The label of this image must be seen in no training file.
        label = CANARY if index == 3 else label
        row: dict[str, Any] = {"image_id": f"ï {index:03d}", "split": split}
        if features is None:
            row |= {"image": picture(index), "label": label, "text": f"Picture {index} of it"}
        else:
            row["features"] = [*rng.normal(5, 3, features - 1).astype(np.float32).tolist(), 0.1]
        rows.append(row)
    return rows


def make_edges(ids: list[str], *, degree: int) -> list[tuple[str, str, int, float]]:
    """(src, dst, rank, weight) of a random graph; the last 5 ids are in no catalog."""
    rng = np.random.default_rng(3)
    everyone = [*ids, *(f"gone {i}" for i in range(5))]
    edges = []
    for src in everyone[2:]:  # two images have no neighbours
        others = [other for other in everyone if other != src]
        size = int(rng.integers(1, degree + 1))
        weights = np.sort(rng.uniform(0.1, 9, size))[::-1]
        for rank, dst in enumerate(rng.choice(others, size, replace=False), 1):
            edges.append((src, str(dst), rank, float(weights[rank - 1])))
    return edges


QUERIES = [("red bridge", "ï 000", 4), ("blue", "ï 000", 7), ("blue", "gone 1", 2)]


def write_graph(run: artifacts.RunDir, edges: list, *, files: int) -> artifacts.Version:
    with run.begin(schema.GRAPH) as new:
        Path(new.path).mkdir(parents=True, exist_ok=True)
        for index in range(files):
            part = edges[index::files]
            columns: dict[str, Any] = {
                name: [edge[place] for edge in part]
                for place, name in enumerate(("src", "dst", "rank", "weight"))
            }
            nothing = {
                field.name: pa.nulls(len(part), field.type)
                for field in schema.EDGE_SCHEMA
                if field.name not in columns
            }
            table = pa.table(
                {name: (columns | nothing)[name] for name in schema.EDGE_SCHEMA.names},
                schema=schema.EDGE_SCHEMA,
            )
            name = schema.shard_name(schema.EDGES, index, files, "parquet")
            pq.write_table(table, new.file(name))
        rows = [{"query": q, "image_id": i, "sessions": n, "users": n} for q, i, n in QUERIES]
        name = schema.shard_name(schema.QUERIES, 0, 1, "parquet")
        pq.write_table(pa.Table.from_pylist(rows, schema=schema.QUERY_SCHEMA), new.file(name))
        return new.commit({})


def make_pipeline() -> beam.Pipeline:
    return beam.Pipeline(runner=fn_runner.FnApiRunner())


def build(
    folder: Path,
    images: list[dict],
    edges: list,
    *,
    shards: int = 1,
    files: int = 1,
    **options: Any,
) -> Built:
    catalog = folder / "catalog"
    catalog.mkdir(parents=True)
    for index in range(files):
        table = pa.Table.from_pylist(images[index::files])
        pq.write_table(table, catalog / f"{index}.parquet")
    run = artifacts.RunDir.open(str(folder / "run"))
    graph = write_graph(run, edges, files=files)
    with run.begin(schema.EXAMPLES) as new:
        manifest = job.build_examples(
            images=ImagesConfig(path=str(catalog), image_size=SIZE, **options),
            examples=ExamplesConfig(neighbors=NEIGHBORS, max_tokens=20, token_buckets=4),
            seed=11,
            graph=graph,
            out=new,
            shards=shards,
            make_pipeline=make_pipeline,
        )
        version = new.commit(manifest)
    return Built(version, {image["image_id"]: image for image in images}, edges)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory) -> Built:
    images = make_images(40)
    edges = make_edges([image["image_id"] for image in images], degree=6)
    progress.reset()
    return build(tmp_path_factory.mktemp("pictures"), images, edges)


@pytest.fixture(scope="module")
def features(tmp_path_factory) -> Built:
    images = make_images(30, features=4)
    for image in images:
        image["split"] = None
    edges = make_edges([image["image_id"] for image in images], degree=4)
    return build(tmp_path_factory.mktemp("features"), images, edges, shards=2)


def raw_records(version: artifacts.Version, split: str) -> list[bytes]:
    files = version.shards(split)
    return [r.numpy() for r in tf.data.TFRecordDataset(files, compression_type="GZIP")]


def parse_spec(version: artifacts.Version) -> dict[str, Any]:
    dtypes = {"bytes": tf.string, "int64": tf.int64, "float32": tf.float32}
    spec: dict[str, Any] = {}
    for feature in schema.example_features(
        neighbors=version.manifest["neighbors"], feature_dim=version.manifest["feature_dim"]
    ):
        dtype = dtypes[feature.dtype]
        if feature.shape == (None,):
            spec[feature.name] = tf.io.RaggedFeature(dtype, row_splits_dtype=tf.int64)
        else:
            default = np.full(feature.shape, feature.default, object).tolist()
            spec[feature.name] = tf.io.FixedLenFeature(feature.shape, dtype, default)
    return spec


def parsed(version: artifacts.Version, split: str) -> dict[str, dict[str, Any]]:
    """{image_id: {feature: value}} of the records of a split, parsed as one batch."""
    records = tf.constant(raw_records(version, split), tf.string)
    batch = tf.io.parse_example(records, parse_spec(version))
    columns = {
        name: value.to_list() if isinstance(value, tf.RaggedTensor) else value.numpy()
        for name, value in batch.items()
    }
    ids = [image_id.decode() for image_id in columns["image_id"]]
    return {
        image_id: {name: column[row] for name, column in columns.items()}
        for row, image_id in enumerate(ids)
    }


def everything(version: artifacts.Version) -> dict[str, dict[str, Any]]:
    return {k: row for split in schema.SPLITS for k, row in parsed(version, split).items()}


def neighbor_ids(example: dict[str, Any]) -> list[str]:
    return [
        example[schema.neighbor_feature(index, "image_id")].decode()
        for index in range(example["NL_num_nbrs"])
    ]


# What is in the files ---------------------------------------------------------------------------


def test_every_image_is_a_seed_of_its_split_and_the_counts_are_exact(pictures):
    for split in schema.SPLITS:
        expected = {i for i, image in pictures.images.items() if image["split"] == split}
        records = raw_records(pictures.version, split)
        assert len(records) == len(expected)
        assert set(parsed(pictures.version, split)) == expected
        assert pictures.version.manifest["splits"][split] == {"records": len(expected), "shards": 1}
    counts = pictures.version.manifest["counts"]
    assert counts["rows"] == {"read": 40, "kept": 40, "rejected": 0}
    assert progress.snapshot()["pictures"] >= 40


@pytest.mark.parametrize("kind", ["pictures", "features"])
def test_neighbours_and_edges_among_them_are_those_of_brute_force(kind, request):
    built = request.getfixturevalue(kind)
    known = [edge for edge in built.edges if edge[0] in built.images and edge[1] in built.images]
    weights = {(src, dst): weight for src, dst, _, weight in known}
    found = everything(built.version)
    assert set(found) == set(built.images)
    sizes = []
    for seed, example in found.items():
        ranked = sorted((rank, dst) for src, dst, rank, _ in known if src == seed)
        expected = [dst for _, dst in ranked[:NEIGHBORS]]
        assert neighbor_ids(example) == expected
        graph_nodes = [seed, *expected]
        among = [
            (i, j, weights[a, b])
            for i, a in enumerate(graph_nodes)
            for j, b in enumerate(graph_nodes)
            if (a, b) in weights
        ]
        edges = [(s, r) for s, r, _ in among]
        assert list(zip(example["graph_senders"], example["graph_receivers"], strict=True)) == edges
        np.testing.assert_allclose(example["graph_weights"], [w for _, _, w in among], rtol=1e-6)
        slots = [example[schema.neighbor_weight(i).name] for i in range(NEIGHBORS)]
        padded = [weights[seed, dst] for dst in expected] + [0.0] * (NEIGHBORS - len(expected))
        np.testing.assert_allclose(slots, padded, rtol=1e-6)
        sizes.append(len(expected))
    counts = built.version.manifest["counts"]
    skipped = len(built.edges) - len(known)
    assert counts["edges"] == {"read": len(built.edges), "skipped": skipped}
    by_neighbors = {str(size): sizes.count(size) for size in range(NEIGHBORS + 1)}
    assert counts["images"]["by_neighbors"] == by_neighbors
    assert counts["images"]["without_neighbors"] == sizes.count(0) >= 2


def test_neighbours_carry_the_content_of_their_own_records(pictures):
    found = everything(pictures.version)
    for example in found.values():
        for index, image_id in enumerate(neighbor_ids(example)):
            image = example[schema.neighbor_feature(index, "image")]
            assert image == found[image_id]["image"]
            decoded = Image.open(io.BytesIO(image))
            assert (decoded.size, decoded.mode) == ((SIZE, SIZE), "RGB")


def test_labels_are_seen_in_the_training_split_alone(pictures):
    classes = pictures.version.manifest["classes"]
    assert sorted(classes) == TRAINING_LABELS
    for split in schema.SPLITS:
        for image_id, example in parsed(pictures.version, split).items():
            label = pictures.images[image_id]["label"]
            index = classes.index(label) if label in classes else -1
            training = split == "train"
            assert example["label"] == (index if training else -1)
            assert example["heldout_label"] == (-1 if training else index)
            for slot, neighbor in enumerate(neighbor_ids(example)):
                image = pictures.images[neighbor]
                seen = image["label"] in classes and image["split"] == "train"
                expected = classes.index(image["label"]) if seen else -1
                assert example[schema.neighbor_feature(slot, "label")] == expected
    assert pictures.version.manifest["counts"]["unknown_labels"] == 1  # the canary's


def test_label_of_a_validation_image_is_nowhere_in_the_training_files(pictures):
    assert pictures.images["ï 003"]["split"] == "validation"
    for path in pictures.version.shards("train"):
        data = gzip.decompress(Path(path).read_bytes())
        assert CANARY.encode() not in data
        assert b"heldout_label" not in data
    folder = Path(pictures.version.file(schema.TRANSFORM_FOLDER))
    assert not any(CANARY.encode() in p.read_bytes() for p in folder.rglob("*") if p.is_file())


def test_texts_are_captions_and_published_queries(pictures):
    example = everything(pictures.version)["ï 000"]
    assert [text.decode() for text in example["text"]] == ["Picture 0 of it", "blue", "red bridge"]
    assert example["text_weight"] == [1.0, 7.0, 4.0]
    # 24 of 40 images are for training, each with a caption; two queries lead to one of them.
    assert pictures.version.manifest["texts"]["train"] == 26
    counts = pictures.version.manifest["counts"]
    assert counts["queries"] == {"read": 3, "skipped": 1}


def test_bytes_are_those_of_any_shard_count_and_input_order(pictures, tmp_path):
    rng = np.random.default_rng(1)
    images = [list(pictures.images.values())[i] for i in rng.permutation(len(pictures.images))]
    edges = [pictures.edges[i] for i in rng.permutation(len(pictures.edges))]
    other = build(tmp_path, images, edges, shards=3, files=2)
    assert other.version.manifest == pictures.version.manifest
    for split in schema.SPLITS:
        one, two = (version.shards(split) for version in (pictures.version, other.version))
        assert [Path(p).read_bytes() for p in one] == [Path(p).read_bytes() for p in two]
    for vocabulary in (schema.LABEL_VOCABULARY, schema.TOKEN_VOCABULARY):
        one, two = (
            transform.vocabulary(built.version.file(schema.TRANSFORM_FOLDER), vocabulary)
            for built in (pictures, other)
        )
        assert one == two


def test_files_are_in_no_order_of_ids_and_nothing_of_the_work_is_left(pictures):
    ids = list(parsed(pictures.version, "train"))
    assert ids != sorted(ids)
    left = sorted(path.name for path in Path(pictures.version.path).iterdir())
    tfrecords = [f"{split}-00000-of-00001.tfrecord.gz" for split in sorted(schema.SPLITS)]
    assert left == sorted(["manifest.json", "transform", *tfrecords])


def test_gzip_files_hold_no_time(pictures):
    for path in pictures.version.shards("train"):
        assert Path(path).read_bytes()[4:8] == bytes(4)


# The transform ----------------------------------------------------------------------------------


class Tokens(tf.Module):
    """What a model keeps of the transform."""

    def __init__(self, folder: str):
        super().__init__()
        self.layer = tft.TFTransformOutput(folder).transform_features_layer()

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string)])
    def __call__(self, texts: tf.Tensor) -> tf.RaggedTensor:
        rows = tf.RaggedTensor.from_row_splits(texts, tf.range(tf.size(texts, tf.int64) + 1))
        return self.layer({schema.TRANSFORM_TEXT: rows})[schema.TRANSFORMED_TOKENS]


def test_texts_alone_become_tokens_in_a_saved_model_without_the_run(pictures, tmp_path):
    folder = pictures.version.file(schema.TRANSFORM_FOLDER)
    entries = transform.vocabulary(folder, schema.TOKEN_VOCABULARY)
    assert {"picture", "of", "it"} <= set(entries)
    assert pictures.version.manifest["tokens"] == len(entries) == 20
    assert pictures.version.manifest["token_ids"] == 24
    tf.saved_model.save(Tokens(folder), str(tmp_path / "model"))
    loaded = tf.saved_model.load(str(tmp_path / "model"))
    texts = ["A PICTURE, of: it", "", "unheard zebra"]
    first, nothing, unheard = loaded(tf.constant(texts)).to_list()
    assert first[1:] == [entries.index(word) for word in ("picture", "of", "it")]
    assert nothing == []
    assert len(unheard) == 2
    assert all(20 <= token < 24 for token in unheard)


def test_ready_features_are_z_scores(features):
    raw = np.array([image["features"] for image in features.images.values()])
    # The last column is constant: 0, not the noise of a division by nearly 0.
    expected = np.zeros_like(raw)
    expected[:, :3] = (raw[:, :3] - raw[:, :3].mean(0)) / raw[:, :3].std(0)
    found = everything(features.version)
    seeds = np.array([found[image_id]["features"] for image_id in features.images])
    np.testing.assert_allclose(seeds, expected, atol=1e-5)
    place = {image_id: index for index, image_id in enumerate(features.images)}
    for example in found.values():
        for slot, neighbor in enumerate(neighbor_ids(example)):
            copied = example[schema.neighbor_feature(slot, "features")]
            np.testing.assert_array_equal(copied, seeds[place[neighbor]])
    folder = features.version.file(schema.TRANSFORM_FOLDER)
    layer = tft.TFTransformOutput(folder).transform_features_layer()
    served = layer({schema.TRANSFORM_FEATURES: tf.constant(raw, tf.float32)})
    np.testing.assert_array_equal(served[schema.TRANSFORM_FEATURES], seeds)


def test_catalog_without_labels_and_splits_works(features):
    manifest = features.version.manifest
    assert (manifest["content"], manifest["feature_dim"]) == ("features", 4)
    assert manifest["image_size"] is None
    assert manifest["classes"] == []
    found = everything(features.version)
    assert {int(example["label"]) for example in found.values()} == {-1}
    assert sum(split["records"] for split in manifest["splits"].values()) == 30


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Hello, World's t-shirt_x 12.5", ["hello", "world", "s", "t", "shirt", "x", "12", "5"]),
        ("ÉCOLE Straße ΣΊΣΥΦΟΣ", ["école", "straße", "σίσυφος"]),
        ("東京タワー is たかい", ["東", "京", "タ", "ワー", "is", "た", "か", "い"]),
        ("ที่นี่", ["ที่", "นี่"]),
        ("नमस्ते दुनिया", ["नमस्ते", "दुनिया"]),
        ("한국어 книга 3️⃣", ["한국어", "книга", "3⃣"]),
        ("cats👍🏽❤️🇩🇪🇫🇷", ["cats", "👍🏽", "❤", "🇩🇪", "🇫🇷"]),
        ("👩‍👧 x", ["👩👧", "x"]),
        (" \t\n ", []),
        ("", []),
        ("!?-_", []),
    ],
)
def test_words_of_a_text(text, expected):
    found = transform.words(tf.constant([text]))[0].numpy()
    assert [word.decode() for word in found] == expected


def test_words_of_bytes_that_are_no_text_do_not_fail():
    assert transform.words(tf.constant([b"\xff\xfeabc \xe4"])).to_list() == [[b"abc"]]


# Errors -----------------------------------------------------------------------------------------


def test_catalog_of_other_ids_than_the_graph_is_an_error_that_shows_both(tmp_path):
    images = make_images(5)
    with pytest.raises(ImgembedError) as error:
        build(tmp_path, images, [("graph-1.jpg", "graph-2.jpg", 1, 2.0)])
    assert "'ï 000'" in str(error.value)
    assert "'graph-1.jpg'" in str(error.value)
    assert "\n" not in str(error.value)


def test_rows_that_cannot_be_used_are_listed_and_too_many_fail_the_stage(tmp_path):
    images = make_images(10)
    images[4]["image"] = b"no picture"
    images[7]["image_id"] = images[2]["image_id"]
    images[9]["image_id"] = None
    edges = make_edges([image["image_id"] for image in images[:4]], degree=3)
    with pytest.raises(ImgembedError, match=r"3 of 10.*images.max_rejected_fraction"):
        build(tmp_path / "few", images, edges, max_rejected_fraction=0.2)
    built = build(tmp_path / "many", images, edges, shards=2, max_rejected_fraction=0.3)
    lines = Path(built.version.file("rejected", "rejected-00000-of-00001.jsonl")).read_text()
    rejected = [json.loads(line) for line in lines.splitlines()]
    assert [(row["row"], row["reason"]) for row in rejected] == [
        (5, "not a picture of a known format"),
        (8, "duplicate image_id"),
        (10, "image_id is missing"),
    ]
    rows = built.version.manifest["counts"]["rows"]
    assert rows == {"read": 10, "kept": 7, "rejected": 3}
    assert built.version.manifest["rejected"]["duplicate image_id"] == 1


# Parts ------------------------------------------------------------------------------------------


def test_file_counts_follow_from_the_bytes():
    size = tf_examples.SHARD_BYTES
    found = tf_examples.file_counts(
        # 1,000 images of a tenth of a file each, with one neighbour each: 200 files in all.
        records={"train": 900, "validation": 100, "test": 0},
        content_bytes=100 * size,
        neighbors=1,
    )
    assert found == {"train": 180, "validation": 20, "test": 0}
    few = tf_examples.file_counts(
        records={"train": 1, "validation": 0, "test": 0}, content_bytes=9, neighbors=1
    )
    assert few == {"train": 1, "validation": 0, "test": 0}


def test_records_are_spread_over_files_in_order():
    order = np.array([0, 2**62, 2**63, 2**64 - 1], np.uint64)
    assert tf_examples.file_of(order, 4).tolist() == [0, 1, 2, 3]
    assert tf_examples.file_of(order, 1).tolist() == [0, 0, 0, 0]


def test_first_rows_of_each_source_are_chosen():
    table = pa.table({"src": ["a", "a", "a", "b", "c", "c"]})
    chosen = neighbors.first_of_each(table, 2).tolist()
    assert chosen == [True, True, False, True, True, True]
    assert neighbors.first_of_each(table, 0).any() == np.False_
    assert neighbors.first_of_each(table.slice(0, 0), 2).tolist() == []


def test_same_values_give_the_same_bytes():
    layout = tuple(schema.example_features(neighbors=1, feature_dim=None))
    values = {"image_id": "a", "image": b"x", "label": 1, "text": ["t"], "text_weight": [1.0]}
    one = tf_examples.encode(values, layout)
    two = tf_examples.encode(dict(reversed(values.items())), layout)
    assert zlib.crc32(one) == zlib.crc32(two)
    example = tf.train.Example.FromString(one)
    assert sorted(example.features.feature) == ["image", "image_id", "label", "text", "text_weight"]
    assert example.features.feature["image_id"].bytes_list.value == [b"a"]


def test_split_shares_that_do_not_sum_to_one_are_refused():
    with pytest.raises(ValueError, match="sum to"):
        SplitConfig(train=0.5, validation=0.1, test=0.1)
