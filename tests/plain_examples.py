"""What examples must hold, in plain Python, an image at a time: the reference for the real job."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from small_catalogs import SIDE, Edge, Row, World

from pipeline.examples import pictures

Example = dict[str, list]


def training_labels(world: World, *, least: int = 1) -> list[str]:
    """The labels that a model may learn, the most frequent first, equal ones by their letters."""
    counts: dict[str, int] = {}
    for row in world.rows:
        for label in true_labels(row) if row["split"] == "train" else ():
            counts[label] = counts.get(label, 0) + 1
    kept = [label for label, count in counts.items() if count >= least]
    return sorted(kept, key=lambda label: (-counts[label], label))


def true_labels(row: Row) -> list[str]:
    label = row.get("label") or []
    return [label] if isinstance(label, str) else label


def z_scores(world: World) -> dict[str, list[float]]:
    """{image_id: (x - mean) / deviation of each column}; 0 for the last one, which is constant."""
    raw = np.array([row["features"] for row in world.rows], np.float32).astype(np.float64)
    scaled = np.zeros_like(raw)
    scaled[:, :-1] = (raw[:, :-1] - raw[:, :-1].mean(0)) / raw[:, :-1].std(0)
    return {row["image_id"]: line.tolist() for row, line in zip(world.rows, scaled, strict=True)}


@dataclass(frozen=True)
class Reference:
    """The examples of a world, made by hand. splits: of each image. options: ExamplesConfig's."""

    world: World
    splits: Mapping[str, str]
    classes: Sequence[str]
    several_labels: bool
    options: Mapping[str, Any]

    def examples(self) -> dict[str, Example]:
        """{image_id: {feature: its values}}"""
        return {row["image_id"]: self._example(row["image_id"]) for row in self.world.rows}

    def kept_edges(self) -> list[Edge]:
        """Edges between two images of the catalog, by their ranks."""
        rows = self.world.by_id
        kept = [edge for edge in self.world.edges if {edge.src, edge.dst} <= rows.keys()]
        return sorted(kept, key=lambda edge: edge.rank)

    def weights(self) -> dict[tuple[str, str], float]:
        """{(src, dst): weight}, the strongest of each src first."""
        strongest: dict[str, float] = {}
        found = {}
        for edge in self.kept_edges():
            top = strongest.setdefault(edge.src, edge.weight)
            relative = self.options.get("neighbor_weights") == "strongest"
            found[edge.src, edge.dst] = edge.weight / top if relative else edge.weight
        return found

    def neighbors(self, image_id: str) -> list[str]:
        found = [edge.dst for edge in self.kept_edges() if edge.src == image_id]
        return found[: self.options["neighbors"]]

    def _example(self, image_id: str) -> Example:
        neighbors, weights = self.neighbors(image_id), self.weights()
        example = self._node(image_id) | self._heldout(image_id) | self._texts(image_id)
        if not self.options["neighbors"]:
            return example
        layout = self._compact if self.options.get("layout") == "compact" else self._nsl
        return {
            **example,
            "NL_num_nbrs": [len(neighbors)],
            **layout(neighbors, [weights[image_id, dst] for dst in neighbors]),
            **self._graph([image_id, *neighbors], weights),
        }

    def _node(self, image_id: str) -> Example:
        row = self.world.by_id[image_id]
        known = self._known(image_id) if self.splits[image_id] == "train" else []
        name, content = self._content(row)
        node = {"image_id": [image_id.encode()], name: content, "label": [*known, -1][:1]}
        return {**node, "labels": known} if self.several_labels and known else node

    def _known(self, image_id: str) -> list[int]:
        labels = true_labels(self.world.by_id[image_id])
        return [self.classes.index(label) for label in labels if label in self.classes]

    def _content(self, row: Row) -> tuple[str, list]:
        if "features" in row:
            return "features", z_scores(self.world)[row["image_id"]]
        prepared = pictures.prepare(
            row["image"],
            image_size=SIDE,
            max_pixels=10_000,
            encoding=self.options["image_encoding"],
        )
        return "image", [prepared.content]

    def _heldout(self, image_id: str) -> Example:
        if self.splits[image_id] == "train":
            return {}
        known = self._known(image_id)
        found = {"heldout_label": [*known, -1][:1]}
        return {**found, "heldout_labels": known} if self.several_labels and known else found

    def _texts(self, image_id: str) -> Example:
        caption = self.world.by_id[image_id].get("text")
        texts = [(caption, 1)] if caption and self.options.get("captions", True) else []
        clicked = [(text, count) for text, of, count in self.world.queries if of == image_id]
        clicked.sort(key=lambda pair: -pair[1])
        texts += clicked[: self.options.get("texts", 8)]
        if not texts:
            return {}
        return {"text": [text.encode() for text, _ in texts], "text_weight": [w for _, w in texts]}

    def _nsl(self, neighbors: Sequence[str], weights: Sequence[float]) -> Example:
        slots = range(self.options["neighbors"])
        padded = [*weights, *[0.0] * len(slots)]
        found: Example = {f"NL_nbr_{slot}_weight": [padded[slot]] for slot in slots}
        for slot, neighbor in enumerate(neighbors):
            found |= {f"NL_nbr_{slot}_{name}": of for name, of in self._node(neighbor).items()}
        return found

    def _compact(self, neighbors: Sequence[str], weights: Sequence[float]) -> Example:
        if not neighbors:
            return {}
        nodes = [self._node(neighbor) for neighbor in neighbors]
        names = [*nodes[0].keys() - {"labels"}, *["labels"] * self.several_labels]
        found = {f"nbr_{name}": [v for node in nodes for v in node.get(name, [])] for name in names}
        if self.options.get("image_encoding") == "raw":
            found["nbr_image"] = [b"".join(found["nbr_image"])]
        if self.several_labels:
            found["nbr_num_labels"] = [len(node.get("labels", [])) for node in nodes]
        found["nbr_weight"] = list(weights)
        return {name: values for name, values in found.items() if values}

    def _graph(self, nodes: Sequence[str], weights: Mapping[tuple[str, str], float]) -> Example:
        edges = [
            (i, j, weights[a, b])
            for i, a in enumerate(nodes)
            for j, b in enumerate(nodes)
            if (a, b) in weights
        ]
        names = ("graph_senders", "graph_receivers", "graph_weights")
        return {name: list(of) for name, of in zip(names, zip(*edges, strict=True), strict=False)}


def check_same(found: Example, expected: Example) -> None:
    """The same features with the same values; floats as float32 has them."""
    assert found.keys() == expected.keys()
    for name, values in expected.items():
        if values and isinstance(values[0], float):
            assert found[name] == pytest.approx(values, rel=1e-6, abs=1e-5), name
        else:
            assert found[name] == values, name
