"""imgembed denoise"""

from __future__ import annotations

from typing import Any

import click

from cli import options


@click.command("denoise")
@click.option(
    "--rows",
    default=12,
    type=click.IntRange(min=0),
    show_default=True,
    metavar="N",
    help="Images that are drawn with their doubted neighbours.",
)
@options.force
@options.stage_options
def denoise(rows: int, force: bool, as_json: bool, **common: Any) -> None:
    """Tells how far to trust each edge of the graph.

    Wants a model that was trained with model.agreement, and its embeddings of the catalog. Writes
    every edge with the probability that its two images are of one class as Parquet, prints how many
    edges there are by probability, and draws the most doubted ones of the strong edges. With
    examples.agreement the next `imgembed build-graph --images` takes it from there.
    """
    from cli.command import stages

    with stages("denoise", {}, force=force, as_json=as_json, **common) as command:
        command.show(command.stages.denoise(rows))
