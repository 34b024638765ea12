"""`imgembed search` on a terminal: a prompt that stays open, the run and its model loaded once."""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from cli import terminal
from cli.answering import print_hits
from cli.printing import printable
from cli.searching import Query, Searcher
from cli.settings import Config
from cli.terminal import Terminal
from pipeline import schema
from pipeline.artifacts import RunDir
from pipeline.errors import ImgembedError

_PROMPT = "search> "
_DIGITS = 12  # of a number of results: more than there are images
_HELP = """\
  red bridge        search by words (text:… where they begin with id:, image: or k:)
  id:ID             search by an image of the catalog
  image:FILE        search by a picture
  k:N               show N results from now on
  ?                 this; Ctrl-D ends"""


def ask(config: Config, *, k: int, as_json: bool) -> None:
    """Answers queries until the end of the input; what is wrong with one is a line."""
    with suppress(ImportError):  # as on Windows: then a line cannot be edited
        import readline  # noqa: F401 - gives `input` its history
    RunDir.open(config.run_dir).require(schema.EMBEDDINGS)  # before a log is written
    with terminal.opened("search", config.run_dir, quiet=False) as shown, _keyboard_interrupts():
        searcher = Searcher.open(config)
        shown.say(f"{len(searcher.index.ids):,} images; ? for help")
        if searcher.advice:
            shown.say(searcher.advice)
        Prompt(searcher, shown, k, as_json).run()


@contextmanager
def _keyboard_interrupts() -> Iterator[None]:
    """Ctrl-C is an exception here that ends a query, not the program."""
    former = signal.getsignal(signal.SIGINT)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, former)


class Prompt:
    """Reads lines and prints answers. k: results of a query, as the last `k:N` said."""

    def __init__(self, searcher: Searcher, shown: Terminal, k: int, as_json: bool) -> None:
        self._searcher = searcher
        self._shown = shown
        self._k = k
        self._as_json = as_json
        self._has_model = False

    def run(self) -> None:
        """Until Ctrl-D, or nobody reads the answers; Ctrl-C gives up a line or a query."""
        while sys.stdout is not None:
            try:
                line = self._read().strip()
                if line:
                    self._obey(line)
            except EOFError:
                self._say("")
                return
            except KeyboardInterrupt:
                self._say("")
            except ImgembedError as error:
                self._say(" ".join(str(error).split()))

    def _read(self) -> str:
        """A line. Where the answers go to a file, the prompt is no part of them."""
        if sys.stdout.isatty():
            return input(_PROMPT)
        self._shown.console.print(_PROMPT, end="")
        return input()

    def _obey(self, line: str) -> None:
        kind, colon, rest = line.partition(":")
        if line == "?":
            for line_of_it in _HELP.splitlines():
                self._say(line_of_it)
        elif colon and kind == "k":
            self._set_k(rest)
        elif colon and kind == "id":
            self._search(Query(ids=[rest]))
        elif colon and kind == "image":
            self._search(Query(pictures=[rest.strip()]))
        elif colon and kind == "text":
            self._search(Query(texts=[rest]))
        else:
            self._search(Query(texts=[line]))

    def _set_k(self, text: str) -> None:
        number = text.strip()
        if not number.isdecimal() or len(number) > _DIGITS or int(number) < 1:
            raise ImgembedError(f"k:{text:.100}: wanted a number of results, such as k:20")
        self._k = int(number)

    def _search(self, query: Query) -> None:
        if query.needs_model and not self._has_model:
            self._say("loading the model …")
            self._has_model = True
        print_hits(self._searcher.search(query, self._k), as_json=self._as_json)

    def _say(self, line: str) -> None:
        """On the terminal, for stderr is a log by now."""
        console = self._shown.console
        console.print(printable(line), markup=False, emoji=False, highlight=False, soft_wrap=True)
