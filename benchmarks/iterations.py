"""Claim: an iteration of co-training costs at most 1.3 times the plain training of as many steps.

The demo's world, each kind of training in a process of its own on two cores: the plain one, and
`model.agreement: gam` with one iteration after it, taking turns. CPU seconds of the process:

    an epoch        of each iteration, the median of all but the first, which traces the steps
    an iteration    from its begin to the end of its last epoch, traces and validation in it
    agreement       between two iterations: all images are looked at, labelled, edges are judged

    python benchmarks/iterations.py [--epochs 4] [--repeat 2] [--work FOLDER]
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from examples import at_most, print_verdicts
from measuring import use_cores
from training import CORES, make_demo

PLAIN, AGREEMENT = "none", "gam"
MOST = 1.3  # of the plain training of as many steps


@dataclass
class Stopwatch:
    """CPU seconds at the begin of each iteration and after each of its epochs."""

    begun: list[float] = field(default_factory=lambda: [time.process_time()])
    epochs: list[list[float]] = field(default_factory=lambda: [[]])
    notes: list[str] = field(default_factory=list)

    def on_iteration(self, iteration: int, _: int) -> None:
        if iteration:
            self.begun.append(time.process_time())
            self.epochs.append([])

    def on_epoch(self, *_: object) -> None:
        self.epochs[-1].append(time.process_time())


def run(folder: str, kind: str, epochs: int) -> None:
    """Trains, and prints what took how long as JSON."""
    from pipeline.artifacts import RunDir
    from trainer.config import AgreementConfig, ModelConfig, TrainingConfig
    from trainer.fit import train
    from trainer.progress import Listener

    watch, runs = Stopwatch(), RunDir.open(folder)
    listener = Listener(
        on_epoch=watch.on_epoch, on_iteration=watch.on_iteration, on_note=watch.notes.append
    )
    train(
        examples=runs.require("examples"),
        graph=runs.require("graph"),
        model=ModelConfig.model_validate({"agreement": kind}),
        training=TrainingConfig(epochs=epochs, patience=epochs),
        # How good the agreement is does not matter to what it costs.
        agreement=AgreementConfig(iterations=1, min_auc=0.5),
        seed=0,
        out=None,
        listener=listener,
    )
    ends = [times[-1] for times in watch.epochs]
    learned = [begin - end for begin, end in zip(watch.begun[1:], ends[:-1], strict=True)]
    found = {
        "iterations": [end - begin for begin, end in zip(watch.begun, ends, strict=True)],
        "epochs": [
            statistics.median(after - before for before, after in itertools.pairwise(times))
            for times in watch.epochs
        ],
        "agreement": learned,
        "notes": watch.notes,
    }
    print(json.dumps(found))


def measure(demo: Path, kind: str, epochs: int) -> dict[str, list[float]]:
    """What `run` prints, of a process of its own."""
    command = [sys.executable, __file__, "--run", str(demo), kind, "--epochs", str(epochs)]
    said = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    found: dict[str, list[float]] = json.loads(said.splitlines()[-1])
    return found


def show(
    plain: Sequence[Mapping[str, list[float]]], turns: Sequence[Mapping[str, list[float]]]
) -> None:
    """The table, medians of the repeats, and the verdicts."""

    def median(of: Sequence[Mapping[str, list[float]]], name: str, place: int) -> float:
        return statistics.median(each[name][place] for each in of)

    if any(len(each["epochs"]) < 2 for each in turns):
        raise SystemExit(f"there was no iteration with agreement: {turns[0]['notes']}")
    print("\n| CPU s | an epoch | an iteration |\n|---|---|---|")
    rows = {
        "plain": (plain, 0),
        "iteration 0": (turns, 0),
        "iteration 1, with agreement": (turns, 1),
    }
    for name, (of, place) in rows.items():
        epoch, whole = (median(of, column, place) for column in ("epochs", "iterations"))
        print(f"| {name} | {epoch:.2f} | {whole:.1f} |")
    print(f"| agreement, between both | | {median(turns, 'agreement', 0):.1f} |")
    ratios = {
        name: statistics.median(
            turn[name][1] / one[name][0] for turn, one in zip(turns, plain, strict=True)
        )
        for name in ("epochs", "iterations")
    }
    print_verdicts(
        [at_most(f"{name} with agreement / plain", ratio, MOST) for name, ratio in ratios.items()]
    )


def main() -> None:
    """Takes turns, and prints the table; or trains what --run names."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--repeat", type=int, default=2)
    parser.add_argument("--work", type=Path, help="where the demo's examples are kept")
    parser.add_argument("--run", nargs=2, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.run:
        folder, kind = given.run
        run(folder, kind, given.epochs)
        return
    use_cores(CORES)
    with tempfile.TemporaryDirectory() as folder:
        work = given.work or Path(folder)
        work.mkdir(parents=True, exist_ok=True)
        demo = make_demo(work)
        found: dict[str, list[dict[str, list[float]]]] = {PLAIN: [], AGREEMENT: []}
        for _ in range(given.repeat):
            for kind, results in found.items():
                results.append(measure(demo, kind, given.epochs))
        show(found[PLAIN], found[AGREEMENT])


if __name__ == "__main__":
    main()
