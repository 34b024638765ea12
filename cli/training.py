"""The training stage: alone or as one of several workers; a signal ends it after a step."""

from __future__ import annotations

import signal
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from rich.markup import escape

from cli import needs
from cli.stages import Stages
from cli.terminal import EpochLines
from pipeline import schema, storage
from pipeline.artifacts import NewVersion, Version
from pipeline.config import Section

if TYPE_CHECKING:
    from trainer.progress import Interrupted

_GO_ON = "imgembed train goes on from there (same configuration, without --force)"


def make_model(stages: Stages) -> Version | None:
    """Examples to a model; None in one of several workers that is not the chief.

    A training that was not finished goes on, even one that was begun with `force`.
    """
    return _Training(stages).make()


class _Training:
    """What is trained on, and who takes part."""

    def __init__(self, stages: Stages) -> None:
        from trainer.workers import this_worker

        self._stages, self._config = stages, stages.config
        self._worker, self._examples = this_worker(), stages.run.require(schema.EXAMPLES)
        self._in_turns = self._config.model.agreement != "none"
        self._graph = self._graph_of_examples()
        self._upstream = [self._examples, *([self._graph] if self._graph else [])]

    def make(self) -> Version | None:
        """The model; None in a worker that is not the chief."""
        if not self._worker.is_chief:
            self._follow()
            return None
        stages = self._stages
        before = stages.run.current(schema.MODEL) if not stages.force else None
        version = stages.make(
            schema.MODEL,
            None,
            settings=self._settings(),
            upstream=self._upstream,
            build=self._build,
            unfinished=self._is_unfinished(),
        )
        if before is None or version.name != before.name:
            storage.remove_tree(self._checkpoints)
        return version

    def _build(self, new: NewVersion) -> dict[str, Any]:
        needs.check_training(self._config, self._examples)
        with self._stages.terminal.training("Training") as shown:
            return self._fit(new, shown)

    def _settings(self) -> dict[str, Any]:
        """What a model depends on."""
        sections = ["model", "training", *(["agreement"] if self._in_turns else [])]
        return self._stages.sections(*sections)

    def _graph_of_examples(self) -> Version | None:
        """The graph that they were made of, where agreement asks for it and it is there."""
        name = self._examples.manifest.get("upstream", {}).get(schema.GRAPH)
        if not self._in_turns or name is None:
            return None
        return self._stages.run.version(schema.GRAPH, name)

    @property
    def _checkpoints(self) -> str:
        """The folder of an unfinished training."""
        return storage.join(self._stages.run.path, schema.MODEL, schema.CHECKPOINTS_FOLDER)

    def _is_unfinished(self) -> bool:
        """Whether this very training was begun and has left a checkpoint."""
        if not storage.exists(self._checkpoints):
            return False
        from trainer.checkpoints import is_unfinished, mark, mark_within

        config = self._config
        whole = mark(
            examples=self._examples,
            model=config.model,
            training=config.training,
            seed=config.seed,
            agreement=config.agreement if self._in_turns else None,
            graph=self._graph,
        )
        # Within the first iteration of co-training none has ended.
        marks = [whole, *([mark_within(whole, 0)] if self._in_turns else [])]
        return any(is_unfinished(self._checkpoints, one) for one in marks)

    def _follow(self) -> None:
        """Trains with the chief, who writes and shows it."""
        stages, worker = self._stages, self._worker
        current = None if stages.force else stages.run.current(schema.MODEL)
        mark = stages.mark(schema.MODEL, self._settings(), upstream=self._upstream)
        same = current is not None and current.manifest.get("fingerprint") == mark
        if same and not self._is_unfinished():
            return
        stages.terminal.say(
            f"worker {worker.index} of {len(worker.addresses)}: trains with the chief at "
            f"{escape(worker.addresses[0])}"
        )
        self._fit()

    def _fit(
        self, new: NewVersion | None = None, shown: EpochLines | None = None
    ) -> dict[str, Any]:
        """Trains; a signal ends it after a step. new: None in a worker that follows the chief."""
        from cli.interruption import Deferred, Ended
        from trainer.fit import train
        from trainer.progress import Interrupted, Listener

        config = self._config
        try:
            with Deferred() as deferred:
                listener = Listener(is_asked_to_stop=deferred.is_asked)
                if shown is not None:
                    listener = replace(
                        listener,
                        on_epoch=shown.on_epoch,
                        on_step=shown.on_step,
                        on_note=shown.note,
                        on_iteration=shown.on_iteration,
                    )
                manifest = train(
                    examples=self._examples,
                    model=config.model,
                    training=config.training,
                    agreement=config.agreement,
                    graph=self._graph,
                    seed=config.seed,
                    out=new,
                    checkpoints=self._checkpoints,
                    restart=self._stages.force,
                    image_size=_changed(config.images, "image_size"),
                    worker=self._worker,
                    listener=listener,
                )
        except Interrupted as stopped:
            raise Ended(deferred.number or signal.SIGTERM, _where_it_stopped(stopped)) from None
        if deferred.number is not None:  # while the model was written
            raise Ended(deferred.number, f"after the last step; {_GO_ON}")
        return manifest or {}


def _changed(settings: Section, name: str) -> Any:
    """A setting that is not its default; None where it is."""
    value = getattr(settings, name)
    return None if value == type(settings).model_fields[name].default else value


def _where_it_stopped(stopped: Interrupted) -> str:
    where = f"at step {stopped.step:,} of {stopped.steps:,}"
    if stopped.iteration is not None:
        where += f" of iteration {stopped.iteration}"
    if not stopped.kept:
        return f"{where}; no checkpoint could be written"
    return f"{where}; {_GO_ON}"
