"""One seed in, independent random generators out: one for each named part of the world.

A part's numbers depend on the seed and on the part's own name only, so that a change to one part
(one picture, one session) leaves all the others as they were.
"""

from __future__ import annotations

import zlib

import numpy as np


def generator(seed: int, part: str, index: int = 0) -> np.random.Generator:
    """The generator of element `index` of `part`; `seed` and `index` are at least 0."""
    return np.random.default_rng((seed, zlib.crc32(part.encode()), index))
