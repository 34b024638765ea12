"""Claim: a graph that misleads costs agreement at most a point, and plain regularization more.

Omniglot's drawings of 136 characters: a session is four drawings of one person in one alphabet, so
that hardly an edge joins two of one character. Two or five drawings of each character are labelled,
methods, regimes and the choice on validation are those of `edge_noise.py`.

    python benchmarks/adverse.py --archive images.zip [--labels 5] [--seeds 3] [--regimes A B]
        [--methods NAME ...] [--work FOLDER]

The archive holds `.../<alphabet>/character<NN>/<id>_<drawer>.png` (brendenlake/omniglot). Results
are kept in the work folder, a line each, and not done again. Reported, as means of the seeds with
their standard deviation: accuracy on the unlabelled drawings of the graph, on drawings outside of
it, and their difference from the supervised model that began with the same weights, seed by seed.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import zipfile
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from edge_noise import FIRST_SEED, GAM, REGIMES, SUPERVISED, cell
from noise_worlds import DEGREE, SESSION_LENGTH, THUMBNAIL, Pictures, World, edges_of, mask
from PIL import Image

PARTS = 2_000, 200  # drawings of the graph, and for validation
ALONE = "GAM, all labelled pairs"  # without what the classifier sees
BEGUN = "iteration 0"  # the supervised training that co-training begins with
SINGLE = ("NGM without iteration 0", "NSL on embeddings")  # begin as the supervised one does
REGULARIZED = ("NGM", *SINGLE, "NGM + self-training")
METHODS = (SUPERVISED, BEGUN, "self-training", *REGULARIZED, ALONE, GAM)
MOST_LOST = 1.0  # points


@dataclass(frozen=True)
class Setting:
    """What is compared within."""

    labels: int
    seed: int
    regime: str


def read_omniglot(archive: Path) -> tuple[Pictures, np.ndarray]:
    """The drawings, by character; and [n] int, which person in which alphabet drew each."""
    with zipfile.ZipFile(archive) as opened:
        names = sorted(name for name in opened.namelist() if name.endswith(".png"))
        pixels = np.stack([thumbnail(opened.read(name)) for name in names])
    paths = [PurePosixPath(name) for name in names]
    _, truth = np.unique([str(path.parent) for path in paths], return_inverse=True)
    persons = [f"{path.parts[-3]} {path.stem.rsplit('_', 1)[1]}" for path in paths]
    _, drawers = np.unique(persons, return_inverse=True)
    nodes = pixels.reshape(len(pixels), -1).astype(np.float32) / 255.0
    return Pictures(nodes, pixels, truth, np.arange(truth.max() + 1), PARTS), drawers


def thumbnail(data: bytes) -> np.ndarray:
    """[32, 32, 1] uint8, ink bright."""
    picture = Image.open(io.BytesIO(data)).convert("L")
    small = picture.resize((THUMBNAIL, THUMBNAIL), Image.Resampling.BOX)
    return 255 - np.asarray(small)[..., None]


def make_world(pictures: Pictures, drawers: np.ndarray, labels: int, seed: int) -> World:
    """Sessions of one person each; the labelled are drawn from the drawings of the graph."""
    draw = np.random.default_rng(seed)
    truth, (nodes, validation) = pictures.truth, pictures.parts
    order = draw.permutation(len(truth))
    pool, rest = np.sort(order[:nodes]), order[nodes:]
    by_class = [pool[truth[pool] == label] for label in range(pictures.classes)]
    seeds = np.concatenate([draw.choice(own, labels, replace=False) for own in by_class])
    sets = [own for own in (pool[drawers[pool] == one] for one in np.unique(drawers)) if len(own)]
    sizes = np.array([len(own) for own in sets])
    number = round(DEGREE * nodes / (SESSION_LENGTH * (SESSION_LENGTH - 1) - 1))
    # A person with more drawings is met more often.
    whose = draw.choice(len(sets), number, p=sizes / sizes.sum())
    sessions = np.stack([draw.choice(sets[one], SESSION_LENGTH) for one in whose])
    edges, counts = edges_of(sessions)
    return World(
        pictures,
        pool=mask(len(truth), pool),
        seeds=mask(len(truth), seeds),
        validation=mask(len(truth), rest[:validation]),
        test=mask(len(truth), rest[validation:]),
        edges=edges,
        counts=counts,
        partners=np.stack([own[:2] for own in by_class]),
    )


def run(given: argparse.Namespace, path: Path) -> None:
    """All settings, each method that has no line yet."""
    for variable in ("TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS"):
        os.environ.setdefault(variable, "1")  # read when TensorFlow starts
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    from noise_methods import SETTINGS, Case, answer_all, score

    pictures, drawers = read_omniglot(given.archive)
    done = {key(row) for row in read(path)}
    for setting in settings(given):
        missing = [name for name in given.methods if (*asdict(setting).values(), name) not in done]
        world = make_world(pictures, drawers, setting.labels, setting.seed)
        best = setting.regime == "B"
        case = Case(world, keep_best=best, seed=1_000 + setting.seed, settings=SETTINGS)
        for name, answer, seconds in answer_all(case, missing):
            found = {"correct": float(world.agree.mean()), "edges": len(world.edges)}
            found |= {"seconds": seconds, **score(world, answer)}
            with path.open("a") as lines:
                lines.write(json.dumps({**asdict(setting), "method": name, **found}) + "\n")


def settings(given: argparse.Namespace) -> Iterable[Setting]:
    """Seed by seed, so that a table is there early."""
    for seed in range(FIRST_SEED, FIRST_SEED + given.seeds):
        for labels in given.labels:
            for regime in given.regimes:
                yield Setting(labels, seed, regime)


def key(row: dict[str, Any]) -> tuple[Any, ...]:
    """(setting, method) of a line."""
    return row["labels"], row["seed"], row["regime"], row["method"]


def read(path: Path) -> list[dict[str, Any]]:
    """The lines of finished trainings; none where there is no file."""
    return [json.loads(line) for line in path.open()] if path.exists() else []


def show(rows: Sequence[dict[str, Any]]) -> None:
    """A table of each number of labels and regime, with its verdict."""
    for labels, regime in sorted({(row["labels"], row["regime"]) for row in rows}):
        of = [row for row in rows if (row["labels"], row["regime"]) == (labels, regime)]
        right = np.mean([row["correct"] for row in of])
        print(f"\n{labels} labels a character, regime {regime}; {right:.1%} of the edges right\n")
        print("| method | in the graph | outside | less supervised, points | seeds |")
        print("|---|---|---|---|---|")
        for method in dict.fromkeys(row["method"] for row in of):
            own = [row for row in of if row["method"] == method]
            cells = [cell([row[name] for row in own]) for name in ("transductive", "inductive")]
            gained = differences(of, method)
            words = f"{np.mean(gained):+.1f}" if gained else ""
            print(f"| {method} | {' | '.join(cells)} | {words} | {len(own)} |")
        print_verdict(of)


def differences(rows: Sequence[dict[str, Any]], method: str) -> list[float]:
    """Points on drawings in the graph, a method's less the supervised one's, seed by seed.

    Of the same first weights: others are worth several points more or less.
    """
    base = SUPERVISED if method in (SUPERVISED, *SINGLE) else BEGUN
    plain = {row["seed"]: row for row in rows if row["method"] == base}
    own = [row for row in rows if row["method"] == method and row["seed"] in plain]
    return [100 * (row["transductive"] - plain[row["seed"]]["transductive"]) for row in own]


def print_verdict(rows: Sequence[dict[str, Any]]) -> None:
    """What agreement loses, wanted at most a point, beside what plain regularization does."""
    agreement = differences(rows, GAM)
    plain = {method: differences(rows, method) for method in REGULARIZED}
    if agreement:
        lost = -float(np.mean(agreement))
        others = ", ".join(
            f"{name} {-np.mean(found):.1f}" for name, found in plain.items() if found
        )
        verdict = "met" if lost <= MOST_LOST else "missed"
        print(
            f"\n{GAM} loses {lost:.1f} points (wanted: at most {MOST_LOST:g}; {verdict}); {others}"
        )


def main() -> None:
    """Runs what is missing and prints the tables."""
    arguments = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    arguments.add_argument("--archive", type=Path, required=True, help="of the drawings")
    arguments.add_argument("--labels", type=int, nargs="+", default=[5], help="of each character")
    arguments.add_argument("--seeds", type=int, default=3)
    arguments.add_argument("--regimes", nargs="+", choices=REGIMES, default=list(REGIMES))
    arguments.add_argument("--methods", nargs="+", default=list(METHODS))
    arguments.add_argument("--work", type=Path, default=Path("adverse"), help="folder of results")
    given = arguments.parse_args()
    given.work.mkdir(parents=True, exist_ok=True)
    path = given.work / "omniglot.jsonl"
    run(given, path)
    show(read(path))


if __name__ == "__main__":
    main()
