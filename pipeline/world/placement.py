"""Where a world goes: a folder and a function that fills one in, a complete folder or none out.

A folder is filled aside and moved at the end, so that an interrupted call leaves nothing. The file
WORLD_FILE says which configuration a folder holds; it is what tells a finished world from others.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any, TypeVar

from pipeline.errors import ImgembedError
from pipeline.world.config import WorldConfig

WORLD_FILE = "world.json"
WORLD_VERSION = 2  # to be raised when the same configuration comes to mean other bytes

Result = TypeVar("Result")


def describe(folder: Path, config: WorldConfig, counts: dict[str, int]) -> None:
    """Writes WORLD_FILE: the configuration and the counts of the world in `folder`."""
    description = {"version": WORLD_VERSION, "config": asdict(config), "summary": counts}
    (folder / WORLD_FILE).write_text(json.dumps(description, indent=2) + "\n", encoding="utf-8")


def former_counts(out: Path, config: WorldConfig) -> dict[str, int] | None:
    """The counts of the very same world in `out`; None where `out` is free; else an error."""
    if not out.exists():
        return None
    if not out.is_dir():
        raise ImgembedError(f"{out}: is a file; wanted a new or an empty folder")
    if not any(out.iterdir()):
        return None
    description = _read_description(out / WORLD_FILE)
    if description is None:
        raise ImgembedError(f"{out}: holds other files; wanted a new or an empty folder")
    if description["version"] != WORLD_VERSION or description["config"] != asdict(config):
        raise ImgembedError(f"{out}: holds another world, {_difference(description, config)}")
    return description["summary"]


def write_aside(out: Path, fill: Callable[[Path], Result]) -> Result:
    """Lets `fill` fill a scratch folder, which then becomes `out`; returns what `fill` does.

    An existing empty `out` is filled rather than replaced: it may be a mount point or the
    working directory of a shell.
    """
    parent = out if out.exists() else out.parent
    parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".imgembed-sample-", dir=parent) as scratch:
        staging = Path(scratch) / "world"
        result = fill(staging)
        if parent == out:
            _move_children(staging, out)
        else:
            staging.rename(out)
    return result


def _move_children(staging: Path, out: Path) -> None:
    """Moves what is in `staging`, WORLD_FILE last: it says that the world is complete."""
    for child in sorted(staging.iterdir(), key=lambda child: child.name == WORLD_FILE):
        child.rename(out / child.name)


def _read_description(path: Path) -> dict[str, Any] | None:
    """What WORLD_FILE says; None where there is none, or another program's."""
    try:
        description = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    known = isinstance(description, dict) and {"version", "config", "summary"} <= set(description)
    return description if known else None


def _difference(description: dict[str, Any], config: WorldConfig) -> str:
    """The first setting that differs, else the version, as the end of an error message."""
    former = description["config"]
    for field in fields(config):
        wanted = getattr(config, field.name)
        if former.get(field.name) != wanted:
            return f"with {field.name} {former.get(field.name)!r}; wanted {wanted!r}"
    return f"of version {description['version']!r}; wanted {WORLD_VERSION!r}"
