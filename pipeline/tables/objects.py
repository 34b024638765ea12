"""Arrow's values as Python objects, also those that Python has no object for.

In: a column of any type. Out: a list.
"""

from __future__ import annotations

from typing import Any

import pyarrow as pa


class Beyond:
    """What Python has no object for, such as a time after the year 9999; neither text nor null."""

    def __repr__(self) -> str:
        return "(beyond what can be shown)"


def python_values(column: pa.Array | pa.ChunkedArray) -> list[Any]:
    """The values of a column as Python objects, Beyond where there is none for a value."""
    try:
        return column.to_pylist()
    except (OverflowError, ValueError):
        return [_python_value(value) for value in column]


def _python_value(value: pa.Scalar) -> Any:
    try:
        return value.as_py()
    except (OverflowError, ValueError):
        return Beyond()
