"""Tables that a step looks up: what a dict would give, for images and for pairs of them."""

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given
from hypothesis import strategies as st

from trainer.lookup import Lookup, pair_keys

KEYS = st.dictionaries(st.integers(-(2**63), 2**63 - 1), st.floats(0, 1, width=32), max_size=30)


@given(KEYS, st.lists(st.integers(-(2**63), 2**63 - 1), max_size=20))
def test_it_gives_what_a_dict_gives(entries: dict[int, float], asked: list[int]) -> None:
    table = Lookup(np.array(list(entries), np.int64), np.array(list(entries.values()), "f4"), -1.0)
    keys = [*asked, *entries]
    found = table.find(tf.constant(keys, tf.int64))
    assert found.dtype == tf.float32
    assert found.numpy().tolist() == [entries.get(key, -1.0) for key in keys]


@pytest.mark.parametrize("keys", [[], [3], [7, 3, 5]])
def test_rows_come_in_the_form_of_the_question(keys: list[int]) -> None:
    rows = np.arange(2 * len(keys), dtype=np.float32).reshape(-1, 2)
    table = Lookup(np.array(keys, np.int64), rows, np.array([8.0, 9.0]))
    find = tf.function(table.find, input_signature=[tf.TensorSpec([None, 2], tf.int64)])
    found = find(tf.constant([[3, 0], [7, 3], [4, 4]], tf.int64))
    expected = dict(zip(keys, rows.tolist(), strict=True))
    assert found.shape == [3, 2, 2]
    asked = [[3, 0], [7, 3], [4, 4]]
    assert found.numpy().tolist() == [[expected.get(k, [8.0, 9.0]) for k in row] for row in asked]


def test_a_key_that_stands_twice_is_refused() -> None:
    with pytest.raises(ValueError, match="a key stands twice"):
        Lookup(np.array([1, 2, 1]), np.zeros(3), 0.0)


def test_pairs_have_keys_of_their_own_in_either_direction() -> None:
    ids = np.random.default_rng(0).integers(1, 2**62, 1000)
    pairs = np.stack(np.meshgrid(ids, ids), axis=-1).reshape(-1, 2)
    keys = pair_keys(tf.constant(pairs[:, 0]), tf.constant(pairs[:, 1])).numpy()
    assert len(np.unique(keys)) == len(pairs)
    # Arithmetic modulo 2^64, as plain Python does it.
    first = int(keys[1])
    source, target = (int(end) for end in pairs[1])
    assert first % 2**64 == (source * 0x9E3779B97F4A7C15 + target) % 2**64


def test_a_dataset_that_looks_up_does_not_carry_the_table_in_its_graph() -> None:
    """A graph of more than 2 GB cannot be made."""
    table = Lookup(np.arange(100_000), np.arange(100_000), -1)
    numbers = tf.data.Dataset.range(5).map(lambda number: table.find(3 * number[None]))
    assert np.ravel(list(numbers)).tolist() == [0, 3, 6, 9, 12]
    (function,) = numbers._functions()
    assert function.function.graph.as_graph_def().ByteSize() < 100_000
