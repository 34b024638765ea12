"""imgembed export"""

from __future__ import annotations

from typing import Any

import click

from cli import options


@click.command("export")
@click.option(
    "--images",
    metavar="PATH",
    help="The catalog to embed; any catalog, not only the one trained on.",
)
@options.max_memory
@options.job_options
@options.stage_options
def export(
    images: str | None,
    force: bool,
    runner: str | None,
    workers: str | None,
    max_memory: str | None,
    beam_options: tuple[str, ...],
    **common: Any,
) -> None:
    """Embeds a catalog with the trained model.

    The published queries are embedded as well. What cannot be embedded is rejected with the reason.
    Then builds the index that a search opens.
    """
    from cli.command import stages
    from cli.indexing import make_index

    flags = {
        "images.path": images,
        "runner.name": runner,
        "runner.workers": workers,
        "runner.max_memory": max_memory,
    }
    with stages("export", flags, beam_options, force=force, **common) as command:
        command.show(command.stages.export())
        command.show(make_index(command.stages))
