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
import json
import os
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import fault_clock
import fault_damage
import fault_disks
import fault_kills
import fault_meanwhile
from fault_rows import Cases
from fault_runs import Bench
from measuring import describe_machine

FAULTS: dict[str, Callable[[Bench, Path, int], Cases]] = {
    "kills": fault_kills.kills,
    "workers": fault_kills.workers,
    "full-disk": fault_disks.full_disks,
    "read-only": fault_disks.read_only,
    "clock": fault_clock.clocks,
    "two-runs": fault_meanwhile.two_at_once,
    "manifests": fault_damage.manifests,
    "pointers": fault_damage.pointers,
    "truncated": fault_damage.truncated,
    "inputs": fault_meanwhile.inputs,
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
