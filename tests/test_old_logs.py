"""Old log files go, but for the newest, for those that a process still writes, and for others'."""

import os
import subprocess
import sys

import pytest

from cli import old_logs, terminal

HOLD = (
    "import sys; from cli import old_logs\n"
    "log = open(sys.argv[1], 'a'); old_logs.hold(log); print('held', flush=True); sys.stdin.read()"
)


def name(number, command="train"):
    return f"202601{number:02}-021500-{command}-4711.log"


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The logs of five trainings, of which three may stay."""
    monkeypatch.setattr(old_logs, "KEPT", 3)
    (tmp_path / "logs").mkdir()
    for number in range(1, 6):
        (tmp_path / "logs" / name(number)).write_text("…")
    return tmp_path / "logs"


def test_of_a_command_the_newest_stay(folder):
    old_logs.remove_old(str(folder), "train")
    assert sorted(os.listdir(folder)) == [name(3), name(4), name(5)]
    old_logs.remove_old(str(folder), "train")
    assert len(os.listdir(folder)) == 3


def test_other_commands_and_files_that_are_no_logs_stay(folder):
    others = [name(1, "run"), name(1, "train-run"), "note.log", f"{name(1)}.txt", f"x{name(1)}"]
    for other in others:
        (folder / other).write_text("…")
    (folder / name(2)).unlink()
    (folder / "target").write_text("…")
    (folder / name(2)).symlink_to(folder / "target")
    old_logs.remove_old(str(folder), "train")
    stay = {*others, "target", name(2), name(3), name(4), name(5)}
    assert set(os.listdir(folder)) == stay


def test_a_log_that_a_process_writes_stays_until_it_has_ended(folder):
    command = [sys.executable, "-c", HOLD, str(folder / name(1))]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout.readline() == "held\n"
        old_logs.remove_old(str(folder), "train")
        assert sorted(os.listdir(folder)) == [name(1), name(3), name(4), name(5)]
        other.kill()
    old_logs.remove_old(str(folder), "train")
    assert sorted(os.listdir(folder)) == [name(3), name(4), name(5)]


def test_without_locks_nothing_is_removed(folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "fcntl", None)  # as on Windows
    old_logs.remove_old(str(folder), "train")
    assert len(os.listdir(folder)) == 5


def test_a_command_holds_its_own_log_and_takes_the_old_ones_away(folder):
    with terminal.opened("train", str(folder.parent), quiet=True) as shown:
        (own,) = set(os.listdir(folder)) - {name(n) for n in range(1, 6)}
        assert os.path.join(folder, own) == shown.log_path
        assert sorted(os.listdir(folder)) == [name(4), name(5), own]
        for number in range(1, 4):  # as if it had begun long ago
            (folder / f"2099010{number}-021500-train-4711.log").write_text("…")
        old_logs.remove_old(str(folder), "train")
        assert own in os.listdir(folder)
        assert len(os.listdir(folder)) == 4
