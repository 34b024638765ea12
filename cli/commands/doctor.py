"""imgembed doctor"""

from __future__ import annotations

import click

from cli import options


@click.command("doctor")
@click.option(
    "--submit", is_flag=True, help="Run the tiny job on Dataflow too, for some minutes of a worker."
)
@options.beam_options
@options.runner
@options.as_json
@options.set_values
@options.run_dir
@options.config_file
def doctor(
    submit: bool,
    beam_options: tuple[str, ...],
    runner: str | None,
    as_json: bool,
    sets: tuple[str, ...],
    run_dir: str | None,
    config_file: str | None,
) -> int:
    """Looks whether everything is there for a run.

    Python and packages, cores, memory, disks, graphics cards, credentials (whether there are any,
    never what they are), Java, and a tiny job on the runner that is chosen; each with what to do
    where something is missing. Exit code 1 where something fails.
    """
    from cli.command import read_config, with_beam_options
    from cli.doctor import examine

    config = read_config(config_file, run_dir, sets, {"runner.name": runner})
    return examine(with_beam_options(config, beam_options), submit=submit, as_json=as_json)
