"""The run directory: one folder a stage, one folder a version, a manifest, and the commit.

    run/graph/v0001/edges-00000-of-00001.parquet …
    run/graph/v0001/manifest.json
    run/graph/CURRENT                              -> "v0001"

A stage writes into a fresh version folder, then its manifest, and last `CURRENT`; readers open
only what `CURRENT` names. A crash therefore leaves the former version in force. Nothing is ever
renamed, so the same holds on object stores.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from pipeline import schema, storage
from pipeline.errors import ImgembedError

_VERSION_NAME = re.compile(r"v\d{4,}")
KEPT_VERSIONS = 2


@dataclass(frozen=True)
class Version:
    """A committed version of a stage: its folder and what its manifest says."""

    stage: str
    name: str
    path: str
    manifest: dict[str, Any]

    def file(self, *parts: str) -> str:
        return storage.join(self.path, *parts)

    def shards(self, prefix: str) -> list[str]:
        """Paths of the files `<prefix>-NNNNN-of-NNNNN.*`, in order."""
        pattern = re.compile(re.escape(prefix) + r"-\d{5}-of-\d{5}\.")
        return [self.file(name) for name in storage.entries(self.path) if pattern.match(name)]


@dataclass
class NewVersion:
    """A version in the making; it counts from `commit` on."""

    stage: str
    name: str
    folder: str  # the stage's
    committed: bool = False

    @property
    def path(self) -> str:
        return storage.join(self.folder, self.name)

    def file(self, *parts: str) -> str:
        return storage.join(self.path, *parts)

    def commit(self, manifest: Mapping[str, Any]) -> Version:
        """Writes the manifest and then names this version in CURRENT."""
        content = {"stage": self.stage, "version": self.name, **manifest}
        storage.write_atomic(self.file(schema.MANIFEST_FILE), to_json(content))
        pointer = storage.join(self.folder, schema.CURRENT_FILE)
        storage.write_atomic(pointer, f"{self.name}\n".encode())
        self.committed = True
        return Version(self.stage, self.name, self.path, content)


def to_json(content: Mapping[str, Any]) -> bytes:
    """The bytes of a JSON file that people read: indented, keys in the given order."""
    return (json.dumps(content, indent=2, ensure_ascii=False) + "\n").encode()


@dataclass(frozen=True)
class RunDir:
    """A run directory; made when the first stage writes."""

    path: str

    @classmethod
    def open(cls, path: str) -> RunDir:
        """The run directory at `path`; ImgembedError where the folder holds something else."""
        if os.path.isfile(path):
            raise ImgembedError(f"run directory {path!r}: is a file, not a folder")
        found = [name for name in storage.entries(path) if not name.startswith(".")]
        ours = {*schema.STAGE_COMMANDS, schema.LOGS_FOLDER}
        if found and not ours.intersection(found):
            raise ImgembedError(
                f"run directory {path!r}: holds something else ({found[0]!r}); "
                "name an empty folder or a new one with --run-dir"
            )
        run = cls(path)
        for stage in schema.STAGE_COMMANDS:
            run._check_stage(stage)
        return run

    def _check_stage(self, stage: str) -> None:
        for name in storage.entries(storage.join(self.path, stage)):
            if not _VERSION_NAME.fullmatch(name) and not name.startswith(schema.CURRENT_FILE):
                raise ImgembedError(
                    f"run directory {self.path!r}: {stage}/{name} is not imgembed's; "
                    "name an empty folder or a new one with --run-dir"
                )

    def _versions(self, stage: str) -> list[str]:
        names = storage.entries(storage.join(self.path, stage))
        return sorted((n for n in names if _VERSION_NAME.fullmatch(n)), key=lambda n: int(n[1:]))

    def current(self, stage: str) -> Version | None:
        """The version in force, or None where the stage has never been committed."""
        pointer = storage.join(self.path, stage, schema.CURRENT_FILE)
        if not storage.exists(pointer):
            return None
        with storage.open_read(pointer) as file:
            name = file.read().decode().strip()
        path = storage.join(self.path, stage, name)
        manifest = storage.join(path, schema.MANIFEST_FILE)
        try:
            with storage.open_read(manifest) as file:
                return Version(stage, name, path, json.load(file))
        except (OSError, ValueError) as error:
            raise ImgembedError(
                f"{pointer}: names version {name!r}, whose {schema.MANIFEST_FILE} cannot be read "
                f"({error}); make the stage anew with: {schema.STAGE_COMMANDS[stage]}"
            ) from error

    def require(self, stage: str) -> Version:
        """The version in force; ImgembedError that names the command where there is none."""
        version = self.current(stage)
        if version is None:
            raise ImgembedError(
                f"run directory {self.path!r}: no {stage} yet; "
                f"make it with: {schema.STAGE_COMMANDS[stage]}"
            )
        return version

    @contextmanager
    def begin(self, stage: str) -> Iterator[NewVersion]:
        """A fresh version folder; removed again unless it is committed inside the block."""
        names = self._versions(stage)
        name = f"v{int(names[-1][1:]) + 1 if names else 1:04d}"
        new = NewVersion(stage, name, storage.join(self.path, stage))
        try:
            yield new
        finally:
            if new.committed:
                self._remove_old(stage, new.name)
            else:
                storage.remove_tree(new.path)

    def _remove_old(self, stage: str, current: str) -> None:
        """Removes all but the latest KEPT_VERSIONS, and what was never made whole."""
        folders = {name: storage.join(self.path, stage, name) for name in self._versions(stage)}
        del folders[current]
        whole = [
            n for n, f in folders.items() if storage.exists(storage.join(f, schema.MANIFEST_FILE))
        ]
        kept = whole[-(KEPT_VERSIONS - 1) :]
        for name, folder in folders.items():
            if name not in kept:
                storage.remove_tree(folder)


def fingerprint(
    *,
    config: Mapping[str, Any],
    inputs: Sequence[storage.FileInfo] = (),
    upstream: Sequence[Version] = (),
    code: str,
) -> str:
    """Changes when a stage would come out differently: its config, inputs or program changed.

    Inputs count by path, size and time of change, which every file system tells without reading.
    """
    content = {
        "config": config,
        "inputs": [[info.path, info.size, info.modified] for info in inputs],
        "upstream": [[v.stage, v.name, v.manifest.get("fingerprint")] for v in upstream],
        "code": code,
    }
    canonical = json.dumps(content, sort_keys=True, ensure_ascii=False).encode()
    return hashlib.sha256(canonical).hexdigest()[:32]
