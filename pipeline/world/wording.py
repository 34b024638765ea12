"""Attributes in, English out: the captions of pictures and the texts of queries.

Captions and queries use the same words in varying order, as people do; none is ever misspelt.
"""

from __future__ import annotations

import numpy as np

from pipeline.world.attributes import SHAPES, Intent

PLURALS = {shape: f"{shape}es" if shape.endswith("s") else f"{shape}s" for shape in SHAPES}
NUMBER_WORDS = {2: "two", 3: "three"}

CAPTION_TEMPLATES = (
    "{number} {texture} {colour} {shape}",
    "{number} {colour} {shape}, {texture}",
    "{colour} {shape}, {texture}",
    "{texture} {shape} in {colour}",
    "{number} {texture} {colour} {shape} on a busy ground",
    "picture of {number} {colour} {texture} {shape}",
)

PLURAL_QUERY = 0.15
SHUFFLED_QUERY = 0.3
CASES = (str.lower, str.capitalize, str.title, str.upper)
CASES_UP_TO = (0.80, 0.90, 0.95)  # cumulative shares; the last case has the rest


def caption(intent: Intent, count: int, rng: np.random.Generator) -> str:
    """A short caption of a picture with `count` copies, such as "two striped red stars"."""
    template = CAPTION_TEMPLATES[rng.integers(len(CAPTION_TEMPLATES))]
    shape = intent.shape if count == 1 else PLURALS[intent.shape]
    words = {"texture": intent.texture, "colour": intent.colour, "shape": shape}
    text = template.format(number=NUMBER_WORDS.get(count, "a"), **words)
    return text.replace("a orange", "an orange")


def query(intent: Intent, rng: np.random.Generator) -> str:
    """What a searcher types: the intent's words, sometimes shuffled, in plural or in capitals."""
    words = list(intent.words)
    if rng.random() < PLURAL_QUERY:
        words = [PLURALS.get(word, word) for word in words]
    if rng.random() < SHUFFLED_QUERY:
        words = [words[i] for i in rng.permutation(len(words))]
    change_case = CASES[np.searchsorted(CASES_UP_TO, rng.random(), side="right")]
    return change_case(" ".join(words))
