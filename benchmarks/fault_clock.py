"""A clock that goes back, before a run and in the middle of one."""

from __future__ import annotations

import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import fault_runs
from fault_rows import Cases, row, skipped
from fault_runs import NEW, Bench


def clocks(bench: Bench, trials: Path, _: int) -> Cases:
    """A clock an hour behind that of the run before, and one that goes back in mid-run."""
    fault = "clock goes back"
    if shutil.which("cc") is None:
        yield skipped(fault, "an hour", "there is no C compiler to make a clock with")
        return
    clock = SetClock.made(trials)
    run_dir = bench.at("graph", trials / "run")
    before = fault_runs.read_back(run_dir)
    clock.go_back(HOUR)
    yield row(
        bench,
        fault,
        "an hour before the run before began",
        run_dir,
        before=before,
        ended=fault_runs.call(bench.run(run_dir), **clock.environment),
        expects_failure=False,
    )
    for stage in ("examples", "model"):
        run_dir = bench.at("graph", trials / "run")
        before = fault_runs.read_back(run_dir)
        clock.go_back(0)
        process = fault_runs.start(bench.run(run_dir), **clock.environment)
        fault_runs.wait_until((run_dir / stage / NEW).exists, process)
        clock.go_back(HOUR)
        yield row(
            bench,
            fault,
            f"an hour, within {stage}",
            run_dir,
            before=before,
            ended=fault_runs.finish(process),
            expects_failure=False,
        )


HOUR = 3_600
# The time of day as a program sees it, behind by as many seconds as a file says at that moment. The
# clock that waits are measured by goes on, as it does where somebody sets the time.
_CLOCK = """
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

static const int64_t none = 0;
static const volatile int64_t *behind = &none;

__attribute__((constructor)) static void look(void) {
  const char *path = getenv("SECONDS_BEHIND");
  int file = path ? open(path, O_RDONLY | O_CLOEXEC) : -1;
  if (file < 0) return;
  void *found = mmap(0, sizeof none, PROT_READ, MAP_SHARED, file, 0);
  if (found != MAP_FAILED) behind = found;
  close(file);
}
int clock_gettime(clockid_t id, struct timespec *now) {
  int failed = syscall(SYS_clock_gettime, id, now);
  if (!failed && (id == CLOCK_REALTIME || id == CLOCK_REALTIME_COARSE)) now->tv_sec -= *behind;
  return failed;
}
int gettimeofday(struct timeval *now, void *zone) {
  int failed = syscall(SYS_gettimeofday, now, zone);
  if (!failed) now->tv_sec -= *behind;
  return failed;
}
time_t time(time_t *now) {
  struct timespec found;
  clock_gettime(CLOCK_REALTIME, &found);
  if (now) *now = found.tv_sec;
  return found.tv_sec;
}
"""


@dataclass(frozen=True)
class SetClock:
    """A clock that can be set back while a program runs."""

    library: Path
    seconds: Path

    @classmethod
    def made(cls, folder: Path) -> SetClock:
        """Compiled in a folder."""
        folder.mkdir(parents=True, exist_ok=True)
        source, library = folder / "clock.c", folder / "clock.so"
        source.write_text(_CLOCK)
        compiler = ["cc", "-shared", "-fPIC", "-O1", "-o", str(library), str(source)]
        subprocess.run(compiler, check=True)
        found = cls(library, folder / "clock.seconds")
        found.seconds.write_bytes(bytes(8))
        return found

    def go_back(self, seconds: int) -> None:
        """From now on; in place, as programs look into this file."""
        with self.seconds.open("r+b") as file:
            file.write(seconds.to_bytes(8, sys.byteorder, signed=True))

    @property
    def environment(self) -> dict[str, str]:
        """Of a program that goes by this clock."""
        return {"LD_PRELOAD": str(self.library), "SECONDS_BEHIND": str(self.seconds)}
