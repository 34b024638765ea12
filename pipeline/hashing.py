"""64-bit hashes of strings and numbers: the same on every machine, in every run.

Strings are hashed by SipHash-1-3 under a 128-bit key (J.-P. Aumasson and D. J. Bernstein, "SipHash:
a fast short-input PRF", 2012; one and three rounds, as Python and Rust hash their strings), for a
whole column at once: a Python call for each of some million ids would cost more than all the
counting that follows.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

_CHUNK_ROWS = 32_768  # enough that the calls cost little, few enough for the cache
_LONGEST = 1_024  # bytes; longer ones are hashed one by one, not a word at a time for all
_WORD = np.dtype("<u8")
_BYTES = np.uint64(8)


def hash_values(column: pa.ChunkedArray | pa.Array, *, salt: str | bytes) -> np.ndarray:
    """A hash of each value.

    column: strings, plain or dictionary-encoded; nulls hash as the empty string. salt: what the
    hash is for; hashes under two salts have nothing in common, and under a secret salt they cannot
    be reproduced. Returns [rows] uint64.
    """
    key = _key(salt)
    chunks = column.chunks if isinstance(column, pa.ChunkedArray) else [column]
    parts = [_hash_array(chunk, key) for chunk in chunks]
    if len(parts) == 1:
        return parts[0]
    return np.concatenate([np.zeros(0, np.uint64), *parts])


def mix(values: np.ndarray) -> np.ndarray:
    """Spreads uint64 numbers evenly: the finalizer of SplitMix64 (Steele et al., 2014)."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


def hash_numbers(values: np.ndarray, *, salt: str | bytes) -> np.ndarray:
    """SipHash of each uint64 as its eight bytes, little end first. Returns [rows] uint64."""
    key = _key(salt)
    hashes = np.empty(len(values), np.uint64)
    for start in range(0, len(values), _CHUNK_ROWS):
        words = values[start : start + _CHUNK_ROWS]
        state = _State(key, len(words))
        state.absorb(words)
        state.absorb(np.full(len(words), np.uint64(8 << 56)))
        hashes[start : start + len(words)] = state.finish()
    return hashes


def _key(salt: str | bytes) -> tuple[np.uint64, np.uint64]:
    encoded = salt.encode() if isinstance(salt, str) else salt
    low, high = np.frombuffer(hashlib.blake2b(encoded, digest_size=16).digest(), _WORD)
    return low, high


def _hash_array(array: pa.Array, key: tuple[np.uint64, np.uint64]) -> np.ndarray:
    if pa.types.is_dictionary(array.type):
        codes = array.indices.fill_null(-1).to_numpy(zero_copy_only=False)
        nothing = siphash(pa.array([""]), key)
        return np.concatenate([siphash(array.dictionary, key), nothing])[codes]
    return siphash(array, key)


def siphash(texts: pa.Array, key: tuple[np.uint64, np.uint64]) -> np.ndarray:
    """SipHash-1-3 of the UTF-8 bytes of each string; key: (low, high) half. [rows] uint64."""
    if texts.null_count:
        texts = pc.fill_null(texts, "")
    texts = texts.cast(pa.string())
    hashes = np.empty(len(texts), np.uint64)
    if not len(texts):
        return hashes
    _, offsets_buffer, data_buffer = texts.buffers()
    offsets = np.frombuffer(offsets_buffer, np.int32)[texts.offset :][: len(texts) + 1]
    data = np.frombuffer(data_buffer or b"", np.uint8)
    for start in range(0, len(texts), _CHUNK_ROWS):
        bounds = offsets[start : start + _CHUNK_ROWS + 1].astype(np.int64)
        begin, end = int(bounds[0]), int(bounds[-1])
        padded = np.zeros(end - begin + 8, np.uint8)
        padded[:-8] = data[begin:end]
        hashes[start : start + len(bounds) - 1] = _hash_chunk(padded, bounds - begin, key)
    return hashes


def _hash_chunk(
    data: np.ndarray, bounds: np.ndarray, key: tuple[np.uint64, np.uint64]
) -> np.ndarray:
    """Hashes of the strings between `bounds`; `data` has eight bytes more than they do."""
    starts, lengths = bounds[:-1], np.diff(bounds)
    long = np.flatnonzero(lengths > _LONGEST)
    lengths = np.where(lengths > _LONGEST, 0, lengths)
    words = lengths // 8
    order = None
    if words.min() != words.max():  # longest first: those with a further word are always in front
        order = np.argsort((words.max() - words).astype(np.uint16), kind="stable")
        starts, lengths, words = starts[order], lengths[order], words[order]
    # Every eight bytes as a number, beginning at every byte.
    at = np.ndarray((len(data) - 7,), _WORD, buffer=data, strides=(1,))
    state = _State(key, len(starts))
    for word in range(int(words[0]) if len(words) else 0):
        active = int(np.searchsorted(-words, -word, side="left"))
        state.absorb(at[starts[:active] + 8 * word], rows=active)
    state.absorb(_last_words(at, starts + 8 * words, lengths))
    hashes = state.finish()
    if order is not None:
        unordered = np.empty_like(hashes)
        unordered[order] = hashes
        hashes = unordered
    for row in long:
        text = data[bounds[row] : bounds[row + 1]].tobytes()
        secret = b"".join(half.tobytes() for half in key)
        digest = hashlib.blake2b(text, digest_size=8, key=secret).digest()
        hashes[row] = np.frombuffer(digest, _WORD)[0]
    return hashes


def _last_words(at: np.ndarray, starts: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """The bytes beyond the last whole word, and the length in the highest byte."""
    rest = (lengths % 8).astype(np.uint64)
    mask = (np.uint64(1) << (rest * _BYTES)) - np.uint64(1)
    return (at[starts] & mask) | ((lengths.astype(np.uint64) & np.uint64(255)) << np.uint64(56))


class _State:
    """The four words of SipHash's state, for many strings at a time."""

    def __init__(self, key: tuple[np.uint64, np.uint64], rows: int) -> None:
        low, high = key
        self.words = [
            np.full(rows, half ^ np.uint64(constant))
            for half, constant in (
                (low, 0x736F6D6570736575),
                (high, 0x646F72616E646F6D),
                (low, 0x6C7967656E657261),
                (high, 0x7465646279746573),
            )
        ]
        self._spare = np.empty(rows, np.uint64)

    def absorb(self, words: np.ndarray, *, rows: int | None = None) -> None:
        """One message word for each of the first `rows` strings (None = all)."""
        active = [word[:rows] for word in self.words]
        active[3] ^= words
        self._round(active)
        active[0] ^= words

    def finish(self) -> np.ndarray:
        """The hashes."""
        self.words[2] ^= np.uint64(0xFF)
        for _ in range(3):
            self._round(self.words)
        v0, v1, v2, v3 = self.words
        return v0 ^ v1 ^ v2 ^ v3

    def _round(self, state: list[np.ndarray]) -> None:
        v0, v1, v2, v3 = state
        for a, b, shift, turn in self._half_rounds(v0, v1, v2, v3):
            a += b
            self._rotate(b, shift)
            b ^= a
            if turn:
                self._rotate(a, 32)

    @staticmethod
    def _half_rounds(
        v0: np.ndarray, v1: np.ndarray, v2: np.ndarray, v3: np.ndarray
    ) -> Iterator[tuple[np.ndarray, np.ndarray, int, bool]]:
        """(sum, rotated, by how much, whether the sum is rotated by half a word)."""
        yield v0, v1, 13, True
        yield v2, v3, 16, False
        yield v0, v3, 21, False
        yield v2, v1, 17, True

    def _rotate(self, values: np.ndarray, left: int) -> None:
        high = self._spare[: len(values)]
        np.left_shift(values, np.uint64(left), out=high)
        values >>= np.uint64(64 - left)
        values |= high
