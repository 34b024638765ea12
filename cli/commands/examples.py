"""imgembed examples"""

from __future__ import annotations

import click

from cli import options


@click.group("examples")
def examples() -> None:
    """Looks into the training examples of a run."""


@examples.command("show")
@click.argument("run", metavar="RUN")
@click.option("--image-id", metavar="ID", help="The image.  [default: the first with neighbours]")
@click.option(
    "--split",
    metavar="SPLIT",
    help="train, validation or test.  [default: train; with --image-id all]",
)
@click.option("--png", metavar="PATH", help="Where its pictures go.  [default: example-<id>.png]")
@options.as_json
def show(run: str, image_id: str | None, split: str | None, png: str | None, as_json: bool) -> None:
    """Shows one example of the run directory RUN.

    Prints what its record holds: labels, texts, neighbours, the edges among them; and writes its
    pictures side by side to a PNG, with --json only where --png names one.
    """
    from cli.showing import show_example

    show_example(run, image_id=image_id, split=split, png=png, as_json=as_json)
