"""`imgembed search` on a terminal: asks until Ctrl-D, and lives through what is wrong."""

from __future__ import annotations

import os
import pty
import select
import sys
import time
from pathlib import Path

import pytest
from small_indexes import make_index, save_run, unit

PROMPT = b"search> "
SECONDS = 120


@pytest.fixture
def run_dir(tmp_path: Path) -> str:
    vectors = dict(zip(["bridge", "castle", "dune"], unit(0, 30, 90), strict=True))
    make_index(tmp_path / "run", save_run(tmp_path / "run", vectors))
    return str(tmp_path / "run")


class Conversation:
    """The command on a terminal of its own. answers: a file that its standard output goes to."""

    def __init__(self, *arguments: str, answers: Path | None = None) -> None:
        self.pid, self.terminal = pty.fork()
        if self.pid == 0:
            if answers is not None:
                os.dup2(os.open(answers, os.O_WRONLY | os.O_CREAT), 1)
            os.execv(sys.executable, [sys.executable, "-m", "cli.main", *arguments])

    def read(self, last: bytes = PROMPT) -> str:
        """What it says until it asks again, or until its `last` words, or ends."""
        said, limit = b"", time.monotonic() + SECONDS
        while not said.endswith(last) and time.monotonic() < limit:
            if not select.select([self.terminal], [], [], 1.0)[0]:
                continue
            try:
                part = os.read(self.terminal, 65_536)
            except OSError:  # it has ended
                break
            if not part:
                break
            said += part
        return said.decode().replace("\r\n", "\n").removesuffix(PROMPT.decode())

    def say(self, text: str) -> str:
        """What it answers to a line."""
        os.write(self.terminal, f"{text}\n".encode())
        echoed, _, answer = self.read().partition("\n")
        assert text in echoed
        return answer

    def give_up(self, text: str) -> None:
        """Types a part of a line, then Ctrl-C.

        Python does not notice a signal that comes between two letters and its waiting for the next.
        """
        os.write(self.terminal, text.encode())
        self.read(last=text.encode())
        time.sleep(0.5)
        os.write(self.terminal, b"\x03")
        self.read()

    def end(self) -> int:
        os.write(self.terminal, b"\x04")
        self.read()
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])


def test_it_asks_until_the_input_ends(run_dir: str) -> None:
    talk = Conversation("search", "--run-dir", run_dir, "-k", "2")
    assert talk.read() == "3 images; ? for help\n"
    assert talk.say("id:bridge") == "  1   0.866  castle\n  2   0.000  dune\n"
    assert talk.say("id:brigde") == (
        "image id 'brigde': not among the embeddings; did you mean 'bridge'?\n"
    )
    assert talk.say("k:1") == ""
    assert talk.say("id:bridge") == "  1   0.866  castle\n"
    assert talk.say("k:none") == "k:none: wanted a number of results, such as k:20\n"
    assert talk.say("") == ""
    assert "image:FILE" in talk.say("?")
    assert "no model yet; make it with: imgembed train" in talk.say("red bridge")
    talk.give_up("half a li")
    assert talk.say("id:dune") == "  1   0.500  castle\n"
    assert talk.end() == 0


def test_answers_that_go_to_a_file_are_alone_there(run_dir: str, tmp_path: Path) -> None:
    answers = tmp_path / "answers.txt"
    talk = Conversation("search", "--run-dir", run_dir, "-k", "1", answers=answers)
    assert talk.read() == "3 images; ? for help\n"
    assert talk.say("id:bridge") == ""
    assert "image:FILE" in talk.say("?")
    assert talk.say("k:0") == "k:0: wanted a number of results, such as k:20\n"
    talk.give_up("half a li")
    assert talk.end() == 0
    assert answers.read_text() == "  1   0.866  castle\n"


def test_a_run_without_embeddings_is_one_line(tmp_path: Path) -> None:
    talk = Conversation("search", "--run-dir", str(tmp_path))
    said = talk.read()
    assert "no embeddings yet; make it with: imgembed export" in said
    assert said.count("\n") == 1
    assert os.waitstatus_to_exitcode(os.waitpid(talk.pid, 0)[1]) == 1
