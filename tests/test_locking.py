"""One process at a time in a run directory, with the kernel's lock and without."""

import fcntl
import json
import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from pipeline import locking
from pipeline.errors import ImgembedError
from pipeline.locking import HELD_FILE, LOCK_FILE, Holder, alone_in

HOLD = """
import sys, time
from pipeline import locking
if sys.argv[2] == "file":
    locking._take_of_kernel = lambda folder: None
with locking.alone_in(sys.argv[1]):
    print("held", flush=True)
    time.sleep(300)
"""


@pytest.fixture(params=["kernel", "file"])
def kind(request, monkeypatch):
    """How the lock is held: by the kernel, or where it has none, as on some network disks."""
    if request.param == "file":
        monkeypatch.setattr(locking, "_take_of_kernel", lambda folder: None)
    return request.param


@pytest.fixture
def holder(kind, tmp_path):
    """Another process that holds the lock of tmp_path."""
    command = [sys.executable, "-c", HOLD, str(tmp_path), kind, "--s3_secret_access_key=hush"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.communicate()


def refusal(folder):
    with pytest.raises(ImgembedError) as caught, alone_in(str(folder)):
        pass
    return str(caught.value)


def test_who_holds_it_is_told_at_once_and_without_secrets(holder, tmp_path):
    began = time.monotonic()
    line = refusal(tmp_path)
    assert time.monotonic() - began < 1
    assert f"is in use by process {holder.pid} on {os.uname().nodename} since 20" in line
    assert f": -c {tmp_path} " in line
    assert "--s3_secret_access_key=…" in line
    assert "hush" not in line
    assert "\n" not in line
    assert line.endswith("wait for it to end, or name another folder with --run-dir")


@pytest.mark.parametrize(
    "arguments",
    [
        ["--s3_secret_access_key=hush", "--runner=direct"],
        ["--s3_secret_access_key", "hush", "--runner=direct"],
        ["--azure_connection_string", "AccountName=a;AccountKey=hush", "--runner=direct"],
        ["--set", "runner.options=[--s3_session_token=hush]", "--runner=direct"],
    ],
)
def test_no_value_that_may_be_a_secret_is_told_however_it_is_given(arguments, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["/bin/imgembed", "export", *arguments])
    told = locking.command_line()
    assert "hush" not in told
    assert told.startswith("imgembed export ")
    assert told.endswith(" --runner=direct")


def test_a_flag_after_the_name_of_a_secret_is_no_value(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["imgembed", "export", "--use_key", "--quiet"])
    assert locking.command_line() == "imgembed export --use_key --quiet"


def test_a_command_line_that_is_not_utf_8_holds_the_lock(kind, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["imgembed", "run", "--sessions", "caf\udce9.csv"])
    with alone_in(str(tmp_path)):
        name = LOCK_FILE if kind == "kernel" else HELD_FILE
        assert Holder.read((tmp_path / name).read_bytes()).pid == os.getpid()


def test_the_longest_command_line_is_one_line_for_people(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["imgembed", "\N{CJK UNIFIED IDEOGRAPH-6F22}" * 300])
    lock = os.open(tmp_path / LOCK_FILE, os.O_RDWR | os.O_CREAT)
    fcntl.flock(lock, fcntl.LOCK_EX)
    os.write(lock, Holder.me().to_bytes())
    assert "\n" not in refusal(tmp_path)
    os.close(lock)


def test_the_lock_of_a_process_that_was_killed_is_free(holder, tmp_path, monkeypatch):
    monkeypatch.setattr(locking, "_SETTLED", 0.01)
    holder.kill()
    holder.wait()
    with alone_in(str(tmp_path)) as sure:
        assert sure


def test_a_process_enters_again_and_the_lock_ends_with_the_outermost_block(kind, tmp_path):
    with alone_in(str(tmp_path)):
        with alone_in(str(tmp_path / ".." / tmp_path.name)):
            pass
        name = LOCK_FILE if kind == "kernel" else HELD_FILE
        assert str(os.getpid()) in (tmp_path / name).read_text()
    assert not (tmp_path / HELD_FILE).exists()
    with alone_in(str(tmp_path)):
        pass


@pytest.fixture
def lock_file(tmp_path, monkeypatch):
    """Where a lock stands that the kernel does not hold."""
    monkeypatch.setattr(locking, "_take_of_kernel", lambda folder: None)
    monkeypatch.setattr(locking, "_SETTLED", 0.01)
    return tmp_path / HELD_FILE


def test_another_process_of_the_same_number_is_not_the_holder(lock_file, tmp_path):
    lock_file.write_bytes(Holder.me().to_bytes())
    assert f"process {os.getpid()}" in refusal(tmp_path)
    lock_file.write_bytes(replace(Holder.me(), began="1").to_bytes())
    with alone_in(str(tmp_path)):
        assert Holder.read(lock_file.read_bytes()).began == Holder.me().began


@pytest.mark.parametrize("machine", ["another boot, another container", ""])
def test_of_another_machine_it_says_what_to_remove(lock_file, tmp_path, machine):
    there = replace(Holder.me(), pid=1, host="far", machine=machine, began="1")
    lock_file.write_bytes(there.to_bytes())
    line = refusal(tmp_path)
    assert "is in use by process 1 on far since " in line
    assert f"if it is known to have ended, remove {lock_file}, or name another folder" in line
    os.unlink(lock_file)
    with alone_in(str(tmp_path)):
        pass


@pytest.mark.parametrize(
    "content", [b"", b"process 4711\n", b"a\n[1]\n", b'a\n{"pid": 1}\n', b"\xff"]
)
def test_a_lock_that_names_nobody_is_held(lock_file, tmp_path, content):
    lock_file.write_bytes(content)
    assert f"remove {lock_file}" in refusal(tmp_path)


def test_of_two_that_take_over_one_stale_lock_the_last_one_holds_it(
    lock_file, tmp_path, monkeypatch
):
    lock_file.write_bytes(replace(Holder.me(), began="1").to_bytes())
    other = replace(Holder.me(), pid=os.getppid(), began=locking._began(os.getppid()))
    # Meanwhile the other one, which has seen the stale lock too, removes ours and makes its own.
    monkeypatch.setattr(time, "sleep", lambda _: lock_file.write_bytes(other.to_bytes()))
    assert f"is in use by process {os.getppid()}" in refusal(tmp_path)
    assert Holder.read(lock_file.read_bytes()) == other


def test_the_file_is_a_line_for_people_and_one_for_programs(tmp_path):
    with alone_in(str(tmp_path)):
        said, told = Path(tmp_path / LOCK_FILE).read_text().splitlines()
    assert said.startswith(f"process {os.getpid()} on ")
    assert json.loads(told)["pid"] == os.getpid()
