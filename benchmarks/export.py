"""Claim: imgembed export costs little more than the model itself, and memory does not grow.

Speed: pictures through three programs, each in a process of its own on the same cores, in turns:

    imgembed  the command that a user types
    loop      what anyone would write: tf.data, and the same SavedModel's `image` signature, which
              decodes and scales what it is given
    prepared  the same loop, with pictures made by Pillow into what the model was trained on, as
              imgembed does: the one that gives the same vectors

All at a quarter of the pictures as well: what the difference takes is the marginal cost, free of
imports and of the making of pipelines. The vectors are compared. Memory: ready features, a quarter
of the rows and all of them.

    python benchmarks/export.py [--images 8000] [--sides 64 320] [--rows 1000000] [--repeat 3]
    python benchmarks/export.py --profile

The model has random weights, which cost what trained ones do. The figures also go to WORK.json.
"""

from __future__ import annotations

import argparse
import collections
import datetime
import functools
import io
import json
import os
import shutil
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import measuring
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from catalogs import draw_field
from examples import at_least, at_most, imgembed, print_verdicts, program, rate, to_json
from measuring import Run, Usage, made_once, take_turns
from PIL import Image
from profiling import NATIVE, UNSEEN, WAITING, Sampler

PACKAGES = ("apache-beam", "numpy", "pillow", "pyarrow", "tensorflow")
CORES = (1, 2)
SMALL = 0.25
BATCH = 256
EXAMPLES = 400  # images that the model's examples are made of
FEATURES, DIM = 32, 32  # of the rows that memory is measured with
BLOCK = 1_000
QUALITY = 90
_SAME = 1e-6
_NEAR = 0.98  # mean cosine of the two programs' vectors: their pictures are scaled by two libraries

# What is wanted.
LEAST_SHARE = 0.9  # images/s of imgembed / of the loop
MOST_GROWTH = 1.15  # of own memory, from a quarter of the rows to all


# ---------------------------------------------------------------------------------------------
# Catalogs and models
# ---------------------------------------------------------------------------------------------


def picture_catalog(work: Path, images: int, side: int) -> Path:
    """Parquet: image_id, image; JPEGs of `side` pixels a side."""
    return made_once(
        work / f"pictures-{images}-{side}.parquet", lambda path: write_pictures(path, images, side)
    )


def write_pictures(path: Path, images: int, side: int) -> None:
    """Smooth colour fields with shapes, and grain as photos have it."""
    draw = np.random.default_rng(side)
    columns = pa.schema([("image_id", pa.string()), ("image", pa.binary())])
    with pq.ParquetWriter(path, columns) as file:
        for start in range(0, images, BLOCK):
            numbers = range(start, min(images, start + BLOCK))
            ids = [f"img-{number:07d}" for number in numbers]
            pictures = [to_jpeg(draw_field(draw), side, draw) for _ in numbers]
            file.write_table(pa.table([ids, pictures], schema=columns))


def to_jpeg(field: Image.Image, side: int, draw: np.random.Generator) -> bytes:
    """The picture at its size, with grain."""
    pixels = np.asarray(field.resize((side, side), Image.Resampling.BICUBIC), np.int16)
    grain = draw.integers(-6, 7, pixels.shape, np.int16)
    sink = io.BytesIO()
    Image.fromarray(np.clip(pixels + grain, 0, 255).astype(np.uint8)).save(
        sink, "JPEG", quality=QUALITY
    )
    return sink.getvalue()


def feature_catalog(work: Path, rows: int) -> Path:
    """Parquet: image_id, features."""
    return made_once(work / f"features-{rows}.parquet", lambda path: write_features(path, rows))


def write_features(path: Path, rows: int) -> None:
    """Normal numbers."""
    draw = np.random.default_rng(0)
    features = pa.list_(pa.float32())
    columns = pa.schema([("image_id", pa.string()), ("features", features)])
    with pq.ParquetWriter(path, columns) as file:
        for start in range(0, rows, 100 * BLOCK):
            count = min(rows - start, 100 * BLOCK)
            ids = [f"img-{number:08d}" for number in range(start, start + count)]
            numbers = pa.array(draw.normal(size=count * FEATURES).astype(np.float32))
            bounds = pa.array(np.arange(count + 1, dtype=np.int32) * FEATURES)
            lists = pa.ListArray.from_arrays(bounds, numbers)
            file.write_table(pa.table([pa.array(ids), lists], schema=columns))


def model_run(work: Path, kind: str) -> Path:
    """A run directory that has a model alone, of pictures or of features; made once."""
    folder = work / f"model-{kind}"
    if not folder.exists():
        print(f"making {folder.name}", file=sys.stderr)
        making = work / "making"
        shutil.rmtree(making, ignore_errors=True)
        make_model(making, kind)
        (making / "run" / "model").rename(work / "model")
        folder.mkdir()
        (work / "model").rename(folder / "model")
    return folder


def make_model(folder: Path, kind: str) -> None:
    """Examples of a small catalog, and the served model with its first weights."""
    folder.mkdir(parents=True)
    if kind == "pictures":
        write_pictures(folder / "catalog.parquet", EXAMPLES, 64)
    else:
        write_features(folder / "catalog.parquet", EXAMPLES)
    ids = [f"img-{number:0{7 if kind == 'pictures' else 8}d}" for number in range(EXAMPLES)]
    others = [*ids[1:], ids[0]]
    edges = pa.table({"src": ids, "dst": others, "weight": np.ones(EXAMPLES)})
    pq.write_table(edges, folder / "edges.parquet")
    run = str(folder / "run")
    paths = {"--edges": folder / "edges.parquet", "--images": folder / "catalog.parquet"}
    options = [str(word) for pair in paths.items() for word in pair]
    imgembed("build-graph", *options, "--run-dir", run, "--quiet")
    measuring.measure(Run(self_run("model", run, kind), folder / "out"))


def run_model(run: str, kind: str) -> None:
    """Commits a model of the run's examples."""
    from pipeline import schema
    from pipeline.artifacts import RunDir
    from trainer import serving
    from trainer.attempt import make_model
    from trainer.config import ModelConfig, TrainingConfig
    from trainer.example_files import ExampleFiles

    files, opened = ExampleFiles.open(RunDir.open(run).require(schema.EXAMPLES)), RunDir.open(run)
    transform = files.transform()
    config = ModelConfig() if kind == "pictures" else ModelConfig(dim=DIM)
    model = make_model(files, transform, config, TrainingConfig())
    of_examples = ("content", "image_size", "image_encoding", "feature_dim", "multi_label")
    manifest = {name: files.version.manifest[name] for name in of_examples}
    with opened.begin(schema.MODEL) as new:
        signatures = serving.export(model, transform, files, new.file(schema.SAVED_MODEL_FOLDER))
        new.commit(
            {**manifest, "dim": config.dim, "signatures": signatures, "fingerprint": "0" * 8}
        )


# ---------------------------------------------------------------------------------------------
# The programs
# ---------------------------------------------------------------------------------------------


def self_run(name: str, *arguments: object) -> list[str]:
    """The command line that runs one of RUNS in a process of its own."""
    return [sys.executable, __file__, "--run", name, *map(str, arguments)]


def export_arguments(catalog: Path, out: Path, workers: int) -> list[str]:
    """What imgembed is called with."""
    paths = {"--images": catalog, "--run-dir": out / "run", "--workers": workers}
    return ["export", "--quiet", *(str(word) for pair in paths.items() for word in pair)]


def run_on(cores: str, *command: str) -> None:
    """Becomes another program, on so many cores."""
    measuring.use_cores(int(cores))
    os.execv(command[0], command)


def export_run(model: Path, catalog: Path, out: Path, cores: int) -> Run:
    """`imgembed export` in a run directory that has the model."""
    command = self_run("on", cores, program(), *export_arguments(catalog, out, cores))
    return Run(command, out, [catalog], lambda folder: shutil.copytree(model, folder / "run"))


def loop_run(model: Path, catalog: Path, out: Path, cores: int) -> Run:
    """The loop in a process of its own."""
    return Run(self_run("on", cores, *self_run("loop", model, catalog, out)), out, [catalog])


def prepared_run(model: Path, catalog: Path, out: Path, cores: int) -> Run:
    """The loop that looks at the same pixels, in a process of its own."""
    command = self_run("prepared", model, catalog, out, cores)
    return Run(self_run("on", cores, *command), out, [catalog])


def run_prepared(model: str, catalog: str, out: str, threads: str) -> None:
    """Pillow in threads, tf.data, the signature, an array."""
    from pipeline.examples import pictures

    prepare = functools.partial(
        pictures.prepare, image_size=64, max_pixels=50_000_000, encoding="jpeg"
    )
    found = pq.read_table(catalog, columns=["image"])["image"].to_pylist()
    with ThreadPoolExecutor(int(threads)) as pool:
        embed(model, [picture.content for picture in pool.map(prepare, found)], out)


def run_loop(model: str, catalog: str, out: str) -> None:
    """tf.data, the signature, an array."""
    embed(model, pq.read_table(catalog, columns=["image"])["image"].to_pylist(), out)


def embed(model: str, pictures: Sequence[bytes], out: str) -> None:
    """The loop itself."""
    import tensorflow as tf

    (folder,) = Path(model).glob("model/v*/saved_model")
    served = tf.saved_model.load(str(folder)).signatures["image"]
    batches = tf.data.Dataset.from_tensor_slices(pictures).batch(BATCH).prefetch(tf.data.AUTOTUNE)
    vectors = [served(image=batch)["embedding"].numpy() for batch in batches]
    np.save(Path(out) / "vectors.npy", np.concatenate(vectors))


# ---------------------------------------------------------------------------------------------
# Speed
# ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Case:
    """One program on one catalog."""

    name: str
    side: int
    cores: int
    images: int

    @property
    def label(self) -> str:
        """Of its folder, and for people."""
        return f"{self.name}, {self.side} px, {self.cores} cores, {self.images}"


MAKERS = {"imgembed": export_run, "loop": loop_run, "prepared": prepared_run}


def speed(work: Path, images: int, sides: Sequence[int], repeat: int) -> dict[str, Any]:
    """Prints what each program takes, and what an image more takes."""
    model = model_run(work, "pictures")
    cases = [
        Case(name, side, cores, count)
        for side in sides
        for cores in CORES
        for count in (int(images * SMALL), images)
        for name in MAKERS
    ]
    runs = {case.label: run_of(case, work, model) for case in cases}
    usages = dict(zip(cases, take_turns(runs, repeat).values(), strict=True))
    near = {side: compare(work, images, side) for side in sides}
    print_usages(usages)
    for side, cosine in near.items():
        print(f"mean cosine of the vectors of imgembed and of the loop, {side} px: {cosine:.5f}")
    judged = judge(usages, images, sides)
    print_verdicts(judged)
    return {
        "runs": {case.label: asdict(used) for case, used in usages.items()},
        "mean_cosine": near,
        "verdicts": to_json(judged),
    }


def run_of(case: Case, work: Path, model: Path) -> Run:
    """How a case is run."""
    catalog = picture_catalog(work, case.images, case.side)
    return MAKERS[case.name](model, catalog, out_of(work, case), case.cores)


def out_of(work: Path, case: Case) -> Path:
    """The folder of a case."""
    return work / f"out-{case.label.replace(', ', '-').replace(' ', '')}"


def compare(work: Path, images: int, side: int) -> float:
    """The mean cosine of imgembed's vectors and the loop's, which scales in another way.

    SystemExit where they are of other pictures, or where those of the same pixels are not the same.
    """
    from pipeline.artifacts import RunDir
    from pipeline.vectors import read_vectors

    cases = [Case(name, side, CORES[-1], images) for name in MAKERS]
    ours, theirs, same = (out_of(work, case) for case in cases)
    version = RunDir.open(str(ours / "run")).require("embeddings")
    _, vectors = read_vectors(version, "images", "image_id")
    difference = np.abs(vectors - np.load(same / "vectors.npy")).max()
    if difference > _SAME:
        raise SystemExit(f"{side} px: vectors of the same pixels differ by up to {difference}")
    cosines = (vectors * np.load(theirs / "vectors.npy")).sum(axis=1)
    if cosines.mean() < _NEAR:
        raise SystemExit(f"{side} px: the programs' vectors have a mean cosine of {cosines.mean()}")
    return float(cosines.mean())


def print_usages(usages: Mapping[Case, Usage]) -> None:
    """A line a case."""
    print(f"\n{'':44}{'wall s':>8}{'CPU s':>8}{'own MiB':>9}{'images/s':>10}{'an image more':>24}")
    small = {(case.name, case.side, case.cores): used for case, used in reversed(usages.items())}
    for case, used in usages.items():
        few = small[case.name, case.side, case.cores]
        more = case.images * (1 - SMALL)
        wall, cpu = ((a - b) / more * 1e6 for a, b in ((used.wall, few.wall), (used.cpu, few.cpu)))
        marginal = f"{wall:8.0f} us, CPU {cpu:6.0f}" if few is not used else ""
        print(
            f"{case.label:44}{used.wall:8.1f}{used.cpu:8.1f}{used.own / 2**20:9.0f}"
            f"{case.images / used.wall:10.0f}{marginal:>24}"
        )


def judge(usages: Mapping[Case, Usage], images: int, sides: Sequence[int]) -> list[Any]:
    """imgembed against the loop, by wall and CPU time; and two cores against one."""
    few, more = int(images * SMALL), images - int(images * SMALL)

    def per_second(name: str, side: int, cores: int, kind: str) -> float:
        large, small = (
            getattr(usages[Case(name, side, cores, count)], kind) for count in (images, few)
        )
        return rate(more, large - small)

    judged = []
    for side in sides:
        for cores, kind in ((1, "cpu"), (1, "wall"), (2, "cpu"), (2, "wall")):
            ours, loop, prepared = (per_second(name, side, cores, kind) for name in MAKERS)
            what = f"{side} px, {cores} core(s), images a {kind} second / the"
            judged.append(at_least(f"{what} loop's", ours / loop, LEAST_SHARE))
            judged.append(at_least(f"{what} prepared loop's", ours / prepared, LEAST_SHARE))
        alone, both = (per_second("imgembed", side, cores, "wall") for cores in CORES)
        judged.append(at_least(f"{side} px: images/s on two cores / on one", both / alone, 1.0))
    return judged


# ---------------------------------------------------------------------------------------------
# Memory
# ---------------------------------------------------------------------------------------------


def memory(work: Path, rows: int, repeat: int) -> dict[str, Any]:
    """Prints what rows of features take in memory, a quarter of them and all."""
    model, counts = model_run(work, "features"), (int(rows * SMALL), rows)
    runs = {
        f"{count:,} rows": export_run(
            model, feature_catalog(work, count), work / f"out-rows-{count}", CORES[-1]
        )
        for count in counts
    }
    usages = take_turns(runs, repeat)
    print(f"\n{'':24}{'wall s':>8}{'CPU s':>8}{'peak MiB':>10}{'own MiB':>9}")
    for name, used in usages.items():
        peak, own = used.peak / 2**20, used.own / 2**20
        print(f"{name:24}{used.wall:8.1f}{used.cpu:8.1f}{peak:10.0f}{own:9.0f}")
    few, many = usages.values()
    judged = [
        at_most("own memory at four times the rows / before", many.own / few.own, MOST_GROWTH)
    ]
    print_verdicts(judged)
    return {
        "runs": {name: asdict(used) for name, used in usages.items()},
        "verdicts": to_json(judged),
    }


# ---------------------------------------------------------------------------------------------
# Where the time goes
# ---------------------------------------------------------------------------------------------

MODEL, PICTURES, FILES = "the model", "read, decode, resize, encode, hash", "gather and write"
STEPS = {
    MODEL: ("embeddings/embed.py", "embeddings/model.py"),
    PICTURES: ("examples/prepare.py", "examples/decoding.py", "examples/catalog/", "contents.py"),
    FILES: ("embeddings/files.py", "pipeline/columnar.py", "pipeline/parcels.py"),
}
BEAM, START = "Beam", "start-up, manifest"


def step_of(stack: Sequence[str], is_main: bool) -> str:
    """What a stack of the command is at."""
    if is_main and not any(place.endswith("pipeline/runner.py:run") for place in stack):
        return START
    found = (step_of_place(place) for place in stack)
    return next((step for step in found if step is not None), BEAM)


@functools.cache
def step_of_place(place: str) -> str | None:
    """The step that `file:function` is a part of."""
    return next((step for step, parts in STEPS.items() if any(p in place for p in parts)), None)


def run_profile(catalog: str, out: str) -> None:
    """The command, with a thread that looks at what it does."""
    sampler = Sampler(step_of, children=PICTURES)
    sampler.start()
    from cli.main import run

    code = run(export_arguments(Path(catalog), Path(out), CORES[-1]))
    sampler.stop()
    if code:
        sys.exit(code)
    content = {"cpu": dict(sampler.cpu), "wall": dict(sampler.wall)}
    Path(out, "profile.json").write_text(json.dumps(content))


def profile(work: Path, images: int, sides: Sequence[int]) -> dict[str, Any]:
    """Prints where imgembed's time goes."""
    model, found = model_run(work, "pictures"), {}
    for side in sides:
        catalog, out = picture_catalog(work, images, side), work / f"out-profile-{side}"
        run = self_run("on", CORES[-1], *self_run("profile", catalog, out))
        before: Callable[[Path], object] = lambda to: shutil.copytree(model, to / "run")  # noqa: E731
        take_turns({f"profile, {side} px": Run(run, out, [catalog], before)}, 1)
        figures = json.loads((out / "profile.json").read_text())
        cpu = collections.defaultdict(float, figures["cpu"])
        print(f"\nWhere the time goes, {images:,} pictures of {side} px\n")
        print(f"{'':40}{'wall s':>8}{'CPU s':>8}{'CPU us an image':>17}")
        for step in (START, PICTURES, MODEL, NATIVE, FILES, BEAM, UNSEEN, WAITING):
            wall = figures["wall"].get(step, 0.0)
            print(f"{step:40}{wall:8.1f}{cpu[step]:8.1f}{cpu[step] / images * 1e6:17.0f}")
        found[str(side)] = figures
    return found


# ---------------------------------------------------------------------------------------------
# The command line
# ---------------------------------------------------------------------------------------------

RUNS: Mapping[str, Callable[..., None]] = {
    "model": run_model,
    "on": run_on,
    "loop": run_loop,
    "prepared": run_prepared,
    "profile": run_profile,
}
PARTS = {
    "speed": "imgembed against the loop; by default",
    "memory": "by the number of rows; by default",
    "profile": "where imgembed's time goes",
}
DEFAULT_PARTS = ("speed", "memory")


def parse_arguments() -> argparse.Namespace:
    """The options, from the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--work", type=Path, default=Path("/tmp/export-benchmark"))
    parser.add_argument("--images", type=int, default=8_000)
    parser.add_argument("--sides", type=int, nargs="+", default=[64, 320], help="pixels")
    parser.add_argument("--rows", type=int, default=1_000_000, help="of features, for memory")
    parser.add_argument("--repeat", type=int, default=3, help="runs of each; medians are shown")
    for part, text in PARTS.items():
        parser.add_argument(f"--{part}", action="store_true", help=text)
    # How the script starts one of RUNS in a process of its own: NAME, then its arguments.
    parser.add_argument("--run", nargs=argparse.REMAINDER, help=argparse.SUPPRESS)
    return parser.parse_args()


def main() -> None:
    """Runs the benchmark, or the one that --run names."""
    arguments = parse_arguments()
    if arguments.run:
        name, *rest = arguments.run
        RUNS[name](*rest)
        return
    os.environ["CUDA_VISIBLE_DEVICES"] = ""
    asked = vars(arguments)
    parts = [part for part in PARTS if asked[part]] or DEFAULT_PARTS
    work = arguments.work.absolute()
    work.mkdir(parents=True, exist_ok=True)
    made: Mapping[str, Callable[[], dict[str, Any]]] = {
        "speed": lambda: speed(work, arguments.images, arguments.sides, arguments.repeat),
        "memory": lambda: memory(work, arguments.rows, arguments.repeat),
        "profile": lambda: profile(work, arguments.images, arguments.sides),
    }
    machine = measuring.describe_machine(CORES[-1], PACKAGES)
    machine |= {"date": datetime.date.today().isoformat(), "repeat": arguments.repeat}
    began = time.monotonic()
    path = Path(f"{work}.json")
    for part in parts:
        before = json.loads(path.read_text()) if path.exists() else {}
        figures = {"machine": machine, **made[part]()}
        path.write_text(json.dumps({**before, part: figures}, indent=2) + "\n")
    print(f"\n{time.monotonic() - began:.0f} s in all")


if __name__ == "__main__":
    main()
