"""The stages of a run as the report finds them: which there are, and which are not of one piece."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from pipeline import schema
from pipeline.artifacts import RunDir, Version

# What each stage adds, for the list of stages.
_GIVES = {
    schema.GRAPH: "which images people look at together",
    schema.EXAMPLES: "pictures with their neighbours, to train on",
    schema.MODEL: "the embedding, learned",
    schema.EMBEDDINGS: "a vector for every image of the catalog",
    schema.INDEX: "what a search opens",
    schema.EVALUATION: "how good the vectors are, on held-out sessions",
    schema.AGREEMENT: "how far to trust each edge",
}


@dataclass(frozen=True)
class Stage:
    """A line of the list of stages. command: what makes it; stale: why it should be made anew."""

    name: str
    gives: str
    command: str
    version: str | None
    stale: str | None


@dataclass(frozen=True)
class Run:
    """The versions in force, by stage; the graph is always there."""

    versions: Mapping[str, Version]

    @classmethod
    def open(cls, run: RunDir) -> Run:
        """ImgembedError, with the command that makes it, where there is no graph."""
        run.require(schema.GRAPH)
        found = {stage: run.current(stage) for stage in _GIVES}
        return cls({stage: version for stage, version in found.items() if version is not None})

    def get(self, stage: str) -> Version | None:
        return self.versions.get(stage)

    @property
    def graph(self) -> Version:
        return self.versions[schema.GRAPH]

    def stages(self) -> list[Stage]:
        """All stages in their order, those that are not there yet among them."""
        return [
            Stage(
                name,
                gives,
                schema.STAGE_COMMANDS[name],
                self.versions[name].name if name in self.versions else None,
                self._stale(name),
            )
            for name, gives in _GIVES.items()
        ]

    def _stale(self, stage: str) -> str | None:
        """Why a stage does not belong to the others; None where it does."""
        version = self.versions.get(stage)
        if version is None:
            return None
        for name, made_of in version.manifest.get("upstream", {}).items():
            now = self.versions.get(name)
            if name != stage and now is not None and now.name != made_of:
                return f"made of {name} {made_of}; in force is {now.name}"
        return None

    def is_stale(self, stage: str) -> bool:
        return self._stale(stage) is not None

    def settings(self) -> Iterator[tuple[str, str, Any]]:
        """(stage, setting, value) of what each stage was made with, as its manifest says."""
        for stage, version in self.versions.items():
            for name, value in named_settings(version.manifest.get("config", {})):
                yield stage, name, value


def named_settings(config: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """{section: {key: value}} as ("section.key", value); a setting without a section as it is."""
    for section, values in config.items():
        if isinstance(values, Mapping):
            for key, value in values.items():
                yield f"{section}.{key}", value
        else:
            yield section, values
