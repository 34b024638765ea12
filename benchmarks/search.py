"""Claim: an index is built in minutes, finds nearly all, and answers faster than people notice.

Clustered vectors drawn by a seed. For each number of images, in one process and on one thread: the
index stage as `imgembed export` runs it; the same kind of index by faiss alone; numpy's exact
search. Then `imgembed search --image-id` as a command, and the same query in a process that is
open. CPU seconds are what to read on a shared machine. --contenders also builds graphs (HNSW), by
faiss and, where it is installed, by usearch, that one twice to see whether it comes out the same.

    python benchmarks/search.py [--images 100000 1000000] [--contenders] [--json figures.json]
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from measuring import Run, describe_machine, measure

from pipeline import schema
from pipeline.artifacts import RunDir, Version
from pipeline.config import IndexConfig
from pipeline.embeddings.index import build_index
from pipeline.embeddings.scoring import best_rows
from pipeline.embeddings.search import SearchIndex

DIM, K = 128, 10
QUERIES, SINGLE = 1_000, 200
A_CENTRE, SPREAD = 100, 0.7  # images around a centre; their deviation, where centres have 1
MODEL = "v0001-01234567"
COLD, WARM = 5, 200
_DRAWN_ROWS = 100_000
_ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")


@dataclass(frozen=True)
class Figures:
    """What was measured of one way to search. Seconds are of the CPU; recall is @10."""

    images: int
    way: str
    build_cpu: float
    megabytes: float
    recall: float
    batch_per_second: float
    single_per_second: float


def main() -> None:
    """Measures and prints tables."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--images", type=int, nargs="+", default=[100_000, 1_000_000])
    arguments.add_argument("--contenders", action="store_true")
    arguments.add_argument("--json", type=Path)
    given = arguments.parse_args()
    if not _ONE_THREAD.items() <= os.environ.items():  # numpy looked at it when it was loaded
        os.execve(sys.executable, [sys.executable, *sys.argv], os.environ | _ONE_THREAD)
    faiss.omp_set_num_threads(1)
    figures, latencies = [], []
    for images in given.images:
        with tempfile.TemporaryDirectory() as folder:
            found, latency = measure_size(images, Path(folder), contenders=given.contenders)
        figures += found
        latencies += latency
    content = {
        "machine": describe_machine(1, ["imgembed", "faiss-cpu", "numpy", "pyarrow"]),
        "figures": [asdict(one) for one in figures],
        "latencies": latencies,
    }
    if given.json:
        given.json.write_text(json.dumps(content, indent=2) + "\n")
    print_tables(figures, latencies)


def print_tables(figures: Sequence[Figures], latencies: Sequence[dict[str, object]]) -> None:
    """The figures as the README has them."""
    print("| images | | build, CPU s | MB | recall@10 | queries/s, batch | queries/s, one by one |")
    print("|---|---|---|---|---|---|---|")
    for one in figures:
        print(
            f"| {one.images:,} | {one.way} | {one.build_cpu:.1f} | {one.megabytes:.0f} | "
            f"{one.recall:.4f} | {one.batch_per_second:,.0f} | {one.single_per_second:,.0f} |"
        )
    print(
        "\n| images | index | cold, wall s | cold, CPU s | warm, median ms | 95 % | warm, CPU ms |"
    )
    print("|---|---|---|---|---|---|---|")
    for row in latencies:
        times = "{wall:.2f} | {cpu:.2f} | {warm:.1f} | {slow:.1f} | {warm_cpu:.1f}".format(**row)
        print(f"| {row['images']:,} | {row['kind']} | {times} |")


# The data -----------------------------------------------------------------------------------------


def draw(images: int) -> np.ndarray:
    """Unit vectors around centres, [images, DIM] float32."""
    chance = np.random.default_rng(0)
    centres = chance.standard_normal((max(1, images // A_CENTRE), DIM), np.float32)
    vectors = np.empty((images, DIM), np.float32)
    for start in range(0, images, _DRAWN_ROWS):
        part = vectors[start : start + _DRAWN_ROWS]
        part[:] = centres[chance.integers(0, len(centres), len(part))]
        part += np.float32(SPREAD) * chance.standard_normal(part.shape, np.float32)
        part /= np.linalg.norm(part, axis=1, keepdims=True)
    return vectors


def write_embeddings(run: RunDir, vectors: np.ndarray) -> Version:
    """The embeddings stage of a run, as an export leaves it."""
    ids = [f"img-{number:07d}" for number in range(len(vectors))]
    wanted = schema.embedding_schema(schema.IMAGE_ID.name, DIM)
    with run.begin(schema.EMBEDDINGS) as new:
        for start in range(0, len(vectors), _DRAWN_ROWS):
            part = slice(start, start + _DRAWN_ROWS)
            flat = pa.array(vectors[part].ravel())
            columns = [ids[part], pa.FixedSizeListArray.from_arrays(flat, DIM)]
            columns.append(pa.array([MODEL] * len(columns[0])))
            name = schema.shard_name(
                schema.IMAGE_EMBEDDINGS,
                start // _DRAWN_ROWS,
                -(-len(vectors) // _DRAWN_ROWS),
                "parquet",
            )
            pq.write_table(pa.table(columns, schema=wanted), new.file(name), compression="zstd")
        return new.commit({"fingerprint": "0123", "dim": DIM, "model_version": MODEL})


# The measurements ---------------------------------------------------------------------------------


def measure_size(
    images: int, folder: Path, *, contenders: bool
) -> tuple[list[Figures], list[dict[str, object]]]:
    """(ways to search, latencies of the command) for so many images."""
    say(f"{images:,} images: drawing")
    vectors = draw(images)
    run = RunDir(str(folder / "run"))
    embeddings = write_embeddings(run, vectors)
    rows = np.sort(np.random.default_rng(1).choice(images, QUERIES, replace=False))
    queries = vectors[rows]
    truth, numpy_batch = timed(lambda: exact_neighbours(vectors, queries))
    figures, latencies = [numpy_figures(vectors, queries, numpy_batch)], []

    index, seconds = build(run, embeddings, "exact")
    latencies.append(latency(run, index, rows))
    index, seconds = build(run, embeddings, "approximate")
    latencies.append(latency(run, index, rows))
    figures.append(our_figures(index, vectors, queries, truth, seconds))
    manifest = index.manifest
    figures.append(faiss_figures(vectors, queries, truth, manifest["cells"], manifest["probes"]))
    if contenders:
        figures += [
            graph_figures(vectors, queries, truth),
            *usearch_figures(vectors, queries, truth),
        ]
    return figures, latencies


def build(run: RunDir, embeddings: Version, kind: str) -> tuple[Version, float]:
    """The index stage: (its version, CPU seconds)."""
    say(f"building, {kind}")

    def made() -> Version:
        with run.begin(schema.INDEX) as new:
            content = build_index(
                embeddings,
                IndexConfig(kind=kind),
                seed=0,
                out=new,
                threads=1,
                on_progress=lambda *_: None,
            )
            return new.commit({"fingerprint": "4567", **content})

    return timed(made)


def exact_neighbours(vectors: np.ndarray, queries: np.ndarray) -> np.ndarray:
    """[q, K] rows of the highest products, each query's own among them, by numpy."""
    best = []
    for start in range(0, len(queries), 50):
        scores = queries[start : start + 50] @ vectors.T
        best.append(np.argpartition(-scores, K - 1, axis=1)[:, :K])
    return np.concatenate(best)


def numpy_figures(vectors: np.ndarray, queries: np.ndarray, batch: float) -> Figures:
    """Of looking at every vector; one by one as our own exact search does."""
    few = queries[:20]

    def one_by_one() -> None:
        for query in few:
            best_rows(vectors, query, K)

    single = timed(one_by_one)[1]
    return Figures(
        len(vectors),
        "numpy, exact",
        0.0,
        vectors.nbytes / 1e6,
        1.0,
        len(queries) / batch,
        len(few) / single,
    )


def our_figures(
    version: Version, vectors: np.ndarray, queries: np.ndarray, truth: np.ndarray, built: float
) -> Figures:
    """Of the index stage as a search opens it."""
    index = SearchIndex.open(version)
    assert index.cells is not None
    cells = index.cells
    none: list[list[int]] = [[]] * len(queries)
    answers, batch = timed(lambda: cells.nearest(index.matrix, queries, K, excluded=none))
    single = timed(lambda: [index.search(query, K) for query in queries[:SINGLE]])[1]
    found = [rows for rows, _ in answers]
    size = sum(path.stat().st_size for path in Path(version.path).iterdir()) / 1e6
    way = f"imgembed: {version.manifest['cells']:,} cells, {version.manifest['probes']} probes"
    return Figures(
        len(vectors), way, built, size, shared(found, truth), len(queries) / batch, SINGLE / single
    )


def faiss_figures(
    vectors: np.ndarray, queries: np.ndarray, truth: np.ndarray, cells: int, probes: int
) -> Figures:
    """The same kind of index, made and asked without us: what it finds is not scored again."""
    say("faiss alone")
    index = faiss.index_factory(DIM, f"IVF{cells},SQ8", faiss.METRIC_INNER_PRODUCT)
    sample = np.random.default_rng(2).permutation(len(vectors))[: 64 * cells]

    def made() -> None:
        index.train(vectors[sample])
        index.add(vectors)

    built = timed(made)[1]
    index.nprobe = probes
    return library_figures("faiss alone: IVF, SQ8", index, vectors, queries, truth, built)


def graph_figures(vectors: np.ndarray, queries: np.ndarray, truth: np.ndarray) -> Figures:
    """A graph by faiss."""
    say("faiss, HNSW")
    index = faiss.IndexHNSWFlat(DIM, 16, faiss.METRIC_INNER_PRODUCT)
    index.hnsw.efConstruction = 128
    index.hnsw.efSearch = 64
    built = timed(lambda: index.add(vectors))[1]
    return library_figures("faiss alone: HNSW, ef 64", index, vectors, queries, truth, built)


def library_figures(
    way: str,
    index: faiss.Index,
    vectors: np.ndarray,
    queries: np.ndarray,
    truth: np.ndarray,
    built: float,
) -> Figures:
    """Of an index of faiss's, its own answers."""
    found, batch = timed(lambda: index.search(queries, K)[1])
    single = timed(lambda: [index.search(query[None], K) for query in queries[:SINGLE]])[1]
    size = len(faiss.serialize_index(index)) / 1e6
    recall = shared(found, truth)
    return Figures(len(vectors), way, built, size, recall, len(queries) / batch, SINGLE / single)


def usearch_figures(
    vectors: np.ndarray, queries: np.ndarray, truth: np.ndarray
) -> Sequence[Figures]:
    """usearch's graph, with one thread and with two; none where it is not installed."""
    try:
        from usearch.index import Index
    except ImportError:
        say("usearch is not installed: left out")
        return []
    return [usearch_graph(Index, vectors, queries, truth, threads) for threads in (1, 2)]


def usearch_graph(
    make: Callable[..., Any],
    vectors: np.ndarray,
    queries: np.ndarray,
    truth: np.ndarray,
    threads: int,
) -> Figures:
    """A graph by usearch, made twice; asked with one thread."""
    say(f"usearch, {threads} threads")
    keys, marks = np.arange(len(vectors)), set()
    for _ in range(2):
        index = make(ndim=DIM, metric="ip", dtype="f16", connectivity=16, expansion_add=128)
        began = time.process_time()
        index.add(keys, vectors, threads=threads)
        built = time.process_time() - began
        content = bytes(index.save())
        marks.add(hashlib.sha256(content).digest())
    found, batch = timed(lambda: index.search(queries, K, threads=1).keys)
    single = timed(lambda: [index.search(query, K) for query in queries[:SINGLE]])[1]
    same = "the same bytes twice" if len(marks) == 1 else "other bytes each time"
    return Figures(
        len(vectors),
        f"usearch alone: HNSW, f16, {threads} threads, {same}",
        built,
        len(content) / 1e6,
        shared(found, truth),
        len(queries) / batch,
        SINGLE / single,
    )


def latency(run: RunDir, index: Version, rows: np.ndarray) -> dict[str, object]:
    """`imgembed search --image-id` from start to end, and a query of an open index."""
    say(f"latency, {index.manifest['kind']}")
    program = str(Path(sys.executable).with_name("imgembed"))
    runs = []
    with tempfile.TemporaryDirectory() as folder:
        for row in rows[:COLD]:
            command = [program, "search", "--run-dir", run.path, "--image-id", f"img-{row:07d}"]
            runs.append(measure(Run(command, Path(folder) / "out")))
    opened = SearchIndex.open(index)
    seconds, used = [], time.process_time()
    for row in rows[:WARM]:
        began = time.perf_counter()
        name = f"img-{row:07d}"
        opened.search(opened.vector_of(name), K, [name])
        seconds.append(time.perf_counter() - began)
    used = time.process_time() - used
    return {
        "images": index.manifest["images"],
        "kind": index.manifest["kind"],
        "wall": statistics.median(usage.wall for usage in runs),
        "cpu": statistics.median(usage.cpu for usage in runs),
        "warm": 1e3 * statistics.median(seconds),
        "slow": 1e3 * float(np.quantile(seconds, 0.95)),
        "warm_cpu": 1e3 * used / len(seconds),
    }


def shared(found: Sequence[np.ndarray] | np.ndarray, truth: np.ndarray) -> float:
    """The mean share of the true rows that were found."""
    pairs = zip(found, truth, strict=True)
    return float(np.mean([len(np.intersect1d(own, best)) / K for own, best in pairs]))


def timed(work: Callable[[], Any]) -> tuple[Any, float]:
    """(what came out, CPU seconds)."""
    began = time.process_time()
    result = work()
    return result, time.process_time() - began


def say(text: str) -> None:
    """What is being measured, for who waits."""
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
