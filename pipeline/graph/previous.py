"""The counts of an earlier run, which the counts of newer logs are added to.

Without decay the sum is what all the logs together would give, but for two things: a session that
goes on over the cut is two sessions, and `users` is the largest number over the parts, since nobody
can tell which users were in both: a lower bound, the safe side where few users must not show.
Whether a graph is up to date depends on them, so that this module loads no Beam.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow.parquet as pq

from pipeline import schema, storage
from pipeline.artifacts import Version
from pipeline.errors import ConfigError, ImgembedError

# Settings that decide what a count is; sums of different counts would mean nothing.
_MUST_AGREE = (
    ("seed",),
    ("sessions", "gap_minutes"),
    ("sessions", "max_events"),
    ("sessions", "max_images"),
    ("sessions", "max_sessions_per_user"),
    ("sessions", "actions"),
    ("holdout", "by"),
    ("holdout", "fraction"),
    ("graph", "discount"),
    ("graph", "half_life_days"),
)


@dataclass(frozen=True)
class Previous:
    """The counts of a committed version of the graph."""

    version: Version

    @classmethod
    def open(cls, version: Version) -> Previous:
        """ImgembedError where the version has no counts."""
        if "population" not in version.manifest or not _files(version, schema.COUNTED_PAIRS):
            raise ImgembedError(
                f"{version.path}: holds no counts to add to; make it with --keep-counts"
            )
        return cls(version)

    @property
    def population(self) -> int:
        return int(self.version.manifest["population"])

    @property
    def newest(self) -> int | None:
        """Microseconds of the newest event that is counted."""
        return self.version.manifest["newest"]

    def files(self, prefix: str) -> list[str]:
        """The files of one kind of counts."""
        return _files(self.version, prefix)

    def check(self, settings: Mapping[str, Any]) -> None:
        """ConfigError where a setting that decides what a count is has changed."""
        before = self.version.manifest["config"]
        for place in _MUST_AGREE:
            old, new = _at(before, place), _at(settings, place)
            if old != new:
                raise ConfigError(
                    f"{'.'.join(place)}: is {new!r} now and was {old!r} in {self.version.path}, "
                    "whose counts would not go with these; set it back, or leave --since out"
                )

    def check_inputs(self, inputs: Sequence[storage.FileInfo]) -> None:
        """ImgembedError where a log has been counted already."""
        counted = set()
        for path in self.files(schema.COUNTED_INPUTS):
            with storage.open_arrow(path) as file:
                for row in pq.read_table(file).to_pylist():
                    counted.add((row["path"], row["size"], row["modified"]))
        for info in inputs:
            path = storage.as_text(storage.canonical(info.path))
            if (path, info.size, info.modified) in counted:
                raise ImgembedError(
                    f"{info.path}: is counted in {self.version.path} already; "
                    "name only newer logs, or leave --since out"
                )


def _files(version: Version, prefix: str) -> list[str]:
    folder = version.file(schema.COUNTS_FOLDER)
    return Version(version.stage, version.name, folder, {}).shards(prefix)


def _at(settings: Mapping[str, Any], place: Sequence[str]) -> Any:
    found: Any = settings
    for key in place:
        found = found.get(key) if isinstance(found, Mapping) else None
    return found
