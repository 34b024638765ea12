"""The run directory: one folder a stage, one folder a version, a manifest, and the commit.

    run/graph/v0001/edges-00000-of-00001.parquet …
    run/graph/v0001/manifest.json
    run/graph/CURRENT                              -> "v0001"
    run/.lock                                      held by the process that writes

A stage writes into a fresh version folder, then its manifest, and last `CURRENT`; readers open
only what `CURRENT` names. A crash therefore leaves the former version in force. Nothing is ever
renamed, so the same holds on object stores. What a crash leaves is removed when the stage begins
anew, under the lock; where there are no locks, after the next commit.

A version with a manifest is whole, and can be put in force again (`put_in_force`), whether it was
so before or a crash came between its manifest and `CURRENT`. So a version is removed manifest
first. The manifest lists the version's files with their sizes: one that was cut or lost since, as
by a full or failing disk or by hand, is known before anything is made of it.
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

from pipeline import locking, schema, storage
from pipeline.errors import ImgembedError

_VERSION_NAME = re.compile(r"v\d{4,}")
KEPT_VERSIONS = 2  # that stay after a commit, unless the configuration says otherwise
# In a stage's folder: the last version of all, where it was removed. Its number is not given again,
# since other versions may have been made of it.
_REMOVED_FILE = ".removed"
# Manifest key: older versions of the stage that go on being kept.
KEEPS = "keeps"
# Manifest key: which files a version was made of, as `file_marks` tells it.
INPUTS = "inputs"
# Manifest key: {file of the version: its bytes}, the manifest aside.
FILE_BYTES = "file_bytes"


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

    @property
    def path(self) -> str:
        return storage.join(self.folder, self.name)

    def file(self, *parts: str) -> str:
        return storage.join(self.path, *parts)

    def commit(self, manifest: Mapping[str, Any]) -> Version:
        """Writes the manifest and then names this version in CURRENT."""
        made_here = {"stage": self.stage, "version": self.name}
        content = {**made_here, **manifest, FILE_BYTES: _sizes(self.path)}
        storage.write_atomic(self.file(schema.MANIFEST_FILE), to_json(content))
        pointer = storage.join(self.folder, schema.CURRENT_FILE)
        storage.write_atomic(pointer, f"{self.name}\n".encode())
        return Version(self.stage, self.name, self.path, content)


def to_json(content: Mapping[str, Any]) -> bytes:
    """The bytes of a JSON file that people read: indented, keys in the given order."""
    text = json.dumps(content, indent=2, ensure_ascii=False) + "\n"
    return text.encode(errors="backslashreplace")  # of a path that is not UTF-8, as JSON has it


@dataclass(frozen=True)
class RunDir:
    """A run directory; made when the first stage writes."""

    path: str
    keep: int = KEPT_VERSIONS  # versions of a stage that stay after a commit

    @classmethod
    def open(cls, path: str, keep: int = KEPT_VERSIONS) -> RunDir:
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
        run = cls(path, keep)
        for stage in schema.STAGE_COMMANDS:
            run._check_stage(stage)
        return run

    def _check_stage(self, stage: str) -> None:
        for name in storage.entries(storage.join(self.path, stage)):
            if not _VERSION_NAME.fullmatch(name) and not name.startswith(
                (schema.CURRENT_FILE, ".")
            ):
                raise ImgembedError(
                    f"run directory {self.path!r}: {stage}/{name} is not imgembed's; "
                    "name an empty folder or a new one with --run-dir"
                )

    def _versions(self, stage: str) -> list[str]:
        names = storage.entries(storage.join(self.path, stage))
        return sorted((n for n in names if _VERSION_NAME.fullmatch(n)), key=_number)

    def current_name(self, stage: str) -> str | None:
        """What CURRENT says, be it right or wrong; None where the stage was never committed."""
        return self._line_of(stage, schema.CURRENT_FILE)

    def _line_of(self, stage: str, name: str) -> str | None:
        """What a small file of the stage's folder says; None where there is none."""
        path = storage.join(self.path, stage, name)
        if not storage.exists(path):
            return None
        with storage.open_read(path) as file:
            return file.read().decode(errors="replace").strip()

    def _last_number(self, stage: str) -> int:
        """The highest number that a version ever had, be it still there or not; 0: none had."""
        removed = self._line_of(stage, _REMOVED_FILE) or ""
        names = [*self._versions(stage), *filter(_VERSION_NAME.fullmatch, [removed])]
        return max(map(_number, names), default=0)

    def current(self, stage: str) -> Version | None:
        """The version in force, or None where the stage has never been committed."""
        name = self.current_name(stage)
        if name is None:
            return None
        pointer = storage.join(self.path, stage, schema.CURRENT_FILE)
        try:
            return self._read(stage, name)
        except (OSError, ValueError) as error:
            raise ImgembedError(
                f"{pointer}: names version {name!r}, whose {schema.MANIFEST_FILE} cannot be read "
                f"({error}); {_remedy(stage)}"
            ) from error

    def _read(self, stage: str, name: str) -> Version:
        """A version as its manifest has it; OSError or ValueError where that cannot be read."""
        if not _VERSION_NAME.fullmatch(name):
            raise ValueError("that is no version's name")
        path = storage.join(self.path, stage, name)
        with storage.open_read(storage.join(path, schema.MANIFEST_FILE)) as file:
            content = json.load(file)
        if not isinstance(content, dict) or content.get("stage") != stage:
            raise ValueError(f"it is no manifest of the stage {stage}")
        return Version(stage, name, path, content)

    def version(self, stage: str, name: str) -> Version | None:
        """A whole version, in force or not; None where it is gone, or its manifest is damaged."""
        if not self._is_whole(stage, name):
            return None
        try:
            return self._read(stage, name)
        except ValueError:
            return None

    def whole(self, stage: str) -> list[Version]:
        """All whole versions of a stage, the oldest first."""
        found = (self.version(stage, name) for name in self._versions(stage))
        return [version for version in found if version is not None]

    def with_fingerprint(self, stage: str, mark: str) -> Version | None:
        """The newest whole version of that fingerprint with all its files, if there is one."""
        found = [v for v in self.whole(stage) if v.manifest.get("fingerprint") == mark]
        return next((v for v in reversed(found) if damage(v) is None), None)

    def put_in_force(self, version: Version) -> None:
        """Names a whole version in CURRENT, at once or not at all."""
        pointer = storage.join(self.path, version.stage, schema.CURRENT_FILE)
        with locking.alone_in(self.path):
            if self.version(version.stage, version.name) is None:
                raise ImgembedError(f"{version.path}: is gone, or not whole")
            if damaged := damage(version):
                raise ImgembedError(f"{damaged}; this version cannot be put in force")
            storage.write_atomic(pointer, f"{version.name}\n".encode())

    def remove(self, version: Version) -> None:
        """Removes a version; ImgembedError where it is in force, OSError where it has to stay."""
        with locking.alone_in(self.path):
            if self.current_name(version.stage) == version.name:
                raise ImgembedError(f"{version.path}: is in force")
            if _number(version.name) == self._last_number(version.stage):
                removed = storage.join(self.path, version.stage, _REMOVED_FILE)
                storage.write_atomic(removed, f"{version.name}\n".encode())
            storage.remove_file(version.file(schema.MANIFEST_FILE))
            storage.remove_tree(version.path)

    def is_at(self, path: str) -> bool:
        """Whether this is the run directory at a path."""
        if storage.is_local(self.path) and storage.is_local(path):
            return os.path.realpath(self.path) == os.path.realpath(path)
        return self.path.rstrip("/") == path.rstrip("/")

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
        """A fresh version folder; removed again unless it is committed inside the block.

        ImgembedError where another process is at work in this run directory.
        """
        with locking.alone_in(self.path) as alone:
            former = self.current_name(stage)
            if alone:
                self.remove_unfinished(stage)
            name = f"v{self._last_number(stage) + 1:04d}"
            new = NewVersion(stage, name, storage.join(self.path, stage))
            try:
                storage.make_folder(new.path)  # a disk that refuses it says so before the work
                yield new
            finally:
                # Asked of the file, since a signal may come right after it was written.
                if self.current_name(stage) == new.name:
                    self._remove_old(stage, new.name, former)
                else:
                    _remove(new.path)

    def _is_whole(self, stage: str, name: str) -> bool:
        return storage.exists(storage.join(self.path, stage, name, schema.MANIFEST_FILE))

    def remove_unfinished(self, stage: str) -> None:
        """Removes what was never made whole; only for who holds the lock."""
        current = self.current_name(stage)
        for name in self._versions(stage):
            if name != current and not self._is_whole(stage, name):
                _remove(storage.join(self.path, stage, name))

    def _remove_old(self, stage: str, current: str, former: str | None) -> None:
        """Removes what was never made whole, and old versions that nobody keeps.

        The last `keep` stay, and the former version in force with all that came after it: what a
        rollback stepped back from.
        """
        version = self.version(stage, current)
        kept = {current, *(version.manifest.get(KEEPS, []) if version else [])}
        whole = [name for name in self._versions(stage) if self._is_whole(stage, name)]
        first = min(len(whole) - self.keep, whole.index(former) if former in whole else len(whole))
        kept.update(whole[max(0, first) :])
        for name in self._versions(stage):
            if name not in kept:
                _remove(storage.join(self.path, stage, name))


def damage(version: Version) -> str | None:
    """Which file of a version is not as it was committed, and how; None where all are.

    By their sizes, which every file system tells without reading. A version that an earlier
    imgembed made, which noted none, is taken as it is.
    """
    wanted = version.manifest.get(FILE_BYTES)
    if not wanted:
        return None
    found = _sizes(version.path)
    for name, size in wanted.items():
        path = version.file(name)
        if name not in found:
            return f"{path}: is gone since it was committed"
        if found[name] != size:
            return f"{path}: has {found[name]:,} bytes, and {size:,} were committed"
    return None


def check_undamaged(version: Version) -> None:
    """ImgembedError that says what can be done where a file of a version is cut or gone."""
    if damaged := damage(version):
        raise ImgembedError(f"{damaged}; {_remedy(version.stage)}")


def _remedy(stage: str) -> str:
    return (
        f"make the stage anew with: {schema.STAGE_COMMANDS[stage]} --force, or take an older "
        f"version with: imgembed runs rollback {stage}"
    )


def _sizes(folder: str) -> dict[str, int]:
    """{file below a version's folder: its bytes}, the manifest aside."""
    start = len(folder.rstrip("/")) + 1
    sizes = {info.path[start:]: info.size for info in storage.list_files(folder)}
    return {name: size for name, size in sizes.items() if name != schema.MANIFEST_FILE}


def _remove(folder: str) -> None:
    """Removes a version, its manifest first: what a crash leaves of it does not look whole."""
    try:
        storage.remove_file(storage.join(folder, schema.MANIFEST_FILE))
    except OSError:  # such as a read-only disk: nothing else can go either
        return
    storage.remove_tree(folder)


def _number(version: str) -> int:
    return int(version.removeprefix("v"))


def file_marks(files: Sequence[storage.FileInfo]) -> str:
    """Tells whether files are the same: by path, size and time of change."""
    marks = [[info.path, info.size, info.modified] for info in files]
    return _digest(json.dumps(marks, ensure_ascii=False))


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
    return _digest(json.dumps(content, sort_keys=True, ensure_ascii=False))


def _digest(canonical: str) -> str:
    # A file's name need not be UTF-8; whether it can be read is for its reader to say.
    data = canonical.encode(errors="surrogatepass")
    return hashlib.sha256(data).hexdigest()[:32]
