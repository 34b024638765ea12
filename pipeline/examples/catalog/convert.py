"""Make the columns of a catalog of what its files hold, whatever their format.

In: values as a file has them, an Arrow array or Python objects. Out: arrays of the types of
CATALOG_SCHEMA; rows whose value cannot be what its column says are noted as faults.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.examples.catalog import rows
from pipeline.examples.catalog.words import WordLists, Words
from pipeline.ids import MAX_ID_LENGTH
from pipeline.sorting import run_bounds
from pipeline.tables.blocks import Converter, Faults, Values
from pipeline.tables.objects import python_values
from pipeline.tables.values import is_bytes, is_list, note

_SEPARATORS = re.compile(r"[\s;,]+")
_SPLIT_NAMES = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("validation", "val", "valid", "dev"), "validation"),
    **dict.fromkeys(("test", "testing"), "test"),
}


def convert_images(values: Values, faults: Faults) -> pa.Array:
    """[rows] large_binary: bytes as they are."""
    if isinstance(values, list):
        for row, value in enumerate(values):
            if not isinstance(value, bytes | None):
                note(faults, row, rows.BAD_IMAGE)
        data = [value if isinstance(value, bytes) else None for value in values]
        return pa.array(data, pa.large_binary())
    if pa.types.is_dictionary(values.type):
        values = values.dictionary_decode()
    if pa.types.is_fixed_size_binary(values.type):
        values = values.cast(pa.binary())
    if is_bytes(values.type):
        return values.cast(pa.large_binary())
    for index in np.flatnonzero(values.is_valid().to_numpy(zero_copy_only=False)):
        note(faults, int(index), rows.BAD_IMAGE)
    return pa.nulls(len(values), pa.large_binary())


def convert_features(values: Values, faults: Faults) -> pa.Array:
    """[rows] list<float32>, finite, of any length but 0.

    A list of numbers, one number, or text such as "0.1 0.2;0.3".
    """
    found = _number_lists(values)
    if found is None:
        each = values if isinstance(values, list) else python_values(values)
        found = pa.array(list(_parsed(each)), pa.list_(pa.float32()))
    lengths = pc.fill_null(pc.list_value_length(found), 0).to_numpy(zero_copy_only=False)
    numbers = _single(found.flatten())
    bad = (lengths == 0) & found.is_valid().to_numpy(zero_copy_only=False)
    if not np.isfinite(numbers).all():
        bad[np.repeat(np.arange(len(bad)), lengths)[~np.isfinite(numbers)]] = True
    for index in np.flatnonzero(bad):
        note(faults, int(index), rows.BAD_FEATURES)
    return pa.ListArray.from_arrays(
        pa.array(run_bounds(lengths), pa.int32()),
        pa.array(numbers),
        mask=found.is_null(),
    )


def _number_lists(values: Values) -> pa.Array | None:
    """The column as lists of numbers; None where its values must be looked at one by one."""
    if isinstance(values, list):
        if not set(map(type, values)) <= {list, type(None)}:
            return None
        try:
            return pa.array(values, pa.list_(pa.float64()))
        except (pa.ArrowInvalid, pa.ArrowTypeError, OverflowError):
            return None
    if pa.types.is_null(values.type):
        return pa.nulls(len(values), pa.list_(pa.float32()))
    if is_list(values.type):
        return values if _is_number(values.type.value_type) else None
    if not _is_number(values.type):
        return None
    offsets = pa.array(np.arange(len(values) + 1), pa.int32())
    return pa.ListArray.from_arrays(offsets, values, mask=values.is_null())


def _is_number(type_: pa.DataType) -> bool:
    return bool(pa.types.is_floating(type_) or pa.types.is_integer(type_))


def _single(numbers: pa.Array) -> np.ndarray:
    """[items] float32: null as NaN, and what is too large as infinity."""
    with np.errstate(over="ignore"):
        return numbers.to_numpy(zero_copy_only=False).astype(np.float32, copy=False)


def _parsed(values: list[Any]) -> Iterator[np.ndarray | None]:
    """The numbers of each value; none at all where it is not a list of numbers."""
    for value in values:
        if isinstance(value, bytes):
            value = value.decode(errors="replace")
        if isinstance(value, str):
            value = [part for part in _SEPARATORS.split(value.strip("[]() \t")) if part] or None
        if value is None:
            yield None
            continue
        try:
            with np.errstate(over="ignore"):
                numbers = np.asarray(value, np.float64).astype(np.float32)
        except (TypeError, ValueError, OverflowError):
            numbers = np.empty(0, np.float32)
        yield np.atleast_1d(numbers) if numbers.ndim < 2 else np.empty(0, np.float32)


CONVERTERS: Mapping[str, Converter] = {
    "image_id": Words(rows.BAD_ID, strip=False, missing=rows.NO_ID, longest=MAX_ID_LENGTH),
    "image": convert_images,
    "uri": Words(rows.BAD_URI, numbers=False, breaks=True, strip=False),
    "features": convert_features,
    "label": WordLists(
        rows.BAD_LABEL, numbers=True, breaks=False, distinct=True, longest=MAX_ID_LENGTH
    ),
    "text": WordLists(rows.BAD_TEXT),
    "split": Words(rows.BAD_SPLIT, names=_SPLIT_NAMES),
    "group": Words(rows.BAD_GROUP, longest=MAX_ID_LENGTH),
}
LISTS = ("features", "label", "text")
