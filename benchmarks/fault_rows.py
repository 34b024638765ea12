"""A row of the table of faults: what a fault has left, and what the rerun gives.

In: a run directory that something was done to, what stood in it before, how the command ended.
Out: a Row.
"""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import fault_runs
from fault_runs import STAGES, Bench, Ended

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


def skipped(fault: str, case: str, reason: str) -> Row:
    """A fault that cannot be done on this machine."""
    return Row(fault, case, f"not tried here: {reason}", "", "", True)


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
