"""Claim: whatever goes wrong around `imgembed run`, nothing committed is lost; a rerun mends it.

    python benchmarks/faults.py [--kills 30] [--work FOLDER] [--only NAME ...]

Draws a tiny world, makes every stage of it once, and then does to further runs what machines and
people do: SIGKILL at drawn moments of every stage, of the command and of a decoding process alone;
disks that fill or may not be written; a clock that goes back; two runs at once; damaged manifests,
pointers and files; inputs that change in mid-run. Prints a row for each: what the user sees, what
was lost of the versions that were in force (their files are read back and compared by bytes), what
the rerun gives beside a run that nobody disturbed. The same stands in FOLDER/faults.json.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import fault_runs
from fault_runs import NEW, STAGES, Bench, Ended, current
from measuring import describe_machine, process_tree

SEED = 20261128
DISK_BYTES = 96 << 20
NOTHING = "nothing"


@dataclass(frozen=True)
class Row:
    """What came of a fault. sound: nothing lost, one line, and the rerun as it should be."""

    fault: str
    case: str
    sees: str
    lost: str
    rerun: str
    sound: bool

    def __str__(self) -> str:
        cells = (self.fault, self.case, self.sees, self.lost, self.rerun)
        mark = "" if self.sound else " **(!)**"
        return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + mark + " |"


Cases = Iterator[Row]
Versions = dict[str, tuple[str, fault_runs.Files]]


def sees(ended: Ended, bench: Bench) -> str:
    """Exit code and line, without the paths of this machine."""
    if ended.code == -signal.SIGKILL:
        return "killed"
    said = ended.line if ended.code else "done"
    for path in (str(bench.folder.resolve()), str(bench.folder)):
        said = said.replace(path, "…")
    return f"{ended.code}: {said}"


def row(
    bench: Bench,
    fault: str,
    case: str,
    run_dir: Path,
    *,
    before: Versions,
    ended: Ended,
    first: str = STAGES[0],
    last: str = STAGES[-1],
    rerun: Callable[[], Ended] | None = None,
    renumbered: bool = False,
    how: str = "",
    expects_failure: bool = True,
    repair: Callable[[], object] | None = None,
) -> Row:
    """Looks at what a fault has left, runs again, and looks at that.

    first, last: of the rerun, where not all stages are wanted again. repair: what a person does in
    between, such as freeing the disk.
    """
    lost = fault_runs.losses(before, run_dir)
    if repair is not None:
        repair()
    command = bench.run(run_dir, "--from", first, "--to", last)
    again = rerun() if rerun else fault_runs.call(command)
    found = rerun_says(bench, run_dir, again, renumbered=renumbered, last=last)
    return Row(
        fault,
        case,
        sees(ended, bench),
        "; ".join(lost) or NOTHING,
        f"{how}{found}",
        not lost
        and (ended.is_explained if expects_failure else ended.code in (0, -signal.SIGKILL))
        and found == (same_values() if renumbered else same_bytes()),
    )


def same_bytes() -> str:
    """What is said of results that have the bytes of the undisturbed run."""
    return "the bytes of the undisturbed run"


def same_values() -> str:
    """The same where a stage was made twice, so that embeddings name another model's version."""
    return "the results of the undisturbed run, under other version numbers"


def rerun_says(bench: Bench, run_dir: Path, ended: Ended, *, renumbered: bool, last: str) -> str:
    """What a rerun came to."""
    if ended.code:
        return f"fails: {sees(ended, bench)}"
    wrong = [
        *fault_runs.unreadable(run_dir),
        *bench.check(run_dir, renumbered=renumbered, last=last),
        *(f"left over: {name}" for name in fault_runs.leftovers(run_dir)),
    ]
    if wrong:
        more = f" and {len(wrong) - 3} more" if len(wrong) > 3 else ""
        return f"differs: {'; '.join(wrong[:3])}{more}"
    return same_values() if renumbered else same_bytes()


# Killed -------------------------------------------------------------------------------------------


BEFORE = "before the first stage"


def kills(bench: Bench, trials: Path, number: int) -> Cases:
    """SIGKILL at moments drawn by the seed, the stages in turn, each from beginning to end."""
    random_ = random.Random(SEED)
    found: dict[str, list[Row]] = {}
    for index in range(number):
        aimed = (BEFORE, *STAGES)[index % (1 + len(STAGES))]
        share = random_.random()
        trial = killed_once(bench, trials / "kill", aimed, share)
        found.setdefault(trial.case, []).append(trial)
        print(f"  kill {index + 1} of {number}, {share:.0%} of {aimed}: {trial}", file=sys.stderr)
    for hit, trials_of in found.items():
        bad = [trial for trial in trials_of if not trial.sound]
        lost = "; ".join(trial.lost for trial in bad if trial.lost != NOTHING) or NOTHING
        rerun = "; ".join(trial.rerun for trial in bad) or trials_of[0].rerun
        yield Row("SIGKILL", f"{hit}, {len(trials_of)} times", "killed", lost, rerun, not bad)


def killed_once(bench: Bench, run_dir: Path, aimed: str, share: float) -> Row:
    """A run killed in a stage, after a share of the time that the stage took undisturbed.

    What comes before that stage is up to date.
    """
    stage = STAGES[0] if aimed == BEFORE else aimed
    bench.at(stage, run_dir)
    before = fault_runs.read_back(run_dir)
    process = fault_runs.start(bench.run(run_dir, "--from", stage))
    if aimed == BEFORE:
        moment = time.monotonic() + share * bench.begins
    else:
        fault_runs.wait_until((run_dir / stage / NEW).exists, process)
        moment = time.monotonic() + share * bench.seconds[stage]
    while time.monotonic() < moment and process.poll() is None:
        time.sleep(0.005)
    children = list(process_tree(process.pid))[1:]
    ended = fault_runs.kill(process)
    hit = fault_runs.stage_hit(run_dir)
    if hit == STAGES[0] and not (run_dir / hit / NEW).exists():
        hit = BEFORE
    half = half_visible(bench, run_dir)
    result = row(bench, "SIGKILL", hit, run_dir, before=before, ended=ended, expects_failure=False)
    wrong = [*half, *([] if result.lost == NOTHING else [result.lost])]
    if not ended_within(10.0, children):
        wrong.append("a process that it started goes on")
    lost = "; ".join(wrong) or NOTHING
    return Row("SIGKILL", hit, result.sees, lost, result.rerun, result.sound and not wrong)


def half_visible(bench: Bench, run_dir: Path) -> list[str]:
    """Stages whose version in force is neither the former one nor that of the undisturbed run."""
    former = fault_runs.read_back(bench.former)
    found = []
    for stage, (name, files) in fault_runs.read_back(run_dir).items():
        whole = names(fault_runs.hashes(bench.whole / stage / NEW)) == names(files)
        if (name, files) != former[stage] and not (name == NEW and whole):
            found.append(f"{stage} {name} is in force and not whole")
    return found


def names(files: fault_runs.Files) -> set[str]:
    """Of a version's files; TensorBoard's have the moment and the process in theirs."""
    return {re.sub(r"(events\.out\.tfevents)\..*", r"\1", name) for name in files}


def ended_within(seconds: float, pids: Sequence[int]) -> bool:
    """Whether processes end by themselves."""
    end = time.monotonic() + seconds
    while any(map(fault_runs.is_alive, pids)):
        if time.monotonic() > end:
            return False
        time.sleep(0.05)
    return True


def workers(bench: Bench, trials: Path, _: int) -> Cases:
    """SIGKILL of a process that decodes pictures, and nothing else; and the processes of Beam."""
    for stage in ("examples", "embeddings"):
        run_dir = bench.at(stage, trials / "worker")
        before = fault_runs.read_back(run_dir)
        process = fault_runs.start(bench.run(run_dir, "--from", stage))
        pause = {"examples": 0.0, "embeddings": 0.5}[stage]
        killed = kill_a_decoder(process, pause)
        ended = fault_runs.finish(process)
        case = f"a decoding process of {stage}, {pause} s after it began" if killed else "none met"
        yield row(
            bench,
            "SIGKILL of a worker",
            case,
            run_dir,
            before=before,
            ended=ended,
            first=stage,
            expects_failure=False,
        )
    run_dir = bench.at("graph", trials / "worker")
    before = fault_runs.read_back(run_dir)
    option = "--direct_running_mode=multi_processing"
    ended = fault_runs.call(bench.run(run_dir, "--", option))
    yield row(
        bench,
        "SIGKILL of a worker",
        "a process of Beam's: there are none, the option is refused",
        run_dir,
        before=before,
        ended=ended,
        last="graph",
    )


def kill_a_decoder(process: subprocess.Popen[str], pause: float) -> bool:
    """Kills the first decoding process of a run some seconds after it began; whether it did."""
    found: list[int] = []

    def decoders() -> bool:
        for pid in list(process_tree(process.pid))[1:]:
            with contextlib.suppress(OSError):
                if b"decode_worker" in Path(f"/proc/{pid}/cmdline").read_bytes():
                    found.append(pid)
        return bool(found)

    if not fault_runs.wait_until(decoders, process):
        return False
    time.sleep(pause)
    with contextlib.suppress(ProcessLookupError):
        os.kill(found[0], signal.SIGKILL)
        return True
    return False


# Disks --------------------------------------------------------------------------------------------


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


def skipped(fault: str, case: str, reason: str) -> Row:
    """A fault that cannot be done on this machine."""
    return Row(fault, case, f"not tried here: {reason}", "", "", True)


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


# The clock ----------------------------------------------------------------------------------------


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


# Two at once --------------------------------------------------------------------------------------


def two_at_once(bench: Bench, trials: Path, _: int) -> Cases:
    """Two commands on one run directory; on two."""
    fault = "two runs at once"
    run_dir = bench.at("graph", trials / "run")
    before = fault_runs.read_back(run_dir)
    first = fault_runs.start(bench.run(run_dir))
    fault_runs.wait_until((run_dir / "graph" / NEW).exists, first)
    second = fault_runs.call(bench.run(run_dir))
    fault_runs.must(fault_runs.finish(first))
    yield row(bench, fault, "the second on one run directory", run_dir, before=before, ended=second)

    folders = [bench.at("graph", trials / name) for name in ("one", "other")]
    both = [fault_runs.start(bench.run(folder)) for folder in folders]
    for name, folder, process in zip(("first", "second"), folders, both, strict=True):
        ended = fault_runs.finish(process)
        case = f"the {name} of two run directories"
        yield row(bench, fault, case, folder, before=before, ended=ended, expects_failure=False)


# Damage -------------------------------------------------------------------------------------------

MANIFESTS: dict[str, Callable[[bytes], bytes]] = {
    "cut": lambda content: content[: len(content) // 2],
    "not JSON": lambda _: b"\xff\x00manifest",
    "another schema": lambda _: b'{"name": "imgembed", "version": 2}\n',
    "a list": lambda _: b"[]\n",
}
POINTERS = {"a missing version": b"v0009\n", "nonsense": b"\xff\x00\n", "nothing": b""}
TRUNCATED = (
    ("graph", "edges-*.parquet"),
    ("examples", "train-*.tfrecord.gz"),
    ("model", "saved_model/variables/variables.data-*"),
    ("embeddings", "images-*.parquet"),
    ("index", "vectors.npy"),
    ("evaluation", "metrics.json"),
    ("report", "index.html"),
)


def back(bench: Bench, run_dir: Path, stage: str, *version: str) -> Ended:
    """What a line advises: an older version in force; of the former kind, the stage again."""
    roll_back = fault_runs.imgembed("runs", "rollback", stage, *version, "--run-dir", run_dir)
    done = fault_runs.call(roll_back)
    if done.code or version:
        return done
    return fault_runs.call(bench.run(run_dir, "--from", stage, "--to", stage))


def nothing() -> Ended:
    """No rerun, where a person has put back what was damaged."""
    return Ended(0, "", "")


def manifests(bench: Bench, trials: Path, _: int) -> Cases:
    """Manifests of versions in force that say nothing, or something else: two kinds a stage.

    The first kind is mended as the line says where that takes less than a training.
    """
    for number, stage in enumerate(STAGES):
        kinds = [list(MANIFESTS)[(2 * number + place) % len(MANIFESTS)] for place in (0, 1)]
        for kind in kinds:
            run_dir = bench.done(trials / "run")
            path = run_dir / stage / NEW / "manifest.json"
            content = path.read_bytes()
            before = without(fault_runs.read_back(run_dir), stage)
            path.write_bytes(MANIFESTS[kind](content))
            ended = fault_runs.call(bench.run(run_dir, "--from", stage))
            rolls = kind == kinds[0] and stage in STAGES[3:]
            yield damaged_row(
                bench,
                "manifest",
                f"{stage}: {kind}",
                run_dir,
                before=before,
                ended=ended,
                first=stage,
                last=stage,
                rerun=(lambda r=run_dir, s=stage: back(bench, r, s)) if rolls else nothing,
                renumbered=rolls,
                how="after `runs rollback`: " if rolls else "with the manifest put back: ",
                repair=None if rolls else (lambda p=path, c=content: p.write_bytes(c)),
            )


def without(before: Versions, stage: str) -> Versions:
    """The versions of all stages but one."""
    return {name: found for name, found in before.items() if name != stage}


def damaged_row(bench: Bench, fault: str, case: str, run_dir: Path, **given: object) -> Row:
    """A row of damage that was done by hand: what cannot be read is no loss of ours."""
    before = given.pop("before")
    lost = [line for line in fault_runs.losses(before, run_dir) if line.split()[0] in before]
    found = row(bench, fault, case, run_dir, before={}, **given)
    clean = found.rerun.endswith((same_bytes(), same_values()))
    ended = given["ended"]
    sound = not lost and clean and (ended.is_explained or not given.get("expects_failure", True))
    return Row(fault, case, found.sees, "; ".join(lost) or NOTHING, found.rerun, sound)


def pointers(bench: Bench, trials: Path, _: int) -> Cases:
    """CURRENT that names what is not there: a kind a stage."""
    for number, stage in enumerate(STAGES):
        kind = list(POINTERS)[number % len(POINTERS)]
        run_dir = bench.done(trials / "run")
        before = without(fault_runs.read_back(run_dir), stage)
        (run_dir / stage / "CURRENT").write_bytes(POINTERS[kind])
        yield damaged_row(
            bench,
            "CURRENT",
            f"{stage}: {kind}",
            run_dir,
            before=before,
            ended=fault_runs.call(bench.run(run_dir, "--from", stage)),
            last=stage,
            rerun=lambda r=run_dir, s=stage: back(bench, r, s, NEW),
            how="after `runs rollback`: ",
        )
    run_dir = bench.done(trials / "run")
    before = fault_runs.read_back(run_dir)
    for stage in STAGES:
        (run_dir / stage / "CURRENT").unlink()
    yield damaged_row(
        bench,
        "CURRENT",
        "gone in all stages",
        run_dir,
        before=before,
        ended=fault_runs.call(bench.run(run_dir)),
        expects_failure=False,
    )


def truncated(bench: Bench, trials: Path, _: int) -> Cases:
    """Files of versions in force of which the last third is missing."""
    for stage, pattern in TRUNCATED:
        run_dir = bench.done(trials / "run")
        before = without(fault_runs.read_back(run_dir), stage)
        path = sorted((run_dir / stage / NEW).glob(pattern))[0]
        os.truncate(path, path.stat().st_size * 2 // 3)
        yield damaged_row(
            bench,
            "file cut",
            f"{stage}: {path.name}; run",
            run_dir,
            before=before,
            ended=fault_runs.call(bench.run(run_dir, "--from", stage)),
            last=stage,
            rerun=lambda r=run_dir, s=stage: fault_runs.call(
                bench.run(r, "--from", s, "--to", s, "--force")
            ),
            renumbered=True,
            how=f"with `--from {stage} --to {stage} --force`: ",
        )
    yield from readers_of_cut_files(bench, trials)


def readers_of_cut_files(bench: Bench, trials: Path) -> Cases:
    """The later stages, and searches, that are given a cut file without a run before them."""
    search = ("search", "--config", bench.world / "cfg.yaml", "-k", "3")
    image = json.loads((bench.world / "catalog" / "catalog.jsonl").read_text().splitlines()[0])
    by_id, by_text = ("--image-id", image["image_id"]), ("--text", "red")
    cases = [
        ("graph", "edges-*.parquet", ("--from", "examples", "--force")),
        ("examples", "train-*.tfrecord.gz", ("--from", "model", "--force")),
        ("model", "saved_model/variables/variables.data-*", ("--from", "embeddings", "--force")),
        ("embeddings", "images-*.parquet", ("--from", "index", "--force")),
        ("evaluation", "metrics.json", ("--from", "report", "--force")),
        ("model", "saved_model/variables/variables.data-*", by_text),
        ("index", "vectors.npy", by_id),
        ("index", "ids.arrow", by_id),
    ]
    for stage, pattern, options in cases:
        run_dir = bench.done(trials / "run")
        before = without(fault_runs.read_back(run_dir), stage)
        path = sorted((run_dir / stage / NEW).glob(pattern))[0]
        content = path.read_bytes()
        os.truncate(path, len(content) * 2 // 3)
        command = (
            bench.run(run_dir, *options)
            if options[0] == "--from"
            else fault_runs.imgembed(*search, "--run-dir", run_dir, *options)
        )
        reader = "run --from " + options[1] if options[0] == "--from" else f"search {options[0]}"
        yield damaged_row(
            bench,
            "file cut",
            f"{stage}: {path.name}; {reader}",
            run_dir,
            before=before,
            ended=fault_runs.call(command),
            first=stage,
            last=stage,
            repair=lambda p=path, c=content: p.write_bytes(c),
            rerun=nothing,
            how="with the file put back: ",
        )


# Inputs -------------------------------------------------------------------------------------------


def inputs(bench: Bench, trials: Path, _: int) -> Cases:
    """Inputs that change while a run stands still between two stages."""
    for what, after, change in (
        ("the log grows", "graph", grow_log),
        ("the catalog is replaced", "model", replace_catalog),
        ("a picture is changed", "examples", change_picture),
    ):
        run_dir = bench.at("graph", trials / "run")
        before = fault_runs.read_back(run_dir)
        with bench.changing() as world:
            process = fault_runs.start(bench.run(run_dir))
            fault_runs.wait_until(lambda r=run_dir, s=after: current(r, s) == NEW, process)
            os.kill(process.pid, signal.SIGSTOP)
            change(world)
            os.kill(process.pid, signal.SIGCONT)
            ended = fault_runs.finish(process)
            lost = fault_runs.losses(before, run_dir)
            again = fault_runs.call(bench.run(run_dir, "--json"))
            fresh = trials / "fresh"
            shutil.rmtree(fresh, ignore_errors=True)
            fault_runs.must(fault_runs.call(bench.run(fresh)))
        yield of_inputs(bench, f"{what}, after {after}", run_dir, fresh, ended, again, lost)


def of_inputs(
    bench: Bench,
    case: str,
    run_dir: Path,
    fresh: Path,
    ended: Ended,
    again: Ended,
    lost: list[str],
) -> Row:
    """The row of a changed input: the next run must give what a fresh one gives."""
    made, wrong = [], ["the next run failed"]
    if again.code == 0:
        made = [s for s, (_, done) in fault_runs.outcome(again).items() if done == "made"]
        fresh_results = fault_runs.results(fresh, renumbered=True)
        wrong = fault_runs.differences(fresh_results, fault_runs.results(run_dir, renumbered=True))
    says = f"makes {', '.join(made) or 'nothing'} anew: " + (
        "the results of a fresh run" if not wrong else f"differs: {'; '.join(wrong[:3])}"
    )
    sound = not lost and not wrong and bool(made) and (ended.code == 0 or ended.is_explained)
    return Row("input changes", case, sees(ended, bench), "; ".join(lost) or NOTHING, says, sound)


def grow_log(world: Path) -> None:
    """A tenth of the first file's sessions again, as other sessions."""
    path = sorted((world / "sessions").iterdir())[0]
    lines = path.read_text().splitlines()
    more = [line.replace('"session_id": "', '"session_id": "again-') for line in lines]
    with path.open("a") as file:
        file.write("\n".join(more[: len(more) // 10]) + "\n")


def replace_catalog(world: Path) -> None:
    """Another file of the catalog's name, with one image less."""
    path = world / "catalog" / "catalog.jsonl"
    lines = path.read_text().splitlines(keepends=True)
    other = path.with_suffix(".new")
    other.write_text("".join(lines[:-1]))
    other.replace(path)


def change_picture(world: Path) -> None:
    """One picture becomes a copy of another."""
    one, other, *_ = sorted((world / "catalog" / "pictures").iterdir())
    shutil.copyfile(other, one)


FAULTS: dict[str, Callable[[Bench, Path, int], Cases]] = {
    "kills": kills,
    "workers": workers,
    "full-disk": full_disks,
    "read-only": read_only,
    "clock": clocks,
    "two-runs": two_at_once,
    "manifests": manifests,
    "pointers": pointers,
    "truncated": truncated,
    "inputs": inputs,
}


def main() -> None:
    """Makes the runs, does the damage, prints the table; exit code 1 where a row is not sound."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=30)
    parser.add_argument("--work", type=Path, default=Path("benchmark-faults"))
    parser.add_argument("--only", nargs="+", choices=FAULTS, default=list(FAULTS))
    given = parser.parse_args()
    work = given.work.resolve()
    began = time.monotonic()
    bench = Bench.open(work)
    took = ", ".join(f"{stage} {seconds:.1f} s" for stage, seconds in bench.seconds.items())
    print(f"undisturbed: {took}", file=sys.stderr)
    rows = []
    for name in given.only:
        for found in FAULTS[name](bench, work / "trials", given.kills):
            rows.append(found)
            print(found, file=sys.stderr, flush=True)
    print("| fault | where | the user sees | lost | the rerun gives |\n|---|---|---|---|---|")
    print("\n".join(map(str, rows)))
    content = {
        "rows": [asdict(found) for found in rows],
        "stage_seconds": bench.seconds,
        "seconds": time.monotonic() - began,
        "machine": describe_machine(len(os.sched_getaffinity(0)), ["apache-beam", "tensorflow"]),
    }
    (work / "faults.json").write_text(json.dumps(content, indent=2) + "\n")
    raise SystemExit(0 if all(found.sound for found in rows) else 1)


if __name__ == "__main__":
    main()
