"""Claim: in a run, learned agreement tells right edges from wrong ones, where the truth is known.

Worlds of `imgembed sample` with more and more irrelevant clicks. The catalog has ready features, as
of a backbone that sees fairly well: of what a picture shows (shape, colour, texture), each drawn as
64 numbers, under noise thrice as large, so that the nearest image is of the same shape in two of
three cases; half of the images are labelled, by their shape. Each world's graph and examples are
made once; on them a model is trained plainly and with `model.agreement: gam`, both are exported and
measured on held-out sessions, and the whole graph is judged.

    python benchmarks/edge_truth.py [--noises 0.1 0.3 0.6] [--seeds 3] [--unlabelled]
                                    [--work FOLDER] [--set SECTION.KEY=VALUE ...]

--unlabelled: no image has a label, so that agreement is learned from clicks for one query.

Reported, as the mean of the seeds, of edges of those seeds where agreement could be learned:
    right       share of the edges whose two images are of one label, in truth
    AUC         of right edges against the others, by agreement, and by the edges' weight
    ECE, Brier  of the agreement, taken as the probability that an edge is right, over all edges
    recall@10   of held-out pairs of images, by the plain model and by the one with agreement
    kept        how many seeds kept an iteration with agreement, by the validation split
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from sklearn.metrics import brier_score_loss, roc_auc_score

IMAGES, SESSIONS, LABELLED = 1_000, 4_000, 0.5
SEEN, DIM, NOISE = ("shape", "colour", "texture"), 64, 3.0
BINS = 10
SETTINGS = {
    "graph.min_sessions": 1,
    "images.max_rejected_fraction": 0.1,
    "sessions.max_rejected_fraction": 0.1,
    "training.epochs": 15,
    "model.size": "tiny",
}
PLAIN, AGREEMENT = "none", "gam"
OF_EDGES = ("right", "auc", "weight_auc", "ece", "brier")
COLUMNS = (*OF_EDGES, "plain", "with_agreement", "kept")
HEAD = "| noise | right | AUC | of weight | ECE | Brier | recall@10 | with agreement | kept |"


def main() -> None:
    """Prints a row as soon as it is there."""
    arguments = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    arguments.add_argument("--noises", nargs="+", type=float, default=[0.1, 0.3, 0.6])
    arguments.add_argument("--seeds", type=int, default=3)
    arguments.add_argument("--unlabelled", action="store_true")
    arguments.add_argument("--work", type=Path, help="where worlds and runs are kept")
    arguments.add_argument("--set", dest="sets", action="append", default=[])
    given = arguments.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        work = given.work or Path(folder)
        labelled = 0.0 if given.unlabelled else LABELLED
        print(HEAD + "\n" + "|---" * (len(COLUMNS) + 1) + "|")
        for noise in given.noises:
            found = [
                measure(work / f"{labelled}-{noise}-{seed}", labelled, noise, seed, given.sets)
                for seed in range(given.seeds)
            ]
            print(row(noise, found), flush=True)


def row(noise: float, found: Sequence[Mapping[str, float]]) -> str:
    """A line of the table: means, and of `kept` the sum."""
    means = [np.nanmean([each[name] for each in found]) for name in COLUMNS[:-1]]
    kept = sum(int(each["kept"]) for each in found)
    cells = [f"{mean:.3f}" for mean in means]
    return f"| {noise} | {' | '.join(cells)} | {kept} of {len(found)} |"


def measure(
    folder: Path, labelled: float, noise: float, seed: int, sets: Sequence[str]
) -> dict[str, float]:
    """The figures of one world. labelled: the share of its images."""
    world, run_dir = folder / "world", folder / "run"
    options = [f"{key}={value}" for key, value in {**SETTINGS, "seed": seed}.items()]
    common = ["--run-dir", run_dir, *(word for one in [*options, *sets] for word in ("--set", one))]
    if not world.exists():
        sizes = {"images": IMAGES, "sessions": SESSIONS, "labelled": labelled, "noise": noise}
        imgembed("sample", "--out", world, "--seed", seed, *flags(sizes))
    catalog = folder / "features.parquet"
    write_features(world, catalog, seed)
    common += ["--set", f"images.path={catalog}", "--set", f"sessions.path={world / 'sessions'}"]
    imgembed("build-graph", *common)
    recalls = {}
    for agreement in (PLAIN, AGREEMENT):
        imgembed("train", "--set", f"model.agreement={agreement}", *common)
        imgembed("evaluate", *common)
        recalls[agreement] = recall(newest(run_dir / "evaluation"))
    manifest = json.loads((newest(run_dir / "model") / "manifest.json").read_text())
    found = dict.fromkeys(OF_EDGES, float("nan"))  # where the guard lets no edge be judged
    if manifest["agreement"]["learned"]:
        imgembed("denoise", *common)
        found = of_edges(run_dir, world)
    return {
        **found,
        "plain": recalls[PLAIN],
        "with_agreement": recalls[AGREEMENT],
        "kept": float(manifest["agreement"]["best_iteration"] > 0),
    }


def flags(values: Mapping[str, object]) -> list[str]:
    """--name value, one after the other."""
    return [word for name, value in values.items() for word in (f"--{name}", str(value))]


def imgembed(*words: object) -> None:
    """Runs a command."""
    program = Path(sys.executable).with_name("imgembed")
    command = [str(program), *map(str, words), "--quiet"]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


def recall(evaluation: Path) -> float:
    """recall@10 of held-out pairs by the trained embedding."""
    content = json.loads((evaluation / "metrics.json").read_text())
    return float(content["image_to_image"]["methods"]["trained embedding"]["recall@10"]["value"])


def newest(stage: Path) -> Path:
    """The folder that CURRENT names."""
    return stage / (stage / "CURRENT").read_text().strip()


def write_features(world: Path, path: Path, seed: int) -> None:
    """The catalog with features in place of pictures."""
    rows = [json.loads(line) for line in (world / "catalog" / "catalog.jsonl").open()]
    label_of = {each["image_id"]: each.get("label") for each in rows}
    truth = pq.read_table(world / "truth" / "images.parquet")
    draw = np.random.default_rng(seed)
    features = NOISE * draw.standard_normal((len(truth), DIM))
    for name in SEEN:
        values, kind = np.unique(truth[name].to_numpy(zero_copy_only=False), return_inverse=True)
        features += draw.standard_normal((len(values), DIM))[kind]
    ids = truth["image_id"].to_pylist()
    columns = {
        "image_id": ids,
        "features": list(features.astype(np.float32)),
        "label": pa.array([label_of.get(image_id) for image_id in ids], pa.string()),
    }
    pq.write_table(pa.table(columns), path)


def of_edges(run_dir: Path, world: Path) -> dict[str, float]:
    """How well right edges are told from others, and how good the probabilities are."""
    truth = pq.read_table(world / "truth" / "images.parquet")
    label_of = dict(zip(*(truth[name].to_pylist() for name in ("image_id", "label")), strict=True))
    shards = sorted(newest(run_dir / "agreement").glob("agreement-*.parquet"))
    edges = pa.concat_tables([pq.read_table(path) for path in shards])
    ends = zip(edges["src"].to_pylist(), edges["dst"].to_pylist(), strict=True)
    right = np.array([label_of[src] == label_of[dst] for src, dst in ends])
    agreement = edges["agreement"].to_numpy()
    return {
        "right": float(right.mean()),
        "auc": roc_auc_score(right, agreement),
        "weight_auc": roc_auc_score(right, edges["weight"].to_numpy()),
        "ece": expected_calibration_error(agreement, right),
        "brier": brier_score_loss(right, agreement),
    }


def expected_calibration_error(found: np.ndarray, right: np.ndarray) -> float:
    """Mean over ten equal ranges of |mean probability - share that is right|, by edges."""
    place = np.minimum((found * BINS).astype(int), BINS - 1)
    return float(np.abs(np.bincount(place, found - right)).sum() / len(found))


if __name__ == "__main__":
    main()
