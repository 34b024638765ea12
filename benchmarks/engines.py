"""The graph on an engine that is a process of its own, beside the embedded runner.

python benchmarks/engines.py --prism FILE [--scale 0.1] [--repeat 3]

Prism of Beam 2.77, its Python workers in the command's process; the log is that of graph.py. It
measures what sockets, encoding and another process cost, and fails where the bytes differ.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from graph import Log
from measuring import Run, describe_machine, take_turns


def command(log: Path, out: Path, shards: int, *engine: str) -> list[str]:
    """A build-graph of the log into a run directory below `out`."""
    program = [sys.executable, "-m", "cli.main", "build-graph", "--quiet", "--sessions", str(log)]
    sets = ["--set", f"runner.shards={shards}", "--run-dir", str(out / "run")]
    return [*program, *sets, *engine]


def graph_bytes(out: Path) -> dict[str, bytes]:
    """{name: bytes} of the tables of the graph."""
    found = (out / "run" / "graph" / "v0001").glob("*.parquet")
    return {path.name: path.read_bytes() for path in found}


def main() -> None:
    """Measures, and prints a table and JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--prism", required=True, help="its program")
    parser.add_argument("--work", type=Path, default=Path("benchmark-engines"))
    parser.add_argument("--scale", type=float, default=0.1, help="1 = 12 million events")
    parser.add_argument("--shards", type=int, default=8)
    parser.add_argument("--repeat", type=int, default=3)
    given = parser.parse_args()
    given.work.mkdir(parents=True, exist_ok=True)
    log = Log(given.scale, seed=0).file(given.work)
    outs = {name: given.work / name for name in ("direct", "direct, one thread", "prism")}
    engine = ["--runner", "prism", "--", f"--prism_location={given.prism}"]
    options = {"direct": (), "direct, one thread": ("--workers", "1"), "prism": engine}
    runs = {
        name: Run(command(log.resolve(), out.resolve(), given.shards, *options[name]), out, [log])
        for name, out in outs.items()
    }
    measured = take_turns(runs, given.repeat)
    tables = [graph_bytes(out) for out in outs.values()]
    if not all(table == tables[0] and table for table in tables):
        raise SystemExit("the runners do not agree")
    print("| | wall s | CPU s | peak GiB |\n|---|---|---|---|")
    for name, usage in measured.items():
        print(f"| {name} | {usage.wall:.1f} | {usage.cpu:.1f} | {usage.peak / 2**30:.2f} |")
    print(json.dumps(describe_machine(2, ["apache-beam", "pyarrow", "numpy"]), indent=2))


if __name__ == "__main__":
    main()
