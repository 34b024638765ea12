"""One table of runs of the examples stage, each made once a process: laws hold for all of them.

Of layout, encoding and compression every pair of values is there.
"""

from __future__ import annotations

import atexit
import shutil
import tempfile
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from plain_examples import Reference, training_labels
from small_catalogs import World, build, examples_of, features_world, pictures_world

from pipeline import schema
from pipeline.artifacts import Version
from pipeline.config import SplitConfig
from pipeline.examples.reading import spec_of

SEVERAL = {"several_labels": True}
CASES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {  # {name: (world, options)}
    "nsl png": ({}, {"max_tokens": 20, "token_buckets": 4}),
    "nsl jpeg": (
        SEVERAL,
        {"image_encoding": "jpeg", "compression": "none", "neighbor_weights": "strongest"},
    ),
    "nsl raw": ({}, {"image_encoding": "raw", "min_label_count": 4}),
    "compact png": (SEVERAL, {"layout": "compact", "compression": "none"}),
    "compact jpeg": (
        {},
        {"layout": "compact", "image_encoding": "jpeg", "captions": False, "texts": 1},
    ),
    "compact raw": (
        SEVERAL,
        {"layout": "compact", "image_encoding": "raw", "compression": "none", "readers": 2},
    ),
    "no neighbours": ({}, {"neighbors": 0, "compression": "none"}),
    "nsl features": ({"features": True}, {"split": SplitConfig(train=0.6, validation=0.4, test=0)}),
    "compact features": (
        {"features": True},
        {"layout": "compact", "compression": "none", "neighbor_weights": "strongest"},
    ),
}


class Made(NamedTuple):
    """A run of the stage, what it was made of, and what it must hold."""

    version: Version
    world: World
    options: dict[str, Any]
    spec: schema.ExampleSpec
    reference: Reference


def world_of(name: str) -> World:
    kind, _ = CASES[name]
    return features_world() if kind.get("features") else pictures_world(**kind)


def options_of(name: str) -> dict[str, Any]:
    return {"neighbors": 3, **CASES[name][1]}


@cache
def made(name: str) -> Made:
    """A case of the table."""
    folder = Path(tempfile.mkdtemp())
    atexit.register(shutil.rmtree, folder)
    world, options = world_of(name), options_of(name)
    version = build(folder, world, **options)
    return Made(version, world, options, spec_of(version), _reference(name, version))


def _reference(name: str, version: Version) -> Reference:
    world, options = world_of(name), options_of(name)
    pictures = "split" in world.rows[0]
    splits = {row["image_id"]: row["split"] for row in world.rows} if pictures else {}
    drawn = {i: split for split in schema.SPLITS for i in examples_of(version, split)}
    return Reference(
        world=world,
        splits=splits or drawn,  # by hash: what a hash gives is another test's
        classes=training_labels(world, least=options.get("min_label_count", 1)) if pictures else [],
        several_labels="several_labels" in CASES[name][0],
        options=options,
    )
