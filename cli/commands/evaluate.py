"""imgembed evaluate"""

from __future__ import annotations

from typing import Any

import click

from cli import options


@click.command("evaluate")
@options.force
@options.stage_options
def evaluate(force: bool, as_json: bool, **common: Any) -> None:
    """Measures the embeddings on held-out sessions.

    Beside them stand popularity, co-occurrence only and raw features. Prints a table and writes
    metrics.json into the run directory.
    """
    from cli.command import stages

    with stages("evaluate", {}, force=force, as_json=as_json, **common) as command:
        command.show(command.stages.evaluate())
