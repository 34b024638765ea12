"""The same catalog and graph give the same bytes, however the work is cut and the input lies."""

from __future__ import annotations

import gzip
import itertools
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_transform as tft
from example_cases import made, options_of
from small_catalogs import World, build
from test_runner import portable

from pipeline import schema
from pipeline.artifacts import Version
from pipeline.examples.packing import pack

# How a run may differ: parts of the work, threads, order and format of the input, the engine.
RUNS: dict[str, tuple[str, dict[str, Any]]] = {
    "seven shards, pictures in files": ("nsl png", {"shards": 7, "files": 2, "form": "jsonl"}),
    "features": ("nsl features", {"shards": 3, "threads": 2, "files": 2}),
    "by the portable engine": (
        "compact png",
        {"shards": 3, "threads": 2, "files": 3, "pipelines": portable},
    ),
}


@pytest.mark.parametrize("run", RUNS)
def test_the_bytes_do_not_depend_on_how_they_were_made(run: str, tmp_path: Path) -> None:
    name, settings = RUNS[run]
    case = made(name)
    world = case.world.shuffled()
    version = build(tmp_path, world, **settings, **options_of(name))
    ours, theirs = (files(of) for of in (version, case.version))
    assert ours.keys() == theirs.keys()
    assert [path for path in ours if ours[path] != theirs[path]] == []
    assert told(version) == told(case.version)
    if "features" in name:
        assert transformed(version, world) == transformed(case.version, world)


def told(version: Version) -> dict[str, Any]:
    """The manifest, but for how large TensorFlow made the transform's graph."""
    sizes = version.manifest["file_bytes"]
    own = {name: size for name, size in sizes.items() if not name.endswith(".pb")}
    return {**version.manifest, "file_bytes": own}


def files(version: Version) -> dict[str, bytes]:
    """{path: bytes} of a version but for its manifest and the graph of the transform.

    TensorFlow writes the nodes of that graph in no fixed order.
    """
    found = {
        str(path.relative_to(version.path)): path.read_bytes()
        for path in sorted(Path(version.path).rglob("*"))
        if path.is_file() and path.suffix not in (".json", ".pb")
    }
    assert schema.EXAMPLE_SCHEMA_FILE in found
    assert sum("/assets/" in path for path in found) >= 4
    return found


def transformed(version: Version, world: World) -> bytes:
    """What the transform makes of features."""
    layer = tft.TFTransformOutput(version.file(schema.TRANSFORM_FOLDER)).transform_features_layer()
    raw = np.array([row["features"] for row in world.rows], np.float32)
    return bytes(layer({"features": tf.constant(raw)})["features"].numpy())


def test_nothing_of_the_work_is_left() -> None:
    version = made("nsl png").version
    tfrecords = [Path(path).name for split in schema.SPLITS for path in version.shards(split)]
    assert sorted(tfrecords) == [
        "test-00000-of-00001.tfrecord.gz",
        "train-00000-of-00002.tfrecord.gz",
        "train-00001-of-00002.tfrecord.gz",
        "validation-00000-of-00001.tfrecord.gz",
    ]
    left = {path.name for path in Path(version.path).iterdir()}
    assert left == {"manifest.json", "schema.pbtxt", "transform", *tfrecords}


@pytest.mark.parametrize("encoding", ["png", "raw", None])  # None: ready features
@pytest.mark.parametrize("compression", ["gzip", "none"])
def test_a_file_does_not_show_in_which_parts_it_was_written(
    encoding: schema.ImageEncoding | None, compression: str
) -> None:
    draw = random.Random(0)
    content = draw.randbytes(1_500_000) + bytes(1_500_000)
    spec = schema.ExampleSpec(neighbors=1, image_encoding=encoding)
    written = set()
    for parts in (1, 5, 60):
        cuts = sorted(draw.randrange(len(content)) for _ in range(parts))
        ends = itertools.pairwise([0, *cuts, len(content)])
        written.add(b"".join(pack([content[a:b] for a, b in ends], spec, compression)))
    (packed,) = written
    assert (gzip.decompress(packed) if compression == "gzip" else packed) == content


def test_a_gzip_file_of_no_record_is_empty_and_holds_no_time() -> None:
    for encoding in ("png", None):
        spec = schema.ExampleSpec(neighbors=1, image_encoding=encoding)
        packed = b"".join(pack([], spec, "gzip"))
        assert gzip.decompress(packed) == b""
        assert packed[:8] == b"\x1f\x8b\x08" + bytes(5)
