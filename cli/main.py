"""`imgembed`: the group of all commands, and the one place where errors become lines.

Imports nothing heavy: `imgembed --help` must answer at once, so Beam, TensorFlow, Arrow and
pydantic are imported inside the commands that need them.
"""

from __future__ import annotations

import io
import os
import signal
import sys
from contextlib import suppress
from importlib.metadata import version
from typing import NoReturn

import click

from cli.commands.build_graph import build_graph
from cli.commands.demo import demo
from cli.commands.denoise import denoise
from cli.commands.doctor import doctor
from cli.commands.evaluate import evaluate
from cli.commands.examples import examples
from cli.commands.explain import explain
from cli.commands.export import export
from cli.commands.init import init
from cli.commands.plan import plan
from cli.commands.report import report
from cli.commands.run import run as run_command
from cli.commands.runs import runs
from cli.commands.sample import sample
from cli.commands.search import search
from cli.commands.train import train
from cli.interruption import ENDINGS
from cli.printing import printable
from pipeline import storage
from pipeline.errors import ConfigError, ImgembedError

COMMANDS = (
    run_command,
    build_graph,
    train,
    export,
    search,
    evaluate,
    explain,
    denoise,
    report,
    sample,
    demo,
    init,
    plan,
    doctor,
    runs,
    examples,
)


@click.group(
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="Begin with: imgembed demo",
)
@click.version_option(version("imgembed"), package_name="imgembed", prog_name="imgembed")
def cli() -> None:
    """Image embeddings from what people look at together.

    Turns search-session logs into an image co-occurrence graph, trains an image embedding that the
    graph regularizes, and searches images by text and by image.
    """


for _command in COMMANDS:
    cli.add_command(_command)


_LONGEST = 2_000  # characters of an error: a file may have ten thousand columns


class Stopped(BaseException):
    """A signal asks the program to end; no `except Exception` of a library takes it for its own."""


_received: list[int] = []  # Beam makes an error of its own of what is raised inside a step


def _stop(number: int, _frame: object) -> None:
    _received.append(number)
    raise Stopped


def main(arguments: list[str] | None = None) -> None:
    """Runs the command line and exits.

    With 0, 1 (data or run), 2 (usage or configuration), or 128 + the number of the signal that
    ended it.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # letters that it does not have are spelled out
            stream.reconfigure(errors="backslashreplace")
    for number in ENDINGS:
        if signal.getsignal(number) is not signal.SIG_IGN:  # as `nohup` and `&` want it
            signal.signal(number, _stop)
    code = run(arguments)
    for number in ENDINGS:
        if signal.getsignal(number) is _stop:
            signal.signal(number, signal.SIG_DFL)
    if _received:
        _leave(code)
    sys.exit(code)


def _leave(code: int) -> NoReturn:
    """Ends the process at once: a thread of Beam that was cut off from its work never ends."""
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:
            with suppress(OSError):
                stream.flush()
    os._exit(code)


def run(arguments: list[str] | None = None) -> int:
    """The exit code of a command line; errors that a person can mend are one line on stderr."""
    try:
        result = cli.main(arguments, standalone_mode=False)
        if sys.stdout is not None:
            sys.stdout.flush()
        return result if isinstance(result, int) else 0
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.format_message(), err=True)
        return 2
    except BrokenPipeError:  # the reader of our output, such as `head`, has had enough
        sys.stdout = None
        return 0
    except BaseException as error:
        outcome = _ended(*_received) if _received else _explain(error)
        if outcome is None:
            raise
        return _fail(*outcome)


def _ended(number: int, *_: int) -> tuple[str, int]:
    how = ENDINGS[signal.Signals(number)]
    return f"{how}; nothing of the unfinished stage was kept", 128 + number


def _explain(error: BaseException) -> tuple[str, int] | None:
    """(line, exit code) of an error that a person can mend; None for a fault of the program."""
    if isinstance(error, ImgembedError):
        return str(error), 2 if isinstance(error, ConfigError) else 1
    if isinstance(error, click.UsageError):
        hint = f" (see: {error.ctx.command_path} --help)" if error.ctx else ""
        return error.format_message() + hint, 2
    if isinstance(error, click.ClickException):
        return error.format_message(), error.exit_code
    if isinstance(error, (KeyboardInterrupt, click.Abort)):
        return _ended(signal.SIGINT)
    if isinstance(error, OSError):
        line = storage.explain(error)
        return (line, 1) if line else None
    return None


def _line(message: str) -> str:
    """The message on one line, without what a terminal would obey, at a length that one reads."""
    text = printable(" ".join(message.split()))
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}…"


def _fail(message: str, code: int) -> int:
    try:
        click.echo(f"imgembed: {_line(message)}", err=True)
    except OSError:  # there is no place left to say it; the exit code does
        sys.stderr = None
    return code


if __name__ == "__main__":
    main()
