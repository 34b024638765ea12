"""What goes on beside a run: another run, and people who change its inputs."""

from __future__ import annotations

import os
import shutil
import signal
from pathlib import Path

import fault_runs
from fault_rows import NOTHING, Cases, Row, row, sees
from fault_runs import NEW, Bench, Ended, current


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
