"""`imgembed`: the group of all commands, and the one place where errors become lines.

Imports nothing heavy: `imgembed --help` must answer at once, so Beam, TensorFlow, Arrow and
pydantic are imported inside the commands that need them.
"""

from __future__ import annotations

import sys
from importlib.metadata import version

import click

from cli.commands.build_graph import build_graph
from cli.commands.demo import demo
from cli.commands.evaluate import evaluate
from cli.commands.export import export
from cli.commands.init import init
from cli.commands.sample import sample
from cli.commands.search import search
from cli.commands.train import train
from pipeline.errors import ConfigError, ImgembedError

COMMANDS = (build_graph, train, export, search, evaluate, sample, demo, init)


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


def main(arguments: list[str] | None = None) -> None:
    """Runs the command line; exits with 0, 1 (data or run) or 2 (usage or configuration)."""
    sys.exit(run(arguments))


def run(arguments: list[str] | None = None) -> int:
    """The exit code of a command line; errors that a person can mend are one line on stderr."""
    try:
        result = cli.main(arguments, standalone_mode=False)
        return result if isinstance(result, int) else 0
    except ConfigError as error:
        return _fail(str(error), 2)
    except ImgembedError as error:
        return _fail(str(error), 1)
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.format_message(), err=True)
        return 2
    except click.UsageError as error:
        hint = f" (see: {error.ctx.command_path} --help)" if error.ctx else ""
        return _fail(error.format_message() + hint, 2)
    except click.ClickException as error:
        return _fail(error.format_message(), error.exit_code)
    except (KeyboardInterrupt, click.Abort):
        return _fail("interrupted; nothing of the unfinished stage was kept", 130)
    except BrokenPipeError:  # the reader of our output, such as `head`, has had enough
        sys.stdout = None
        return 0


def _fail(message: str, code: int) -> int:
    click.echo(f"imgembed: {' '.join(message.split())}", err=True)
    return code


if __name__ == "__main__":
    main()
