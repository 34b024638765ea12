"""docs/cli.md and docs/config.md, made from the commands and from the configuration's classes.

`make docs` writes them; a test compares them with what this module would write.
"""

from __future__ import annotations

import inspect
import json
import os
import re
import sys
from collections.abc import Iterator
from typing import Any

import click
from pydantic import BaseModel

from cli.main import cli
from cli.settings import Config
from pipeline import storage

FILES = ("cli.md", "config.md")
_NO_EDIT = "<!-- Made by `make docs`; not to be changed by hand. -->"


def write(folder: str) -> None:
    """Writes both files into a folder."""
    for name, content in zip(FILES, (commands(), settings()), strict=True):
        storage.write_atomic(os.path.join(folder, name), content.encode())


# Commands -----------------------------------------------------------------------------------------


def commands() -> str:
    """The reference of all commands, in the order of `imgembed --help`, as Markdown."""
    parts = [
        _NO_EDIT,
        "# Commands",
        "What `imgembed COMMAND --help` says, in one place. Settings that no option names are "
        "given with `--set`, and stand in [config.md](config.md). Exit codes: 0, 1 (data or run), "
        "2 (usage or configuration), 128 + the number of the signal that ended it.",
    ]
    parts += [text for name in sorted(cli.commands) for text in _command(cli.commands[name], name)]
    return "\n\n".join(parts) + "\n"


def _command(command: click.Command, name: str) -> Iterator[str]:
    context = click.Context(command, info_name=f"imgembed {name}")
    usage = " ".join(command.collect_usage_pieces(context))
    yield f"## imgembed {name}"
    yield f"    imgembed {name} {usage}".rstrip()
    yield from _paragraphs(command.help or "")
    rows = [_option(option) for option in command.params if isinstance(option, click.Option)]
    if rows:
        yield "\n".join(["| option | |", "|---|---|", *rows])
    if isinstance(command, click.Group):
        for under in command.commands:
            yield from _command(command.commands[under], f"{name} {under}")


def _paragraphs(text: str) -> Iterator[str]:
    for paragraph in inspect.cleandoc(text).split("\n\n"):
        yield _escaped(" ".join(paragraph.split()))


def _option(option: click.Option) -> str:
    names = ", ".join(option.opts)
    value = "" if option.is_flag else f" {option.metavar or option.type.name.upper()}"
    said = re.sub(r"\s+\[default: (.*)\]$", r" Default: \1.", option.help or "")
    if option.show_default and option.default is not None:
        said += f" Default: {option.default}."
    if option.required:
        said += " Must be given."
    return f"| `{names}{value}` | {_escaped(said)} |"


def _escaped(text: str) -> str:
    return text.replace("|", "\\|")


# Settings -----------------------------------------------------------------------------------------


def settings() -> str:
    """The reference of all settings, a table a section, as Markdown."""
    head = [
        _NO_EDIT,
        "# Settings",
        "Every setting of the configuration file, with its default. `imgembed init` writes a file "
        "that has them all; one that is left out has its default. On the command line: `--set "
        "section.key=value`, the value in YAML. What is unknown, of the wrong type or out of range "
        "is an error that names the key.",
    ]
    return "\n\n".join([*head, *_section(Config, Config(), "")]) + "\n"


def _section(section: type[BaseModel], defaults: BaseModel, prefix: str) -> Iterator[str]:
    rows, below = [], []
    properties = section.model_json_schema()["properties"]
    for name, field in section.model_fields.items():
        value = getattr(defaults, name)
        if isinstance(value, BaseModel):
            below.append((type(value), value, f"{prefix}{name}"))
        else:
            shown = json.dumps(value, ensure_ascii=False)
            kind = _kind(properties[name])
            said = _escaped(field.description or "")
            rows.append(f"| `{name}` | {_escaped(kind)} | `{shown}` | {said} |")
    if rows:
        yield "\n".join(["| setting | values | default | |", "|---|---|---|---|", *rows])
    for kind_below, value, name in below:
        yield f"{'#' * (2 + name.count('.'))} {name}"
        yield inspect.cleandoc(kind_below.__doc__ or "").splitlines()[0]
        yield from _section(kind_below, value, f"{name}.")


def _kind(schema: dict[str, Any]) -> str:
    """What a setting may be, in words: `a whole number (at least 1)`."""
    if "anyOf" in schema:
        return " or ".join(_kind(one) for one in schema["anyOf"])
    if "enum" in schema:
        return ", ".join(f"`{one}`" for one in schema["enum"])
    if "const" in schema:
        return f"`{schema['const']}`"
    if schema.get("type") == "array":
        items = schema.get("items") or {}
        return f"a list of: {_kind(items)}" if items else "a list"
    if schema.get("type") == "object":
        values = schema.get("additionalProperties")
        return f"a mapping to: {_kind(values)}" if isinstance(values, dict) else "a mapping"
    name = _TYPES.get(str(schema.get("type")), str(schema.get("type")))
    limits = [f"{words} {_number(schema[key])}" for key, words in _LIMITS.items() if key in schema]
    return f"{name} ({', '.join(limits)})" if limits else name


def _number(value: float) -> str:
    return f"{value:,}" if float(value).is_integer() else f"{value:g}"


_TYPES = {
    "integer": "a whole number",
    "number": "a number",
    "string": "text",
    "boolean": "`true`, `false`",
    "null": "`null`",
}
_LIMITS = {
    "minimum": "at least",
    "exclusiveMinimum": "above",
    "maximum": "at most",
    "exclusiveMaximum": "below",
}


if __name__ == "__main__":
    write(sys.argv[1])
