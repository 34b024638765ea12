"""imgembed report"""

from __future__ import annotations

from typing import Any

import click

from cli import options


@click.command("report")
@options.force
@options.stage_options
def report(force: bool, as_json: bool, **common: Any) -> None:
    """Writes one HTML file about the run.

    The verdict in a sentence, the log and the graph, training curves, the evaluation with its
    intervals, rows of pictures for held-out queries, and a map of the embedding. The file needs
    nothing beside it: it can be mailed, read on a phone, and printed. Stages that are not there
    yet are named with the command that makes them.
    """
    from cli.command import stages
    from cli.report.stage import make_report

    with stages("report", {}, force=force, as_json=as_json, **common) as command:
        command.show(make_report(command.stages))
