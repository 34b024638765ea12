"""Versions in force whose manifest, pointer or files were damaged."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import fault_runs
from fault_rows import Cases, damaged_row, without
from fault_runs import NEW, STAGES, Bench, Ended

MANIFESTS: dict[str, Callable[[bytes], bytes]] = {
    "cut": lambda content: content[: len(content) // 2],
    "not JSON": lambda _: b"\xff\x00manifest",
    "another schema": lambda _: b'{"name": "imgembed", "version": 2}\n',
    "a list": lambda _: b"[]\n",
}
POINTERS = {"a missing version": b"v0009\n", "nonsense": b"\xff\x00\n", "nothing": b""}
TRUNCATED = (
    ("graph", "edges-*.parquet"),
    ("examples", "train-*.tfrecord.gz"),
    ("model", "saved_model/variables/variables.data-*"),
    ("embeddings", "images-*.parquet"),
    ("index", "vectors.npy"),
    ("evaluation", "metrics.json"),
    ("report", "index.html"),
)


def back(bench: Bench, run_dir: Path, stage: str, *version: str) -> Ended:
    """What a line advises: an older version in force; of the former kind, the stage again."""
    roll_back = fault_runs.imgembed("runs", "rollback", stage, *version, "--run-dir", run_dir)
    done = fault_runs.call(roll_back)
    if done.code or version:
        return done
    return fault_runs.call(bench.run(run_dir, "--from", stage, "--to", stage))


def nothing() -> Ended:
    """No rerun, where a person has put back what was damaged."""
    return Ended(0, "", "")


def manifests(bench: Bench, trials: Path, _: int) -> Cases:
    """Manifests of versions in force that say nothing, or something else: two kinds a stage.

    The first kind is mended as the line says where that takes less than a training.
    """
    for number, stage in enumerate(STAGES):
        kinds = [list(MANIFESTS)[(2 * number + place) % len(MANIFESTS)] for place in (0, 1)]
        for kind in kinds:
            run_dir = bench.done(trials / "run")
            path = run_dir / stage / NEW / "manifest.json"
            content = path.read_bytes()
            before = without(fault_runs.read_back(run_dir), stage)
            path.write_bytes(MANIFESTS[kind](content))
            ended = fault_runs.call(bench.run(run_dir, "--from", stage))
            rolls = kind == kinds[0] and stage in STAGES[3:]
            yield damaged_row(
                bench,
                "manifest",
                f"{stage}: {kind}",
                run_dir,
                before=before,
                ended=ended,
                first=stage,
                last=stage,
                rerun=(lambda r=run_dir, s=stage: back(bench, r, s)) if rolls else nothing,
                renumbered=rolls,
                how="after `runs rollback`: " if rolls else "with the manifest put back: ",
                repair=None if rolls else (lambda p=path, c=content: p.write_bytes(c)),
            )


def pointers(bench: Bench, trials: Path, _: int) -> Cases:
    """CURRENT that names what is not there: a kind a stage."""
    for number, stage in enumerate(STAGES):
        kind = list(POINTERS)[number % len(POINTERS)]
        run_dir = bench.done(trials / "run")
        before = without(fault_runs.read_back(run_dir), stage)
        (run_dir / stage / "CURRENT").write_bytes(POINTERS[kind])
        yield damaged_row(
            bench,
            "CURRENT",
            f"{stage}: {kind}",
            run_dir,
            before=before,
            ended=fault_runs.call(bench.run(run_dir, "--from", stage)),
            last=stage,
            rerun=lambda r=run_dir, s=stage: back(bench, r, s, NEW),
            how="after `runs rollback`: ",
        )
    run_dir = bench.done(trials / "run")
    before = fault_runs.read_back(run_dir)
    for stage in STAGES:
        (run_dir / stage / "CURRENT").unlink()
    yield damaged_row(
        bench,
        "CURRENT",
        "gone in all stages",
        run_dir,
        before=before,
        ended=fault_runs.call(bench.run(run_dir)),
        expects_failure=False,
    )


def truncated(bench: Bench, trials: Path, _: int) -> Cases:
    """Files of versions in force of which the last third is missing."""
    for stage, pattern in TRUNCATED:
        run_dir = bench.done(trials / "run")
        before = without(fault_runs.read_back(run_dir), stage)
        path = sorted((run_dir / stage / NEW).glob(pattern))[0]
        os.truncate(path, path.stat().st_size * 2 // 3)
        yield damaged_row(
            bench,
            "file cut",
            f"{stage}: {path.name}; run",
            run_dir,
            before=before,
            ended=fault_runs.call(bench.run(run_dir, "--from", stage)),
            last=stage,
            rerun=lambda r=run_dir, s=stage: fault_runs.call(
                bench.run(r, "--from", s, "--to", s, "--force")
            ),
            renumbered=True,
            how=f"with `--from {stage} --to {stage} --force`: ",
        )
    yield from readers_of_cut_files(bench, trials)


def readers_of_cut_files(bench: Bench, trials: Path) -> Cases:
    """The later stages, and searches, that are given a cut file without a run before them."""
    search = ("search", "--config", bench.world / "cfg.yaml", "-k", "3")
    image = json.loads((bench.world / "catalog" / "catalog.jsonl").read_text().splitlines()[0])
    by_id, by_text = ("--image-id", image["image_id"]), ("--text", "red")
    cases = [
        ("graph", "edges-*.parquet", ("--from", "examples", "--force")),
        ("examples", "train-*.tfrecord.gz", ("--from", "model", "--force")),
        ("model", "saved_model/variables/variables.data-*", ("--from", "embeddings", "--force")),
        ("embeddings", "images-*.parquet", ("--from", "index", "--force")),
        ("evaluation", "metrics.json", ("--from", "report", "--force")),
        ("model", "saved_model/variables/variables.data-*", by_text),
        ("index", "vectors.npy", by_id),
        ("index", "ids.arrow", by_id),
    ]
    for stage, pattern, options in cases:
        run_dir = bench.done(trials / "run")
        before = without(fault_runs.read_back(run_dir), stage)
        path = sorted((run_dir / stage / NEW).glob(pattern))[0]
        content = path.read_bytes()
        os.truncate(path, len(content) * 2 // 3)
        command = (
            bench.run(run_dir, *options)
            if options[0] == "--from"
            else fault_runs.imgembed(*search, "--run-dir", run_dir, *options)
        )
        reader = "run --from " + options[1] if options[0] == "--from" else f"search {options[0]}"
        yield damaged_row(
            bench,
            "file cut",
            f"{stage}: {path.name}; {reader}",
            run_dir,
            before=before,
            ended=fault_runs.call(command),
            first=stage,
            last=stage,
            repair=lambda p=path, c=content: p.write_bytes(c),
            rerun=nothing,
            how="with the file put back: ",
        )
