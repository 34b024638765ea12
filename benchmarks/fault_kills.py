"""SIGKILL of a run in every stage, and of a process that decodes pictures."""

from __future__ import annotations

import contextlib
import os
import random
import re
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import fault_runs
from fault_rows import NOTHING, Cases, Row, row
from fault_runs import NEW, STAGES, Bench
from measuring import process_tree

SEED = 20261128


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
