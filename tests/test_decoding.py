"""Pictures decoded in other processes: the same answers, whatever becomes of the processes."""

from __future__ import annotations

import io
import os
import resource
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipeline.errors import ImgembedError
from pipeline.examples import decoding, pictures
from pipeline.examples.decoding import CRASHED, TOO_SLOW, PictureSettings, decode_pictures

ROOT = Path(__file__).parent.parent
SETTINGS = PictureSettings(image_size=16, max_pixels=10_000_000, max_seconds=20.0, encoding="png")
IMPATIENT = PictureSettings(image_size=16, max_pixels=10_000_000, max_seconds=0.5, encoding="png")


def photo(seed: int) -> bytes:
    """A PNG of noise, 20 x 20."""
    pixels = np.random.default_rng(seed).integers(0, 256, (20, 20, 3), dtype=np.uint8)
    sink = io.BytesIO()
    Image.fromarray(pixels).save(sink, "PNG")
    return sink.getvalue()


def slow_jpeg(scans: int = 2_000) -> bytes:
    """4 megapixels in 100 kB that take ten seconds: the same scan refines them over and over."""
    sink = io.BytesIO()
    Image.new("L", (2000, 2000), 90).save(sink, "JPEG", progressive=True)
    data = sink.getvalue()
    last_scan = data.rindex(b"\xff\xda")
    return data[:last_scan] + data[last_scan:-2] * scans + b"\xff\xd9"


def expected(data: bytes) -> pictures.Picture | str:
    """What this process makes of it."""
    try:
        return pictures.prepare(data, image_size=16, max_pixels=10_000_000, encoding="png")
    except pictures.PictureError as error:
        return str(error)


# Those that threads which ran other tests keep, for pictures of other settings.
_others: set[int] = set()


@pytest.fixture(autouse=True, scope="module")
def no_decoders_of_other_tests():
    _others.update(decoders())


def decoders(parent: int | None = None) -> list[int]:
    """The decoding processes that a test has started, or those of a program; zombies too."""
    rows = subprocess.run(
        ["ps", "-A", "-ww", "-o", "pid=,ppid=,stat=,args="],
        capture_output=True,
        text=True,
        check=True,
    )
    fields = [row.split(maxsplit=3) for row in rows.stdout.splitlines()]
    wanted = str(parent or os.getpid())
    return [
        int(pid)
        for pid, ppid, state, *command in fields
        if ppid == wanted
        and int(pid) not in _others
        and (state.startswith("Z") or "decode_worker" in "".join(command))
    ]


def is_alive(pid: int) -> bool:
    """Not so for a zombie: an orphan is one until the system's first process looks at it."""
    found = subprocess.run(["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, text=True)
    return found.stdout.strip()[:1] not in ("", "Z")


def is_at_work(pid: int) -> bool:
    """Whether it has computed for a second, which is longer than it takes to start."""
    found = subprocess.run(["ps", "-o", "time=", "-p", str(pid)], capture_output=True, text=True)
    return found.stdout.strip() not in ("", "00:00:00")


def ends_within(seconds: float, pid: int) -> bool:
    end = time.monotonic() + seconds
    while is_alive(pid):
        if time.monotonic() > end:
            return False
        time.sleep(0.02)
    return True


def in_thread(function):
    """What the function gives in a thread of its own, with a process of its own."""
    found = []
    thread = threading.Thread(target=lambda: found.append(function()))
    thread.start()
    thread.join()
    return found[0]


def test_answers_are_those_of_this_process_in_order():
    contents = [photo(0), b"", photo(1), b"no picture", photo(2)[:100], photo(3)]
    found = list(decode_pictures(contents, SETTINGS))
    assert found == [expected(data) for data in contents]
    assert found[1::2] == [pictures.EMPTY, pictures.NOT_A_PICTURE, expected(photo(3))]


@pytest.mark.parametrize("encoding", ["jpeg", "png", "raw"])
def test_every_encoding_comes_through(encoding):
    settings = PictureSettings(64, 10_000, 20.0, encoding)
    (found,) = decode_pictures([photo(0)], settings)
    assert found == pictures.prepare(photo(0), image_size=64, max_pixels=10_000, encoding=encoding)


def test_nothing_gives_nothing_and_starts_no_process():
    assert in_thread(lambda: (list(decode_pictures([], SETTINGS)), decoders())[0]) == []


def test_groups_are_cut_by_size_and_answers_stay_in_order(monkeypatch):
    monkeypatch.setattr(decoding, "_GROUP_BYTES", 3_000)
    large = photo(7) + bytes(10_000)  # what follows a PNG is no part of it
    contents = [photo(0), photo(1), large, photo(2), b"", large, large, photo(3)]
    groups = list(decoding._groups(contents))
    assert len(groups) > 4
    assert all(len(group) == 1 or sum(map(len, group)) <= 3_000 for group in groups)
    assert [data for group in groups for data in group] == contents
    assert list(decode_pictures(contents, SETTINGS)) == [expected(data) for data in contents]


def test_answers_larger_than_a_pipe_come_through():
    settings = PictureSettings(1024, 10_000, 20.0, "raw")
    found = list(decode_pictures([photo(0), photo(1)] * 3, settings))
    assert [len(picture.content) for picture in found] == [3 * 1024 * 1024] * 6
    assert found[0] == found[2] != found[1]


def test_a_slow_picture_is_rejected_and_its_neighbours_are_not():
    contents = [photo(0), slow_jpeg(), photo(1), slow_jpeg(), photo(2)]
    start = time.monotonic()
    found = list(decode_pictures(contents, IMPATIENT))
    assert 1.0 <= time.monotonic() - start < 5.0
    good = [expected(photo(seed)) for seed in range(3)]
    assert found == [good[0], TOO_SLOW, good[1], TOO_SLOW, good[2]]
    assert len(decoders()) == 1


def test_time_that_the_caller_takes_is_not_the_pictures():
    found = []
    for picture in decode_pictures([photo(0), photo(1), photo(2)], IMPATIENT):
        found.append(picture)
        time.sleep(0.6)
    assert found == [expected(photo(seed)) for seed in range(3)]


@pytest.mark.parametrize("ending", [signal.SIGSEGV, signal.SIGKILL])
def test_a_picture_that_crashes_two_processes_is_rejected_and_its_neighbours_are_not(ending):
    answers = decode_pictures([photo(0), slow_jpeg(), photo(1), photo(2)], SETTINGS)
    assert next(answers) == expected(photo(0))
    killed = []

    def kill_both():
        while len(killed) < 2:
            for process in set(decoders()) - set(killed):
                if is_at_work(process):
                    os.kill(process, ending)
                    killed.append(process)
            time.sleep(0.1)

    killer = threading.Thread(target=kill_both)
    killer.start()
    assert list(answers) == [CRASHED, expected(photo(1)), expected(photo(2))]
    killer.join()
    assert len(killed) == 2
    assert not set(killed) & set(decoders())


@pytest.mark.parametrize("ending", [signal.SIGSEGV, signal.SIGKILL])
def test_a_process_that_is_killed_at_its_picture_costs_nothing(ending):
    contents = [photo(0), slow_jpeg(400), photo(1)]
    answers = decode_pictures(contents, SETTINGS)
    assert next(answers) == expected(photo(0))
    (process,) = decoders()
    os.kill(process, ending)
    assert list(answers) == [expected(data) for data in contents[1:]]
    assert process not in decoders()


@pytest.mark.parametrize("times", [1, 2])
def test_a_process_that_is_killed_as_it_starts_is_started_once_more(monkeypatch, times):
    start, killed = decoding._start, []

    def start_and_kill(settings):
        process = start(settings)
        if len(killed) < times:
            killed.append(process.pid)
            process.kill()
        return process

    monkeypatch.setattr(decoding, "_start", start_and_kill)
    if times == 1:
        assert in_thread(lambda: list(decode_pictures([photo(0)], SETTINGS))) == [
            expected(photo(0))
        ]
    else:
        with pytest.raises(ImgembedError, match="does not start with .*: signal 9 ended it"):
            list(decode_pictures([photo(0)], IMPATIENT))
    assert len(killed) == times


def test_a_process_that_was_killed_while_it_waited_costs_nothing():
    list(decode_pictures([photo(0)], SETTINGS))
    (process,) = decoders()
    os.kill(process, signal.SIGKILL)
    time.sleep(0.1)
    assert list(decode_pictures([photo(1)], SETTINGS)) == [expected(photo(1))]


def test_the_process_is_kept_for_the_next_call_of_the_same_settings():
    list(decode_pictures([photo(0)], SETTINGS))
    first = decoders()
    list(decode_pictures([photo(1)], SETTINGS))
    assert decoders() == first
    list(decode_pictures([photo(1)], IMPATIENT))
    assert len(decoders()) == 1
    assert decoders() != first


def test_a_caller_that_stops_early_leaves_nothing_behind():
    answers = decode_pictures([photo(0), slow_jpeg(), photo(1)], SETTINGS)
    next(answers)
    answers.close()
    assert decoders() == []
    assert list(decode_pictures([photo(2)], SETTINGS)) == [expected(photo(2))]


def test_two_calls_in_turns_in_one_thread_have_their_own_answers():
    one, two = [photo(seed) for seed in range(4)], [photo(seed) for seed in range(4, 8)]
    pairs = zip(decode_pictures(one, SETTINGS), decode_pictures(two, SETTINGS), strict=True)
    assert [picture for pair in pairs for picture in pair] == [
        expected(data) for pair in zip(one, two, strict=True) for data in pair
    ]
    assert len(decoders()) == 1


def test_threads_have_processes_of_their_own_which_end_with_them():
    list(decode_pictures([photo(0)], SETTINGS))
    before = decoders()
    contents = [photo(seed) for seed in range(100)]
    barrier = threading.Barrier(3)
    found = {}

    def decode(name):
        barrier.wait()
        found[name] = list(decode_pictures(contents, SETTINGS))
        barrier.wait()
        barrier.wait()

    threads = [threading.Thread(target=decode, args=(name,)) for name in range(2)]
    for thread in threads:
        thread.start()
    barrier.wait()
    barrier.wait()
    assert len(decoders()) == len(before) + 2
    barrier.wait()
    for thread in threads:
        thread.join()
    assert decoders() == before
    assert found[0] == found[1] == [expected(data) for data in contents]


def test_an_error_of_the_caller_passes_and_later_calls_work():
    def contents():
        yield photo(0)
        raise OSError("the disk is gone")

    with pytest.raises(OSError, match="the disk is gone"):
        list(decode_pictures(contents(), SETTINGS))
    assert list(decode_pictures([photo(1)], SETTINGS)) == [expected(photo(1))]


# Who starts the tests in the background may have told it to ignore Ctrl-C.
PROGRAM = """
import io, signal, sys, time
from PIL import Image
from pipeline.examples import decoding
signal.signal(signal.SIGINT, signal.default_int_handler)
sink = io.BytesIO()
Image.new("RGB", (9, 9)).save(sink, "PNG")
settings = decoding.PictureSettings(16, 1_000, 20.0, "png")
(found,) = decoding.decode_pictures([sink.getvalue()], settings)
assert not isinstance(found, str), found
print("decoded", flush=True)
time.sleep(float(sys.argv[1]))
"""


def start_program(seconds: float) -> tuple[subprocess.Popen, int]:
    """A program that has decoded and then lives on for so long, and its decoding process."""
    command = [sys.executable, "-c", PROGRAM, str(seconds)]
    program = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, cwd=ROOT)
    assert program.stdout.readline() == b"decoded\n"
    (decoder,) = decoders(program.pid)
    return program, decoder


def test_the_process_ends_with_a_program_that_ends():
    program, decoder = start_program(0.5)
    with program:
        assert program.wait() == 0
    assert not is_alive(decoder)


@pytest.mark.parametrize("ending", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_the_process_ends_with_a_program_that_is_killed(ending):
    program, decoder = start_program(60)
    with program:
        program.send_signal(ending)
        assert program.wait() != 0
        assert ends_within(2.0, decoder)


def test_ctrl_c_is_for_the_parent():
    list(decode_pictures([photo(0)], SETTINGS))
    (process,) = decoders()
    os.kill(process, signal.SIGINT)
    time.sleep(0.1)
    assert list(decode_pictures([photo(1)], SETTINGS)) == [expected(photo(1))]
    assert decoders() == [process]


def test_a_fork_leaves_its_parents_process_alone():
    list(decode_pictures([photo(0)], SETTINGS))
    (process,) = decoders()
    child = os.fork()
    if child == 0:
        found = list(decode_pictures([photo(1)], SETTINGS))
        os._exit(0 if found == [expected(photo(1))] else 1)
    assert os.waitpid(child, 0)[1] == 0
    assert list(decode_pictures([photo(2)], SETTINGS)) == [expected(photo(2))]
    assert decoders() == [process]


def test_the_process_imports_our_package_wherever_it_runs(tmp_path, monkeypatch):
    for name in ("pipeline", "PIL"):
        decoy = tmp_path / name
        decoy.mkdir()
        (decoy / "__init__.py").write_text("raise ImportError('the wrong package')")
    (tmp_path / "struct.py").write_text("raise ImportError('the wrong module')")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    found = in_thread(lambda: list(decode_pictures([photo(0)], SETTINGS)))
    assert found == [expected(photo(0))]


def test_a_process_that_cannot_start_is_one_line(tmp_path, monkeypatch):
    monkeypatch.setattr(decoding, "_IMPORT_ROOTS", [str(tmp_path)] * 2)
    with pytest.raises(ImgembedError, match=r"does not start with .*: ModuleNotFoundError: "):
        list(decode_pictures([photo(0)], PictureSettings(16, 99, 20.0, "png")))
    monkeypatch.setattr(sys, "executable", "/no/python")
    with pytest.raises(ImgembedError, match=r"does not start with '/no/python'"):
        list(decode_pictures([photo(0)], PictureSettings(16, 98, 20.0, "png")))


@pytest.mark.skipif(not hasattr(resource, "prlimit"), reason="Linux shows a process's limits")
def test_memory_of_the_process_is_limited():
    list(decode_pictures([photo(0)], SETTINGS))
    (process,) = decoders()
    soft, _ = resource.prlimit(process, resource.RLIMIT_AS)
    assert 64 * SETTINGS.max_pixels <= soft < 2**31
    assert resource.prlimit(process, resource.RLIMIT_CORE)[0] == 0
