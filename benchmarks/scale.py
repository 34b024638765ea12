"""Claim: build-graph takes a hundred million events on one machine, memory hardly grows.

The log of `graph.py`, at two sizes; topics, images and users grow with it. imgembed runs as a user
types it, on two cores; what lies in its run directory and its folder for temporary files is summed
twice a second.

    python benchmarks/scale.py [--work FOLDER] [--scales 1 8.4] [--repeat 1]

Scale 1 is 12 million events. The large log takes 10 GiB of memory and some minutes to make; it is
kept in the work folder, as are the figures, in WORK.json.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import statistics
import threading
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from examples import at_most, print_verdicts, to_json
from graph import CORES, Log, command_of, out_folder
from measuring import Run, Usage, describe_machine, measure, use_cores, warm_up

PACKAGES = ("apache-beam", "numpy", "pyarrow")
DISK_SECONDS = 0.5
# What is wanted, of a hundred million events beside twelve.
MOST_CPU, MOST_MEMORY = 1.5, 2.0


@dataclass(frozen=True)
class Taken:
    """What a log took: of the program, on disk at most (`disk`) and at the end (`kept`), bytes."""

    events: int
    edges: int
    used: Usage
    disk: int
    kept: int


class DiskWatch:
    """The most bytes that there were below a folder while the block ran."""

    def __init__(self, folder: Path) -> None:
        self.most = 0
        self._folder = folder
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> DiskWatch:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._ended.wait(DISK_SECONDS):
            self.most = max(self.most, bytes_below(self._folder))


def bytes_below(folder: Path) -> int:
    """The sizes of all files there, those that vanish meanwhile left out."""
    total = 0
    for path in folder.rglob("*"):
        try:
            total += path.stat().st_size if path.is_file() else 0
        except FileNotFoundError:
            continue
    return total


def take(work: Path, scale: float, repeat: int) -> Taken:
    """Runs a log; medians of the repeats."""
    log, out = Log(scale, seed=0).file(work), out_folder(work, f"scale {scale:g}")
    found = []
    for _ in range(repeat):
        warm_up(log)
        print(f"running {log.name}", flush=True)
        os.environ["TMPDIR"] = str(out / "temporary")
        with DiskWatch(out) as disk:
            used = measure(Run(command_of("imgembed", log, out), out, before=make_temporary))
        found.append((used, disk.most, bytes_below(out)))
    usages, most, kept = zip(*found, strict=True)
    wall, cpu, peak, own = (
        statistics.median(getattr(used, name) for used in usages)
        for name in ("wall", "cpu", "peak", "own")
    )
    edges = sum(pq.read_metadata(path).num_rows for path in out.glob("run/graph/v*/edges-*"))
    events = pq.read_metadata(log).num_rows
    return Taken(events, edges, Usage(wall, cpu, peak, own), max(most), max(kept))


def make_temporary(out: Path) -> None:
    """The folder for temporary files."""
    (out / "temporary").mkdir()


def print_table(taken: Sequence[Taken]) -> None:
    """A row a log."""
    titles = ("edges", "wall s", "CPU s", "CPU us", "peak GiB", "own GiB", "disk GiB", "kept GiB")
    print(f"\n{'events':>12}" + "".join(f"{title:>12}" for title in titles))
    for one in taken:
        used = one.used
        sizes = (used.peak, used.own, one.disk, one.kept)
        print(
            f"{one.events:12,}{one.edges:12,}{used.wall:12.1f}{used.cpu:12.1f}"
            f"{used.cpu / one.events * 1e6:12.2f}"
            + "".join(f"{size / 2**30:12.2f}" for size in sizes)
        )


def judge(few: Taken, many: Taken) -> list[Any]:
    """An event of the large log beside one of the small."""
    cpu = (many.used.cpu / many.events) / (few.used.cpu / few.events)
    return [
        at_most("CPU an event, the larger log / the smaller", cpu, MOST_CPU),
        at_most(
            "own memory, the larger log / the smaller", many.used.own / few.used.own, MOST_MEMORY
        ),
    ]


def main() -> None:
    """Runs the logs and prints what each took."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--work", type=Path, default=Path("/tmp/scale-benchmark"))
    parser.add_argument("--scales", type=float, nargs="+", default=[1.0, 8.4])
    parser.add_argument("--repeat", type=int, default=1, help="runs of each; medians are shown")
    arguments = parser.parse_args()
    use_cores(CORES)
    work = arguments.work.absolute()
    work.mkdir(parents=True, exist_ok=True)
    taken = [take(work, scale, arguments.repeat) for scale in sorted(arguments.scales)]
    print_table(taken)
    judged = judge(taken[0], taken[-1])
    print_verdicts(judged)
    found = {
        "machine": {
            "date": datetime.date.today().isoformat(),
            **describe_machine(CORES, PACKAGES),
        },
        "runs": [asdict(one) for one in taken],
        "verdicts": to_json(judged),
    }
    Path(f"{work}.json").write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
