"""Text for people on a terminal, which obeys what stands in it.

Ids, queries, labels and the names of files and columns are other people's input: an escape in them
could clear the screen, rename the window, or make the text before it say something else.
"""

from __future__ import annotations

import re
import sys

import click

# Control codes and what turns the direction of writing; tabs and ends of lines are among them.
_MAY_BE_OBEYED = re.compile(
    "[\x00-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]"
)


def printable(text: str) -> str:
    """The text with what a terminal would obey, such as an escape, spelled out."""
    return _MAY_BE_OBEYED.sub(_spelled, text)


def _spelled(found: re.Match[str]) -> str:
    return found[0].encode("unicode_escape").decode()


def lines(text: str) -> str:
    """The same of a text of several lines, whose ends stay."""
    return "\n".join(map(printable, text.split("\n")))


def echo(text: str, *, err: bool = False) -> None:
    """Prints a result: as it is for a program, in `lines` where somebody reads it on a terminal.

    Where nobody reads it any more, it is dropped: the work goes on, and ends as it ends.
    """
    stream = sys.stderr if err else sys.stdout
    for_people = stream is not None and stream.isatty()
    # color: or click takes escapes out of ids that a program is to get as they are.
    try:
        click.echo(lines(text) if for_people else text, err=err, color=True)
    except BrokenPipeError:  # whoever reads it, such as `head`, has had enough
        if not err:
            sys.stdout = None  # or the interpreter's end would try to write the rest
