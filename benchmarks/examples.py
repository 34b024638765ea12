"""Claim: the examples cost less to write than by the ways there were. Not met yet: see README.md.

Makes a catalog and a graph (catalogs.py; kept in the work folder), runs imgembed and other programs
(example_writers.py) on the same two cores, each in a process of its own, compares what they wrote
record by record (agreement.py), and prints what each took. Records that disagree are an error. The
figures also go to WORK.json.

    python benchmarks/examples.py [--photos images.zip] [--images 50000] [--repeat 2]
    python benchmarks/examples.py --variants --encodings

The competitors:
    imgembed  the command that a user types; the graph is there before, as it is for the others
    nsl       neural-structured-learning's way, after its pack_nbrs: one process, Pillow, all
              examples parsed into one dict, every feature of a neighbour copied, one file
    tf.data   pictures through a parallel map of tf.data, all of them held in memory, and a loop in
              plain Python that makes and writes the records

All have the same JPEGs of quality 95 without loss of colour, none packs them a second time. Without
flags the competitors run, at a quarter of the images as well (what the difference takes is the
marginal cost, free of imports and the making of pipelines), and a profile of imgembed is taken.
"""

from __future__ import annotations

import argparse
import datetime
import functools
import itertools
import json
import math
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import measuring
from agreement import check_agreement
from catalogs import GROUP, Data
from example_writers import NEIGHBORS, run_nsl, run_tf_data
from measuring import Run, Usage, take_turns
from profiling import NATIVE, UNSEEN, WAITING, Sampler

CORES = 2
ENCODING = "jpeg"
SMALL = 0.25  # of the images, for the marginal cost
PACKAGES = ("apache-beam", "numpy", "pillow", "pyarrow", "tensorflow")

# What is wanted.
LEAST_FACTOR = 1.5  # images/s of imgembed / of the faster competitor
MOST_GROWTH = 1.25  # of memory, from a quarter of the catalog to twice it
LEAST_SHARE = 0.95  # of the time after start-up: pictures, join and writing

# ---------------------------------------------------------------------------------------------
# Running imgembed and the others
# ---------------------------------------------------------------------------------------------

COMPETITORS = ("nsl", "tf.data")


def program() -> str:
    """The installed command."""
    return str(Path(sys.executable).with_name("imgembed"))


def imgembed(*arguments: str) -> None:
    """Runs a command that is not measured; SystemExit with what it said where it fails."""
    done = subprocess.run([program(), *arguments], capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(
            f"imgembed {' '.join(arguments)}\n{done.stdout[-2000:]}{done.stderr[-2000:]}"
        )


def self_run(name: str, *arguments: object) -> list[str]:
    """The command line that runs one of RUNS in a process of its own."""
    return [sys.executable, __file__, "--run", name, *map(str, arguments)]


def run_of(name: str, data: Data, out: Path, sets: Sequence[str] = ()) -> Run:
    """A competitor, or imgembed. sets: further settings of imgembed."""
    inputs = [data.catalog, data.edges]
    if name == "imgembed":
        command = [program(), *build_arguments(data.catalog, data.edges, out, sets)]
        return Run(command, out, inputs, copy_of(graph_of(data)))
    edges = data.edges_tsv if name == "nsl" else data.edges
    return Run(self_run(name, data.catalog, edges, out), out, [data.catalog, edges])


def build_arguments(
    catalog: object, edges: object, out: object, sets: Sequence[str] = ()
) -> list[str]:
    """What imgembed is called with."""
    settings = [f"examples.image_encoding={ENCODING}", f"examples.neighbors={NEIGHBORS}", *sets]
    options = [word for setting in settings for word in ("--set", setting)]
    paths = {"--edges": edges, "--images": catalog, "--run-dir": f"{out}/run"}
    return ["build-graph", *(str(word) for pair in paths.items() for word in pair), *options]


def graph_of(data: Data) -> Path:
    """A run directory of imgembed with the graph of the edges."""
    folder = data.work / f"graph-{data.name}"
    imgembed("build-graph", "--edges", str(data.edges), "--run-dir", str(folder), "--quiet")
    return folder


def copy_of(graph: Path) -> Callable[[Path], object]:
    """What puts a run directory with the graph into a run's folder."""
    return lambda out: shutil.copytree(graph, out / "run")


def check_up_to_date(out: Path) -> None:
    """SystemExit where imgembed made the graph as well: that is not what is measured."""
    said = (out / "said.txt").read_text(errors="replace")
    if "is up to date" not in said:
        raise SystemExit(f"imgembed made the graph anew; it said:\n{said}")


# ---------------------------------------------------------------------------------------------
# Where imgembed's time goes
# ---------------------------------------------------------------------------------------------

# A step by the files its code is in; the innermost one of a stack counts.
PICTURES, JOIN, WRITE, TRANSFORM = "read, decode, resize, encode", "join", "write", "transform"
STEPS = {
    PICTURES: ("examples/prepare.py", "examples/decoding.py", "examples/catalog/"),
    JOIN: (
        *(f"examples/{name}.py" for name in ("settle", "neighbors", "coverage", "subgraphs")),
        *(f"examples/{name}.py" for name in ("nodes", "places", "spill")),
        "pipeline/reading.py",
    ),
    WRITE: (
        *(f"examples/{name}.py" for name in ("records", "layouts", "wire")),
        "tables/framing.py",
    ),
    TRANSFORM: (
        *(f"examples/{name}.py" for name in ("transform", "vocabularies", "words")),
        "tensorflow_transform/",
        "tfx_bsl/",
    ),
}
WORK = (PICTURES, JOIN, WRITE)
RUNNER = "pipeline/runner.py:run"
# Tables on their way from one step to another: a part of the join.
BETWEEN = ("pipeline/columnar.py", "pipeline/parcels.py")
START, BEAM = "start-up, manifest", "Beam"
AFTER_START = (*WORK, TRANSFORM, BEAM, NATIVE)


def step_of(stack: Sequence[str], is_main: bool) -> str:
    """What a stack of the command is at."""
    if is_main and not any(place.endswith(RUNNER) for place in stack):
        return START
    for place in stack:
        step = step_of_place(place)
        if step is not None:
            return step
    return JOIN if any(part in place for place in stack for part in BETWEEN) else BEAM


@functools.cache
def step_of_place(place: str) -> str | None:
    """The step that `file:function` is a part of."""
    return next((step for step, parts in STEPS.items() if any(p in place for p in parts)), None)


def run_profile(catalog: str, edges: str, out: str) -> None:
    """The command, with a thread that looks at what it does."""
    sampler = Sampler(step_of, children=PICTURES)
    sampler.start()
    from cli.main import run

    code = run(build_arguments(catalog, edges, out))
    sampler.stop()
    if code:
        sys.exit(code)
    content = {"cpu": dict(sampler.cpu), "wall": dict(sampler.wall)}
    Path(out, "profile.json").write_text(json.dumps(content))


def profile(small: Data, large: Data) -> dict[str, Any]:
    """Prints where imgembed's time goes, in all and for each image more."""
    few, many = (take_profile(data) for data in (small, large))
    more = large.images - small.images
    print(f"\nWhere imgembed's time goes, {large.images:,} images\n")
    print(f"{'':32}{'wall s':>9}{'CPU s':>9}{'share':>9}{'CPU us an image more':>24}{'share':>9}")
    marginal = {
        step: (many["cpu"].get(step, 0.0) - few["cpu"].get(step, 0.0)) / more * 1e6
        for step in (START, *AFTER_START, UNSEEN)
    }
    shares = [shares_of(figures) for figures in (many["cpu"], marginal)]
    for step in (START, *AFTER_START, UNSEEN, WAITING):
        wall, cpu = (many[kind].get(step, 0.0) for kind in ("wall", "cpu"))
        share, last = (f"{of[step]:9.1%}" if step in of else f"{'':9}" for of in shares)
        print(f"{step:32}{wall:9.1f}{cpu:9.1f}{share}{marginal.get(step, 0.0):24.1f}{last}")
    in_all, of_more = (sum(of[step] for step in WORK) for of in shares)
    judged = [
        at_least("pictures, join, write: share of CPU after start-up", in_all, LEAST_SHARE),
        at_least("the same of what each image more takes", of_more, LEAST_SHARE),
    ]
    print_verdicts(judged)
    sizes = {str(small.images): few, str(large.images): many}
    return {"profiles": sizes, "verdicts": to_json(judged)}


def take_profile(data: Data) -> dict[str, dict[str, float]]:
    """{"cpu" and "wall": {step: seconds}}."""
    out = data.work / "out-profile"
    command = self_run("profile", data.catalog, data.edges, out)
    name = f"profile, {data.images:,}"
    take_turns({name: Run(command, out, [data.catalog], copy_of(graph_of(data)))}, 1)
    check_up_to_date(out)
    return json.loads((out / "profile.json").read_text())


def shares_of(figures: Mapping[str, float]) -> dict[str, float]:
    """The share of each step in all that comes after the start; less than nothing is noise."""
    after = {step: max(0.0, figures.get(step, 0.0)) for step in AFTER_START}
    return {step: value / sum(after.values()) for step, value in after.items()}


# ---------------------------------------------------------------------------------------------
# What the trainer reads
# ---------------------------------------------------------------------------------------------

READ_EPOCHS = 2  # the first one warms up
ENCODINGS, LAYOUTS = ("jpeg", "png", "raw"), ("nsl", "compact")


def open_batches(run: str, epochs: int) -> tuple[Any, Any, int]:
    """(examples, batches as the trainer has them by default, batches of an epoch) of a run."""
    from pipeline.artifacts import RunDir
    from trainer.config import TrainingConfig
    from trainer.dataset import steps_per_epoch, training_batches
    from trainer.example_files import TRAIN, ExampleFiles

    training = TrainingConfig()
    files = ExampleFiles.open(RunDir.open(run).require("examples"))
    batches = training_batches(
        files,
        files.transform(),
        batch_size=training.batch_size,
        neighbors=training.neighbors,
        epochs=epochs,
        seed=0,
        shuffle_buffer=training.shuffle_buffer,
    )
    return files, batches, steps_per_epoch(files, TRAIN, training.batch_size)


def run_parse(run: str, out: str) -> None:
    """Reads the training examples as training does, and does nothing with them."""
    files, batches, steps = open_batches(run, READ_EPOCHS)
    iterator = iter(batches)
    for _ in range((READ_EPOCHS - 1) * steps):
        next(iterator)
    began, worked = time.monotonic(), time.process_time()
    for _ in range(steps):
        next(iterator)
    seconds, cpu = time.monotonic() - began, time.process_time() - worked
    split = files.version.manifest["splits"]["train"]
    content = {"seconds": seconds, "cpu": cpu, "records": split["records"], "bytes": split["bytes"]}
    Path(out, "parse.json").write_text(json.dumps(content))


def encodings(small: Data, large: Data, repeat: int) -> dict[str, Any]:
    """Prints, for each encoding and layout, its size and what it takes to write and to read."""
    rows = {}
    for encoding, layout in itertools.product(ENCODINGS, LAYOUTS):
        name, sets = f"{encoding}, {layout}", [f"examples.image_encoding={encoding}",
                                               f"examples.layout={layout}"]  # fmt: skip
        rows[name] = measure_encoding(name, sets, small, large, repeat)
    print(f"\nEncodings and layouts, {large.images:,} images\n")
    print(f"{'':16}{'bytes':>9}{'write/s':>10}{'marginal/s':>12}{'CPU us':>9}"
          f"{'read/s':>10}{'MB/s':>8}{'CPU us':>9}")  # fmt: skip
    for name, row in rows.items():
        print(
            f"{name:16}{row['bytes']:9,.0f}{row['write_per_second']:10,.0f}"
            f"{row['marginal_per_second']:12,.0f}{row['write_cpu_us']:9.0f}"
            f"{row['read_per_second']:10,.0f}{row['read_mb_per_second']:8.0f}"
            f"{row['read_cpu_us']:9.0f}"
        )
    return {"images": large.images, "rows": rows}


def measure_encoding(
    name: str, sets: Sequence[str], small: Data, large: Data, repeat: int
) -> dict[str, float]:
    """The figures of one encoding and layout; CPU of writing is the marginal one."""
    outs = {data.images: data.work / f"out-encoding-{data.images}" for data in (small, large)}
    runs = {
        f"{name}, {data.images:,} images": run_of("imgembed", data, outs[data.images], sets)
        for data in (small, large)
    }
    few, many = take_turns(runs, repeat).values()
    out = outs[large.images]
    check_up_to_date(out)
    read_out = large.work / "out-parse"
    measuring.measure(Run(self_run("parse", out / "run", read_out), read_out))
    read = json.loads((read_out / "parse.json").read_text())
    more = large.images - small.images
    return {
        "bytes": read["bytes"] / read["records"],
        "write_per_second": large.images / many.wall,
        "marginal_per_second": rate(more, many.wall - few.wall),
        "write_cpu_us": (many.cpu - few.cpu) / more * 1e6,
        "read_per_second": read["records"] / read["seconds"],
        "read_mb_per_second": read["bytes"] / read["seconds"] / 1e6,
        "read_cpu_us": read["cpu"] / read["records"] * 1e6,
    }


# ---------------------------------------------------------------------------------------------
# The benchmark
# ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Verdict:
    """A figure, and what is wanted of it: at most or at least so much, or nothing."""

    what: str
    value: float
    most: float | None = None
    least: float | None = None

    @property
    def wanted(self) -> str:
        if self.most is not None:
            return f"<= {self.most:g}"
        return "" if self.least is None else f">= {self.least:g}"

    @property
    def answer(self) -> str:
        if not self.wanted:
            return ""
        enough = self.least is None or self.value >= self.least
        not_too_much = self.most is None or self.value <= self.most
        return "yes" if enough and not_too_much else "no"


def at_most(what: str, value: float, most: float) -> Verdict:
    """A figure that is to be at most so much."""
    return Verdict(what, value, most=most)


def at_least(what: str, value: float, least: float) -> Verdict:
    """A figure that is to be at least so much."""
    return Verdict(what, value, least=least)


def print_verdicts(verdicts: Iterable[Verdict]) -> None:
    """A line a figure."""
    print(f"\n{'':60}{'wanted':>10}{'measured':>10}")
    for verdict in verdicts:
        print(f"{verdict.what:60}{verdict.wanted:>10}{verdict.value:10.3f}  {verdict.answer}")


def to_json(verdicts: Iterable[Verdict]) -> list[dict[str, Any]]:
    """The verdicts as plain values."""
    return [asdict(verdict) for verdict in verdicts]


def competitors(small: Data, large: Data, repeat: int) -> dict[str, Any]:
    """Runs, checks and prints all competitors on both catalogs."""
    names = ("imgembed", *COMPETITORS)
    outs = {
        (name, data.images): data.work / f"out-{name}-{data.images}"
        for data in (small, large)
        for name in names
    }
    sizes = {data.images: data for data in (small, large)}
    runs = {
        f"{name}, {images:,}": run_of(name, sizes[images], out)
        for (name, images), out in outs.items()
    }
    usages = dict(zip(outs, take_turns(runs, repeat).values(), strict=True))
    for data in (small, large):
        check_up_to_date(outs["imgembed", data.images])
    records = agree({name: outs[name, large.images] for name in names}, small.work)
    print(f"\nAll agree on {records:,} records: splits, labels, texts, neighbours, weights, edges, "
          "pictures; and on vocabularies and statistics.\n")  # fmt: skip
    print_usages(usages)
    judged = judge_competitors(usages, small.images, large.images)
    print_verdicts(judged)
    return {
        "records": records,
        "runs": {f"{name}, {images}": asdict(used) for (name, images), used in usages.items()},
        "verdicts": to_json(judged),
    }


def agree(outs: Mapping[str, Path], work: Path) -> int:
    """How many records all agree on."""
    print("comparing", file=sys.stderr)
    out = work / "out-agreement"
    measuring.measure(Run(self_run("agreement", out, *outs.values()), out))
    return int((out / "records.txt").read_text())


def run_agreement(out: str, imgembed: str, *others: str) -> None:
    """Compares what imgembed and the competitors wrote."""
    theirs = {name: Path(folder) for name, folder in zip(COMPETITORS, others, strict=True)}
    Path(out, "records.txt").write_text(str(check_agreement(Path(imgembed), theirs)))


Usages = Mapping[tuple[str, int], Usage]


def judge_competitors(usages: Usages, small: int, large: int) -> list[Verdict]:
    """imgembed against the faster competitor of each kind, and against each."""
    names = ("imgembed", *COMPETITORS)
    speeds = {
        "images/s": {name: large / usages[name, large].wall for name in names},
        "marginal images/s": {
            name: rate(large - small, usages[name, large].wall - usages[name, small].wall)
            for name in names
        },
    }
    judged = []
    for what, of in speeds.items():
        faster = max(COMPETITORS, key=of.__getitem__)
        judged.append(
            at_least(f"{what}, imgembed / {faster}", of["imgembed"] / of[faster], LEAST_FACTOR)
        )
        judged += [
            Verdict(f"{what}, imgembed / {name}", of["imgembed"] / of[name])
            for name in COMPETITORS
            if name != faster
        ]
    for name in COMPETITORS:
        ratio = usages["imgembed", large].peak / usages[name, large].peak
        judged.append(Verdict(f"peak memory, imgembed / {name}", ratio))
    return judged


def variants(datas: Sequence[Data], repeat: int) -> dict[str, Any]:
    """imgembed on catalogs of several sizes: does its memory grow?"""
    outs = {("imgembed", data.images): data.work / f"out-variant-{data.images}" for data in datas}
    runs = {
        f"imgembed, {data.images:,}": run_of("imgembed", data, out)
        for data, out in zip(datas, outs.values(), strict=True)
    }
    usages = dict(zip(outs, take_turns(runs, repeat).values(), strict=True))
    print("\nimgembed on catalogs of other sizes\n")
    print_usages(usages)
    first, last = usages["imgembed", datas[0].images], usages["imgembed", datas[-1].images]
    sizes = f"{datas[-1].images:,} / {datas[0].images:,} images"
    judged = [
        at_most(f"peak memory, {sizes}", last.peak / first.peak, MOST_GROWTH),
        at_most(f"without pages of files, {sizes}", last.own / first.own, MOST_GROWTH),
    ]
    print_verdicts(judged)
    return {
        "runs": {str(images): asdict(used) for (_, images), used in usages.items()},
        "verdicts": to_json(judged),
    }


def rate(number: int, seconds: float) -> float:
    """So many a second; not a number where the clock says that more took less."""
    return number / seconds if seconds > 0 else math.nan


def print_usages(usages: Usages) -> None:
    """A row a run; the marginal figures are those of the images more than in the run before it."""
    print(f"{'':12}{'images':>9}{'wall s':>9}{'CPU s':>9}{'peak GiB':>10}{'own GiB':>9}"
          f"{'images/s':>10}{'marginal/s':>12}{'CPU us':>8}")  # fmt: skip
    for name in dict.fromkeys(name for name, _ in usages):
        before: tuple[int, Usage] | None = None
        for images in sorted(images for of, images in usages if of == name):
            used = usages[name, images]
            marginal = "" if before is None else marginal_of(images, used, *before)
            print(
                f"{name:12}{images:9,}{used.wall:9.1f}{used.cpu:9.1f}{used.peak / 2**30:10.2f}"
                f"{used.own / 2**30:9.2f}{images / used.wall:10,.0f}{marginal}"
            )
            before = (images, used)


def marginal_of(images: int, used: Usage, fewer: int, before: Usage) -> str:
    """Images a second, and CPU microseconds an image, of what a run has more than another."""
    more = images - fewer
    cpu = (used.cpu - before.cpu) / more * 1e6
    return f"{rate(more, used.wall - before.wall):12,.0f}{cpu:8.0f}"


RUNS: Mapping[str, Callable[..., None]] = {
    "nsl": run_nsl,
    "tf.data": run_tf_data,
    "agreement": run_agreement,
    "profile": run_profile,
    "parse": run_parse,
}


PARTS = {
    "competitors": "imgembed against the others; by default",
    "profile": "where imgembed's time goes; by default",
    "variants": "memory by the size of the catalog",
    "encodings": "size and speed by encoding and layout",
}
DEFAULT_PARTS = ("competitors", "profile")


def parse_arguments() -> argparse.Namespace:
    """The options, from the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--work", type=Path, default=Path("/tmp/examples-benchmark"))
    parser.add_argument("--photos", type=Path, help="zip archive of photos to cut pictures out of")
    parser.add_argument("--images", type=int, default=50_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--repeat", type=int, default=1, help="runs of each; medians are shown")
    for part, text in PARTS.items():
        parser.add_argument(f"--{part}", action="store_true", help=text)
    # How the script starts one of RUNS in a process of its own: NAME, then its arguments.
    parser.add_argument("--run", nargs="+", help=argparse.SUPPRESS)
    return parser.parse_args()


def main() -> None:
    """Runs the benchmark, or the one that --run names."""
    arguments = parse_arguments()
    if arguments.run:
        name, *rest = arguments.run
        RUNS[name](*rest)
        return
    measuring.use_cores(CORES)
    asked = vars(arguments)
    parts = [part for part in PARTS if asked[part.replace("-", "_")]] or DEFAULT_PARTS
    work = arguments.work.absolute()
    work.mkdir(parents=True, exist_ok=True)
    small, large, double = (
        Data(work, whole_groups(arguments.images * share), arguments.seed, arguments.photos)
        for share in (SMALL, 1, 2)
    )
    made: Mapping[str, Callable[[], dict[str, Any]]] = {
        "competitors": lambda: competitors(small, large, arguments.repeat),
        "profile": lambda: profile(small, large),
        "variants": lambda: variants([small, large, double], arguments.repeat),
        "encodings": lambda: encodings(small, large, arguments.repeat),
    }
    machine = measuring.describe_machine(CORES, PACKAGES)
    machine |= {"date": datetime.date.today().isoformat(), "repeat": arguments.repeat}
    for part in parts:
        write_figures(Path(f"{work}.json"), part, {"machine": machine, **made[part]()})


def whole_groups(images: float) -> int:
    """The images, rounded down to whole groups, at least one."""
    return max(1, int(images) // GROUP) * GROUP


def write_figures(path: Path, part: str, figures: Mapping[str, Any]) -> None:
    """Writes the figures of a part; what the file has of others stays."""
    before = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps({**before, part: figures}, indent=2) + "\n")


if __name__ == "__main__":
    main()
