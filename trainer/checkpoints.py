"""Checkpoints: all of a training, from which it goes on as if it had never been stopped.

A checkpoint is one file, `<mark>-<step>.npz`: an uncompressed zip archive whose entries carry
checksums, so that a damaged one is known for what it is. It is written whole or not at all, and the
last two are kept. The mark tells trainings apart: configuration, examples, seed and program.
"""

from __future__ import annotations

import io
import json
import re
import zipfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from typing import Any

import numpy as np

from pipeline.artifacts import Version, fingerprint
from trainer.config import AgreementConfig, ModelConfig, TrainingConfig

KEPT = 2
_NAME = re.compile(r"([0-9a-f]{32})-(\d{12})\.npz")
_NOTES, _STATE, _BEST = "notes", "state", "best"
_REPLICAS = "replicas"  # among the notes
_PROGRAMS = ("imgembed", "tensorflow", "keras", "numpy")
# Settings that change nothing of what is computed.
_WITHOUT_EFFECT = {"checkpoint_minutes"}


@dataclass(frozen=True)
class Snapshot:
    """A training after `step` steps.

    state: of the learner. best: weights of the best epoch so far. notes: what stands beside, as
    JSON.
    """

    step: int
    state: list[np.ndarray]
    best: list[np.ndarray] = field(default_factory=list)
    notes: dict[str, Any] = field(default_factory=dict)


def mark(
    *,
    examples: Version,
    model: ModelConfig,
    training: TrainingConfig,
    seed: int,
    agreement: AgreementConfig | None = None,
    graph: Version | None = None,
) -> str:
    """Tells whether two trainings are the same, but for the number of replicas.

    agreement, graph: where there are any, of co-training.
    """
    config = {
        "model": model.model_dump(),
        "training": training.model_dump(exclude=_WITHOUT_EFFECT),
        "seed": seed,
    }
    if agreement is not None:
        config["agreement"] = agreement.model_dump()
    return fingerprint(
        config=config,
        upstream=[examples, *([graph] if graph else [])],
        code=" ".join(f"{name}={version(name)}" for name in _PROGRAMS),
    )


def mark_within(whole: str, iteration: int) -> str:
    """The mark of the checkpoints within an iteration of co-training; whole: that of its ends."""
    return fingerprint(config={"iteration": iteration}, code=whole)


def is_unfinished(folder: str, mark: str) -> bool:
    """Whether there is a checkpoint of that training."""
    return bool(_steps(folder, mark))


@dataclass(frozen=True)
class Checkpoints:
    """The checkpoints of one training in a folder, which is theirs alone.

    replicas: devices that train; on another number of them it is another training. say: takes a
    line about what happened to them. beside: marks of other parts of the same training, whose
    checkpoints are left alone. unit: what is counted as its step.
    """

    folder: str
    mark: str
    replicas: int = 1
    say: Callable[[str], None] = lambda _: None
    beside: frozenset[str] = frozenset()
    unit: str = "step"

    def begin(self, *, anew: bool = False) -> Snapshot | None:
        """The newest whole checkpoint, if there is one; removes those of other trainings.

        anew: removes all of them.
        """
        steps = [] if anew else _steps(self.folder, self.mark)
        ours = {self._name(step) for step in steps}
        beside = frozenset() if anew else self.beside
        others = [
            name
            for name in _names(self.folder)
            if name not in ours and name.partition("-")[0] not in beside
        ]
        for name in others:
            _remove(self.folder, name)
        if any(map(_NAME.fullmatch, others)):
            asked = "as asked" if anew else "of another configuration, other examples or programs"
            self.say(f"an unfinished training was removed ({asked}); begins anew")
        return self._newest(steps)

    def _newest(self, steps: Sequence[int]) -> Snapshot | None:
        for step in reversed(steps):
            found = self._read(step)
            if found is not None:
                return found
        return None

    def _read(self, step: int) -> Snapshot | None:
        path = _join(self.folder, self._name(step))
        try:
            snapshot = _unpack(step, _read_bytes(path))
        except (zipfile.BadZipFile, ValueError, KeyError, OSError, EOFError) as error:
            self.say(f"{path}: is damaged ({error}); the one before it counts, if there is one")
            _remove(self.folder, self._name(step))
            return None
        if snapshot.notes[_REPLICAS] != self.replicas:
            self.say(
                f"{path}: is of a training on {snapshot.notes[_REPLICAS]} devices, here are "
                f"{self.replicas}; removed"
            )
            _remove(self.folder, self._name(step))
            return None
        self.say(f"goes on from {self.unit} {step:,}")
        return snapshot

    def write(self, snapshot: Snapshot) -> bool:
        """Writes one, and removes those before the last two; says so where that is refused.

        A full disk does not end a training: there may be room when it is done.
        """
        notes = {**snapshot.notes, _REPLICAS: self.replicas}
        try:
            _write_bytes(
                self.folder, self._name(snapshot.step), _pack(replace(snapshot, notes=notes))
            )
        except OSError as error:
            self.say(
                f"{self.folder}: the checkpoint of {self.unit} {snapshot.step:,} is lost: {error}"
            )
            return False
        for step in _steps(self.folder, self.mark)[:-KEPT]:
            _remove(self.folder, self._name(step))
        return True

    def clear(self) -> None:
        """Removes all of them: this part of the training is done."""
        for step in _steps(self.folder, self.mark):
            _remove(self.folder, self._name(step))

    def _name(self, step: int) -> str:
        return f"{self.mark}-{step:012d}.npz"


def _pack(snapshot: Snapshot) -> bytes:
    notes = np.frombuffer(json.dumps(snapshot.notes).encode(), np.uint8)
    entries = {_NOTES: notes, **_named(_STATE, snapshot.state), **_named(_BEST, snapshot.best)}
    buffer = io.BytesIO()
    np.savez(buffer, **entries)  # type: ignore[arg-type]
    return buffer.getvalue()


def _named(kind: str, arrays: Sequence[np.ndarray]) -> dict[str, np.ndarray]:
    return {f"{kind}-{index}": array for index, array in enumerate(arrays)}


def _unpack(step: int, content: bytes) -> Snapshot:
    with np.load(io.BytesIO(content), allow_pickle=False) as file:
        entries = {name: file[name] for name in file.files}  # checksums are compared here
    notes = json.loads(entries[_NOTES].tobytes())
    state, best = (
        [entries[f"{kind}-{i}"] for i in range(sum(n.startswith(f"{kind}-") for n in entries))]
        for kind in (_STATE, _BEST)
    )
    return Snapshot(step, state, best, notes)


# Files: TensorFlow's, which know buckets; it is imported where it is used, since a command asks
# whether there are checkpoints before it needs anything heavy.


def _files() -> Any:
    import tensorflow as tf

    return tf.io.gfile


def _join(folder: str, name: str) -> str:
    return f"{folder.rstrip('/')}/{name}"


def _names(folder: str) -> list[str]:
    files = _files()
    return sorted(files.listdir(folder)) if files.isdir(folder) else []


def _steps(folder: str, mark: str) -> list[int]:
    """Steps of the checkpoints of a training, from the oldest on."""
    found = filter(None, map(_NAME.fullmatch, _names(folder)))
    return sorted(int(match[2]) for match in found if match[1] == mark)


def _remove(folder: str, name: str) -> None:
    files, path = _files(), _join(folder, name)
    if files.exists(path):
        files.remove(path)


@contextmanager
def _system_errors() -> Iterator[None]:
    """What TensorFlow's files raise, as the OSError that it is."""
    import tensorflow as tf

    try:
        yield
    except tf.errors.OpError as error:
        raise OSError(error.message) from None


def _read_bytes(path: str) -> bytes:
    with _system_errors(), _files().GFile(path, "rb") as file:
        return file.read()


def _write_bytes(folder: str, name: str, content: bytes) -> None:
    """In a bucket an object appears when it is whole; a local file is renamed to its name."""
    path = _join(folder, name)
    part = path if "://" in path else f"{path}.part"
    try:
        with _system_errors():
            _files().makedirs(folder)
            with _files().GFile(part, "wb") as file:
                file.write(content)
            if part != path:
                _files().rename(part, path, overwrite=True)
    except BaseException:
        with suppress(OSError), _system_errors():
            _remove(folder, f"{name}.part")
        raise
