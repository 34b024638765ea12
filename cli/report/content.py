"""All that the report says of a run, gathered stage by stage; what is not there yet is None."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from cli.report import (
    atlas,
    charts,
    edges,
    figures,
    gallery,
    graph,
    questions,
    thumbnails,
    training,
)
from cli.report.config import ReportConfig
from cli.report.runs import Run
from cli.report.verdict import Verdict, of_run
from pipeline import schema, storage
from pipeline.artifacts import Version

_EDGES_A_ROW = 3  # edges that are shown for each of `report.rows`


@dataclass(frozen=True)
class GraphContent:
    """figures: computed. manifest: what the stage counted while it was made."""

    figures: graph.GraphFigures
    manifest: dict[str, Any]
    lengths: Markup | None
    degrees: Markup
    sizes: Markup | None


@dataclass(frozen=True)
class PictureRows:
    """Held-out queries with pictures. images: drawn; corpus: embedded in all. texts: None where the
    model has no text tower.
    """

    images: questions.Questions
    texts: questions.Questions | None
    drawn: int
    corpus: int
    sessions: int  # that were held out; of more than questions.MAX_SESSIONS, so many are drawn


@dataclass(frozen=True)
class Content:
    """The report. thumbnails: {id: data address} of every picture but the map's."""

    run: Run
    verdict: Verdict
    graph: GraphContent
    strongest: list[edges.Edge]
    doubts: edges.Doubts | None
    training: training.Training | None
    parts: list[figures.Part] | None
    facts: list[tuple[str, list[tuple[str, Any]]]]
    rows: PictureRows | None
    atlas: atlas.Atlas | None
    has_pictures: bool
    thumbnails: dict[str, str]
    settings: list[tuple[str, str, str]]


def gather(run: Run, config: ReportConfig, *, seed: int, defaults: Mapping[str, Any]) -> Content:
    """Reads the run. Large files are read some rows at a time, and pictures only where shown.

    defaults: {"section.key": value} of the configuration.
    """
    metrics = _json(run.get(schema.EVALUATION), schema.METRICS_FILE)
    history = _json(run.get(schema.MODEL), schema.HISTORY_FILE)
    examples, embeddings = run.get(schema.EXAMPLES), run.get(schema.EMBEDDINGS)
    drawn = None
    if embeddings is not None:
        limit = max(config.max_images, config.map_images)
        drawn = gallery.draw(embeddings, examples, limit=limit, seed=seed)
    figures_of_graph, bound = _figures(run.graph)
    number = config.rows * _EDGES_A_ROW
    strongest = edges.strongest(run.graph, number)
    doubts = edges.doubted(run, drawn, bound=bound, number=number)
    rows = _rows(run, drawn, config, seed) if drawn is not None and len(drawn) else None
    shown = dict.fromkeys(_ids(run, strongest, doubts, rows))
    small = gallery.pictures(examples, list(shown), side=thumbnails.SIDE)
    return Content(
        run=run,
        verdict=of_run(run, metrics),
        graph=figures_of_graph,
        strongest=strongest,
        doubts=doubts,
        training=training.of_history(history) if history and history.get("epochs") else None,
        parts=None if metrics is None else figures.parts(metrics),
        facts=[] if metrics is None else figures.facts(metrics),
        rows=rows,
        atlas=_atlas(drawn, examples, config) if drawn is not None and len(drawn) else None,
        has_pictures=gallery.has_pictures(examples),
        thumbnails={name: thumbnails.data_uri(picture) for name, picture in small},
        settings=_settings(run, defaults),
    )


def _json(version: Version | None, name: str) -> Any:
    if version is None or not storage.exists(version.file(name)):
        return None
    with storage.open_read(version.file(name)) as file:
        return json.load(file)


def _figures(version: Version) -> tuple[GraphContent, float]:
    """(what is said of the graph, the weight from which on an edge is strong)."""
    links = graph.read_links(version)
    found = graph.figures(links)
    lengths = version.manifest["counts"].get("sessions_by_images")
    sizes = found.components.sizes
    strong = graph.quantiles(links.weight, [edges.STRONG])
    content = GraphContent(
        figures=found,
        manifest=version.manifest,
        lengths=charts.bars(
            "Sessions by the number of distinct images in them",
            [name.replace(" to ", "–") for name in lengths],
            {"sessions": list(lengths.values())},
            unit="sessions",
        )
        if lengths
        else None,
        degrees=charts.bars(
            "Images by the number of edges that lead from them and to them",
            found.in_degree.names,
            {"edges from an image": found.out_degree.counts, "edges to it": found.in_degree.counts},
            unit="images",
        ),
        sizes=charts.bars(
            "Components by the number of their images",
            sizes.names,
            {"components": sizes.counts},
            unit="components",
        )
        if sizes.names
        else None,
    )
    return content, strong[0][1] if strong else 0.0


def _rows(run: Run, drawn: gallery.Gallery, config: ReportConfig, seed: int) -> PictureRows:
    among = drawn.first(config.max_images)
    holdout = questions.read_holdout(run.graph, limit=questions.MAX_SESSIONS, seed=seed)
    model, embeddings = run.get(schema.MODEL), run.versions[schema.EMBEDDINGS]
    texts = None
    if model is None or schema.TEXT_SIGNATURE in model.manifest.get("signatures", ()):
        texts = questions.of_texts(
            among,
            holdout,
            graph=run.graph,
            embeddings=embeddings,
            rows=config.rows,
            seed=seed,
        )
    images = questions.of_images(among, holdout, rows=config.rows, seed=seed)
    return PictureRows(images, texts, len(among), among.corpus, holdout.sessions)


def _ids(
    run: Run,
    strongest: Iterable[edges.Edge],
    doubts: edges.Doubts | None,
    rows: PictureRows | None,
) -> Iterator[str]:
    """Every image that a picture is wanted of."""
    for edge in (*strongest, *(doubts.edges if doubts else ())):
        yield from (edge.src, edge.dst)
    for hubs in run.graph.manifest.get("hubs", {}).values():
        yield from (hub["image_id"] for hub in hubs)
    for found in (rows.images, rows.texts) if rows else ():
        for question in (*found.drawn, *found.worst) if found else ():
            yield from [question.image_id] if question.image_id is not None else []
            yield from question.wanted
            yield from (answer.image_id for of in question.answers for answer in of.first)


def _atlas(drawn: gallery.Gallery, examples: Version | None, config: ReportConfig) -> atlas.Atlas:
    among = drawn.first(config.map_images)
    ids = among.ids.to_pylist()
    return atlas.draw(
        among.vectors,
        ids,
        among.labels,
        dict(gallery.pictures(examples, ids, side=atlas.TILE)),
        corpus=among.corpus,
    )


def _settings(run: Run, defaults: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """What each stage was made with that is not the default, values as JSON has them."""
    return [
        (stage, name, json.dumps(value, ensure_ascii=False))
        for stage, name, value in run.settings()
        if name not in defaults or defaults[name] != value
    ]
