"""Trainings in processes of their own, on the small examples of `tiny_examples`."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import tensorflow as tf
import tiny_examples
from tiny_examples import Form

from pipeline import schema
from pipeline.artifacts import RunDir, Version, to_json

PROGRAM = Path(sys.executable).with_name("imgembed")
LEARNER = Path(__file__).with_name("learner_process.py")
NOTHING: Mapping[str, str] = MappingProxyType({})
PATIENCE = 300  # s; for what takes some ten on an idle machine
PICTURES = Form()
SEEDS = tiny_examples.RECORDS["train"]


def run_with_examples(folder: Path, form: Form = PICTURES, **changes: Any) -> Path:
    """A run directory whose examples are in force."""
    version = tiny_examples.write_examples(folder / schema.EXAMPLES, form, **changes)
    manifest = {"stage": schema.EXAMPLES, "version": "v0001", "fingerprint": "0", "config": {}}
    Path(version.file(schema.MANIFEST_FILE)).write_bytes(to_json(manifest | version.manifest))
    (folder / schema.EXAMPLES / schema.CURRENT_FILE).write_text("v0001\n")
    return folder


def start(
    run: Path, *options: str, environment: Mapping[str, str] = NOTHING, **settings: Any
) -> subprocess.Popen:
    """`imgembed train` without the export, under way. settings: model__dim=8 is model.dim."""
    given = {"model__dim": 8, "model__image_filters": [4, 8], "model__token_dim": 4, **settings}
    sets = [f"--set={name.replace('__', '.')}={json.dumps(v)}" for name, v in given.items()]
    return spawn([PROGRAM, "train", "--no-export", "--run-dir", run, *options, *sets], environment)


def spawn(command: list[Any], environment: Mapping[str, str] = NOTHING) -> subprocess.Popen:
    # A process started in the background ignores SIGINT, and so do its children.
    return subprocess.Popen(
        list(map(str, command)),
        env={**os.environ, "CUDA_VISIBLE_DEVICES": "", **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=reset_signals,
    )


def reset_signals() -> None:
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def finish(process: subprocess.Popen, code: int = 0) -> list[str]:
    """Lines of stderr of a process that has ended as it should."""
    stdout, stderr = process.communicate(timeout=PATIENCE)
    assert process.returncode == code, stdout + stderr
    return stderr.splitlines()


def wait_until(condition: Callable[[], bool], process: subprocess.Popen) -> None:
    end = time.monotonic() + PATIENCE
    while not condition():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < end
        time.sleep(0.002)


def checkpoints(run: Path) -> list[Path]:
    """From the oldest on."""
    return sorted((run / schema.MODEL / schema.CHECKPOINTS_FOLDER).glob("*.npz"))


def step_of(checkpoint: Path) -> int:
    return int(checkpoint.stem.rpartition("-")[2])


def notes_of(checkpoint: Path) -> dict[str, Any]:
    with np.load(checkpoint) as file:
        return json.loads(file["notes"].tobytes())


def model(run: Path) -> Version:
    return RunDir.open(str(run)).require(schema.MODEL)


def weights(version_folder: str) -> dict[str, bytes]:
    """Bytes of all variables of a SavedModel."""
    path = Path(version_folder, schema.SAVED_MODEL_FOLDER, "variables", "variables")
    checkpoint = tf.train.load_checkpoint(str(path))
    names = [n for n in checkpoint.get_variable_to_shape_map() if "OBJECT_GRAPH" not in n]
    return {name: checkpoint.get_tensor(name).tobytes() for name in names}


def cluster(workers: int) -> list[dict[str, str]]:
    """The environment of each of several workers on this machine."""
    sockets = [socket.socket() for _ in range(workers)]
    for one in sockets:
        one.bind(("localhost", 0))
    addresses = [f"localhost:{one.getsockname()[1]}" for one in sockets]
    for one in sockets:
        one.close()
    return [
        {
            "TF_CONFIG": json.dumps(
                {"cluster": {"worker": addresses}, "task": {"type": "worker", "index": index}}
            )
        }
        for index in range(workers)
    ]
