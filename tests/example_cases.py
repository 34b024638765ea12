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

from plain_examples import Example, Reference, training_labels
from small_catalogs import World, build, examples_of, features_world, pictures_world

from pipeline import progress, schema
from pipeline.artifacts import Version
from pipeline.config import SplitConfig
from pipeline.examples.reading import spec_of

SEVERAL = {"several_labels": True}
CASES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {  # {name: (world, options)}
    "nsl png": (
        {},
        {"image_encoding": "png", "subword_length": 3, "max_tokens": 20, "token_buckets": 4},
    ),
    "nsl jpeg": (
        SEVERAL,
        {"image_encoding": "jpeg", "compression": "none", "neighbor_weights": "strongest"},
    ),
    "nsl raw": ({}, {"image_encoding": "raw", "min_label_count": 4}),
    "compact png": (
        SEVERAL,
        {"layout": "compact", "image_encoding": "png", "compression": "none"},
    ),
    "compact jpeg": (
        {},
        {"layout": "compact", "image_encoding": "jpeg", "captions": False, "texts": 1},
    ),
    "compact raw": (
        SEVERAL,
        {"layout": "compact", "image_encoding": "raw", "compression": "none", "readers": 2},
    ),
    "no neighbours": ({}, {"neighbors": 0, "image_encoding": "png", "compression": "none"}),
    "nsl features": ({"features": True}, {"split": SplitConfig(train=0.6, validation=0.4, test=0)}),
    "compact features": (
        {"features": True},
        {"layout": "compact", "compression": "none", "neighbor_weights": "strongest"},
    ),
}


class Made(NamedTuple):
    """A run of the stage, what it was made of, what it holds and what it must hold.

    tallies: what its progress counted, splits: {split: {image_id: example}} as its files have them,
    expected: {image_id: example}.
    """

    version: Version
    tallies: dict[str, int]
    splits: dict[str, dict[str, Example]]
    world: World
    options: dict[str, Any]
    spec: schema.ExampleSpec
    reference: Reference
    expected: dict[str, Example]

    @property
    def examples(self) -> dict[str, Example]:
        """Of all splits."""
        return {i: example for of in self.splits.values() for i, example in of.items()}


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
    tallies = progress.snapshot()
    splits = {split: examples_of(version, split) for split in schema.SPLITS}
    of_each = {image_id: split for split, of in splits.items() for image_id in of}
    reference = _reference(name, of_each)
    spec, expected = spec_of(version), reference.examples()
    return Made(version, tallies, splits, world, options, spec, reference, expected)


def _reference(name: str, drawn: dict[str, str]) -> Reference:
    """drawn: the splits of the files; where the catalog tells none they are another test's."""
    world, options = world_of(name), options_of(name)
    pictures = "split" in world.rows[0]
    return Reference(
        world=world,
        splits={row["image_id"]: row["split"] for row in world.rows} if pictures else drawn,
        classes=training_labels(world, least=options.get("min_label_count", 1)) if pictures else [],
        several_labels="several_labels" in CASES[name][0],
        options=options,
    )
