"""`imgembed sample`: writes a synthetic world and a configuration that reads it."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Mapping
from typing import Any

from rich.console import Console

from cli.printing import echo
from pipeline import storage
from pipeline.world.config import WorldConfig
from pipeline.world.generate import CATALOG_FILE, SESSIONS_FOLDER, WorldSummary, write_world
from pipeline.world.raw_pixels import RawPixelAccuracy, raw_pixel_accuracy

CONFIG_FILE = "cfg.yaml"


def write_sample(out: str, sizes: Mapping[str, Any], *, quiet: bool, as_json: bool) -> None:
    """Writes the world, reports its counts and how little raw pixels tell, on stdout."""
    from cli.template import render

    summary = draw_world(out, WorldConfig(**sizes), Console(stderr=True, quiet=quiet))
    catalog, sessions = world_paths(out)
    config = os.path.join(out, CONFIG_FILE)
    if not os.path.exists(config):  # of a former call, it may have been changed since
        text = render({"sessions.path": sessions, "images.path": catalog})
        storage.write_atomic(config, text.encode())
    accuracy = raw_pixel_accuracy(out)
    if as_json:
        content = {**dataclasses.asdict(summary), "raw_pixel_accuracy": accuracy._asdict()}
        echo(json.dumps(content, indent=2))
    else:
        echo(_describe(out, summary, accuracy))


def world_paths(out: str) -> tuple[str, str]:
    """(catalog, session logs) of a world."""
    return os.path.join(out, CATALOG_FILE), os.path.join(out, SESSIONS_FOLDER)


def draw_world(out: str, config: WorldConfig, console: Console) -> WorldSummary:
    """Writes a world into a folder while the console shows how far it is."""
    with console.status("Drawing pictures and sessions") as status:

        def show(what: str, done: int, total: int) -> None:
            status.update(f"Drawing {what}: {done:,} of {total:,}")

        return write_world(out, config, progress=show)


def _describe(out: str, summary: WorldSummary, accuracy: RawPixelAccuracy) -> str:
    catalog, sessions = world_paths(out)
    state = "written" if summary.written else "is there already, the very same"
    return (
        f"{out}: {state}\n"
        f"  {summary.images:,} images of {summary.intents:,} kinds; {summary.labelled:,} have a "
        f"label, {summary.captioned:,} a caption, {summary.cold:,} were never clicked\n"
        f"  {summary.sessions:,} sessions of {summary.users:,} users and {summary.bots:,} bots; "
        f"{summary.rows:,} rows, {summary.broken_rows:,} broken ones\n"
        f"  the nearest picture by raw pixels has the same label in {accuracy.shape:.0%} and is of "
        f"the same kind in {accuracy.intent:.0%} of the cases\n"
        f"  next: imgembed build-graph --sessions {sessions} --images {catalog}"
    )
