"""imgembed init"""

from __future__ import annotations

import click


@click.command("init")
@click.option(
    "--out", metavar="FILE", default="cfg.yaml", show_default=True, help="Where it is written."
)
@click.option("--sessions", metavar="PATH", help="Session logs, to be entered in the file.")
@click.option("--images", metavar="PATH", help="The catalog, to be entered in the file.")
@click.option("--overwrite", is_flag=True, help="Replace a file that is there.")
def init(out: str, sessions: str | None, images: str | None, overwrite: bool) -> None:
    """Writes a commented configuration file.

    Every setting stands in it with its default and what it means.
    """
    import os

    from cli.template import render
    from pipeline import storage
    from pipeline.errors import ConfigError

    if os.path.exists(out) and not overwrite:
        raise ConfigError(f"{out}: is there already; take --overwrite to replace it")
    text = render({"sessions.path": sessions, "images.path": images})
    try:
        storage.write_atomic(out, text.encode())
    except OSError as error:
        raise ConfigError(f"{out}: {error.strerror}") from None
    click.echo(f"{out} written; look it through, then: imgembed build-graph --config {out}")
