"""Columns of ids and texts: checked, encoded and hashed, each distinct one once."""

from __future__ import annotations

from collections.abc import Callable, Collection

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.errors import ImgembedError
from pipeline.hashing import hash_values
from pipeline.tables.blocks import EMPTY_REJECTED, Block, rejected_rows, row_contents

# A hash, and the text that it stands for.
NAME_SCHEMA = pa.schema([("hash", pa.uint64()), ("text", pa.string())])
# The same in every run, so that the counts of one run can be added to those of another.
IMAGE_SALT, QUERY_SALT = "image", "query"
MAX_ID_LENGTH = 1024  # characters


def check_encodable(image_id: str) -> None:
    """ImgembedError for an id of a command line that is not UTF-8: no image can have it."""
    try:
        image_id.encode()
    except UnicodeEncodeError:
        raise ImgembedError(f"image id {image_id!r}: is not UTF-8") from None


class Faults:
    """Which rows of a block are bad, and why: the first reason that is noted counts."""

    def __init__(self, rows: int) -> None:
        self.reasons: dict[int, str] = {}
        self.rows = rows

    def note(self, bad: np.ndarray, reason: str) -> None:
        """bad: [rows] bool."""
        for index in np.flatnonzero(bad):
            self.reasons.setdefault(int(index), reason)

    @property
    def good(self) -> np.ndarray:
        """[rows] bool."""
        mask = np.ones(self.rows, bool)
        mask[list(self.reasons)] = False
        return mask

    def rejected(self, path: str, block: Block, hide: Collection[str] = ()) -> pa.Table:
        """The bad rows of the block, as schema.REJECTED_SCHEMA; hide: columns not to be shown."""
        if not self.reasons:
            return EMPTY_REJECTED
        indices = sorted(self.reasons)
        contents = row_contents(block.table, indices, hide)
        numbers = block.row_numbers[indices].tolist()
        return rejected_rows(path, numbers, [self.reasons[i] for i in indices], contents)


def text(rows: pa.Table, name: str) -> pa.Array | None:
    """A column as strings, dictionary-encoded if it is so already; None where the log lacks it."""
    if name not in rows.column_names:
        return None
    column = rows[name].combine_chunks()
    if isinstance(column, pa.ChunkedArray):
        column = column.chunk(0) if column.num_chunks else pa.array([], pa.string())
    if pa.types.is_dictionary(column.type) or pa.types.is_string(column.type):
        return column
    return column.cast(pa.string())


def encode(texts: pa.Array | None) -> pa.Array | None:
    """Dictionary-encoded: what follows looks at each distinct text once."""
    if texts is None or pa.types.is_dictionary(texts.type):
        return texts
    return texts.dictionary_encode()


def encoded(rows: pa.Table, name: str) -> pa.Array:
    """A column that is there, as dictionary-encoded strings."""
    column = encode(text(rows, name))
    assert column is not None
    return column


def filled(texts: pa.Array | None, rows: int = 0) -> np.ndarray:
    """[rows] bool: neither null nor empty."""
    if texts is None:
        return np.zeros(rows, bool)
    if pa.types.is_dictionary(texts.type):
        return of_codes(filled(texts.dictionary), texts, nothing=False)
    return pc.fill_null(pc.greater(pc.binary_length(texts), 0), False).to_numpy(
        zero_copy_only=False
    )


def of_codes(values: np.ndarray, encoded: pa.Array, *, nothing: object) -> np.ndarray:
    """The value of each row's dictionary entry; `nothing` for nulls."""
    codes = encoded.indices.fill_null(-1).to_numpy(zero_copy_only=False)
    return np.append(values, np.asarray([nothing], values.dtype))[codes]


def hash_codes(encoded: pa.Array, salt: str) -> pa.Array:
    """[rows] uint64 hashes of dictionary-encoded texts; null stays null."""
    hashes = of_codes(hash_values(encoded.dictionary, salt=salt), encoded, nothing=0)
    missing = encoded.indices.is_null().to_numpy(zero_copy_only=False)
    return pa.array(hashes, mask=missing if missing.any() else None)


def names_of(encoded: pa.Array | None, salt: str) -> pa.Table:
    """NAME_SCHEMA of the texts that a dictionary-encoded column holds."""
    if encoded is None:
        return NAME_SCHEMA.empty_table()
    used = np.zeros(len(encoded.dictionary), bool)
    used[encoded.indices.drop_null().to_numpy(zero_copy_only=False)] = True
    texts = encoded.dictionary.filter(pa.array(used))
    return pa.table([pa.array(hash_values(texts, salt=salt)), texts], schema=NAME_SCHEMA)


def check_ids(
    images: pa.Array, note: Callable[[np.ndarray, str], None], *, name: str = "image_id"
) -> None:
    """Notes ids that no file of ours could hold; looks at each distinct id once."""
    ids = images.dictionary
    too_long = pc.greater(pc.utf8_length(ids), MAX_ID_LENGTH)
    torn = pc.or_(pc.match_substring(ids, "\x00"), pc.match_substring(ids, "\n"))
    for mask, reason in (
        (too_long, f"{name} is longer than {MAX_ID_LENGTH} characters"),
        (torn, f"{name} holds a NUL or a newline"),
    ):
        if pc.any(mask).as_py():
            bad = pc.fill_null(mask, False).to_numpy(zero_copy_only=False)
            note(of_codes(bad, images, nothing=False), reason)
