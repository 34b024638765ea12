"""Makes one stage after the other: what a command and the demo have in common.

A stage is made where its configuration, its inputs, the stages before it or the program changed
since its version in force; otherwise that version stands.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from rich.markup import escape

from cli import needs, program
from cli.measuring import Measured, Watch
from cli.settings import Config
from cli.terminal import Terminal
from pipeline import schema, storage
from pipeline.artifacts import (
    INPUTS,
    KEEPS,
    NewVersion,
    RunDir,
    Version,
    check_undamaged,
    file_marks,
    fingerprint,
    to_json,
)
from pipeline.config import ImagesConfig
from pipeline.errors import ConfigError, ImgembedError

if TYPE_CHECKING:
    from pipeline.graph.previous import Previous

_PACKAGES = ("apache-beam", "tensorflow", "keras", "tensorflow-transform", "graph_nets", "pyarrow")


MADE, REUSED, TAKEN_BACK = "made", "reused", "taken back"


@dataclass(frozen=True)
class Outcome:
    """What became of a stage. done: made anew, the one in force, or an older one of that kind."""

    version: Version
    done: str
    measured: Measured


@dataclass
class Stages:
    """The stages of one run directory under one configuration.

    force: make every stage, changed or not. outcomes: of the stages so far, by name.
    """

    config: Config
    terminal: Terminal
    force: bool = False
    outcomes: dict[str, Outcome] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.run = RunDir.open(self.config.run_dir, self.config.keep_versions)

    def graph(self) -> Version:
        """Session logs, or a ready edge list, to the graph."""
        if self.config.edges.path:
            return self._graph_of_edges(self.config.edges.path)
        if not self.config.sessions.path:
            raise ConfigError("sessions.path: no session logs named; give --sessions PATH")
        return self._graph_of_logs(self.config.sessions.path)

    def _graph_of_logs(self, path: str) -> Version:
        config = self.config
        settings = self.sections("sessions", "holdout", "graph", "privacy")
        inputs = storage.list_files(path)
        previous = self._previous(settings, inputs)

        def build(new: NewVersion) -> dict[str, Any]:
            from pipeline.graph.job import build_graph
            from pipeline.runner import make_pipeline, threads
            from pipeline.sessions.read import find_logs

            logs = find_logs(config.sessions)
            for description, files in logs.detected().items():
                self.terminal.say(f"  [dim]{files:,} × {escape(description)}[/]")
            for skipped in logs.skipped:
                self.terminal.say(f"  [yellow]not a log, left out:[/] {escape(skipped)}")
            content = build_graph(
                sessions=config.sessions,
                holdout=config.holdout,
                graph=config.graph,
                privacy=config.privacy,
                seed=config.seed,
                shards=config.runner.shards,
                threads=threads(config.runner),
                max_memory=config.runner.max_memory,
                out=new,
                make_pipeline=functools.partial(make_pipeline, config.runner),
                logs=logs,
                previous=previous,
            )
            keeps = [previous.version.name] if previous else []
            return {**content, "logs": file_marks(inputs), KEEPS: keeps}

        return self.make(
            schema.GRAPH,
            "Building the graph",
            settings=settings,
            inputs=inputs,
            upstream=[previous.version] if previous else [],
            build=build,
        )

    def _previous(
        self, settings: Mapping[str, Any], inputs: Sequence[storage.FileInfo]
    ) -> Previous | None:
        """The counts that the logs are added to, if there are any.

        Where that is this very run directory and the version in force has these logs in it, the
        counts before it are meant: the command is given once more.
        """
        where = self.config.sessions.previous
        if where is None:
            return None
        from pipeline.graph.previous import Previous

        run = RunDir.open(where)
        found = run.require(schema.GRAPH)
        before = found.manifest.get("previous")
        again = found.manifest.get("logs") == file_marks(inputs) and run.is_at(self.run.path)
        if before and again:
            earlier = run.version(schema.GRAPH, before["name"])
            if earlier is None:
                raise ImgembedError(
                    f"{found.path}: holds these logs already, and the counts before it are gone"
                )
            found = earlier
        previous = Previous.open(found)
        previous.check({**settings, "seed": self.config.seed})
        previous.check_inputs(inputs)
        return previous

    def _graph_of_edges(self, path: str) -> Version:
        config = self.config
        if config.sessions.previous:
            raise ConfigError("sessions.previous: a ready edge list has no counts to add to others")

        def build(new: NewVersion) -> dict[str, Any]:
            from pipeline.graph.edge_list import build_from_edges
            from pipeline.runner import make_pipeline, threads

            return build_from_edges(
                config=config.edges,
                graph=config.graph,
                privacy=config.privacy,
                seed=config.seed,
                shards=config.runner.shards,
                threads=threads(config.runner),
                max_memory=config.runner.max_memory,
                out=new,
                make_pipeline=functools.partial(make_pipeline, config.runner),
            )

        return self.make(
            schema.GRAPH,
            "Building the graph of a ready edge list",
            settings=self.sections("edges", "graph", "privacy"),
            inputs=storage.list_files(path),
            build=build,
        )

    def check_catalog(self) -> None:
        """Looks at the catalog's first rows; what is wrong is said before hours of work."""
        from pipeline.examples.catalog import find

        find.inspect(self.config.images)

    def examples(self) -> Version:
        """Catalog and graph to neighbour-augmented TFRecords."""
        from pipeline.examples.catalog import find

        config = self.config
        graph = self.run.require(schema.GRAPH)
        if not config.images.path:
            raise ConfigError("images.path: no catalog named; give --images PATH")
        files = find.input_files(config.images)
        agreement = self._agreement_of(graph)

        def build(new: NewVersion) -> dict[str, Any]:
            from pipeline.examples.job import build_examples
            from pipeline.runner import make_pipeline, threads

            return build_examples(
                images=config.images,
                examples=config.examples,
                seed=config.seed,
                graph=graph,
                out=new,
                shards=config.runner.shards,
                make_pipeline=functools.partial(make_pipeline, config.runner),
                threads=threads(config.runner),
                max_memory=config.runner.max_memory,
                agreement=agreement,
            )

        return self.make(
            schema.EXAMPLES,
            "Writing the examples",
            settings=self.sections("images", "examples"),
            inputs=files,
            upstream=[graph, *([agreement] if agreement else [])],
            build=build,
        )

    def _agreement_of(self, graph: Version) -> Version | None:
        """What is known of the graph's edges, where the examples are to take it from there."""
        from pipeline.examples import trust

        if self.config.examples.agreement == "none":
            return None
        agreement = self.run.require(schema.AGREEMENT)
        trust.check_graph(agreement, graph)
        return agreement

    def _shards(self, files: Sequence[storage.FileInfo]) -> int:
        from pipeline.writing import shard_count

        return shard_count(self.config.runner.shards, sum(info.size for info in files))

    def catalog(self) -> ImagesConfig:
        """The catalog to embed: the configured one, else the one of the training examples."""
        if self.config.images.path:
            return self.config.images
        examples = self.run.current(schema.EXAMPLES)
        if examples is None:
            raise ConfigError("images.path: no catalog named; give it in the config")
        return ImagesConfig.model_validate(examples.manifest["config"]["images"])

    def export(self) -> Version:
        """Catalog and model to embeddings."""
        from pipeline.embeddings import with_neighbors
        from pipeline.examples.catalog import find

        config = self.config
        model = self.run.require(schema.MODEL)
        graph = self.run.current(schema.GRAPH)
        images = self.catalog()
        files = find.input_files(images)
        previous = None if self.force else self.run.current(schema.EMBEDDINGS)
        examples, note = with_neighbors.choose(
            model,
            self.run.current(schema.EXAMPLES),
            images=images,
            files=files,
            export=config.export,
        )
        if note:
            self.terminal.say(f"  [yellow]{escape(note)}[/]")

        def build(new: NewVersion) -> dict[str, Any]:
            from pipeline.embeddings.job import export_embeddings
            from pipeline.runner import make_pipeline, threads

            return export_embeddings(
                images=images,
                export=config.export,
                model=model,
                graph=graph,
                out=new,
                shards=self._shards(files),
                make_pipeline=functools.partial(make_pipeline, config.runner),
                threads=threads(config.runner),
                max_memory=config.runner.max_memory,
                previous=previous,
                examples=examples,
            )

        return self.make(
            schema.EMBEDDINGS,
            "Embedding the catalog",
            settings={"images": images.model_dump(), "export": config.export.model_dump()},
            inputs=files,
            upstream=[model, *(version for version in (graph, examples) if version)],
            build=build,
        )

    def evaluate(self) -> Version:
        """Embeddings and held-out sessions to metrics."""
        versions = {
            stage: self.run.require(stage)
            for stage in (schema.GRAPH, schema.EXAMPLES, schema.MODEL, schema.EMBEDDINGS)
        }

        judgments = self.config.evaluation.judgments
        files = storage.list_files(judgments) if judgments else []

        def build(new: NewVersion) -> dict[str, Any]:
            from cli.evaluating import judgments_of
            from trainer.evaluation.leaks import graph_of_training
            from trainer.evaluation.run import evaluate

            needs.check_evaluation(self.config, **versions)
            metrics = evaluate(
                **versions,
                config=self.config.evaluation,
                seed=self.config.seed,
                judgments=judgments_of(self.config.evaluation),
                trained_on=graph_of_training(self.run, versions[schema.MODEL]),
            )
            storage.write_atomic(new.file(schema.METRICS_FILE), to_json(metrics))
            return {"metrics": schema.METRICS_FILE}

        return self.make(
            schema.EVALUATION,
            "Evaluating on held-out sessions",
            settings=self.sections("evaluation"),
            inputs=files,
            upstream=list(versions.values()),
            build=build,
        )

    def denoise(self, rows: int) -> Version:
        """Model, embeddings and graph to the agreement of every edge, `rows` images of it drawn."""
        graph, model, embeddings = (
            self.run.require(stage) for stage in (schema.GRAPH, schema.MODEL, schema.EMBEDDINGS)
        )
        examples = self.run.require(schema.EXAMPLES)

        def build(new: NewVersion) -> dict[str, Any]:
            from cli.doubts import draw_doubts
            from trainer.denoise import denoise, most_doubted

            content, edges = denoise(graph=graph, model=model, embeddings=embeddings, out=new)
            drawn = draw_doubts(edges, most_doubted(edges, rows), examples)
            if drawn is not None:
                storage.write_atomic(new.file(schema.DOUBTED_FILE), drawn)
            return {**content, "drawn": schema.DOUBTED_FILE if drawn else None}

        return self.make(
            schema.AGREEMENT,
            "Judging the edges of the graph",
            settings={"rows": rows},
            upstream=[graph, examples, model, embeddings],
            build=build,
        )

    def mark(
        self,
        stage: str,
        settings: Mapping[str, Any],
        *,
        inputs: Sequence[storage.FileInfo] = (),
        upstream: Sequence[Version] = (),
    ) -> str:
        """The fingerprint of a stage as it would be made now."""
        return fingerprint(
            config={**settings, "seed": self.config.seed},
            inputs=inputs,
            upstream=upstream,
            code=program.code_version(stage),
        )

    def sections(self, *names: str) -> dict[str, Any]:
        return {name: getattr(self.config, name).model_dump() for name in names}

    def make(
        self,
        stage: str,
        title: str | None,
        *,
        settings: Mapping[str, Any],
        build: Callable[[NewVersion], Mapping[str, Any]],
        inputs: Sequence[storage.FileInfo] = (),
        upstream: Sequence[Version] = (),
        unfinished: bool = False,
    ) -> Version:
        """The stage's version: the one in force if nothing changed, else a new one.

        Where an older whole version is what would be made, that one is put in force again.
        unfinished: a new one was begun, and it is what counts.
        """
        with Watch() as watch:
            mark = self.mark(stage, settings, inputs=inputs, upstream=upstream)
            found, done = (None, MADE) if self.force or unfinished else self._found(stage, mark)
            if found is None:
                found = self._make(
                    stage,
                    title,
                    mark,
                    watch,
                    settings=settings,
                    build=build,
                    inputs=inputs,
                    upstream=upstream,
                )
            self.outcomes[stage] = Outcome(found, done, watch.so_far())
        return found

    def _found(self, stage: str, mark: str) -> tuple[Version | None, str]:
        """The version that is up to date, and how it came to be in force; None, made = none is."""
        current = self.run.current(stage)
        if current and current.manifest.get("fingerprint") == mark:
            check_undamaged(current)
            self.terminal.say(f"[green]✓[/] {stage} {current.name} is up to date")
            return current, REUSED
        older = self.run.with_fingerprint(stage, mark)
        if older is None:
            return None, MADE
        self.run.put_in_force(older)
        was = f", {current.name} no longer" if current else ""
        self.terminal.say(f"[green]✓[/] {stage} {older.name} is up to date: in force again{was}")
        return older, TAKEN_BACK

    def _make(
        self,
        stage: str,
        title: str | None,
        mark: str,
        watch: Watch,
        *,
        settings: Mapping[str, Any],
        build: Callable[[NewVersion], Mapping[str, Any]],
        inputs: Sequence[storage.FileInfo],
        upstream: Sequence[Version],
    ) -> Version:
        began = time.time()
        for version_before in upstream:
            check_undamaged(version_before)
        with self.run.begin(stage) as new:
            if title:
                with self.terminal.step(title):
                    content = build(new)
            else:
                content = build(new)
            for path in storage.changed(inputs):
                self.terminal.say(
                    f"! {escape(path)} changed while it was read; the next run reads it anew"
                )
            measured = watch.so_far()
            return new.commit(
                {
                    "fingerprint": mark,
                    "made": {
                        "began": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(began)),
                        "seconds": round(measured.seconds, 3),
                        "peak_memory_bytes": measured.peak_memory,
                    },
                    "config": {**settings, "seed": self.config.seed},
                    INPUTS: file_marks(inputs),
                    "upstream": {v.stage: v.name for v in upstream},
                    "packages": {name: version(name) for name in ("imgembed", *_PACKAGES)},
                    **content,
                }
            )
