"""One run of the stage: what both of its pipelines read, and what they count."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from pipeline import schema
from pipeline.artifacts import NewVersion, Version
from pipeline.config import ExamplesConfig, ImagesConfig
from pipeline.examples import spill
from pipeline.examples.catalog.find import Catalog
from pipeline.examples.nodes import NodeFiles
from pipeline.examples.places import Places
from pipeline.examples.trust import Trust


@dataclass(frozen=True)
class ExamplesJob:
    """Everything that the two pipelines of the stage read.

    agreement: of the graph's edges, where it is asked for. threads: elements that a step works on
    at a time.
    """

    images: ImagesConfig
    examples: ExamplesConfig
    graph: Version
    out: NewVersion
    places: Places
    found: Catalog
    threads: int
    agreement: Version | None = None

    @property
    def edges(self) -> list[str]:
        """The files of the graph's edges, with their agreement where it is asked for."""
        if self.agreement is None:
            return self.graph.shards(schema.EDGES)
        return self.agreement.shards(schema.AGREEMENTS)

    @property
    def trust(self) -> Trust | None:
        """What is made of the agreement of edges."""
        if self.agreement is None or self.examples.agreement == "none":
            return None
        return Trust(self.examples.agreement, self.examples.min_agreement)

    @property
    def work(self) -> str:
        return self.out.file(spill.FOLDER)

    @property
    def nodes(self) -> NodeFiles:
        return NodeFiles(
            folder=self.work,
            transform=self.out.file(schema.TRANSFORM_FOLDER),
            shards=self.places.shards,
            feature_dim=self.found.feature_dim,
        )

    def spec(self, counts: Mapping[str, int]) -> schema.ExampleSpec:
        """What the examples look like. counts: of the first pipeline."""
        pictures = self.found.content == schema.IMAGE.name
        return schema.ExampleSpec(
            neighbors=self.examples.neighbors,
            feature_dim=self.found.feature_dim,
            image_encoding=self.examples.image_encoding if pictures else None,
            layout=self.examples.layout,
            multi_label=counts["several labels"] > 0,
        )


class Counts(dict[str, int]):
    """Counters by name; 0 where nothing was counted."""

    def __missing__(self, name: str) -> int:
        return 0
