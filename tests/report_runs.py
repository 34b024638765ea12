"""Runs to report on: graph and examples as the program makes them, of a world whose people are out
to break the page, and beside them a model, embeddings and figures that are written by hand.
"""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from cli import main
from pipeline import schema
from pipeline.artifacts import RunDir, to_json

SCRIPT = "<script>alert(1)</script>"
BREAKS_OUT = "\"' onerror='alert(2)' x=\"</style></title></textarea><!-- & {{ 7 * 7 }}"
RIGHT_TO_LEFT = "‮txet‬ שלום"
MARKUP = "<b onmouseover=alert(3)>bold"
IMAGES, KINDS, DIM = 48, 4, 8
COLOURS = ((200, 40, 40), (40, 160, 60), (50, 80, 200), (210, 170, 30))
QUERIES = (SCRIPT, "green things", "https://elsewhere.example/x.js", RIGHT_TO_LEFT)
LABELS = (MARKUP, "green", "blue", "$\\frac{1}{2}$ _x_")


def image_id(number: int) -> str:
    """Some ids are an attack, one is as long as may be, and all others are plain."""
    special = {
        0: SCRIPT,
        1: BREAKS_OUT,
        2: RIGHT_TO_LEFT,
        3: "x" * 1000,
        4: "url(https://elsewhere.example/a.png)",
    }
    return special.get(number, f"image {number}")


def write_logs(path: Path) -> None:
    """Sessions of two to five images of one kind, now and then of another; some rows are bad."""
    draw = np.random.default_rng(0)
    rows: list[dict[str, Any]] = []
    for session in range(400):
        kind = int(draw.integers(KINDS))
        images = [kind + KINDS * int(i) for i in draw.choice(IMAGES // KINDS, draw.integers(1, 6))]
        if session % 10 == 0:
            images.append(int(draw.integers(IMAGES)))
        rows += [
            {
                "session_id": f"s{session}",
                "user_id": f"u{session % 90}",
                "timestamp": 1_700_000_000 + 3_600 * session + place,
                "image_id": image_id(image),
                "query": QUERIES[kind],
            }
            for place, image in enumerate(images)
        ]
    rows += [{"session_id": "s0", "image_id": None, "timestamp": 1_700_000_000}] * 3
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def write_catalog(folder: Path, *, features: bool = False) -> Path:
    """A table of pictures of one colour with noise, or of numbers that tell the kind."""
    (folder / "pictures").mkdir(parents=True)
    draw = np.random.default_rng(1)
    rows = []
    for number in range(IMAGES):
        row: dict[str, Any] = {"image_id": image_id(number), "label": LABELS[number % KINDS]}
        if features:
            row["features"] = (np.eye(KINDS)[number % KINDS] + draw.normal(size=KINDS)).tolist()
        else:
            noise = draw.integers(-30, 31, (24, 24, 3))
            pixels = np.clip(np.array(COLOURS[number % KINDS]) + noise, 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(folder / "pictures" / f"{number}.png")
            row["uri"] = f"pictures/{number}.png"
        rows.append(row)
    path = folder / "catalog.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def build(folder: Path, *, features: bool = False) -> Path:
    """A run of graph and examples."""
    folder.mkdir(exist_ok=True)
    write_logs(folder / "log.jsonl")
    catalog = write_catalog(folder / "catalog", features=features)
    run = folder / "run"
    arguments = ["build-graph", "--quiet", "--sessions", folder / "log.jsonl", "--images", catalog]
    sets = ["graph.top_k=4", "examples.neighbors=2", "images.image_size=24"]
    for one in sets:
        arguments += ["--set", one]
    assert main.run([*map(str, arguments), "--run-dir", str(run)]) == 0
    return run


def vectors() -> np.ndarray:
    """[IMAGES, DIM] float32 of unit norm: images of a kind lie close."""
    draw = np.random.default_rng(2)
    kinds = np.eye(DIM)[np.arange(IMAGES) % KINDS]
    found = kinds + 0.3 * draw.normal(size=(IMAGES, DIM))
    return (found / np.linalg.norm(found, axis=1, keepdims=True)).astype(np.float32)


def add_model(run: Path, **history: Any) -> None:
    """A model with a history of five epochs."""
    epochs = [
        {"epoch": n, "loss": 5 / n, "validation_figure": 0.1 * n, "mean_cosine": -0.01 * n}
        for n in range(1, 6)
    ]
    with RunDir.open(str(run)).begin(schema.MODEL) as new:
        Path(new.file(schema.HISTORY_FILE)).write_bytes(
            to_json({"best_epoch": 4, "epochs": epochs, **history})
        )
        new.commit(
            {
                "fingerprint": "m",
                "config": {"model": {"dim": DIM}},
                "upstream": {schema.EXAMPLES: "v0001"},
                "parameters": 1234,
                "dim": DIM,
                "epochs": 5,
                "signatures": [schema.IMAGE_SIGNATURE, schema.TEXT_SIGNATURE],
            }
        )


def add_embeddings(run: Path, *, files: int = 1) -> None:
    """Vectors of all images and of three of the queries."""
    keys = {
        schema.IMAGE_EMBEDDINGS: ("image_id", [image_id(i) for i in range(IMAGES)], vectors()),
        schema.QUERY_EMBEDDINGS: ("query", list(QUERIES[:3]), np.eye(DIM, dtype=np.float32)[:3]),
    }
    with RunDir.open(str(run)).begin(schema.EMBEDDINGS) as new:
        for prefix, (key, names, rows) in keys.items():
            wanted = schema.embedding_schema(key, DIM)
            order = np.argsort(names, kind="stable")
            for number, part in enumerate(np.array_split(order, files)):
                columns = [[names[i] for i in part], list(rows[part]), ["m"] * len(part)]
                name = schema.shard_name(prefix, number, files, "parquet")
                pq.write_table(pa.table(columns, schema=wanted), new.file(name))
        new.commit(
            {
                "fingerprint": "e",
                "config": {},
                "upstream": {schema.MODEL: "v0001", schema.GRAPH: "v0001"},
                "dim": DIM,
                "model_version": "v0001-m",
                "counts": {"images": IMAGES, "queries": 3},
            }
        )


def figure(value: float, width: float = 0.02) -> dict[str, float]:
    """A figure with its interval."""
    return {"value": value, "low": value - width, "high": value + width}


def metrics(**parts: Any) -> dict[str, Any]:
    """What an evaluation of this or of a later version might write."""

    def measured(value: float) -> dict[str, Any]:
        return {"recall@10": figure(value), "mrr": figure(value / 2), "map": figure(value / 3)}

    methods = {
        "trained embedding": measured(0.6),
        "co-occurrence only": measured(0.5),
        "random": measured(0.1),
    }
    slices = {"head": {"queries": 10, "sessions": 5, "methods": methods}}
    by_label = {MARKUP: {"queries": 7, "sessions": 3, "methods": methods}}
    return {
        "model_version": "v0001-m",
        "held_out": {"sessions": 40},
        "image_to_image": {
            "queries": 90,
            "sessions": 40,
            "methods": methods,
            "slices": slices,
            "by_label": by_label,
        },
        "judgments": {"queries": 4, "methods": {"trained embedding": {"ndcg@5": figure(0.7)}}},
        "collapse": {"rank_me": 5.5, "alignment": None},
        **parts,
    }


def add_evaluation(run: Path, content: dict[str, Any] | None = None) -> None:
    """Figures by hand."""
    with RunDir.open(str(run)).begin(schema.EVALUATION) as new:
        found = metrics() if content is None else content
        Path(new.file(schema.METRICS_FILE)).write_bytes(to_json(found))
        names = (schema.GRAPH, schema.EXAMPLES, schema.MODEL, schema.EMBEDDINGS)
        upstream = dict.fromkeys(names, "v0001")
        new.commit({"fingerprint": "v", "config": {}, "upstream": upstream})


def copy(run: Path, target: Path, *, without: tuple[str, ...] = ()) -> Path:
    """The run elsewhere, without some of its stages."""
    shutil.copytree(run, target, ignore=shutil.ignore_patterns(schema.LOGS_FOLDER, ".lock"))
    for stage in without:
        shutil.rmtree(target / stage, ignore_errors=True)
    return target


def report(run: Path, *arguments: str) -> str:
    """The page that the command writes."""
    assert main.run(["report", "--quiet", "--run-dir", str(run), *arguments]) == 0
    version = RunDir.open(str(run)).require(schema.REPORT)
    return Path(version.file(schema.REPORT_FILE)).read_text()
