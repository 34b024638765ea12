"""Runs to be disturbed: a tiny world, `imgembed run` on it as a process, and what is left of a run.

What was lost is told by reading back every version in force and comparing the bytes of its files;
what a rerun gives by comparing its results with those of a run that nobody disturbed.
"""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

ROOT = Path(__file__).resolve().parent.parent
STAGES = ("graph", "examples", "model", "embeddings", "index", "evaluation", "report")
FORMER, NEW = "v0001", "v0002"
PATIENCE = 900.0  # s, for what takes some ten
WORLD = ("--images", "80", "--sessions", "800", "--users", "200", "--seed", "7")
SMALL = (
    "model.size=tiny",
    "model.dim=8",
    "training.epochs=3",
    "training.checkpoint_minutes=0.001",
    "examples.subword_length=0",
    "evaluation.bootstrap=50",
)
EARLIER = "graph.top_k=3"  # of the run whose versions are in force when a fault comes
Files = dict[str, str]  # {name: hash of its bytes}


# Processes ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Ended:
    """A program that has ended. code: -9 = killed by that signal."""

    code: int
    stdout: str
    stderr: str

    @property
    def line(self) -> str:
        """The last thing said on stderr."""
        return (self.stderr.strip().splitlines() or [""])[-1]

    @property
    def is_one_line(self) -> bool:
        """Whether it failed as a person may expect it: one line of ours, code 1 or 2."""
        said = [line for line in self.stderr.splitlines() if line.startswith("imgembed: ")]
        return self.code in (1, 2) and len(said) == 1 and "Traceback" not in self.stderr

    @property
    def is_explained(self) -> bool:
        """Whether that line is more than the name of an exception."""
        return self.is_one_line and not re.search(r" failed: \w+: ", self.line)


def imgembed(*arguments: object, prefix: Sequence[str] = ()) -> list[str]:
    """The command line of this checkout's program."""
    return [*prefix, sys.executable, "-m", "cli.main", *map(str, arguments)]


def start(command: Sequence[str], **environment: str) -> subprocess.Popen[str]:
    """The program at work; what it says is kept in memory until it has ended."""
    return subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env={**os.environ, "COLUMNS": "200", "CUDA_VISIBLE_DEVICES": "", **environment},
        start_new_session=True,
    )


def finish(process: subprocess.Popen[str]) -> Ended:
    """Waits for a process to end."""
    stdout, stderr = process.communicate(timeout=PATIENCE)
    return Ended(process.returncode, stdout, stderr)


def call(command: Sequence[str], **environment: str) -> Ended:
    """Runs a program to its end."""
    return finish(start(command, **environment))


def wait_until(condition: Callable[[], bool], process: subprocess.Popen[str]) -> bool:
    """Waits for something to come true while a process works; False where it ended before."""
    end = time.monotonic() + PATIENCE
    while not condition():
        if process.poll() is not None:
            return condition()
        if time.monotonic() > end:
            raise SystemExit(f"nothing came of {process.args} in {PATIENCE:.0f} s")
        time.sleep(0.005)
    return True


def is_alive(pid: int) -> bool:
    """Whether a process is there; a zombie is not."""
    with contextlib.suppress(OSError):
        state = Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()[0]
        return state not in "ZX"
    return False


# What is in a run directory -----------------------------------------------------------------------


def current(run_dir: Path, stage: str) -> str | None:
    """What CURRENT says, be it right or wrong."""
    with contextlib.suppress(OSError):
        return (run_dir / stage / "CURRENT").read_text(errors="replace").strip()
    return None


def versions(run_dir: Path, stage: str) -> list[str]:
    """Folders of versions, whole or not."""
    return sorted(path.name for path in (run_dir / stage).glob("v*") if path.is_dir())


def hashes(folder: Path) -> Files:
    """{name: hash} of all files below a folder."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def read_back(run_dir: Path) -> dict[str, tuple[str, Files]]:
    """{stage: (the version in force, its files)} of the stages that have one."""
    found = {}
    for stage in STAGES:
        name = current(run_dir, stage)
        if name:
            found[stage] = (name, hashes(run_dir / stage / name))
    return found


def losses(before: Mapping[str, tuple[str, Files]], run_dir: Path) -> list[str]:
    """What is no longer as it was, of the versions that were in force; what is in force is read.

    A version that took the place of a former one is no loss, as long as it is whole and the former
    one is still there to the byte.
    """
    found = []
    for stage, (name, files) in before.items():
        now = hashes(run_dir / stage / name)
        found += [f"{stage} {name}/{file} is gone" for file in files.keys() - now.keys()]
        found += [
            f"{stage} {name}/{file} has other bytes"
            for file in files.keys() & now.keys()
            if files[file] != now[file]
        ]
    return sorted([*found, *unreadable(run_dir)])


def unreadable(run_dir: Path) -> list[str]:
    """What is in force and cannot be read: every file is opened and read to its end."""
    found = []
    for stage in STAGES:
        name = current(run_dir, stage)
        if name is None:
            continue
        folder = run_dir / stage / name
        try:
            sizes = json.loads((folder / "manifest.json").read_text())["file_bytes"]
        except (OSError, ValueError, LookupError, TypeError) as error:
            found.append(f"{stage} {name}: no manifest ({error})")
            continue
        for file, size in sizes.items():
            why = _unreadable(folder / file, size)
            found += [f"{stage} {name}/{file}: {why}"] if why else []
    return found


def _unreadable(path: Path, size: int) -> str | None:
    if not path.is_file():
        return "is gone"
    if path.stat().st_size != size:
        return f"{path.stat().st_size} bytes, and {size} were committed"
    try:
        _read(path)
    except Exception as error:  # whatever a reader makes of it
        return f"{type(error).__name__}: {error}"
    return None


def _read(path: Path) -> None:
    if path.suffix == ".parquet":
        pq.read_table(path)
    elif path.suffix == ".gz":
        gzip.decompress(path.read_bytes())  # with its checksum
    elif path.suffix == ".json":
        json.loads(path.read_text())
    elif path.suffix == ".npy":
        np.load(path)
    elif path.suffix == ".arrow":
        pa.ipc.open_file(pa.BufferReader(path.read_bytes())).read_all()
    elif path.suffix == ".index" and path.parent.name == "variables":
        weights(path.parent.parent)


def leftovers(run_dir: Path) -> list[str]:
    """What is in a run directory and is no whole version, nor of the house."""
    found = [
        name for name in os.listdir(run_dir) if name not in {".lock", "logs", ".fill", *STAGES}
    ]
    for stage in STAGES:
        if not (run_dir / stage).is_dir():
            continue
        for name in os.listdir(run_dir / stage):
            is_version = (run_dir / stage / name / "manifest.json").exists()
            if name != "CURRENT" and not is_version:
                found.append(f"{stage}/{name}")
    return sorted(found)


def weights(saved_model: Path) -> Files:
    """{variable: hash of its bytes}; TensorFlow writes the graph around them in no fixed order."""
    import tensorflow as tf

    checkpoint = tf.train.load_checkpoint(str(saved_model / "variables" / "variables"))
    names = [n for n in checkpoint.get_variable_to_shape_map() if "OBJECT_GRAPH" not in n]
    return {n: hashlib.sha256(checkpoint.get_tensor(n).tobytes()).hexdigest() for n in names}


PROMISED = STAGES[:5]  # the evaluation and the report are made of these


def results(run_dir: Path, *, renumbered: bool = False, last: str = "report") -> dict[str, Files]:
    """{stage: what determinism promises of it} of the versions in force, to the last that counts.

    Files by their bytes, a model by its weights. renumbered: Parquet by its values, without the
    column that names the model's version, for runs in which a stage was made a second time.
    """
    found: dict[str, Files] = {}
    for stage in up_to(last):
        folder = run_dir / stage / str(current(run_dir, stage))
        if stage == "model":
            found[stage] = weights(folder / "saved_model")
            continue
        files = hashes(folder)
        left_out = ("manifest.json", "transform" + os.sep)  # times; a SavedModel
        found[stage] = {n: h for n, h in files.items() if not n.startswith(left_out)}
        if renumbered and stage == "embeddings":
            found[stage] = {n: _values(folder / n) for n in found[stage]}
    return found


def up_to(last: str) -> tuple[str, ...]:
    """The stages with promised results that come before another one, and that one."""
    return tuple(stage for stage in PROMISED if STAGES.index(stage) <= STAGES.index(last))


def _values(path: Path) -> str:
    if path.suffix != ".parquet":
        return hashlib.sha256(path.read_bytes()).hexdigest()
    table = pq.read_table(path)
    kept = table.select([name for name in table.column_names if name != "model_version"])
    sink = io.BytesIO()
    with pa.ipc.new_stream(sink, kept.schema.remove_metadata()) as writer:
        writer.write_table(kept.replace_schema_metadata(None).combine_chunks())
    return hashlib.sha256(sink.getvalue()).hexdigest()


def differences(wanted: Mapping[str, Files], found: Mapping[str, Files]) -> list[str]:
    """Files, or weights, that two runs do not have in common."""
    return sorted(
        f"{stage} {name}"
        for stage in wanted.keys() | found.keys()
        for name in wanted.get(stage, {}).keys() | found.get(stage, {}).keys()
        if wanted.get(stage, {}).get(name) != found.get(stage, {}).get(name)
    )


# The runs -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Bench:
    """A world and its runs.

    former: a run directory with a version of each stage; whole: the same after an undisturbed run
    on another setting, whose results `wanted` are, to the byte, and `values` without version
    numbers. begins: seconds to the first stage's beginning. seconds: of each stage of that run.
    """

    folder: Path
    wanted: Mapping[str, Files]
    values: Mapping[str, Files]
    begins: float
    seconds: Mapping[str, float]

    @classmethod
    def open(cls, folder: Path) -> Bench:
        """That of a folder; made where it is not there, or is another program's."""
        noted, program = folder / "bench.json", program_mark()
        if noted.exists():
            content = json.loads(noted.read_text())
            if content.pop("program") == program:
                return cls(folder, **content)
        bench = cls.make(folder)
        content = {name: value for name, value in vars(bench).items() if name != "folder"}
        noted.write_text(json.dumps({**content, "program": program}))
        return bench

    @classmethod
    def make(cls, folder: Path) -> Bench:
        """Draws the world and makes the two runs that everything is compared with."""
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        must(call(imgembed("sample", "--out", folder / "world", "--quiet", *WORLD)))
        bench = cls(folder, {}, {}, 0.0, {})
        must(call(bench.run(bench.former, "--set", EARLIER)))
        shutil.copytree(bench.former, bench.whole)
        process, started = start(bench.run(bench.whole)), time.monotonic()
        times: dict[str, tuple[float, float]] = {}
        for stage in STAGES:
            wait_until((bench.whole / stage / NEW).exists, process)
            began = time.monotonic()
            wait_until(lambda stage=stage: current(bench.whole, stage) == NEW, process)
            times[stage] = (began, time.monotonic())
        must(finish(process))
        return cls(
            folder,
            results(bench.whole),
            results(bench.whole, renumbered=True),
            times[STAGES[0]][0] - started,
            {stage: end - began for stage, (began, end) in times.items()},
        )

    @property
    def former(self) -> Path:
        return self.folder / "former"

    @property
    def whole(self) -> Path:
        return self.folder / "whole"

    @property
    def world(self) -> Path:
        return self.folder / "world"

    def run(self, run_dir: Path, *options: object, prefix: Sequence[str] = ()) -> list[str]:
        """`imgembed run` on a run directory."""
        config = ["--config", self.world / "cfg.yaml", "--run-dir", run_dir]
        sets = [part for setting in SMALL for part in ("--set", setting)]
        return imgembed("run", *config, *sets, *options, prefix=prefix)

    def at(self, stage: str, run_dir: Path) -> Path:
        """A run directory in which the stages before one are done, and the others the former."""
        shutil.rmtree(run_dir, ignore_errors=True)
        shutil.copytree(self.whole, run_dir)
        shutil.rmtree(run_dir / "logs")
        for later in STAGES[STAGES.index(stage) :]:
            shutil.rmtree(run_dir / later / NEW)
            (run_dir / later / "CURRENT").write_text(f"{FORMER}\n")
        return run_dir

    def done(self, run_dir: Path) -> Path:
        """A run directory in which everything is done."""
        shutil.rmtree(run_dir, ignore_errors=True)
        return Path(shutil.copytree(self.whole, run_dir))

    def bytes_of(self, stage: str) -> int:
        """Of all files of a stage's new version."""
        return sum(p.stat().st_size for p in (self.whole / stage / NEW).rglob("*") if p.is_file())

    def check(self, run_dir: Path, *, renumbered: bool = False, last: str = "report") -> list[str]:
        """How the results of a run differ from the undisturbed ones, up to a stage."""
        found = results(run_dir, renumbered=renumbered, last=last)
        wanted = self.values if renumbered else self.wanted
        return differences({stage: wanted[stage] for stage in up_to(last)}, found)

    @contextlib.contextmanager
    def changing(self) -> Iterator[Path]:
        """The world, to be changed; it is put back with the times of its files."""
        kept = self.folder / "kept"
        shutil.copytree(self.world, kept)
        try:
            yield self.world
        finally:
            shutil.rmtree(self.world)
            kept.rename(self.world)


def program_mark() -> str:
    """Tells the program, and what is asked of it, from another one."""
    files = [
        path for name in ("pipeline", "trainer", "cli") for path in (ROOT / name).rglob("*.py")
    ]
    content = [str((WORLD, SMALL, EARLIER)).encode(), *(p.read_bytes() for p in sorted(files))]
    return hashlib.sha256(b"".join(content)).hexdigest()


def must(ended: Ended) -> Ended:
    """SystemExit where a run that nobody disturbed failed."""
    if ended.code:
        raise SystemExit(f"{ended.stderr}\nfailed with {ended.code}")
    return ended


def stage_hit(run_dir: Path) -> str:
    """The first stage that the new run has not committed."""
    return next((stage for stage in STAGES if current(run_dir, stage) != NEW), "after the last")


def kill(process: subprocess.Popen[str]) -> Ended:
    """Ends a command by SIGKILL, and nothing that it started."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(process.pid, signal.SIGKILL)
    return finish(process)


def outcome(ended: Ended) -> dict[str, Any]:
    """{stage: (version, what became of it)} of a run with --json."""
    return {
        row["stage"]: (row["version"], row["done"]) for row in json.loads(ended.stdout)["stages"]
    }
