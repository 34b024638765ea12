"""Disks that fill while a stage writes, and such as may not be written."""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path

import fault_runs
from fault_rows import Cases, row, skipped
from fault_runs import STAGES, Bench

DISK_BYTES = 96 << 20


@contextlib.contextmanager
def small_disk(folder: Path) -> Iterator[str | None]:
    """A disk of its own at a folder; gives the reason where none can be had."""
    folder.mkdir(parents=True, exist_ok=True)
    command = ["mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES}", "tmpfs", str(folder)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        reason = done.stderr.strip() if done.returncode else None
    except FileNotFoundError:
        reason = "there is no mount command"
    try:
        yield reason
    finally:
        if reason is None:
            subprocess.run(["umount", "--lazy", str(folder)], check=True)


def fill(disk: Path, free: int) -> None:
    """Takes a disk's space, but for some bytes."""
    left = os.statvfs(disk)
    with open(disk / ".fill", "wb") as file, contextlib.suppress(OSError):
        file.write(bytes(max(0, left.f_bavail * left.f_bsize - free)))


def full_disks(bench: Bench, trials: Path, _: int) -> Cases:
    """A disk that fills while a stage writes: half of what it writes finds room."""
    for stage in STAGES:
        with small_disk(trials / "disk") as reason:
            if reason:
                yield skipped("disk full", stage, reason)
                continue
            run_dir = bench.at(stage, trials / "disk" / "run")
            before = fault_runs.read_back(run_dir)
            fill(trials / "disk", bench.bytes_of(stage) // 2)
            yield row(
                bench,
                "disk full",
                stage,
                run_dir,
                before=before,
                ended=fault_runs.call(bench.run(run_dir, "--from", stage)),
                first=stage,
                last=stage,
                repair=(trials / "disk" / ".fill").unlink,
            )


def read_only(bench: Bench, trials: Path, _: int) -> Cases:
    """A disk mounted read-only, and the folder of each stage without the right to write."""
    fault = "read-only"
    with small_disk(trials / "disk") as reason:
        if reason:
            yield skipped(fault, "the whole disk", reason)
        else:
            run_dir = bench.at("graph", trials / "disk" / "run")
            before = fault_runs.read_back(run_dir)
            mount = ["mount", "-o"]
            subprocess.run([*mount, "remount,ro", str(trials / "disk")], check=True)
            yield row(
                bench,
                fault,
                "the whole disk",
                run_dir,
                before=before,
                last="graph",
                ended=fault_runs.call(bench.run(run_dir)),
                repair=lambda: subprocess.run(
                    [*mount, "remount,rw", str(trials / "disk")], check=True
                ),
            )
    prefix = obeying()
    for stage in STAGES:
        if prefix is None:
            yield skipped(fault, f"the folder of {stage}", "root obeys nobody without setpriv")
            continue
        run_dir = bench.at(stage, trials / "run")
        before = fault_runs.read_back(run_dir)
        (run_dir / stage).chmod(0o555)
        yield row(
            bench,
            fault,
            f"the folder of {stage}",
            run_dir,
            before=before,
            ended=fault_runs.call(bench.run(run_dir, "--from", stage, prefix=prefix)),
            first=stage,
            last=stage,
            repair=lambda run_dir=run_dir, stage=stage: (run_dir / stage).chmod(0o755),
        )


def obeying() -> Sequence[str] | None:
    """What stands before a command so that permissions count for it, even if it is root's."""
    if os.geteuid() != 0:
        return ()
    prefix = ("setpriv", "--bounding-set=-dac_override,-dac_read_search")
    with contextlib.suppress(FileNotFoundError):
        if subprocess.run([*prefix, "true"], capture_output=True, check=False).returncode == 0:
            return prefix
    return None
