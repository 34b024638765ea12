"""A Dataflow job of one step that drives a command: what a Flex Template launches.

A template launches one job and does not wait for it, while a stage of imgembed may be several jobs,
and its commit comes after the last. So the job that is launched has one element, the command, and
its worker waits for the jobs that the command submits. It needs nothing but imgembed's image.
"""

from __future__ import annotations

import argparse
import shlex
import subprocess
import sys
from collections.abc import Sequence

import apache_beam as beam
from apache_beam.options.pipeline_options import PipelineOptions, SetupOptions

from pipeline.errors import ImgembedError

# What belongs to the launched job, and must not be said of the jobs that the command submits.
_OF_LAUNCH = ("--template_location", "--job_name", "--runner", "--save_main_session", "--labels")


def parse(arguments: Sequence[str]) -> tuple[argparse.Namespace, list[str]]:
    """The template's parameters, and Beam's own options."""
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("--command", default="build-graph", choices=["build-graph", "export"])
    parser.add_argument("--run_dir", required=True, help="gs://…, where everything is written")
    parser.add_argument("--config", help="the YAML file, in the image")
    parser.add_argument("--sessions", help="session logs, gs://…")
    parser.add_argument("--images", help="the catalog, gs://…")
    parser.add_argument("--settings", default="", help="section.key=value, parted by spaces")
    parser.add_argument("--dry-run", action="store_true", help="show the command, launch nothing")
    return parser.parse_known_args(list(arguments))


def command_line(given: argparse.Namespace, beam_options: Sequence[str]) -> list[str]:
    """The arguments of `imgembed` for a launch."""
    paths = {"--config": given.config, "--images": given.images}
    if given.command == "build-graph":
        paths["--sessions"] = given.sessions
    found = [given.command, "--run-dir", given.run_dir]
    for option, value in paths.items():
        found += [option, value] if value else []
    for setting in shlex.split(given.settings):
        found += ["--set", setting]
    kept = [option for option in beam_options if not option.startswith(_OF_LAUNCH)]
    return [*found, "--quiet", "--json", "--runner", "dataflow", "--", *kept]


def drive(arguments: Sequence[str]) -> str:
    """Runs `imgembed` with the arguments in a process; returns what it prints.

    ImgembedError with its last line where it fails. A second try of an engine does no harm: what
    was committed is up to date, what was not is made anew.
    """
    process = subprocess.run(  # noqa: S603 - our own interpreter and program
        [sys.executable, "-m", "cli.main", *arguments], capture_output=True, text=True, check=False
    )
    if process.returncode:
        last = process.stderr.strip().splitlines()[-1:]
        raise ImgembedError(f"imgembed ended with {process.returncode}: {''.join(last)}")
    return process.stdout


def main(arguments: Sequence[str]) -> None:
    """Launches the job that drives the command."""
    given, beam_options = parse(arguments)
    command = command_line(given, beam_options)
    if given.dry_run:
        print(shlex.join(["imgembed", *command]))
        return
    options = PipelineOptions(["--runner=DataflowRunner", *beam_options])
    options.view_as(SetupOptions).save_main_session = False
    root = beam.Pipeline(options=options)
    _ = root | "Command" >> beam.Create([command]) | "Drive" >> beam.Map(drive)
    root.run()
