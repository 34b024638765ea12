"""What goes wrong around `imgembed build-graph`: killed, full disks, broken files, two at once.

Each test runs the whole program and does the real thing to it: signals, small disks, read-only
disks. Whatever happens, the version in force stays whole, what the user sees is one line, and the
next run gives the bytes of a run that nobody disturbed.
"""

import contextlib
import errno
import gzip
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from pipeline import storage
from pipeline.artifacts import RunDir
from pipeline.errors import ImgembedError

PROGRAM = Path(sys.executable).with_name("imgembed")
PATIENCE = 300  # s; for what takes seconds on an idle machine
SEED = 20261124

# Data, runs and what is to be found in a run directory -------------------------------------------


def session_log(path, sessions, *, first=0, **options):
    """A Parquet file of six visits a session, popular images more often than others."""
    random_ = np.random.default_rng([SEED, first])
    session = np.repeat(np.arange(first, first + sessions), 6)
    image = random_.zipf(1.3, len(session)) % 20_000
    table = pa.table(
        {
            "session_id": [f"s{number}" for number in session],
            "user_id": [f"u{number % 5_000}" for number in session],
            "image_id": [f"i{number}" for number in image],
            "timestamp": 1_700_000_000 + np.arange(len(session)),
        }
    )
    pq.write_table(table, path, **options)
    return path


def text_log(path, sessions, *, first=0):
    """The same as JSONL, gzip where the name ends in .gz."""
    rows = (
        json.dumps({"session_id": f"s{session}", "image_id": f"i{(session * step) % 97}"}) + "\n"
        for session in range(first, first + sessions)
        for step in (3, 5, 7)
    )
    content = "".join(rows).encode()
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    return path


def start(logs, run_dir, *options, prefix=(), **environment):
    """The program at work, as a process."""
    arguments = ["build-graph", "--sessions", logs, "--run-dir", run_dir, *options]
    return subprocess.Popen(
        [*prefix, str(PROGRAM), *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "COLUMNS": "200", **environment},
        start_new_session=True,
        # A process started in the background ignores SIGINT, and so do its children.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )


def finish(process, code=0):
    """(stdout, stderr) when it has ended with that code."""
    stdout, stderr = process.communicate(timeout=PATIENCE)
    assert process.returncode == code, stderr
    return stdout, stderr


def build(logs, run_dir, *options, **environment):
    """A whole run; what it said on stderr."""
    return finish(start(logs, run_dir, *options, **environment))[1]


def one_line(process, code=1):
    """The one line that a run ends with."""
    stdout, stderr = finish(process, code)
    lines = [line for line in stderr.splitlines() if not re.match("✓ |  |.* …$", line)]
    assert stdout == ""
    assert len(lines) == 1, stderr
    assert lines[0].startswith("imgembed: ")
    assert "Traceback" not in lines[0]
    assert "while running" not in lines[0]
    return lines[0]


def wait_until(condition, process):
    """Waits for something to come true while a process works."""
    end = time.monotonic() + PATIENCE
    while not condition():
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < end
        time.sleep(0.001)


def kill(process):
    process.kill()
    process.communicate()


def files(folder):
    """{name: bytes} of a version, all but the manifest, which knows times and names."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(Path(folder).rglob("*"))
        if path.is_file() and path.name != "manifest.json"
    }


def in_force(run_dir):
    """The version in force, every table of which can be read."""
    version = RunDir.open(str(run_dir)).require("graph")
    for path in Path(version.path).rglob("*.parquet"):
        pq.read_table(path)
    return version


def names_below(folder):
    """Names of all files, and of folders that hold nothing."""
    return {
        os.path.relpath(name, folder)
        for parent, folders, names in os.walk(folder)
        for name in [os.path.join(parent, name) for name in names] or [parent] * (not folders)
    }


def versions(run_dir):
    return sorted(name for name in os.listdir(run_dir / "graph") if name != "CURRENT")


@dataclass(frozen=True)
class Run:
    """A run that nobody disturbed: its log, its bytes, and how long it took in seconds."""

    logs: Path
    files: dict
    seconds: float

    def check(self, run_dir, *expected_versions):
        """The version in force is this run's, and nothing else is there but those versions."""
        assert files(in_force(run_dir).path) == self.files
        assert versions(run_dir) == sorted(expected_versions)
        self.check_clean(run_dir)

    def check_clean(self, run_dir):
        """Nothing is there but whole versions and logs."""
        wanted = {".lock", "graph", "logs"}
        assert set(os.listdir(run_dir)) <= wanted
        assert all(path.suffix == ".log" for path in (run_dir / "logs").iterdir())
        assert (run_dir / "graph" / "CURRENT").is_file()
        for version in versions(run_dir):
            found = names_below(run_dir / "graph" / version)
            assert found == {*self.files, "manifest.json"}, version


@pytest.fixture(scope="module")
def yesterday(tmp_path_factory):
    """The run directory of a smaller log; tests copy it."""
    folder = tmp_path_factory.mktemp("yesterday")
    build(session_log(folder / "log.parquet", 2_000), folder / "run")
    return folder / "run"


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The undisturbed run of a log that takes some seconds."""
    folder = tmp_path_factory.mktemp("whole")
    logs = folder / "logs"
    logs.mkdir()
    for part in range(4):
        session_log(logs / f"{part}.parquet", 10_000, first=part * 10_000)
    began = time.monotonic()
    build(logs, folder / "run")
    seconds = time.monotonic() - began
    return Run(logs, files(folder / "run" / "graph" / "v0001"), seconds)


@pytest.fixture
def run_dir(yesterday, tmp_path):
    """A run directory in which yesterday's graph is in force."""
    return Path(shutil.copytree(yesterday, tmp_path / "run"))


# Killed -----------------------------------------------------------------------------------------


def test_killed_at_ten_moments_it_leaves_the_former_version_and_the_next_run_is_as_ever(
    whole, run_dir
):
    random_ = random.Random(SEED)
    before = files(in_force(run_dir).path)
    for tenth in range(10):
        process = start(whole.logs, run_dir, "--force")
        end = time.monotonic() + whole.seconds * (tenth + random_.random()) / 10
        while time.monotonic() < end and process.poll() is None:
            assert files(in_force(run_dir).path) in (before, whole.files)
            time.sleep(0.1)
        kill(process)
        assert files(in_force(run_dir).path) in (before, whole.files)
    build(whole.logs, run_dir, "--force")
    kept = versions(run_dir)
    assert len(kept) == 2
    whole.check(run_dir, *kept)


def test_killed_between_the_steps_on_disk_it_leaves_the_former_version(whole, run_dir):
    new = run_dir / "graph" / "v0002"
    process = start(whole.logs, run_dir)
    wait_until(new.exists, process)
    kill(process)
    assert in_force(run_dir).name == "v0001"

    process = start(whole.logs, run_dir)
    wait_until(lambda: any(names for _, _, names in os.walk(new)), process)
    kill(process)
    assert in_force(run_dir).name == "v0001"

    # The manifest is there and CURRENT is not yet: the program waits for a reader of this pipe.
    os.mkfifo(run_dir / "graph" / "CURRENT.part")
    process = start(whole.logs, run_dir)
    wait_until((new / "manifest.json").exists, process)
    kill(process)
    os.unlink(run_dir / "graph" / "CURRENT.part")
    assert in_force(run_dir).name == "v0001"
    assert files(new) == whole.files

    # All but committed is not committed: it does not take the place of the former version.
    build(whole.logs, run_dir)
    whole.check(run_dir, "v0001", "v0002")


# Two at once ------------------------------------------------------------------------------------


def test_the_second_of_two_runs_says_who_is_at_work_and_leaves_its_files_alone(whole, run_dir):
    first = start(whole.logs, run_dir)
    wait_until((run_dir / "graph" / "v0002").exists, first)
    first.send_signal(signal.SIGSTOP)  # or it might be done before the second begins
    line = one_line(start(whole.logs, run_dir))
    assert re.search(rf"is in use by process {first.pid} on \S+ since 20\d\d-\d\d-\d\d ", line)
    first.send_signal(signal.SIGCONT)
    finish(first)
    whole.check(run_dir, "v0001", "v0002")


# Asked to end -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("number", "moment", "word"),
    [
        (signal.SIGINT, "begun", "interrupted"),
        (signal.SIGTERM, "at work", "terminated"),
        (signal.SIGINT, "commit", "interrupted"),
    ],
)
def test_a_signal_ends_it_with_one_line_and_no_half_version(whole, run_dir, number, moment, word):
    new = run_dir / "graph" / "v0002"
    if moment == "commit":  # where it waits for a reader of this pipe
        os.mkfifo(run_dir / "graph" / "CURRENT.part")
    process = start(whole.logs, run_dir)
    wait_until((new / "manifest.json" if moment == "commit" else new).exists, process)
    if moment == "at work":
        time.sleep(whole.seconds / 10)
    process.send_signal(number)
    line = one_line(process, code=128 + number)
    assert line == f"imgembed: {word}; nothing of the unfinished stage was kept"
    assert in_force(run_dir).name == "v0001"
    assert versions(run_dir) == ["v0001"]
    whole.check_clean(run_dir)


# Disks ------------------------------------------------------------------------------------------


@pytest.fixture
def small_disk(tmp_path):
    """Makes a disk of that many bytes; gives its folder. Skips where nothing can be mounted."""
    folders = []

    def make(size):
        folder = tmp_path / f"disk{len(folders)}"
        folder.mkdir()
        command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
        try:
            done = subprocess.run(command, capture_output=True, text=True, check=False)
        except FileNotFoundError:
            pytest.skip("there is no mount command")
        if done.returncode:
            pytest.skip(f"nothing can be mounted: {done.stderr.strip()}")
        folders.append(folder)
        return folder

    yield make
    for folder in folders:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def fill(disk, *, free=0):
    """Takes a disk's space, but for some bytes."""
    left = os.statvfs(disk)
    size = left.f_bavail * left.f_bsize - free
    with open(disk / ".fill", "wb") as file, contextlib.suppress(OSError):
        file.write(bytes(max(0, size)))


@pytest.mark.parametrize("free", ["nothing", "half"])
def test_a_full_disk_is_one_line_and_the_former_version_stays(whole, yesterday, small_disk, free):
    disk = small_disk(16 << 20)
    run_dir = Path(shutil.copytree(yesterday, disk / "run"))
    before = files(in_force(run_dir).path)
    output = sum(map(len, whole.files.values()))
    fill(disk, free=0 if free == "nothing" else output // 2)
    line = one_line(start(whole.logs, run_dir))
    assert line.startswith(f"imgembed: no space left on the disk of {run_dir}")
    assert line.endswith(": free some, or name another folder with --run-dir")
    assert versions(run_dir) == ["v0001"]
    assert files(in_force(run_dir).path) == before
    whole.check_clean(run_dir)


def test_a_full_folder_for_temporary_files_does_no_harm(whole, run_dir, small_disk):
    disk = small_disk(16 << 10)
    fill(disk)
    build(whole.logs, run_dir, TMPDIR=str(disk))
    whole.check(run_dir, "v0001", "v0002")
    assert os.listdir(disk) == [".fill"]


def test_a_disk_that_fills_before_the_commit_leaves_the_former_version(small_disk):
    disk = small_disk(64 << 10)
    run = RunDir.open(str(disk))
    with run.begin("graph") as new:
        new.commit({"number": 1})

    def commit(prepare):
        with run.begin("graph") as new:
            prepare()
            new.commit({"text": "x" * 10_000})

    with pytest.raises(OSError, match=r"v0002/manifest\.json") as caught:
        commit(lambda: fill(disk))
    assert caught.value.errno == errno.ENOSPC
    assert "free some" in storage.explain(caught.value)
    assert sorted(os.listdir(disk / "graph")) == ["CURRENT", "v0001"]
    os.truncate(disk / ".fill", 0)
    with pytest.raises(OSError, match=r"CURRENT\.part"):
        commit(lambda: os.symlink("/dev/full", disk / "graph" / "CURRENT.part"))
    assert sorted(os.listdir(disk / "graph")) == ["CURRENT", "v0001"]
    assert run.require("graph").manifest["number"] == 1


def test_a_read_only_disk_is_one_line(whole, yesterday, small_disk, tmp_path):
    disk = small_disk(16 << 20)
    run_dir = Path(shutil.copytree(yesterday, disk / "run"))
    subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
    line = one_line(start(whole.logs, run_dir, TMPDIR=str(tmp_path)))
    assert re.fullmatch(rf"imgembed: {run_dir}\S*: read-only file system", line)
    assert in_force(run_dir).name == "v0001"


def test_output_that_finds_no_room_is_one_line():
    with open("/dev/full", "w") as full:
        command = [str(PROGRAM), "--version"]
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr == "imgembed: no space left where the output goes: free some\n"


# Permission -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def obeying():
    """What stands before a command so that permissions count for it, even if it is root's."""
    if os.geteuid() != 0:
        return ()
    prefix = ("setpriv", "--bounding-set=-dac_override,-dac_read_search")
    try:
        works = subprocess.run([*prefix, "true"], capture_output=True, check=False).returncode == 0
    except FileNotFoundError:
        works = False
    if not works:
        pytest.skip("root's permissions cannot be taken away: no setpriv")
    return prefix


def test_what_may_not_be_read_or_written_is_one_line_that_names_it(obeying, yesterday, tmp_path):
    logs = tmp_path / "logs"
    logs.mkdir()
    text_log(logs / "a.jsonl", 500)
    closed = shutil.copytree(yesterday, tmp_path / "closed")
    (closed / "graph").chmod(0o555)
    writer = start(logs / "a.jsonl", closed, prefix=obeying)
    text_log(logs / "b.jsonl", 500).chmod(0)
    reader = start(logs, tmp_path / "run", prefix=obeying)
    assert one_line(writer) == f"imgembed: {closed / 'graph' / 'v0002'}: permission denied"
    assert versions(closed) == ["v0001"]
    line = one_line(reader)
    assert str(logs / "b.jsonl") in line
    assert "permission denied" in line.lower()


# Input ------------------------------------------------------------------------------------------


def cut(path):
    """A file of which the last third is missing."""
    os.truncate(path, path.stat().st_size * 2 // 3)


def break_(path):
    """A file with some bytes in its middle overwritten."""
    with open(path, "r+b") as file:
        file.seek(path.stat().st_size // 3)
        file.write(b"\xff" * 2_000)


def lose(path):
    """A link that leads nowhere: as a file that went after the folder was listed."""
    path.unlink()
    path.symlink_to(path.with_name("gone"))


def block(path):
    """A pipe, which would be waited for without end."""
    path.unlink()
    os.mkfifo(path)


DAMAGES = {
    "gzip cut": ("b.jsonl.gz", cut),
    "parquet cut": ("b.parquet", cut),
    "parquet broken": ("b.parquet", break_),
    "lost": ("b.jsonl", lose),
    "pipe": ("b.jsonl", block),
}


def damaged_logs(folder, name, damage):
    """A folder of a good file and a damaged one."""
    folder.mkdir()
    if name.endswith(".parquet"):
        session_log(folder / "a.parquet", 300)
        session_log(folder / name, 3_000, first=300, row_group_size=2_000)
    else:
        text_log(folder / "a.jsonl", 300)
        text_log(folder / name, 3_000, first=300)
    damage(folder / name)
    return folder


@pytest.fixture(scope="module")
def damaged_runs(yesterday, tmp_path_factory):
    """{case: its folder and its line}, two at a time: most of their seconds are imports."""
    folder = tmp_path_factory.mktemp("damaged")

    def attempt(case):
        mine = folder / case.replace(" ", "-")
        mine.mkdir()
        run_dir = shutil.copytree(yesterday, mine / "run")
        return mine, one_line(start(damaged_logs(mine / "logs", *DAMAGES[case]), run_dir))

    with ThreadPoolExecutor(2) as pool:
        return dict(zip(DAMAGES, pool.map(attempt, DAMAGES), strict=True))


@pytest.mark.parametrize("case", DAMAGES)
def test_a_file_that_cannot_be_read_is_one_line_that_names_it(damaged_runs, case):
    folder, line = damaged_runs[case]
    assert str(folder / "logs" / DAMAGES[case][0]) in line
    assert versions(folder / "run") == ["v0001"]
    assert in_force(folder / "run").name == "v0001"


def test_a_log_that_grows_while_it_is_read_is_read_again_by_the_next_run(tmp_path):
    log, run_dir = text_log(tmp_path / "log.jsonl", 5_000), tmp_path / "run"
    process = start(log, run_dir)
    wait_until((run_dir / "graph" / "v0001").exists, process)  # the fingerprint has been taken
    with open(log, "ab") as file:
        file.write(text_log(tmp_path / "more", 500, first=5_000).read_bytes())
    _, stderr = finish(process)
    assert f"! {log} changed while it was read; the next run reads it anew" in stderr
    assert "up to date" not in build(log, run_dir)
    version = in_force(run_dir)
    assert version.name == "v0002"
    assert version.manifest["counts"]["rows"]["read"] == 3 * 5_500


def test_a_file_that_vanishes_after_it_was_listed_is_named(run_dir, tmp_path):
    logs = tmp_path / "logs"
    logs.mkdir()
    for name in ("a.jsonl", "b.jsonl"):
        text_log(logs / name, 2_000)
    process = start(logs, run_dir)
    wait_until((run_dir / "graph" / "v0002").exists, process)
    (logs / "b.jsonl").unlink()
    assert str(logs / "b.jsonl") in one_line(process)
    assert versions(run_dir) == ["v0001"]


def test_a_damaged_version_is_made_anew_as_the_line_says(run_dir, tmp_path):
    log = text_log(tmp_path / "log.jsonl", 500)
    (run_dir / "graph" / "v0001" / "manifest.json").write_text("{")
    line = one_line(start(log, run_dir))
    assert "make the stage anew with: imgembed build-graph --sessions PATH --force" in line
    build(log, run_dir, "--force")
    assert in_force(run_dir).name == "v0002"


# Examples ---------------------------------------------------------------------------------------


def example_files(run_dir, version="v0001"):
    """{name: bytes} of the records and the schema of a version of the examples."""
    folder = run_dir / "examples" / version
    names = [*folder.glob("*.tfrecord.gz"), folder / "schema.pbtxt"]
    return {path.name: path.read_bytes() for path in names}


@pytest.fixture(scope="module")
def illustrated(tmp_path_factory):
    """(log, folder of its pictures, run directory of the graph and examples of both)."""
    folder = tmp_path_factory.mktemp("illustrated")
    pictures = folder / "pictures"
    pictures.mkdir()
    for number in range(97):
        noise = np.random.default_rng(number).integers(0, 256, (300, 400, 3), dtype=np.uint8)
        Image.fromarray(noise).save(pictures / f"i{number}.png", compress_level=1)
    log = text_log(folder / "log.jsonl", 300)
    build(log, folder / "run", "--images", pictures)
    assert len(example_files(folder / "run")) >= 4
    return log, pictures, folder / "run"


def decoders(process):
    """Has a run processes that decode pictures? Those of other runs are in other sessions."""
    command = ["ps", "-A", "-ww", "-o", "sess=,args="]
    rows = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    ours = (row for row in rows.splitlines() if row.split()[0] == str(process.pid))
    return any("decode_worker" in row for row in ours)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_ended_among_the_pictures_the_former_examples_stay_and_the_next_run_is_as_ever(
    illustrated, tmp_path, number
):
    log, pictures, made = illustrated
    run_dir = Path(shutil.copytree(made, tmp_path / "run"))
    before = example_files(run_dir)
    new = run_dir / "examples" / "v0002"
    # Another layout: the graph stands, the examples are made anew.
    options = ("--images", pictures, "--set", "examples.layout=compact")
    process = start(log, run_dir, *options)
    wait_until((new / "work").exists, process)
    wait_until(lambda: decoders(process), process)
    if number == signal.SIGKILL:
        kill(process)
    else:
        process.send_signal(number)
        line = one_line(process, code=128 + number)
        word = "interrupted" if number == signal.SIGINT else "terminated"
        assert line == f"imgembed: {word}; nothing of the unfinished stage was kept"
        assert not new.exists()
    end = time.monotonic() + PATIENCE
    while decoders(process):
        assert time.monotonic() < end
        time.sleep(0.05)
    assert RunDir.open(str(run_dir)).require("examples").name == "v0001"
    assert example_files(run_dir) == before

    build(log, run_dir, "--images", pictures, "--force")
    version = RunDir.open(str(run_dir)).require("examples")
    assert example_files(run_dir, version.name) == before
    assert not (Path(version.path) / "work").exists()


def test_a_disk_that_fills_among_the_examples_is_one_line(illustrated, small_disk):
    log, pictures, made = illustrated
    disk = small_disk(24 << 20)
    run_dir = Path(shutil.copytree(made, disk / "run"))
    before = example_files(run_dir)
    fill(disk, free=1 << 18)
    line = one_line(start(log, run_dir, "--images", pictures, "--set", "examples.layout=compact"))
    assert line.startswith(f"imgembed: no space left on the disk of {run_dir}")
    assert example_files(run_dir) == before
    assert sorted(os.listdir(run_dir / "examples")) == ["CURRENT", "v0001"]


# Leftovers, without the program -----------------------------------------------------------------


def test_another_process_may_not_begin_but_the_same_one_may(tmp_path):
    run = RunDir.open(str(tmp_path))
    code = (
        "import sys; from pipeline.artifacts import RunDir\n"
        "with RunDir.open(sys.argv[1]).begin('graph'): print('began')"
    )
    command = [sys.executable, "-c", code, str(tmp_path)]
    with run.begin("graph"):
        other = subprocess.run(command, capture_output=True, text=True, check=False)
        assert other.returncode == 1
        assert f"in use by process {os.getpid()} on " in other.stderr
        with run.begin("model"):
            pass
    other = subprocess.run(command, capture_output=True, text=True, check=True)
    assert other.stdout == "began\n"


def test_a_pointer_that_names_nonsense_costs_no_version(tmp_path):
    run = RunDir.open(str(tmp_path))
    with run.begin("graph") as new:
        new.commit({})
    (tmp_path / "graph" / "CURRENT").write_bytes(b"\xff\x00")
    with pytest.raises(ImgembedError, match="make the stage anew"):
        run.current("graph")
    with pytest.raises(KeyError), run.begin("graph"):
        raise KeyError
    assert versions(tmp_path) == ["v0001"]
