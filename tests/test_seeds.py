"""Seeds of many examples, read without their neighbours, against the files read by TensorFlow."""

import io
from dataclasses import replace

import numpy as np
import pytest
from example_cases import CASES, Made, made
from PIL import Image
from small_catalogs import SEED

from pipeline import schema
from pipeline.artifacts import Version
from pipeline.examples.seeds import read_seeds

CHOSEN = [name for name in CASES if name in ("nsl raw", "compact jpeg", "nsl features")]


def stage(of: Made) -> Version:
    """The version as the stage commits it, with its seed in the manifest."""
    return replace(of.version, manifest={**of.version.manifest, "config": {"seed": SEED}})


@pytest.mark.parametrize("case", CHOSEN)
def test_seeds_are_those_of_the_files_and_only_those_asked_for(case):
    of = made(case)
    wanted = sorted(of.examples)[::2]
    found = {seed.image_id: seed for seed in read_seeds(stage(of), [*wanted, "no such image"])}
    assert sorted(found) == wanted
    content = schema.content_feature(of.spec.feature_dim).name
    for image_id, seed in found.items():
        example = of.examples[image_id]
        if of.spec.feature_dim is None:
            assert seed.content == example[content][0]
        else:
            assert seed.content.tolist() == np.array(example[content], np.float32).tolist()
        names = ("labels", "heldout_labels") if of.spec.multi_label else ("label", "heldout_label")
        labels = [label for name in names for label in example.get(name, ())]
        assert list(seed.labels) == [label for label in labels if label != schema.NO_LABEL]


def test_a_picture_of_a_seed_can_be_opened():
    of = made("compact jpeg")
    (seed,) = read_seeds(stage(of), [min(of.examples)])
    with Image.open(io.BytesIO(seed.content)) as picture:
        assert picture.size == (of.version.manifest["image_size"],) * 2


def test_nothing_asked_for_is_nothing_read():
    assert list(read_seeds(stage(made("compact jpeg")), [])) == []
