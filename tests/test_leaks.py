"""No label of a validation or test image is where training could see it: in no file, in no copy."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import pytest
from example_cases import CASES, Made, made, options_of
from plain_examples import true_labels
from small_catalogs import (
    CANARY,
    HELDOUT_BIRD,
    World,
    build,
    examples_of,
    neighbor_ids,
    node_labels,
)

from pipeline import schema
from pipeline.artifacts import Version

TRAIN, VALIDATION, _ = schema.SPLITS
LABELLED = [name for name in CASES if "features" not in name]


def training_bytes(version: Version) -> dict[str, bytes]:
    """{name: content} of the training files, uncompressed."""
    found = {}
    for path in version.shards(TRAIN):
        data = Path(path).read_bytes()
        found[Path(path).name] = gzip.decompress(data) if path.endswith(".gz") else data
    return found


def transform_bytes(version: Version) -> dict[str, bytes]:
    folder = Path(version.file(schema.TRANSFORM_FOLDER))
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.mark.parametrize("name", LABELLED)
def test_a_label_that_held_out_images_alone_have_is_nowhere(name: str) -> None:
    case = made(name)
    row = case.world.by_id[HELDOUT_BIRD]
    assert (row["split"], CANARY in true_labels(row)) == (VALIDATION, True)
    written = training_bytes(case.version) | transform_bytes(case.version)
    written[schema.EXAMPLE_SCHEMA_FILE] = Path(
        case.version.file(schema.EXAMPLE_SCHEMA_FILE)
    ).read_bytes()
    assert len(written) > 8
    assert not [path for path, content in written.items() if CANARY.encode() in content]
    assert CANARY not in str(case.version.manifest)
    assert case.version.manifest["counts"]["unknown_labels"] >= 1


@pytest.mark.parametrize("name", LABELLED)
def test_training_files_have_no_feature_of_held_out_labels(name: str) -> None:
    for path, content in training_bytes(made(name).version).items():
        assert content, path
        assert b"heldout" not in content


@pytest.mark.parametrize("name", [name for name in LABELLED if name != "no neighbours"])
def test_a_held_out_image_has_no_label_in_any_copy(name: str) -> None:
    case = made(name)
    seen = 0
    for example in case.examples.values():
        for image_id, label, labels in node_labels(example):
            known = [case.reference.classes.index(of) for of in known_labels(case, image_id)]
            if case.reference.splits[image_id] == TRAIN:
                assert label == [*known, -1][0]
                assert labels == (known if case.spec.multi_label else [])
            else:
                assert (label, labels) == (-1, [])
                seen += bool(known)
    # The law would hold if there were no such copies at all.
    assert seen > 10


def known_labels(case: Made, image_id: str) -> list[str]:
    labels = true_labels(case.world.by_id[image_id])
    return [label for label in labels if label in case.reference.classes]


@pytest.mark.parametrize("name", [name for name in LABELLED if name != "no neighbours"])
def test_training_seeds_do_have_held_out_neighbours_with_labels(name: str) -> None:
    case = made(name)
    examples = case.splits[TRAIN].values()
    near = [image_id for example in examples for image_id in neighbor_ids(example)]
    assert near.count(HELDOUT_BIRD) > 10
    others = {i for i in near if case.reference.splits[i] != TRAIN and known_labels(case, i)}
    assert len(others - {HELDOUT_BIRD}) >= 2


@pytest.mark.parametrize("name", ["compact png"])
def test_other_labels_of_held_out_images_change_no_byte_that_training_reads(
    name: str, tmp_path: Path
) -> None:
    case = made(name)
    version = build(tmp_path, relabelled(case.world), **options_of(name))
    assert training_bytes(version) == training_bytes(case.version)
    ours, theirs = (vocabulary_bytes(of) for of in (version, case.version))
    assert ours == theirs
    for key in ("classes", "images_of_class", "token_ids"):
        assert version.manifest[key] == case.version.manifest[key]
    before, after = (
        [example["heldout_label"] for example in examples_of(of, VALIDATION).values()]
        for of in (case.version, version)
    )
    assert before != after


def relabelled(world: World) -> World:
    """The same world but for the labels of images outside the training split."""
    rows: list[dict[str, Any]] = [dict(row) for row in world.rows]
    for number, row in enumerate(rows):
        if row["split"] != TRAIN:
            row["label"] = [["owl", "cat"], [], ["dog", f"new {number}"]][number % 3]
    return World(rows, world.edges, world.queries, world.sessions)


def vocabulary_bytes(version: Version) -> dict[str, bytes]:
    files = transform_bytes(version)
    return {path: content for path, content in files.items() if "assets/" in path}
