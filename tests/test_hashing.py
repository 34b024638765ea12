"""Hashes: SipHash-1-3 as Python has it, whatever way a column is stored."""

import itertools
import os
import random
import subprocess
import sys

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.hashing import hash_numbers, hash_values, mix, siphash

NO_KEY = (np.uint64(0), np.uint64(0))
# Lengths around a word, a block of 255, the longest that is hashed word by word, and the borders of
# a chunk of 8,192 rows.
LENGTHS = [*range(301), 511, 512, 1016, 1023, 1024]
CHUNK = 8_192
texts = st.lists(st.one_of(st.none(), st.text(max_size=20)), max_size=30)


def python_hashes(values):
    """Python's own hashes of bytes under the key 0; skips where it hashes otherwise."""
    program = (
        "import sys; assert sys.hash_info.algorithm == 'siphash13', sys.hash_info.algorithm\n"
        "lines = sys.stdin.read().split('\\n')\n"
        "print(*(hash(bytes.fromhex(line)) for line in lines), sep='\\n')"
    )
    if sys.hash_info.algorithm != "siphash13" or sys.byteorder != "little":
        pytest.skip(f"this Python hashes by {sys.hash_info.algorithm}")
    done = subprocess.run(
        [sys.executable, "-c", program],
        input="\n".join(value.hex() for value in values),
        env={**os.environ, "PYTHONHASHSEED": "0"},
        capture_output=True,
        text=True,
        check=True,
    )
    return [int(line) % 2**64 for line in done.stdout.split()]


def plain_hashes(values, salt="x"):
    """Each string hashed on its own."""
    return [int(hash_values(pa.array([value or ""]), salt=salt)[0]) for value in values]


def test_strings_are_hashed_as_python_hashes_them():
    draw = random.Random(0)
    alphabet = "abcXYZ 0189äß€漢字𝄞\U0001f5bc"
    strings = ["".join(draw.choices(alphabet, k=length)) for length in range(1, 120)]
    strings += ["x" * length for length in LENGTHS if length]
    strings += [chr(code) for code in (1, 127, 128, 0x7FF, 0x800, 0xFFFF, 0x10000, 0x10FFFF)]
    strings = [string for string in strings if len(string.encode()) <= 1024]
    draw.shuffle(strings)
    expected = python_hashes([string.encode() for string in strings])
    assert siphash(pa.array(strings), NO_KEY).tolist() == expected


def test_the_empty_string_is_hashed_like_any_other_and_not_to_zero_as_in_python():
    # Its only word is the length 0.
    state = [0x736F6D6570736575, 0x646F72616E646F6D, 0x6C7967656E657261, 0x7465646279746573]

    def turn(value, left):
        return (value << left | value >> (64 - left)) % 2**64

    def sip_round(v0, v1, v2, v3):
        v0, v2 = (v0 + v1) % 2**64, (v2 + v3) % 2**64
        v1, v3 = turn(v1, 13) ^ v0, turn(v3, 16) ^ v2
        v0 = turn(v0, 32)
        v2, v0 = (v2 + v1) % 2**64, (v0 + v3) % 2**64
        v1, v3 = turn(v1, 17) ^ v2, turn(v3, 21) ^ v0
        return v0, v1, turn(v2, 32), v3

    state = sip_round(*state)
    state = sip_round(*sip_round(*sip_round(state[0], state[1], state[2] ^ 0xFF, state[3])))
    assert siphash(pa.array([""]), NO_KEY).tolist() == [state[0] ^ state[1] ^ state[2] ^ state[3]]


def test_numbers_are_hashed_as_their_eight_bytes():
    numbers = [0, 1, 255, 2**32, 2**63, 2**64 - 1, *(random.Random(0).choices(range(2**60), k=50))]
    under_key = hash_numbers(np.array(numbers, np.uint64), salt=b"secret")
    assert len(set(under_key.tolist())) == len(set(numbers))
    # Numbers whose bytes are ASCII are the hash of that text.
    ascii_numbers = [
        int.from_bytes(word, "little") for word in (b"abcdefgh", b"ABCDEFGH", b"       ~")
    ]
    found = hash_numbers(np.array(ascii_numbers, np.uint64), salt="x")
    expected = hash_values(pa.array(["abcdefgh", "ABCDEFGH", "       ~"]), salt="x")
    assert found.tolist() == expected.tolist()


def test_numbers_are_hashed_alike_on_both_sides_of_a_chunk():
    numbers = np.arange(2 * CHUNK + 5, dtype=np.uint64)
    whole = hash_numbers(numbers, salt="x")
    alone = [
        hash_numbers(numbers[row : row + 1], salt="x")[0]
        for row in (0, CHUNK - 1, CHUNK, -1 % len(numbers))
    ]
    assert whole[[0, CHUNK - 1, CHUNK, -1]].tolist() == [int(value) for value in alone]
    assert len(hash_numbers(numbers[:0], salt="x")) == 0


@given(values=texts, cuts=st.lists(st.integers(0, 30), max_size=4), before=st.integers(0, 3))
def test_a_hash_does_not_depend_on_how_the_column_is_stored(values, cuts, before):
    expected = plain_hashes(values)
    array = pa.array(values, pa.string())
    longer = pa.concat_arrays([pa.array(["ab", None, "ä"][:before], pa.string()), array, array])
    bounds = [0, *sorted(min(cut, len(values)) for cut in cuts), len(values)]
    pieces = [array[start:stop] for start, stop in itertools.pairwise(bounds)]
    encoded = array.dictionary_encode()
    shapes = [
        array,
        longer.slice(before, len(values)),
        pa.chunked_array(pieces),
        array.cast(pa.large_string()),
        encoded,
        longer.dictionary_encode().slice(before, len(values)),
        pa.chunked_array([piece.dictionary_encode() for piece in pieces]),
        pa.DictionaryArray.from_arrays(pa.array(range(len(values)), pa.int32()), array),
    ]
    for shape in shapes:
        found = hash_values(shape, salt="x")
        assert found.dtype == np.uint64
        assert found.tolist() == expected


def test_a_column_without_rows_has_no_hashes():
    nothing = pa.array([], pa.string())
    for column in (nothing, pa.chunked_array([], pa.string()), nothing.dictionary_encode()):
        assert hash_values(column, salt="x").tolist() == []


@pytest.mark.parametrize("rows", [CHUNK - 1, CHUNK, CHUNK + 1, 2 * CHUNK + 1])
@pytest.mark.parametrize("equal_lengths", [True, False])
def test_rows_on_both_sides_of_a_chunk_have_their_own_hashes(rows, equal_lengths):
    values = [f"{row:05}" + ("" if equal_lengths else "y" * (row % 40)) for row in range(rows)]
    found = hash_values(pa.array(values), salt="x")
    assert len(set(found.tolist())) == rows
    for row in {0, 1, CHUNK - 2, CHUNK - 1, CHUNK, rows - 1} & set(range(rows)):
        assert [int(found[row])] == plain_hashes([values[row]])


def test_long_strings_among_short_ones_have_hashes_of_their_own():
    values = [
        *("x" * length for length in (1023, 1024, 1025, 1026, 4096)),
        "",
        "x" * 1025 + "y",
        "y" + "x" * 1025,
        "é" * 512,
        "é" * 513,
        "",
    ]
    found = hash_values(pa.array(values), salt="x").tolist()
    assert found == plain_hashes(values)
    assert len(set(found)) == len(values) - 1
    assert not set(found[:5]) & set(hash_values(pa.array(values[:5]), salt="y").tolist())


def test_hashes_never_change():
    # Counts of one run are added to those of another: a change here needs a new version of them.
    values = pa.array(["", "a", "image-1", "𝄞" * 10, "z" * 2000])
    assert hash_values(values, salt="image").tolist() == [
        6370534802103624027,
        4866726667085485242,
        10765307658633828111,
        7758499965696439830,
        3864523481352596563,
    ]
    assert mix(np.array([0, 1, 2**64 - 1], np.uint64)).tolist() == [
        0,
        0x5692161D100B05E5,
        0xB4D055FCF2CBBD7B,
    ]


def test_salts_have_nothing_in_common_and_bytes_are_salts_too():
    values = pa.array([f"{row}" for row in range(1000)])
    found = [set(hash_values(values, salt=salt).tolist()) for salt in ("a", "b", b"\x00\xff", "")]
    assert len(set.union(*found)) == 4000
    assert hash_values(values, salt="a").tolist() == hash_values(values, salt=b"a").tolist()


def test_every_bit_of_a_hash_is_set_in_half_of_them():
    values = pa.array([f"image-{row}" for row in range(20_000)])
    found = hash_values(values, salt="x")
    numbers = hash_numbers(np.arange(20_000, dtype=np.uint64), salt="x")
    for hashes in (found, numbers, mix(np.arange(20_000, dtype=np.uint64))):
        ones = [(hashes >> np.uint64(bit) & np.uint64(1)).sum() for bit in range(64)]
        assert all(abs(int(number) - 10_000) < 400 for number in ones)  # deviation 71


@given(st.lists(st.integers(0, 2**64 - 1), unique=True))
def test_mixing_gives_distinct_numbers_distinct_hashes(values):
    before = np.array(values, np.uint64)
    found = mix(before)
    assert len(set(found.tolist())) == len(values)
    assert before.tolist() == values
