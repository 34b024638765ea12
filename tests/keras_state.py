"""Fixtures for what Keras keeps for a whole process; each test ends as it began."""

from collections.abc import Iterator

import keras
import pytest


@pytest.fixture(autouse=True)
def fixed_seed() -> None:
    """The same weights and draws, whatever ran before. Holds in a file that imports it."""
    keras.utils.set_random_seed(0)


@pytest.fixture
def bfloat16() -> Iterator[None]:
    """Layers that are made compute in bfloat16."""
    keras.config.set_dtype_policy("mixed_bfloat16")
    yield
    keras.config.set_dtype_policy("float32")
