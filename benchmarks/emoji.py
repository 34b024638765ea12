"""Claim: words find pictures that no words were given for.

Emoji pictures with names and keywords, and real sessions in which people chose emoji for a phrase.
A fifth of the pictures, by a hash of their id, is in the catalog without name, keywords and label:
the training sees the picture alone, and the sessions that hold it. Then each of their names is a
query with one right answer, among all 1,644 pictures. Every seed holds out other pictures.

    python benchmarks/emoji.py --data FOLDER [--seeds 3] [--work FOLDER]

FOLDER holds emoji.jsonl, sessions.jsonl and noto72.zip (googlefonts/noto-emoji, muan/emojilib,
WING-NUS/ELCo). A finished training is kept in the work folder, and not done again.

Reported over all seeds, with 95 % bootstrap intervals in which a picture is drawn with all its
queries: recall@10 and the mean reciprocal rank of
    trained embedding     the name by the text tower, pictures by the picture tower
    named pictures, …     the mean of the pictures whose texts have a word of the name, rare words
                          counting more, in the trained space or as raw pixels of 16 x 16
    popularity, random    the most seen pictures; a random order, by its closed form
and recall@10 of the pictures that are in no session (cold), and of those in one: what people asked
when they chose a picture is a text that was given, too. Then by how much recall@10 of the trained
embedding is above that of the others, picture by picture.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import os
import re
import resource
import subprocess
import sys
from collections import Counter, defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import yaml

from pipeline import schema
from pipeline.artifacts import RunDir
from trainer import metrics
from trainer.evaluation import inputs, methods
from trainer.evaluation.config import EvaluationConfig
from trainer.evaluation.inputs import Corpus, Links
from trainer.evaluation.judgments import Judged, full_ranking, full_ranking_of_chance
from trainer.evaluation.measuring import Measure
from trainer.evaluation.names import POPULARITY, RANDOM, TRAINED
from trainer.evaluation.run import Texts

HELD_OUT = 0.2
K = 10
NAMED_TRAINED, NAMED_RAW = "named pictures, trained space", "named pictures, raw pixels"
METHODS = (TRAINED, NAMED_TRAINED, NAMED_RAW, POPULARITY, RANDOM)
CONFIG: dict[str, Any] = {
    "graph": {"min_sessions": 1},  # 901 sessions are few
    # Nothing is chosen on a validation split, so that all other texts can be learned.
    "examples": {"split": {"train": 1.0, "validation": 0.0, "test": 0.0}},
    # 1,300 pictures with texts are few: a small model that sees them often learns more than the
    # default one in 16 epochs did. Tried on seed 10, which is not reported.
    "model": {"size": "tiny"},
    "training": {"epochs": 60},
}


# ---------------------------------------------------------------------------------------------
# What is trained
# ---------------------------------------------------------------------------------------------


def read_rows(path: Path) -> list[dict[str, Any]]:
    """The rows of a JSONL file."""
    return [json.loads(line) for line in path.open(encoding="utf-8")]


def is_held_out(emoji_id: str, seed: int) -> bool:
    """Whether the texts of a picture are kept from the training."""
    digest = hashlib.sha256(f"{seed}/{emoji_id}".encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2.0**64 < HELD_OUT


def texts_of(emoji: Mapping[str, Any]) -> list[str]:
    """Name and keywords."""
    return [emoji["name"], *emoji["keywords"]]


def catalog_row(emoji: Mapping[str, Any], seed: int) -> dict[str, Any]:
    """What the training is told of a picture."""
    row = {"image_id": emoji["emoji_id"], "uri": emoji["image"]}
    if is_held_out(emoji["emoji_id"], seed):
        return row
    return {**row, "label": emoji["group"], "text": texts_of(emoji)}


def train(data: Path, work: Path, emoji: list[dict[str, Any]], seed: int) -> RunDir:
    """The run of a seed; what is there already is not made again."""
    folder = work / f"seed-{seed}"
    folder.mkdir(parents=True, exist_ok=True)
    write_once(
        folder / "catalog.jsonl",
        "".join(f"{json.dumps(catalog_row(one, seed), ensure_ascii=False)}\n" for one in emoji),
    )
    config = {
        **CONFIG,
        "seed": seed,
        "run_dir": str(folder / "run"),
        "sessions": {"path": str(data / "sessions.jsonl")},
        "images": {
            "path": str(folder / "catalog.jsonl"),
            "root": str(data / "noto72.zip"),
            "image_size": 48,
        },
    }
    write_once(folder / "cfg.yaml", yaml.safe_dump(config))
    for command in ("build-graph", "train"):
        program = [sys.executable, "-m", "cli.main", command, "--config", str(folder / "cfg.yaml")]
        subprocess.run(program, check=True, stdout=sys.stderr)
    return RunDir.open(str(folder / "run"))


def write_once(path: Path, text: str) -> None:
    """Writes a file unless it holds this text: a stage looks at the time of its last change."""
    if not path.exists() or path.read_text(encoding="utf-8") != text:
        path.write_text(text, encoding="utf-8")


# ---------------------------------------------------------------------------------------------
# What is measured
# ---------------------------------------------------------------------------------------------


def measure(run: RunDir, emoji: list[dict[str, Any]], seed: int) -> dict[str, Any]:
    """Of each held-out picture: its id, whether sessions hold it, and each method's figures."""
    stages = (schema.GRAPH, schema.EXAMPLES, schema.MODEL, schema.EMBEDDINGS)
    graph, examples, model, embeddings = (run.require(stage) for stage in stages)
    inputs.check_model(embeddings, model)
    corpus = inputs.read_corpus(embeddings=embeddings, graph=graph, seed=seed)
    asked = [one for one in emoji if is_held_out(one["emoji_id"], seed)]
    judged = Judged.of(
        pa.table(
            [
                [one["name"] for one in asked],
                [one["emoji_id"] for one in asked],
                [1.0] * len(asked),
            ],
            schema=schema.JUDGMENT_SCHEMA,
        ),
        corpus,
    )
    queries, grade = judged.queries()
    of_graph, _ = Texts(corpus, graph, model, embeddings).methods(judged.texts)
    links = words_in_common(judged.texts.to_pylist(), emoji, corpus, seed)
    raw = inputs.read_content(examples, corpus).raw
    score_rows = {
        TRAINED: of_graph[TRAINED],
        NAMED_TRAINED: methods.by_mean_of_links(links, corpus.vectors, corpus.sessions),
        NAMED_RAW: methods.by_mean_of_links(links, raw, corpus.sessions),
        POPULARITY: of_graph[POPULARITY],
    }
    settings = Measure(EvaluationConfig(k=[K]), seed, len(corpus))
    found = {
        name: full_ranking(settings.ranks(scores, queries), queries, grade, settings)
        for name, scores in score_rows.items()
    }
    found[RANDOM] = full_ranking_of_chance(queries, grade, settings)
    return {
        "picture": corpus.ids.take(pa.array(queries.target)).to_pylist(),
        "cold": corpus.sessions[queries.target] == 0,
        "known": np.isin(queries.item, links.owner),
        **found,
    }


def words(texts: list[str]) -> set[str]:
    """Their words, in lower case."""
    return {word for text in texts for word in re.findall(r"\w+", text.lower())}


def words_in_common(
    names: list[str], emoji: list[dict[str, Any]], corpus: Corpus, seed: int
) -> Links:
    """From each name to the pictures whose texts were given and share words with it.

    Weighed by the sum over shared words of ln(pictures / pictures with the word).
    """
    holders: dict[str, list[str]] = defaultdict(list)
    given = [one for one in emoji if not is_held_out(one["emoji_id"], seed)]
    for one in given:
        for word in words(texts_of(one)):
            holders[word].append(one["emoji_id"])
    owners, ids, weights = [], [], []
    for number, name in enumerate(names):
        shared: Counter[str] = Counter()
        for word in sorted(words([name])):
            for emoji_id in holders.get(word, ()):
                shared[emoji_id] += math.log(len(given) / len(holders[word]))
        owners += [number] * len(shared)
        ids += list(shared)
        weights += list(shared.values())
    rows = corpus.rows_of(pa.array(ids, pa.string()))
    return Links.of(np.array(owners), rows, np.array(weights))


# ---------------------------------------------------------------------------------------------
# The tables
# ---------------------------------------------------------------------------------------------


def show(seeds: list[dict[str, Any]]) -> None:
    """Prints the tables over all seeds."""
    names = metrics.measure_names([K])
    recall, reciprocal = names.index(f"recall@{K}"), names.index("mrr")
    pictures = np.concatenate([found["picture"] for found in seeds])
    cold, known = (np.concatenate([found[name] for found in seeds]) for name in ("cold", "known"))
    parts = {
        f"recall@{K}": (recall, np.ones(len(cold), bool)),
        "MRR": (reciprocal, np.ones(len(cold), bool)),
        f"recall@{K}, cold": (recall, cold),
        f"recall@{K}, in sessions": (recall, ~cold),
    }
    print(
        f"{len(cold):,} queries of {len(seeds)} seeds, {cold.sum():,} for cold pictures; "
        f"{(~known).sum():,} have no word that a given text has\n"
    )
    print(f"| method | {' | '.join(parts)} | recall@{K} by seed |")
    print(f"|{'---|' * (len(parts) + 2)}")
    for method in METHODS:
        values = np.concatenate([found[method] for found in seeds])
        cells = [
            interval(values[chosen, column], pictures[chosen]) for column, chosen in parts.values()
        ]
        by_seed = ", ".join(f"{found[method][:, recall].mean():.3f}" for found in seeds)
        print(f"| {method} | {' | '.join(cells)} | {by_seed} |")
    print()
    for method in METHODS[1:]:
        above = [found[TRAINED][:, recall] - found[method][:, recall] for found in seeds]
        print(f"above {method}: {interval(np.concatenate(above), pictures)}")


def interval(values: np.ndarray, pictures: np.ndarray) -> str:
    """The mean over pictures, and the farther end of its interval."""
    _, picture = np.unique(pictures, return_inverse=True)
    by_picture = metrics.session_means(values[:, None], picture)
    found = metrics.bootstrap(by_picture, resamples=2_000, seed=0)
    reach = max(found.high[0] - found.value[0], found.value[0] - found.low[0])
    return f"{found.value[0]:.3f} ± {reach:.3f}"


def main() -> None:
    """Trains once a seed, and prints the tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, default=Path("data"))
    parser.add_argument("--work", type=Path, default=Path("/tmp/imgembed-emoji"))
    parser.add_argument("--seeds", type=int, default=3)
    arguments = parser.parse_args()
    data, work = arguments.data.absolute(), arguments.work.absolute()
    emoji = read_rows(data / "emoji.jsonl")
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
    seeds = range(arguments.seeds)
    show([measure(train(data, work, emoji, seed), emoji, seed) for seed in seeds])
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    print(f"\nCPU of graph, examples, training: {used.ru_utime + used.ru_stime:.0f} s")


if __name__ == "__main__":
    main()
