"""The examples stage as a whole: what is counted, rejected and refused, and the transform it makes.

What its records hold is in test_example_layouts, who may see a label in test_leaks.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import tensorflow as tf
import tensorflow_transform as tft
from example_cases import made
from PIL import Image
from plain_examples import true_labels
from small_catalogs import (
    LABELS,
    SIDE,
    Edge,
    Row,
    World,
    build,
    colour_of,
    everything,
    picture,
    pictures_world,
)
from small_logs import clicks, run_command, write_log

from cli.summaries import summarize
from pipeline import schema
from pipeline.artifacts import RunDir, Version
from pipeline.config import SplitConfig
from pipeline.errors import ImgembedError
from pipeline.examples import transform
from pipeline.examples.catalog import rows as reasons
from pipeline.examples.catalog.sources import UNREADABLE_URI
from pipeline.examples.pictures import NOT_A_PICTURE, TOO_MANY_PIXELS
from trainer.transform import Transform

# Counts ------------------------------------------------------------------------------------------


def test_rows_edges_and_queries_add_up() -> None:
    case = made("nsl png")
    counts = case.version.manifest["counts"]
    assert counts["rows"] == {"read": 40, "kept": 40, "rejected": 0}
    assert counts["skipped_files"] == 0
    assert counts["queries"] == {"read": 3, "skipped": 1}
    assert counts["unknown_labels"] == 1  # the canary's
    # 24 of 40 images are for training, 16 of them with a caption; two queries lead to one of them.
    captions = [row for row in case.world.rows if row["split"] == "train" and row["text"]]
    assert case.version.manifest["texts"]["train"] == len(captions) + 2
    assert case.tallies["images"] >= 40


@pytest.mark.parametrize("name", ["nsl png", "nsl raw", "compact png"])
def test_classes_are_the_labels_of_enough_training_images(name: str) -> None:
    case = made(name)
    labels = [
        label for row in case.world.rows if row["split"] == "train" for label in true_labels(row)
    ]
    least = case.options.get("min_label_count", 1)
    expected = {label: labels.count(label) for label in {*labels} if labels.count(label) >= least}
    assert case.version.manifest["images_of_class"] == expected
    assert len(expected) < len({*labels}) or least == 1
    labelled = dict.fromkeys(schema.SPLITS, 0)
    for row in case.world.rows:
        labelled[row["split"]] += bool(true_labels(row))
    assert case.version.manifest["labelled"] == labelled


@pytest.mark.parametrize("name", ["nsl png", "compact raw"])
def test_coverage_is_told_by_head_torso_and_tail(name: str) -> None:
    case = made(name)
    found = coverage(case.world, {i: len(case.reference.neighbors(i)) for i in case.world.by_id})
    images = case.version.manifest["counts"]["images"]
    assert images["by_popularity"] == found
    assert list(found) == ["head", "torso", "tail", "in no session"]
    shares = "".join(f"; {part} {of['share']:.0%}" for part, of in found.items())
    line = f"{images['share_with_neighbors']:.0%} of the images have neighbours{shares}"
    assert line in summarize(case.version)


def coverage(world: World, neighbors: dict[str, int]) -> dict[str, dict[str, float]]:
    """How many images have neighbours, one image after the other."""
    sessions = world.sessions or {}
    seen = sorted((sessions[i] for i in neighbors if i in sessions), reverse=True)
    parts: dict[str, list[int]] = {"head": [], "torso": [], "tail": [], "in no session": []}
    for image_id, degree in neighbors.items():
        if image_id not in sessions:
            parts["in no session"].append(degree)
            continue
        more = seen.index(sessions[image_id]) / len(seen)
        parts["head" if more < 0.1 else "torso" if more < 0.5 else "tail"].append(degree)
    return {
        name: {
            "images": len(degrees),
            "with_neighbors": sum(degree > 0 for degree in degrees),
            "share": round(sum(degree > 0 for degree in degrees) / len(degrees), 6),
        }
        for name, degrees in parts.items()
        if degrees
    }


# Splits ------------------------------------------------------------------------------------------


def test_a_group_is_in_one_split_and_a_share_of_nothing_gets_nothing() -> None:
    case = made("nsl features")
    groups: dict[str, set[str]] = {}
    for row in case.world.rows:
        if row["group"]:
            groups.setdefault(row["group"], set()).add(case.reference.splits[row["image_id"]])
    assert len(groups) == 5
    assert all(len(splits) == 1 for splits in groups.values())
    assert set(case.reference.splits.values()) == {"train", "validation"}
    assert case.version.manifest["splits"]["test"] == {"records": 0, "files": 0, "bytes": 0}
    assert case.version.shards("test") == []


def test_a_split_does_not_depend_on_what_the_examples_look_like() -> None:
    wide, narrow = (
        {i for i, split in made(name).reference.splits.items() if split == "train"}
        for name in ("compact features", "nsl features")  # 80 and 60 % for training
    )
    assert narrow < wide


# The transform ------------------------------------------------------------------------------------


class Tokens(tf.Module):
    """What a model keeps of the transform."""

    def __init__(self, folder: str) -> None:
        super().__init__()
        self.layer = tft.TFTransformOutput(folder).transform_features_layer()

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string)])
    def __call__(self, texts: tf.Tensor) -> tf.RaggedTensor:
        rows = tf.RaggedTensor.from_row_splits(texts, tf.range(tf.size(texts, tf.int64) + 1))
        return self.layer({schema.TRANSFORM_TEXT: rows})[schema.TRANSFORMED_TOKENS]


def test_texts_alone_become_tokens_in_a_saved_model_without_the_run(tmp_path: Path) -> None:
    version = made("nsl png").version
    folder = version.file(schema.TRANSFORM_FOLDER)
    entries = transform.vocabulary(folder, schema.TOKEN_VOCABULARY)
    assert {"picture", "of", "it", "#pic"} <= set(entries)
    assert version.manifest["tokens"] == len(entries) == 20
    assert version.manifest["token_ids"] == 24
    tf.saved_model.save(Tokens(folder), str(tmp_path / "model"))
    loaded = tf.saved_model.load(str(tmp_path / "model"))
    first, nothing, unheard = loaded(tf.constant(["A PICTURE, of: it", "", "unheard"])).to_list()
    assert [entries[token] for token in first if token < 20 and entries[token][0] != "#"] == [
        "picture",
        "of",
        "it",
    ]
    assert nothing == []
    # A word and its pieces; what is in no vocabulary is in a bucket behind it.
    assert len(unheard) == 1 + len("unheard")
    assert {20 <= token < 24 or entries[token].startswith("#") for token in unheard} == {True}
    assert unheard[0] >= 20


def test_pictures_are_standardized_by_the_means_of_all_their_pixels() -> None:
    colours = np.array([colour_of(index) for index in range(40)], np.float64)
    folder = made("nsl png").version.file(schema.TRANSFORM_FOLDER)
    means, deviations = Transform(folder).channels()
    np.testing.assert_allclose(means, colours.mean(0), rtol=1e-6)
    np.testing.assert_allclose(deviations, np.maximum(colours.std(0), 1), rtol=1e-6)


def test_features_are_served_as_they_are_written() -> None:
    case = made("nsl features")
    folder = case.version.file(schema.TRANSFORM_FOLDER)
    raw = np.array([row["features"] for row in case.world.rows], np.float32)
    layer = tft.TFTransformOutput(folder).transform_features_layer()
    served = layer({schema.TRANSFORM_FEATURES: tf.constant(raw)})[schema.TRANSFORM_FEATURES]
    found = case.examples
    written = np.array([found[row["image_id"]]["features"] for row in case.world.rows], np.float32)
    np.testing.assert_array_equal(served, written)
    manifest = case.version.manifest
    assert (manifest["content"], manifest["feature_dim"]) == ("features", 4)
    assert (manifest["image_size"], manifest["image_encoding"], manifest["classes"]) == (
        None,
        None,
        [],
    )


# Rows that cannot be used -------------------------------------------------------------------------


def spoiled(folder: Path) -> tuple[World, dict[str, str]]:
    """({a world whose pictures are files, some of them useless}, {file's name: reason})."""
    world = pictures_world(12)
    pictures = folder / "pictures"
    pictures.mkdir()
    rows: list[Row] = []
    for index, row in enumerate(world.rows):
        uri = pictures / f"{index:02d}.png"
        uri.write_bytes(row["image"])
        rest = {name: value for name, value in row.items() if name != "image"}
        rows.append({**rest, "uri": str(uri)})
    (pictures / "01.png").write_bytes(b"no picture")
    (pictures / "02.png").unlink()
    Image.new("L", (70, 70)).save(pictures / "04.png")
    rows[5]["label"] = {"a": 1}
    rows[6]["image_id"] = None
    rows[7]["split"] = "holiday"
    return World(rows, world.edges), {
        "2": NOT_A_PICTURE,
        "3": UNREADABLE_URI,
        "5": TOO_MANY_PIXELS,
        "6": reasons.BAD_LABEL,
        "7": reasons.NO_ID,
        "8": reasons.BAD_SPLIT,
    }


def write_rows(path: Path, rows: list[Row] | tuple[Row, ...]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def build_graph(capfd: pytest.CaptureFixture[str], run: Path, *options: object) -> tuple[int, str]:
    """(exit code, the last line on stderr or, where all is well, what is on stdout)."""
    code = run_command("build-graph", "--run-dir", run, "--quiet", *options)
    out, err = capfd.readouterr()
    return code, out if code == 0 else err.splitlines()[-1]


@pytest.fixture(scope="module")
def edge_list(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("edges") / "edges.jsonl"
    return write_rows(path, [{"src": e.src, "dst": e.dst, "weight": e.weight} for e in EDGES])


EDGES = pictures_world(12).edges
SMALL = ("--set", f"images.image_size={SIDE}", "--set", "images.max_pixels=4000")


def test_rows_that_cannot_be_used_are_listed_with_their_reasons(
    tmp_path: Path, edge_list: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    world, expected = spoiled(tmp_path)
    catalog = write_rows(tmp_path / "catalog.jsonl", list(world.rows))
    options = ("--edges", edge_list, "--images", catalog, *SMALL)
    run = tmp_path / "run"

    code, line = build_graph(capfd, run, *options, "--set", "images.max_rejected_fraction=0.4")
    assert code == 1
    assert "6 of 12 rows cannot be read, more than images.max_rejected_fraction = 0.4" in line
    assert f"most often (1): {sorted(expected.values())[0]}" in line
    assert RunDir.open(str(run)).current(schema.EXAMPLES) is None
    assert not (run / schema.EXAMPLES).exists() or os.listdir(run / schema.EXAMPLES) == []

    code, out = build_graph(capfd, run, *options, "--set", "images.max_rejected_fraction=0.5")
    assert code == 0
    assert "6 rejected (" in out
    version = RunDir.open(str(run)).require(schema.EXAMPLES)
    path = version.file(schema.REJECTED_FOLDER, "rejected-00000-of-00001.jsonl")
    rejected = [json.loads(text) for text in Path(path).read_text().splitlines()]
    assert {str(row["row"]): row["reason"] for row in rejected} == expected
    assert {row["file"] for row in rejected} == {str(catalog)}
    assert version.manifest["counts"]["rows"] == {"read": 12, "kept": 6, "rejected": 6}
    assert version.manifest["rejected"] == dict.fromkeys(sorted(expected.values()), 1)
    ids = {row["image_id"] for index, row in enumerate(world.rows, 1) if str(index) not in expected}
    assert everything(version).keys() == ids


def test_an_id_that_is_there_twice_ends_the_command_and_nothing_is_kept(
    tmp_path: Path, edge_list: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "catalog"
    folder.mkdir()
    rows = [{"image_id": f"ï {i:03d}", "uri": f"{i}.png"} for i in range(6)]
    for index in range(6):
        (folder / f"{index}.png").write_bytes(picture(index))
    write_rows(folder / "a.jsonl", rows[:4])
    write_rows(folder / "b.jsonl", [rows[4], rows[5], {**rows[5], "image_id": "ï 002"}])
    run = tmp_path / "run"
    code, line = build_graph(capfd, run, "--edges", edge_list, "--images", folder, *SMALL)
    assert code == 1
    assert line == (
        f"imgembed: images: the id 'ï 002' is there twice, at {folder}/a.jsonl row 3 and at "
        f"{folder}/b.jsonl row 3; every image needs an id of its own"
    )
    assert RunDir.open(str(run)).current(schema.EXAMPLES) is None
    assert not (run / schema.EXAMPLES).exists() or os.listdir(run / schema.EXAMPLES) == []
    assert RunDir.open(str(run)).require(schema.GRAPH).name == "v0001"


# What is refused ----------------------------------------------------------------------------------


def error_of(folder: Path, world: World, **options: object) -> str:
    """The one line with which a run fails; nothing of it is committed."""
    with pytest.raises(ImgembedError) as caught:
        build(folder, world, **options)
    assert RunDir.open(str(folder / "run")).current(schema.EXAMPLES) is None
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_catalog_of_other_ids_than_the_graph_is_an_error_that_shows_both(tmp_path: Path) -> None:
    world = pictures_world(5)
    line = error_of(tmp_path, World(world.rows, [Edge("graph-1.jpg", "graph-2.jpg", 1, 2.0)]))
    assert "no image of" in line
    assert "'graph-1.jpg'" in line
    assert any(f"ids like {row['image_id']!r}" in line for row in world.rows)


def test_a_catalog_without_a_training_image_is_an_error(tmp_path: Path) -> None:
    rows = [{**row, "split": "test"} for row in pictures_world(3).rows]
    line = error_of(tmp_path, World(rows, [Edge("ï 000", "ï 001", 1, 2.0)]))
    assert "none of the 3 images of" in line
    assert "is in the training split" in line


def test_split_shares_that_do_not_sum_to_one_are_refused() -> None:
    with pytest.raises(ValueError, match="sum to"):
        SplitConfig(train=0.5, validation=0.1, test=0.1)


# From logs ----------------------------------------------------------------------------------------


def test_logs_and_a_folder_of_pictures_become_examples_by_one_command(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    write_log(tmp_path / "log.jsonl", clicks(sessions=200))
    for index in range(34):  # 30 are in the log
        folder = tmp_path / "pictures" / LABELS[index % 3]
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"image-{index}.png").write_bytes(picture(index))
    (tmp_path / "pictures" / "cat" / "notes.txt").write_text("no picture")
    run = tmp_path / "run"
    options = ("--images", tmp_path / "pictures", "--set", "images.folders=[label]", *SMALL)
    code, out = build_graph(capfd, run, "--sessions", tmp_path / "log.jsonl", *options)
    assert code == 0
    graph, examples = (RunDir.open(str(run)).require(s) for s in (schema.GRAPH, schema.EXAMPLES))
    found, world = everything(examples), graph_world(graph)
    assert found.keys() == {f"image-{index}" for index in range(34)}
    neighbors = {image_id: example["NL_num_nbrs"][0] for image_id, example in found.items()}
    expected = coverage(world, neighbors)
    assert examples.manifest["counts"]["images"]["by_popularity"] == expected
    assert expected["in no session"] == {"images": 4, "with_neighbors": 0, "share": 0.0}
    assert "; in no session 0%" in out
    assert examples.manifest["counts"]["skipped_files"] == 1
    assert sorted(examples.manifest["classes"]) == sorted(LABELS)
    queries = {text for example in found.values() for text in example.get("text", ())}
    assert queries == {f"Query {group}".encode() for group in range(6)}
    code, _ = build_graph(capfd, run, "--sessions", tmp_path / "log.jsonl", *options)
    assert code == 0
    assert RunDir.open(str(run)).require(schema.EXAMPLES).name == "v0001"  # is up to date


def graph_world(graph: Version) -> World:
    nodes = pq.read_table(graph.shards(schema.NODES)).to_pylist()
    return World([], [], sessions={row["image_id"]: row["sessions"] for row in nodes})
