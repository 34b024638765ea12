"""What a machine has for the work: cores, memory, disks, graphics cards, credentials, Java."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator

from cli.figures import say_bytes
from cli.findings import FAILED, OK, WARNING, Finding
from cli.machine import available_disk, available_memory, text
from cli.settings import Config
from pipeline import storage

_MEMORY = 3 * 10**9  # bytes; the demo's largest stage takes 2.4 GB, libraries and all
_LEAST_MEMORY = 10**9  # which TensorFlow and Beam take between them, before any data
_DISK, _LEAST_DISK = 5 * 10**9, 10**8
_TEMPORARY = 10**9
_JAVA = 11  # the first version that Flink 1.18 and later run on
_PATIENCE = 120  # s; for another program's answer
_GPUS = "import tensorflow; print(len(tensorflow.config.list_physical_devices('GPU')))"


def findings(config: Config) -> Iterator[Finding]:
    """All that can be seen of this machine, without its network."""
    yield _cores()
    yield _memory()
    yield _disk(config.run_dir)
    yield _temporary()
    yield _gpu()
    yield _credentials(config)
    yield _java(config)


def _cores() -> Finding:
    here, usable = os.cpu_count() or 1, _usable_cores()
    if usable < here:
        advice = f"take --workers {max(1, int(usable))}: more threads would wait for each other"
        return Finding("cores", WARNING, f"{usable:g} of {here} may be used", advice)
    return Finding("cores", OK, f"{here}")


def _usable_cores() -> float:
    """Cores that this process may use: by its affinity and by its control group's quota."""
    found = [float(os.cpu_count() or 1)]
    if hasattr(os, "sched_getaffinity"):
        found.append(float(len(os.sched_getaffinity(0))))
    quota, _, period = text("/sys/fs/cgroup/cpu.max").strip().partition(" ")
    if quota.isdigit() and period.isdigit():
        found.append(int(quota) / int(period))
    return min(found)


def _memory() -> Finding:
    free = available_memory()
    if free is None:
        return Finding("memory", OK, "this system does not tell how much is free")
    state = FAILED if free < _LEAST_MEMORY else WARNING if free < _MEMORY else OK
    advice = (
        f"end other programs, or raise the container's limit: even a small run takes "
        f"{say_bytes(_MEMORY)}; imgembed plan tells what yours will need"
    )
    return Finding("memory", state, f"{say_bytes(free)} are free", "" if state == OK else advice)


def _disk(run_dir: str) -> Finding:
    if not storage.is_local(run_dir):
        return Finding("disk", OK, f"the run directory {run_dir} is in a bucket")
    folder = storage.existing_parent(run_dir)
    if not os.access(folder, os.W_OK):
        advice = "name a folder that you may write to with --run-dir"
        return Finding("disk", FAILED, f"{folder} may not be written to", advice)
    free = available_disk(run_dir) or 0
    state = FAILED if free < _LEAST_DISK else WARNING if free < _DISK else OK
    advice = "free some, or name a folder on another disk with --run-dir"
    said = f"{say_bytes(free)} are free for {run_dir}"
    return Finding("disk", state, said, "" if state == OK else advice)


def _temporary() -> Finding:
    try:
        folder = tempfile.gettempdir()
    except OSError as error:
        advice = "set the environment variable TMPDIR to a folder that may be written to"
        return Finding("temp space", FAILED, str(error), advice)
    free = shutil.disk_usage(folder).free
    said = f"{say_bytes(free)} are free in {folder}"
    if file_system(folder) == "tmpfs":
        advice = "set the environment variable TMPDIR to a folder on a disk"
        return Finding("temp space", WARNING, f"{said}, which is in memory", advice)
    if free < _TEMPORARY:
        advice = "free some, or set the environment variable TMPDIR to a folder on another disk"
        return Finding("temp space", WARNING, said, advice)
    return Finding("temp space", OK, said)


def file_system(folder: str) -> str:
    """The kind of file system that a folder lies on, such as ext4; empty where unknown."""
    real, nearest, found = f"{os.path.realpath(folder)}/", "", ""
    for line in text("/proc/mounts").splitlines():
        _, point, kind = line.split()[:3]
        point = point.replace("\\040", " ").rstrip("/") + "/"
        if real.startswith(point) and len(point) >= len(nearest):
            nearest, found = point, kind
    return found


def _gpu() -> Finding:
    if not any(name.startswith("nvidia") for name in _names("/dev")):
        return Finding("gpu", OK, "none; training takes the cores")
    command = [sys.executable, "-c", _GPUS]
    try:
        done = subprocess.run(  # noqa: S603 - this very Python
            command, capture_output=True, text=True, timeout=_PATIENCE, check=False
        )
        seen = int(done.stdout.split()[-1])
    except (OSError, ValueError, IndexError, subprocess.TimeoutExpired):
        seen = 0
    if seen:
        return Finding("gpu", OK, f"TensorFlow sees {seen}")
    advice = "install tensorflow[and-cuda] of the same version, and a driver that fits it"
    return Finding("gpu", WARNING, "there is a card that TensorFlow does not see", advice)


def _names(folder: str) -> list[str]:
    try:
        return os.listdir(folder)
    except OSError:
        return []


def _credentials(config: Config) -> Finding:
    """Whether there are any for Google Cloud; never what they are."""
    paths = (config.run_dir, config.sessions.path, config.edges.path, config.images.path)
    wanted = config.runner.name == "dataflow" or any("gs://" in (path or "") for path in paths)
    named = os.environ.get("GOOGLE_APPLICATION_CREDENTIALS")
    advice = "log in with: gcloud auth application-default login"
    if named and not os.path.isfile(named):
        said = "GOOGLE_APPLICATION_CREDENTIALS names a file that is not there"
        return Finding("credentials", FAILED if wanted else WARNING, said, advice)
    if named or os.path.isfile(_default_credentials()):
        return Finding("credentials", OK, "there are some for Google Cloud")
    if not wanted:
        return Finding("credentials", OK, "none for Google Cloud, and none are needed")
    said = "none for Google Cloud on this machine; on Google's own machines they come with it"
    return Finding("credentials", WARNING, said, f"anywhere else, {advice}")


def _default_credentials() -> str:
    folder = os.environ.get("CLOUDSDK_CONFIG") or os.path.expanduser("~/.config/gcloud")
    return os.path.join(folder, "application_default_credentials.json")


def _java(config: Config) -> Finding:
    needed = config.runner.name == "flink"
    program = _java_program()
    if program is None:
        if not needed:
            return Finding("java", OK, "none; only --runner flink needs one")
        advice = f"install Java {_JAVA} or later, or set JAVA_HOME to where it is"
        return Finding("java", FAILED, "none, and --runner flink needs one", advice)
    number = java_version(program)
    if number is not None and number >= _JAVA:
        return Finding("java", OK, f"{number}")
    said = f"{program} is {'no Java that answers' if number is None else f'Java {number}'}"
    advice = f"--runner flink needs Java {_JAVA} or later; set JAVA_HOME to where one is"
    return Finding("java", FAILED if needed else WARNING, said, advice)


def _java_program() -> str | None:
    home = os.environ.get("JAVA_HOME")
    at_home = os.path.join(home, "bin", "java") if home else ""
    return at_home if os.path.isfile(at_home) else shutil.which("java")


def java_version(program: str) -> int | None:
    """The number of a Java program's version, 8 for 1.8; None where it does not tell."""
    try:
        done = subprocess.run(  # noqa: S603 - what JAVA_HOME or the path names
            [program, "-version"], capture_output=True, text=True, timeout=_PATIENCE, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    found = re.search(r'version "(?:1\.)?(\d+)', done.stderr + done.stdout)
    return int(found[1]) if found else None
