"""Whether sessions that one graph holds out may have trained a model of another graph.

A session is held out by a hash of what names it and the seed, or because it is among the latest.
So graphs of one seed hold out the same sessions, a larger fraction all of those of a smaller one,
while another seed draws others: what it holds out, the first graph has learned from. Told by
manifests alone, as no id of a session outlives the reader.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pipeline import schema
from pipeline.artifacts import RunDir, Version
from pipeline.errors import ImgembedError


def graph_of_training(run: RunDir, model: Version) -> Version | None:
    """The graph that the examples of a model were made of; None where it is not there any more."""
    examples = _upstream(run, model, schema.EXAMPLES)
    return None if examples is None else _upstream(run, examples, schema.GRAPH)


def _upstream(run: RunDir, version: Version, stage: str) -> Version | None:
    name = version.manifest.get("upstream", {}).get(stage)
    return None if name is None else run.version(stage, name)


def other_draw(one: Version, other: Version) -> str | None:
    """How the draws of two graphs differ so that neither's held-out sessions are the other's.

    None where they do not, whatever their fractions are.
    """
    first, second = _config(one), _config(other)
    for key in ("seed", "holdout.by", "sessions.gap_minutes"):
        values = _value(first, key), _value(second, key)
        if values[0] != values[1]:
            return (
                f"{key} was {_shown(values[0])} for the one and {_shown(values[1])} for the other"
            )
    return None


def _shown(value: Any) -> str:
    return "not set (a ready edge list)" if value is None else repr(value)


def _config(graph: Version) -> Mapping[str, Any]:
    found: Mapping[str, Any] = graph.manifest.get("config", {})
    return found


def _value(config: Mapping[str, Any], key: str) -> Any:
    """The value of a setting such as holdout.by; None where the manifest has none."""
    value: Any = config
    for name in key.split("."):
        value = value.get(name) if isinstance(value, Mapping) else None
    return value


def check_trained_on(graph: Version, trained_on: Version | None) -> None:
    """ImgembedError where a model of the graph `trained_on` knows sessions that `graph` holds out.

    None, or the same version: there is nothing to check.
    """
    if trained_on is None or trained_on.name == graph.name:
        return
    if not _value(_config(graph), "holdout.fraction"):
        return  # nothing is held out, and of a ready edge list nothing can be
    why = other_draw(graph, trained_on)
    fractions = [_value(_config(of), "holdout.fraction") for of in (graph, trained_on)]
    if why is None and None not in fractions and fractions[0] > fractions[1]:
        why = f"holdout.fraction is {fractions[0]!r} for the one and was {fractions[1]!r} then"
    if why is not None:
        raise ImgembedError(
            f"{graph.path}: holds out sessions that the model was trained on, by graph "
            f"{trained_on.name} ({why}); train anew on it with: "
            f"{schema.STAGE_COMMANDS[schema.EXAMPLES]}, then {schema.STAGE_COMMANDS[schema.MODEL]}"
        )
