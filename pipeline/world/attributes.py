"""What a picture can show: the words for shape, colour and texture, and the intents made of them.

In: a number of intents and a generator. Out: distinct `Intent`s. An intent is what a searcher has
in mind; where an attribute is empty, any value of it will do.
"""

from __future__ import annotations

import itertools
from typing import NamedTuple

import numpy as np

SHAPES = ("circle", "square", "triangle", "star", "cross", "heart")
TEXTURES = ("solid", "striped", "dotted", "checked", "ringed")

# Eight hues that neither pixel noise nor a change of brightness can take for one another.
COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (214, 24, 32),
    "orange": (255, 132, 0),
    "yellow": (250, 228, 20),
    "green": (24, 150, 40),
    "cyan": (30, 210, 225),
    "blue": (28, 56, 214),
    "purple": (122, 24, 168),
    "pink": (255, 110, 190),
}
ANY = ""
MAX_COUNT = 3  # copies of the shape in one picture


class Intent(NamedTuple):
    """A texture, a colour and a shape; an empty one stands for any."""

    texture: str
    colour: str
    shape: str

    @property
    def words(self) -> tuple[str, ...]:
        """The attributes that are set, in the order of plain English: striped, red, triangle."""
        return tuple(word for word in self if word)

    @property
    def name(self) -> str:
        """The words as one string, such as "striped red triangle"."""
        return " ".join(self.words)

    def broader(self, attribute: str) -> Intent:
        """The same intent with one attribute ("texture", "colour" or "shape") left open."""
        return self._replace(**{attribute: ANY})


ALL_INTENTS = tuple(
    Intent(texture, colour, shape)
    for shape, colour, texture in itertools.product(SHAPES, COLOURS, TEXTURES)
)


def choose_intents(number: int, rng: np.random.Generator) -> list[Intent]:
    """`number` distinct intents, in random order within the rule that shapes come in turn.

    Shapes taken in turn are as evenly present as they can be in a world of few intents.
    """
    by_shape = np.arange(len(ALL_INTENTS)).reshape(len(SHAPES), -1)
    in_turn = rng.permuted(by_shape, axis=1).T.ravel()
    return [ALL_INTENTS[i] for i in in_turn[:number]]
