"""What `benchmarks/emoji.py` keeps from the training, and its baselines, on a few rows."""

import importlib.util
import json
import math
from pathlib import Path
from types import ModuleType

import numpy as np
import pyarrow as pa
import pytest

from trainer.evaluation.inputs import Corpus

BENCHMARK = Path(__file__).parent.parent / "benchmarks" / "emoji.py"
ROWS = [
    {
        "emoji_id": f"{number:04x}",
        "name": f"Red thing {number}",
        "group": "Things",
        "keywords": [f"secret{number}"],
        "image": f"{number}.png",
    }
    for number in range(500)
]


@pytest.fixture(scope="module")
def emoji() -> ModuleType:
    spec = importlib.util.spec_from_file_location("emoji_benchmark", BENCHMARK)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_a_held_out_picture_is_in_the_catalog_without_a_word(emoji: ModuleType) -> None:
    held_out = [row for row in ROWS if emoji.is_held_out(row["emoji_id"], 0)]
    assert 70 <= len(held_out) <= 130  # a fifth of 500
    for row in held_out:
        told = emoji.catalog_row(row, 0)
        assert told.keys() == {"image_id", "uri"}
        assert row["name"] not in json.dumps(told)
    others = [row for row in ROWS if not emoji.is_held_out(row["emoji_id"], 0)]
    for row in others:
        assert emoji.catalog_row(row, 0)["text"] == [row["name"], *row["keywords"]]
    assert held_out != [row for row in ROWS if emoji.is_held_out(row["emoji_id"], 1)]


def test_names_lead_to_the_given_pictures_with_their_words_rare_ones_more(
    emoji: ModuleType,
) -> None:
    given = [row for row in ROWS if not emoji.is_held_out(row["emoji_id"], 0)]
    first = given[0]
    ids = [row["emoji_id"] for row in ROWS]
    corpus = Corpus(pa.array(ids), np.zeros((500, 2)), np.zeros(500, int), np.zeros(500, int))
    number = first["name"].split()[-1]
    links = emoji.words_in_common([f"RED {number}!", "unheard"], ROWS, corpus, 0)
    weights = dict(zip((ids[column] for column in links.column), links.weight, strict=True))
    # "red" is in every given text and tells nothing, the number is in one.
    assert weights.keys() == {row["emoji_id"] for row in given}
    assert weights.pop(first["emoji_id"]) == pytest.approx(math.log(len(given)))
    assert set(weights.values()) == {0.0}
    assert set(links.owner) == {0}
