"""What of a rejected row may be shown: no user id and no session id leaves the job.

In: rows and the names of the columns to hide. Out: text with those values replaced, or, where
nobody knows which part of the text they are, with all of its letters and digits masked.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from typing import Any

import orjson

HIDDEN = "(hidden)"
_REPLACED = "\ufffd"  # stands for bytes that are no text; says nothing of them


def mask(text: str, known: Iterable[str] = ()) -> str:
    """The text with digits as 9, letters and all that is not ASCII as x; the rest stays.

    known: names that stay readable where they stand by themselves, between what is neither letter,
    digit nor underscore. Of an id, nothing but its ASCII punctuation and its length is left, unless
    it is one of these names itself.
    """
    names = sorted(filter(None, known), key=len, reverse=True)
    if not names:
        return text.translate(_MASK)
    pattern = rf"(?<!\w)({'|'.join(map(re.escape, names))})(?!\w)"
    pieces = re.split(pattern, text)  # odd ones are the names
    return "".join(
        piece if place % 2 else piece.translate(_MASK) for place, piece in enumerate(pieces)
    )


class _Mask(dict[int, int]):
    """Code point -> code point: a table for str.translate that fills itself."""

    def __missing__(self, code: int) -> int:
        character = chr(code)
        if character.isnumeric():
            self[code] = ord("9")
        elif character.isalpha() or (not character.isascii() and character != _REPLACED):
            self[code] = ord("x")  # signs and emoji are ids as good as letters
        else:
            self[code] = code
        return self[code]


_MASK = _Mask()


def shown_row(row: Mapping[str, Any], hide: Collection[str], *, torn: bool = False) -> str:
    """A row as JSON, the values of the columns `hide` replaced by HIDDEN where there are any.

    torn: values may hold parts of other columns, so that text is masked, too. Where there is
    something to hide, an object in a value is masked: it may hold an id.
    """
    if hide:
        row = {name: _shown(name in hide, value, torn) for name, value in row.items()}
    return orjson.dumps(row, default=str).decode()


def _shown(hidden: bool, value: Any, torn: bool) -> Any:
    if value is None:
        return None
    if hidden:
        return HIDDEN
    if isinstance(value, list):
        return [_shown(False, item, torn) for item in value]
    if isinstance(value, str):
        return mask(value) if torn else value
    if isinstance(value, (bool, int, float)) and not torn:
        return value
    return mask(orjson.dumps(value, default=str).decode())
