"""Engines that are processes of their own, for the tests: where they are, and workers for them.

`make test-engines` puts the programs into a folder, IMGEMBED_ENGINES, or the user's cache.
"""

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FOLDER = Path(
    os.environ.get("IMGEMBED_ENGINES")
    or Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache"), "imgembed", "engines")
)
PRISM = FOLDER / "prism"
FLINK_JAR = FOLDER / "beam-runners-flink-2.2-job-server-2.77.0.jar"
FLINK_WHEEL = FOLDER / "apache_flink_libraries-2.2.1-py2.py3-none-any.whl"
_OPENED = ["java.base/java.lang", "java.base/java.util", "java.base/java.net", "java.base/java.nio"]


def free_port():
    with socket.socket() as server:
        server.bind(("localhost", 0))
        return server.getsockname()[1]


def environment(**changes):
    """Of a process that finds this checkout and this Python first, wherever it runs."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    return {**os.environ, "PYTHONPATH": str(ROOT), "PATH": path, **changes}


def spawn(command, cwd, **changes):
    """A process in a group of its own, at low priority; its output goes to a file."""
    log = Path(cwd) / f"{Path(str(command[0])).name}-{time.monotonic_ns()}.log"
    with log.open("wb") as sink:
        process = subprocess.Popen(
            ["nice", "-n", "10", *map(str, command)],
            cwd=cwd,
            env=environment(**changes),
            stdout=sink,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    process.log = log
    return process


def stop(process):
    """Ends a process and those that it started."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def command(cwd, *arguments):
    """A command of imgembed as a process."""
    return spawn([sys.executable, "-m", "cli.main", *arguments], cwd)


def finish(process, *, code=0, seconds=280):
    """Its last lines, once it has ended with that code."""
    try:
        ended = process.wait(seconds)
    except subprocess.TimeoutExpired:
        stop(process)
        pytest.fail(f"hangs: {process.log.read_text()[-2000:]}")
    text = process.log.read_text(errors="replace")
    assert ended == code, text[-3000:]
    return text.splitlines()


def wait_until(condition, process, seconds=120):
    """Waits for a condition while a process is at work."""
    end = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, process.log.read_text()[-2000:]
        assert time.monotonic() < end, "it does not come"
        time.sleep(0.05)


def children(pid, part):
    """Processes below one whose command line holds a text."""
    found, parents = [], [pid]
    tree = {}
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError, ValueError):
            stat = (entry / "stat").read_text().rsplit(")", 1)[1].split()
            tree.setdefault(int(stat[1]), []).append(int(entry.name))
    while parents:
        for child in tree.get(parents.pop(), ()):
            parents.append(child)
            with contextlib.suppress(OSError):
                line = Path(f"/proc/{child}/cmdline").read_bytes().replace(b"\0", b" ").decode()
                if part in line:
                    found.append(child)
    return found


@contextlib.contextmanager
def worker_pool(folder):
    """Python workers as processes that another one starts on demand; yields (process, address)."""
    port = free_port()
    folder.mkdir()
    program = "apache_beam.runners.worker.worker_pool_main"
    process = spawn([sys.executable, "-m", program, f"--service_port={port}"], folder)
    try:
        _wait_for_port(port, process)
        yield process, f"localhost:{port}"
    finally:
        stop(process)


def _wait_for_port(port, process):
    def answers():
        with socket.socket() as client:
            return client.connect_ex(("localhost", port)) == 0

    wait_until(answers, process)


def missing(engine):
    """Why an engine cannot be run here, or None."""
    if engine == "prism":
        return None if PRISM.is_file() else f"no {PRISM}: make test-engines builds it with Go"
    if shutil.which("java") is None:
        return "no Java"
    gone = [path for path in (FLINK_JAR, FLINK_WHEEL) if not path.is_file()]
    return f"no {gone[0]}: make test-engines fetches it, where it is to be had" if gone else None


@contextlib.contextmanager
def flink_cluster(folder):
    """A JobManager and a TaskManager of two slots; yields (address, TaskManager, start another)."""
    library = FOLDER / "flink"
    if not library.is_dir():
        with zipfile.ZipFile(FLINK_WHEEL) as wheel:
            names = [n for n in wheel.namelist() if n.startswith("pyflink/lib/")]
            wheel.extractall(library, names)
    rest, rpc, blob = free_port(), free_port(), free_port()
    (folder / "conf").mkdir(parents=True)
    settings = {
        "jobmanager.rpc.address": "localhost",
        "jobmanager.rpc.port": rpc,
        "blob.server.port": blob,
        "rest.port": rest,
        "rest.address": "localhost",
        "taskmanager.host": "localhost",
        "taskmanager.numberOfTaskSlots": 2,
        # As Flink's own scripts work them out of the process sizes.
        "taskmanager.cpu.cores": 2,
        "taskmanager.memory.framework.heap.size": "128m",
        "taskmanager.memory.framework.off-heap.size": "128m",
        "taskmanager.memory.jvm-metaspace.size": "256m",
        "taskmanager.memory.jvm-overhead.min": "192m",
        "taskmanager.memory.jvm-overhead.max": "192m",
        "taskmanager.memory.task.heap.size": "256m",
        "taskmanager.memory.task.off-heap.size": "0",
        "taskmanager.memory.network.min": "64m",
        "taskmanager.memory.network.max": "64m",
        "taskmanager.memory.managed.size": "128m",
        "io.tmp.dirs": folder / "tmp",
        "restart-strategy.type": "fixed-delay",
        "restart-strategy.fixed-delay.attempts": 2,
        "restart-strategy.fixed-delay.delay": "1 s",
        "heartbeat.timeout": 10_000,
        "slot.request.timeout": 60_000,
    }
    text = "".join(f"{key}: {value}\n" for key, value in settings.items())
    (folder / "conf" / "config.yaml").write_text(text)
    entry = "org.apache.flink.runtime"
    opened = [f"--add-opens={package}=ALL-UNNAMED" for package in _OPENED]
    java = ["java", "-Xmx384m", *opened, "-cp", f"{library}/pyflink/lib/*"]
    where = ["--configDir", folder / "conf"]
    manager = f"{entry}.entrypoint.StandaloneSessionClusterEntrypoint"
    worker = f"{entry}.taskexecutor.TaskManagerRunner"
    with contextlib.ExitStack() as stack:

        def started(entry):
            process = spawn([*java, entry, *where], folder)
            stack.callback(stop, process)
            return process

        boss = started(manager)
        helper = started(worker)
        wait_until(lambda: _slots(rest) == 2, boss)
        yield f"localhost:{rest}", helper, lambda: started(worker)


def _slots(port):
    with contextlib.suppress(OSError):
        address = f"http://localhost:{port}/overview"
        with urllib.request.urlopen(address, timeout=5) as answer:
            return json.load(answer)["slots-total"]
