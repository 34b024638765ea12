"""The commented configuration file, made from the configuration classes themselves."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from cli.settings import Config

_HEADER = """\
# Configuration of imgembed. Every setting stands here with its default; a line left out means the
# default. Flags and --set section.key=value override what stands here. Relative paths are taken
# from the folder in which imgembed is called.
"""
_COMMENT_COLUMN = 40


def render(values: Mapping[str, Any] | None = None) -> str:
    """The file's text; values: {"section.key": value} in place of defaults, None = default."""
    given = {key: value for key, value in (values or {}).items() if value is not None}
    return _HEADER + "\n" + "\n".join(_lines(Config, Config(), "", given)) + "\n"


def _lines(
    section: type[BaseModel], defaults: BaseModel, prefix: str, given: Mapping[str, Any]
) -> Iterator[str]:
    indent = "  " * (prefix.count("."))
    for name, field in section.model_fields.items():
        value = getattr(defaults, name)
        if isinstance(value, BaseModel):
            yield from _head(type(value), name, indent, top=not prefix)
            yield from _lines(type(value), value, f"{prefix}{name}.", given)
        else:
            shown = given.get(f"{prefix}{name}", value)
            yield _line(f"{indent}{name}: {_scalar(shown)}", field)


def _head(section: type[BaseModel], name: str, indent: str, *, top: bool) -> Iterator[str]:
    if top:
        yield ""
    summary = (section.__doc__ or "").strip().splitlines()[0]
    yield f"{indent}{name}:".ljust(_COMMENT_COLUMN) + f"# {summary}"


def _line(text: str, field: FieldInfo) -> str:
    comment = textwrap.shorten(field.description or "", 200)
    return f"{text.ljust(_COMMENT_COLUMN - 1)} # {comment}" if comment else text


def _scalar(value: Any) -> str:
    """A value as YAML in one line: JSON is a part of YAML, plain words need no quotes."""
    if isinstance(value, str) and value.isidentifier() and value not in ("none", "null", "on"):
        return value
    return json.dumps(value, ensure_ascii=False)
