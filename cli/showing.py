"""`imgembed examples show`: one training example, for people, for programs, and as a picture."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Iterable, Sequence
from typing import Any

from PIL import Image
from rich.console import Console
from rich.table import Table
from rich.text import Text

from cli.contact_sheet import Tile, write_strip
from cli.printing import echo
from pipeline import schema
from pipeline.artifacts import RunDir, Version
from pipeline.errors import ConfigError, ImgembedError
from pipeline.examples import reading
from pipeline.examples.reading import Example, Node

_UNSAFE = re.compile(r"[^\w.-]+")
_LONGEST_NAME = 80  # letters of an id that become part of a file's name
_WIDTH = 120


def show_example(
    run: str, *, image_id: str | None, split: str | None, png: str | None, as_json: bool
) -> None:
    """Prints an example of a run directory, and writes its pictures to a PNG."""
    if split is not None and split not in schema.SPLITS:
        raise ConfigError(f"--split {split}: none of {', '.join(schema.SPLITS)}")
    version = RunDir.open(run).require(schema.EXAMPLES)
    spec = reading.spec_of(version)
    if image_id is None:
        example = reading.first_example(version, split or schema.SPLITS[0])
    else:
        splits = schema.SPLITS if split is None else (split,)
        example = reading.find_example(version, image_id, splits)
    shown = describe(example, version)
    if spec.feature_dim is None and (png or not as_json):
        shown["png"] = png or f"example-{_safe(example.seed.image_id)}.png"
        _write_png(shown["png"], example, version)
    echo(json.dumps(shown, indent=2, ensure_ascii=False) if as_json else _text(shown))


def _safe(image_id: str) -> str:
    return _UNSAFE.sub("_", image_id)[:_LONGEST_NAME]


def describe(example: Example, version: Version) -> dict[str, Any]:
    """The example as JSON may hold it, without the bytes of its pictures."""
    classes, ids = version.manifest["classes"], [node.image_id for node in example.nodes]
    return {
        "image_id": example.seed.image_id,
        "split": example.place.split,
        "file": example.place.file,
        "record": example.place.record,
        "bytes": example.place.size,
        "labels": _labels(example.seed.labels, classes),
        "heldout_labels": _labels(example.heldout_labels, classes),
        "texts": [{"text": text, "weight": weight} for text, weight in example.texts],
        "content": _content(example.seed, version),
        "most_neighbors": version.manifest["neighbors"],
        "neighbors": [
            {
                "slot": neighbor.slot,
                "image_id": neighbor.node.image_id,
                "weight": neighbor.weight,
                "labels": _labels(neighbor.node.labels, classes),
                "content": _content(neighbor.node, version),
            }
            for neighbor in example.neighbors
        ],
        "edges": [
            {
                "sender": edge.sender,
                "receiver": edge.receiver,
                "sender_id": ids[edge.sender],
                "receiver_id": ids[edge.receiver],
                "weight": edge.weight,
            }
            for edge in example.edges
        ],
    }


def _labels(labels: Sequence[int], classes: Sequence[str]) -> list[dict[str, Any]]:
    return [{"id": label, "name": classes[label]} for label in labels]


def _content(node: Node, version: Version) -> dict[str, Any]:
    if isinstance(node.content, bytes):
        side = version.manifest["image_size"]
        encoding = version.manifest["image_encoding"]
        return {"encoding": encoding, "pixels": [side, side], "bytes": len(node.content)}
    numbers = node.content
    figures = {"min": numbers.min(), "mean": numbers.mean(), "max": numbers.max()}
    return {"numbers": len(numbers)} | {name: float(value) for name, value in figures.items()}


# For people ---------------------------------------------------------------------------------------


def _text(shown: dict[str, Any]) -> str:
    lines = [f"example of {shown['image_id']}", *_table(_facts(shown))]
    if shown["most_neighbors"]:
        most, found = shown["most_neighbors"], shown["neighbors"]
        lines += ["", f"neighbours: {len(found)} of at most {most}, the strongest first"]
        size = "mean" if "numbers" in shown["content"] else "bytes"
        header = ("slot", "image_id", "weight", "label", size)
        lines += _table([header, *map(_neighbor_row, found)]) if found else []
        edges = shown["edges"]
        lines += [
            "",
            f"edges: {len(edges)} among {1 + len(found)} images; 0 = the seed, 1 = slot 0",
        ]
        lines += _table(_edge_row(edge) for edge in edges)
    if "png" in shown:
        lines += ["", f"its pictures, the seed first: {shown['png']}"]
    elif "numbers" in shown["content"]:
        lines += ["", "ready features: there are no pictures to write"]
    return "\n".join(lines)


def _facts(shown: dict[str, Any]) -> Iterable[tuple[str, str]]:
    yield "split", shown["split"]
    yield "file", shown["file"]
    yield "record", f"{shown['record']:,} of the file, {shown['bytes']:,} bytes"
    yield "label", _say_labels(shown["labels"])
    if shown["heldout_labels"]:
        yield "held-out label", _say_labels(shown["heldout_labels"])
    texts = (f"{text['text']} ({text['weight']:.4g})" for text in shown["texts"])
    yield "texts (weight)", ", ".join(texts) or "none"
    yield "content", _say_content(shown["content"])


def _say_labels(labels: Iterable[dict[str, Any]]) -> str:
    return ", ".join(f"{label['name']} ({label['id']})" for label in labels) or "none"


def _say_content(content: dict[str, Any]) -> str:
    if "numbers" in content:
        span = ", ".join(f"{name} {content[name]:.4g}" for name in ("min", "mean", "max"))
        return f"{content['numbers']:,} numbers: {span}"
    width, height = content["pixels"]
    return f"{content['encoding']}, {width} × {height} pixels, {content['bytes']:,} bytes"


def _neighbor_row(neighbor: dict[str, Any]) -> tuple[str, ...]:
    return (
        str(neighbor["slot"]),
        neighbor["image_id"],
        f"{neighbor['weight']:.4g}",
        _say_labels(neighbor["labels"]),
        _say_size(neighbor["content"]),
    )


def _say_size(content: dict[str, Any]) -> str:
    """What differs between the contents of one catalog."""
    return f"{content['mean']:.4g}" if "numbers" in content else f"{content['bytes']:,}"


def _edge_row(edge: dict[str, Any]) -> tuple[str, ...]:
    return (
        f"{edge['sender']} → {edge['receiver']}",
        f"{edge['weight']:.4g}",
        f"{edge['sender_id']} → {edge['receiver_id']}",
    )


def _table(rows: Iterable[Sequence[str]]) -> list[str]:
    """Rows in columns, indented; what is too long for a line goes on in the next."""
    shown = Table.grid(padding=(0, 2))
    for row in rows:
        shown.add_row(*(Text(cell, overflow="fold") for cell in row))
    console = Console(width=_WIDTH, file=io.StringIO())
    with console.capture() as capture:
        console.print(shown)
    return [f"  {line}".rstrip() for line in capture.get().splitlines()]


# As a picture -------------------------------------------------------------------------------------


def _write_png(path: str, example: Example, version: Version) -> None:
    classes = version.manifest["classes"]

    def tile(node: Node, words: str, strength: float) -> Tile:
        label = ", ".join(classes[label] for label in node.labels)
        return Tile(picture_of(node, example, version), node.image_id, words, label, strength)

    strongest = max((neighbor.weight for neighbor in example.neighbors), default=1.0)
    neighbors = [
        tile(neighbor.node, f"weight {neighbor.weight:.4g}", neighbor.weight / strongest)
        for neighbor in example.neighbors
    ]
    try:
        write_strip(path, tile(example.seed, f"seed, {example.place.split}", 0.0), neighbors)
    except (OSError, ValueError) as error:  # ValueError: no format of that extension
        raise ImgembedError(f"--png {path}: {getattr(error, 'strerror', None) or error}") from None


def picture_of(node: Node, example: Example, version: Version) -> Image.Image:
    """The picture of a node of an example; ImgembedError where it cannot be decoded."""
    assert isinstance(node.content, bytes)
    side = version.manifest["image_size"]
    try:
        if version.manifest["image_encoding"] == "raw":
            return Image.frombytes("RGB", (side, side), node.content)
        with Image.open(io.BytesIO(node.content)) as picture:
            return picture.convert("RGB")
    except (OSError, ValueError) as error:
        raise ImgembedError(
            f"{example.place.file}: record {example.place.record}: the picture of "
            f"{node.image_id!r} cannot be decoded ({error})"
        ) from None
