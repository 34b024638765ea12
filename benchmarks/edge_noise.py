"""Claim: learned agreement keeps what a graph is worth where many of its edges err.

Pictures with very few labels and a graph of made sessions, of which a share of the edges joins
different classes: uniform noise, or noise between classes that are taken for each other. All
methods share a network, its steps and the validation nodes on which everything is chosen; in
regime A a training takes a fixed number of steps, in regime B its best validation step is kept. The
truth of other nodes is read when a method is scored, and by the oracle.

    python benchmarks/edge_noise.py [--data digits | --data clothing[-gradients] --folder FOLDER]
        [--labels 2 10] [--noises "uniform 0.4" ...] [--seeds 5] [--regimes A B]
        [--methods NAME ...] [--work FOLDER] [--show] [--sampler]

Results are kept in the work folder, a line each, and not done again. --show: only what is there.
--sampler: how fast pairs are drawn from a graph of a million nodes and ten million edges.

Reported, as means of the seeds: accuracy on the unlabelled nodes of the graph (transductive) and on
unseen pictures (inductive); mAP@R of unseen pictures among the graph's; AUC of the agreement on all
edges. Verdicts A1 to A8 are of two labels a class.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import noise_worlds
import numpy as np

DATA = ("digits", "clothing", "clothing-gradients")
# (kind, share of a session's pictures that are noise)
NOISES = (
    ("uniform", 0.0),
    ("uniform", 0.4),
    ("uniform", 0.7),
    ("confuser", 0.3),
    ("confuser", 0.5),
)
NOISE_OF = {f"{kind} {noise:g}": (kind, noise) for kind, noise in NOISES}
REGIMES = ("A", "B")
SELF_TRAINING, SUPERVISED = "self-training", "supervised"
NGM, NGM_TURNS = "NGM", "NGM + self-training"
# The defaults: agreement by all labelled pairs and by the classes that the classifier sees.
GAM, GUARDED, ORACLE = "GAM, pairs and classes", "GAM, weight 0 in the grid", "GAM, oracle"
CONTRAST, CONTRAST_TURNS = "InfoNCE", "InfoNCE + self-training"
BOTH = "GAM, pairs and classes + InfoNCE"
BOTH_GUARDED = f"{BOTH}, weights 0 in the grid"
WEIGHTED = "weighted InfoNCE + self-training"
# Guard B: of some methods the best one on validation, of equals the last: the one with the least of
# agreement.
CHOSEN = {GUARDED: (GAM, SELF_TRAINING), BOTH_GUARDED: (BOTH, WEIGHTED, CONTRAST_TURNS)}
# Choices of design were made on seeds 0 and 1, which are not reported.
FIRST_SEED = 10


@dataclass(frozen=True)
class Setting:
    """What is compared within: one graph, one regime."""

    data: str
    labels: int
    kind: str
    noise: float
    seed: int
    regime: str


def main() -> None:
    """Runs what is missing and prints the tables and the verdicts."""
    given = parse()
    if given.sampler:
        print_sampler()
        return
    path = given.work / f"{given.data}.jsonl"
    if not given.show:
        given.work.mkdir(parents=True, exist_ok=True)
        run(given, path)
    rows = with_chosen(read(path))
    for labels in sorted({row["labels"] for row in rows}):
        for regime in REGIMES:
            print_tables(
                [row for row in rows if (row["labels"], row["regime"]) == (labels, regime)]
            )
    print_verdicts(rows)


def parse() -> argparse.Namespace:
    """What the command line says."""
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--data", choices=DATA, default="digits")
    arguments.add_argument("--folder", type=Path, help="of labels.csv and images.zip")
    arguments.add_argument("--labels", type=int, nargs="+", default=[2, 10], help="of each class")
    arguments.add_argument("--noises", nargs="+", choices=list(NOISE_OF), default=list(NOISE_OF))
    arguments.add_argument("--seeds", type=int, default=5)
    arguments.add_argument("--regimes", nargs="+", choices=REGIMES, default=list(REGIMES))
    arguments.add_argument("--methods", nargs="+", help="some of them")
    arguments.add_argument(
        "--work", type=Path, default=Path("edge-noise"), help="folder of results"
    )
    arguments.add_argument("--show", action="store_true")
    arguments.add_argument("--sampler", action="store_true")
    given = arguments.parse_args()
    if given.data != "digits" and given.folder is None:
        arguments.error(f"--data {given.data} wants --folder")
    return given


# Running ------------------------------------------------------------------------------------------


def run(given: argparse.Namespace, path: Path) -> None:
    """All settings, each method that has no line yet."""
    for variable in ("TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS"):
        os.environ.setdefault(variable, "1")  # read when TensorFlow starts
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    import noise_methods

    pictures = read_pictures(given)
    names = given.methods or list(noise_methods.METHODS)
    done = {key(row) for row in read(path)}
    for setting in settings(given):
        missing = [name for name in names if (*astuple(setting), name) not in done]
        if not missing:
            continue
        began = time.monotonic()
        for name, found in noise_methods.results(pictures, setting, missing):
            with path.open("a") as lines:
                lines.write(json.dumps({**asdict(setting), "method": name, **found}) + "\n")
        print(f"{setting}: {time.monotonic() - began:.0f} s", flush=True)


def read_pictures(given: argparse.Namespace) -> noise_worlds.Pictures:
    """Digits, photos of clothing, or the photos' gradients in place of pixels."""
    if given.data == "digits":
        return noise_worlds.read_digits()
    return noise_worlds.read_clothing(given.folder, described=given.data == "clothing-gradients")


def settings(given: argparse.Namespace) -> Iterator[Setting]:
    """All seeds of a kind of graph before the next one would show a table late: seeds come last."""
    for seed in range(FIRST_SEED, FIRST_SEED + given.seeds):
        for labels in given.labels:
            for kind, noise in [NOISE_OF[name] for name in given.noises]:
                for regime in given.regimes:
                    yield Setting(given.data, labels, kind, noise, seed, regime)


def astuple(setting: Setting) -> tuple[Any, ...]:
    """As `key` gives of a line."""
    return tuple(asdict(setting).values())


def key(row: dict[str, Any]) -> tuple[Any, ...]:
    """(setting, method) of a line."""
    return (*(row[name] for name in Setting.__dataclass_fields__), row["method"])


def read(path: Path) -> list[dict[str, Any]]:
    """The lines of finished trainings; none where there is no file."""
    return [json.loads(line) for line in path.open()] if path.exists() else []


def with_chosen(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows, and those of methods that choose among others."""
    by_key = {key(row): row for row in rows}
    settings = {key(row)[:-1]: None for row in rows}
    found = list(rows)
    for name, methods in CHOSEN.items():
        for setting in settings:
            rows_of = [by_key.get((*setting, each)) for each in methods]
            if None not in rows_of:
                best = max(rows_of[::-1], key=lambda row: row["validation"])
                found.append({**best, "method": name})
    return found


# Tables -------------------------------------------------------------------------------------------


def print_tables(rows: Sequence[dict[str, Any]]) -> None:
    """Of one number of labels and one regime."""
    if not rows:
        return
    seeds = len({row["seed"] for row in rows})
    print(f"\n{rows[0]['labels']} labels a class, regime {rows[0]['regime']}, {seeds} seeds")
    columns = [noise for noise in NOISES if any(is_of(row, noise) for row in rows)]
    for name in ("transductive", "inductive", "map_at_r", "edge_auc"):
        print(f"\n| {name} | " + " | ".join(f"{kind} {noise:g}" for kind, noise in columns) + " |")
        print("|---" * (len(columns) + 1) + "|")
        for method in dict.fromkeys(row["method"] for row in rows):
            cells = [
                cell(
                    [
                        row[name]
                        for row in rows
                        if is_of(row, noise) and name in row and row["method"] == method
                    ]
                )
                for noise in columns
            ]
            if any(cells):
                print(f"| {method} | " + " | ".join(cells) + " |")


def is_of(row: dict[str, Any], noise: tuple[str, float]) -> bool:
    """Whether a line is of a kind of noise."""
    return (row["kind"], row["noise"]) == noise


def cell(values: Sequence[float]) -> str:
    """Mean and standard deviation."""
    values = [value for value in values if not np.isnan(value)]
    if not values:
        return ""
    deviation = f" ± {np.std(values, ddof=1):.3f}" if len(values) > 1 else ""
    return f"{np.mean(values):.3f}{deviation}"


# Verdicts -----------------------------------------------------------------------------------------


class Scores:
    """Means over the seeds that all methods of a comparison have."""

    def __init__(self, rows: Iterable[dict[str, Any]]) -> None:
        self._rows = {key(row): row for row in rows if row["labels"] == 2}

    def of(
        self, method: str, kind: str, noise: float, regime: str, name: str = "transductive"
    ) -> float:
        """In points; nan where there is none."""
        found = [
            row[name]
            for row in self._rows.values()
            if is_of(row, (kind, noise))
            and (row["method"], row["regime"]) == (method, regime)
            and name in row
        ]
        return 100.0 * float(np.mean(found)) if found else float("nan")

    def difference(self, one: str, other: str, kind: str, noise: float, regime: str) -> str:
        """Points by which a method is better than another, seed by seed: mean ± standard error."""
        found = {
            method: {
                row["seed"]: row["transductive"]
                for row in self._rows.values()
                if is_of(row, (kind, noise)) and (row["method"], row["regime"]) == (method, regime)
            }
            for method in (one, other)
        }
        seeds = found[one].keys() & found[other].keys()
        gaps = [100.0 * (found[one][seed] - found[other][seed]) for seed in seeds]
        if not gaps:
            return "not measured"
        error = np.std(gaps, ddof=1) / len(gaps) ** 0.5 if len(gaps) > 1 else float("nan")
        return f"{np.mean(gaps):+.1f} ± {error:.1f}"


def print_verdicts(rows: Iterable[dict[str, Any]]) -> None:
    """The acceptance criteria, each with what was measured."""
    scores = Scores(rows)
    print("\n| criterion | wanted | measured | verdict |\n|---|---|---|---|")
    for words, wanted, measured, least in verdicts(scores):
        verdict = "not measured" if np.isnan(measured) else "met" if measured >= least else "missed"
        print(f"| {words} | {wanted} | {measured:.1f} | {verdict} |")
    print("A9, the leak canary and the pair loss: tests/test_agreement_cotraining.py, _loss.py.")
    for kind, noise in NOISES:
        for regime in REGIMES:
            gaps = [
                f"{one} - {other} {scores.difference(one, other, kind, noise, regime)}"
                for one, other in (
                    (CONTRAST_TURNS, GUARDED),
                    (WEIGHTED, CONTRAST_TURNS),
                    (BOTH, CONTRAST_TURNS),
                    (BOTH_GUARDED, CONTRAST_TURNS),
                )
            ]
            print(f"A10 {kind} {noise:g} {regime}: " + "; ".join(gaps))


def verdicts(scores: Scores) -> Iterator[tuple[str, str, float, float]]:
    """(criterion, wanted, measured, least)."""
    of = scores.of
    clean, some, much = (("uniform", noise) for noise in (0.0, 0.4, 0.7))
    confused = ("confuser", 0.5)
    for regime in REGIMES:
        for method in (NGM, GAM, CONTRAST):
            gain = of(method, *clean, regime) - of(SUPERVISED, *clean, regime)
            yield f"A1 {regime} clean: {method} - supervised", ">= 12", gain, 12.0
        gain = of(GAM, *clean, regime) - of(NGM_TURNS, *clean, regime)
        yield f"A2 {regime} clean: GAM - NGM with self-training", ">= -3", gain, -3.0
        for other, least in (
            (SUPERVISED, 9.0),
            (NGM, 8.0),
            (NGM_TURNS, 10.0 if regime == "A" else 2.0),
        ):
            gain = of(GUARDED, *some, regime) - of(other, *some, regime)
            yield f"A3 {regime} uniform .4: GAM - {other}", f">= {least:g}", gain, least
        floor = max(of(SUPERVISED, *much, regime), of(SELF_TRAINING, *much, regime))
        gain = of(GUARDED, *much, regime) - floor
        yield f"A4 {regime} uniform .7: GAM - best without graph", ">= -4", gain, -4.0
        for other, least in ((NGM_TURNS, 12.0 if regime == "A" else 3.0), (SELF_TRAINING, 6.0)):
            gain = of(GUARDED, *confused, regime) - of(other, *confused, regime)
            yield f"A5 {regime} confuser .5: GAM - {other}", f">= {least:g}", gain, least
        for kind, noise in NOISES[1:]:
            area = of(GAM, kind, noise, regime, "edge_auc")
            yield f"A6 {regime} {kind} {noise:g}: AUC on edges", ">= 85", area, 85.0
        for kind, noise in NOISES:
            gain = of(ORACLE, kind, noise, regime) - of(GAM, kind, noise, regime)
            yield f"A7 {regime} {kind} {noise:g}: oracle - GAM", ">= -2", gain, -2.0
        gain = of(CONTRAST, *clean, regime, "map_at_r") - of(NGM, *clean, regime, "map_at_r")
        yield f"A8 {regime} clean: mAP@R InfoNCE - NGM", ">= 8", gain, 8.0
        gain = of(BOTH, *some, regime, "map_at_r") - of(GAM, *some, regime, "map_at_r")
        yield f"A8 {regime} uniform .4: mAP@R GAM with InfoNCE - GAM", ">= 3", gain, 3.0
    # Iteration 0 is among those that are chosen from: what noise does shows in the labels given.
    given = (of(each, *much, "A", "pseudo_accuracy") for each in (SELF_TRAINING, NGM_TURNS))
    words = "A4 A uniform .7: labels given by self-training - by NGM with it (the noise bites)"
    yield words, "> 0", next(given) - next(given), 1e-9


# The sampler --------------------------------------------------------------------------------------


def print_sampler(nodes: int = 1_000_000, edges: int = 10_000_000) -> None:
    """Pairs a second of a large graph, on one core, and the memory that it takes."""
    from trainer.agreement.pairs import GraphPairs, KindWeights

    draw = np.random.default_rng(0)
    graph = draw.integers(0, nodes, (edges, 2), dtype=np.int32)
    labels = np.where(draw.random(nodes) < 0.1, draw.integers(0, 100, nodes), -1)
    agreement = draw.random(edges, dtype=np.float32)
    before, began = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    source = GraphPairs(graph, labels, agreement, weights=KindWeights(), pairs=128, seed=0)
    made = time.process_time() - began
    drawn, began, steps = 0, time.process_time(), 100_000
    for _ in range(steps // 1_000):
        drawn += source.draw(1_000).count * 1_000
    seconds = time.process_time() - began
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(f"{nodes:,} nodes, {edges:,} edges: made in {made:.2f} s of a core")
    print(f"{drawn / seconds:,.0f} pairs/s over {drawn:,} pairs, its passes shuffled among them")
    print(
        f"{(peak - before) / 1024:,.0f} MiB beside the {before / 1024:,.0f} of the graph and numpy"
    )


if __name__ == "__main__":
    main()
