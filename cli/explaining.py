"""`imgembed explain`: what a run knows of two images, in lines for people or as JSON."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from cli.printing import echo
from pipeline.artifacts import RunDir
from pipeline.embeddings.explain import explain

_WIDTH = 12  # of the first column
_LISTED = 4  # shared neighbours, and common queries; JSON has more


def print_explanation(run_dir: str, first: str, second: str, *, as_json: bool) -> None:
    """Prints it; ids and queries are other people's input, and come out without control codes."""
    found = explain(RunDir.open(run_dir), first, second)
    if as_json:
        echo(json.dumps(found, indent=2, ensure_ascii=False))
        return
    for name, text in _lines(found):
        echo(f"{name:{_WIDTH}}{text}")


def shown(text: str) -> str:
    """A text as it is, or escaped where a terminal would obey it."""
    return text if text.isprintable() else repr(text)


def _lines(found: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    yield "A", _image(found["a"])
    yield "B", _image(found["b"])
    yield "embedding", _embedding(found)
    yield "raw", _raw(found["raw"])
    yield from _labelled("edge", _edges(found["edges"]))
    yield "together", _together(found["together"])
    neighbors = found["shared_neighbors"]
    if neighbors is not None:
        yield "neighbours", _shared(neighbors, "neighbors", "shared", _neighbor)
        yield "queries", _shared(found["common_queries"], "queries", "in common", _query)


def _labelled(name: str, lines: Sequence[str]) -> Iterator[tuple[str, str]]:
    for number, line in enumerate(lines):
        yield name if number == 0 else "", line


def _image(image: Mapping[str, Any]) -> str:
    parts = [shown(image["image_id"])]
    if image["sessions"] is not None:
        parts.append(f"in {image['sessions']:,} sessions, {image['degree']:,} neighbours")
    if image["labels"]:
        parts.append(f"{', '.join(map(shown, image['labels']))} ({image['split']})")
    elif image["split"]:
        parts.append(f"without a label ({image['split']})")
    return "; ".join(parts)


def _embedding(found: Mapping[str, Any]) -> str:
    near = found["embedding"]
    if near is None:
        names = [name.upper() for name in ("a", "b") if not found[name]["embedded"]]
        return f"{' and '.join(names)} not embedded"
    return (
        f"cosine {near['cosine']:.3f}; B is number {near['rank_of_b_for_a']:,} for A and A number "
        f"{near['rank_of_a_for_b']:,} for B, of {near['others']:,}"
    )


def _raw(raw: Mapping[str, Any] | None) -> str:
    if raw is None:
        return "not known: the examples do not hold both"
    if raw["cosine"] is None:
        return f"one of the two has {raw['of']} without any difference"
    return f"cosine {raw['cosine']:.3f} of {raw['of']}"


def _edges(edges: Sequence[Mapping[str, Any]] | None) -> list[str]:
    if edges is None:
        return ["not known: the run has no graph"]
    return [_edge(edge) for edge in edges] or ["none"]


def _edge(edge: Mapping[str, Any]) -> str:
    parts = [
        f"{shown(edge['src'])} → {shown(edge['dst'])}: rank {edge['rank']}",
        f"weight {edge['weight']:.4g}",
    ]
    counted = {"sessions": ",", "users": ",", "strength": ".4g", "agreement": ".2f"}
    parts += [
        f"{name} {edge[name]:{form}}" for name, form in counted.items() if edge[name] is not None
    ]
    return ", ".join(parts)


def _together(together: Mapping[str, Any] | None) -> str:
    if together is None:
        return "not known: the graph has no counts of both"
    both, chance = together["sessions"], f"{together['expected']:.3g} by chance"
    of = f"of {together['population']:,} sessions ({chance})"
    if both is None:
        return f"too seldom for an edge, or pruned, {of}; a graph with keep_counts would tell"
    if not both:
        return f"never, {of}"
    figures = ", ".join(
        f"{name} {together[name]:.4g}" for name in ("llr", "npmi", "lift", "jaccard")
    )
    return f"in {both:,} {of}: {figures}"


def _shared(part: Mapping[str, Any], of: str, word: str, say: Any) -> str:
    sizes = f"{part['count']:,} {word}, of {part[f'{of}_a']:,} and {part[f'{of}_b']:,}"
    if not part["count"]:
        return sizes
    more = ", …" if part["count"] > _LISTED else ""
    return f"{sizes}: {', '.join(map(say, part['shown'][:_LISTED]))}{more}"


def _neighbor(one: Mapping[str, Any]) -> str:
    return f"{shown(one['image_id'])} ({one['weight_a']:.4g} and {one['weight_b']:.4g})"


def _query(one: Mapping[str, Any]) -> str:
    return f'"{shown(one["query"])}" ({one["sessions_a"]:,} and {one["sessions_b"]:,} sessions)'
