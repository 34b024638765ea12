"""The run in a sentence or two: what was measured, against what, and whether it is better.

It claims no more than the intervals do. One method is called better where its 95 % interval lies
above the other's; where they overlap, the sentence says that this run does not tell.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from cli.report import figures
from cli.report.runs import Run
from pipeline import schema
from trainer.evaluation.names import IMAGE_TO_IMAGE, RANDOM, TEXT_TO_IMAGE, TRAINED

Kind = Literal["better", "even", "worse", "unknown"]
WORDS: Mapping[Kind, str] = {
    "better": "better than every baseline",
    "even": "not shown to be better than every baseline",
    "worse": "not better than a baseline",
    "unknown": "not measured",
}
_ABOUT = {IMAGE_TO_IMAGE: "Search by image", TEXT_TO_IMAGE: "Search by text"}
_WANTED = {
    IMAGE_TO_IMAGE: "the images that people looked at together with a given one",
    TEXT_TO_IMAGE: "the images that people opened for a query",
}
_PERCENT = "\u00a0%"  # the space does not break
_Figure = Mapping[str, float]


@dataclass(frozen=True)
class Verdict:
    """kind: of the whole. findings: (what it is about, or "", the sentences)."""

    kind: Kind
    findings: list[tuple[str, str]]

    @property
    def word(self) -> str:
        return WORDS[self.kind]

    def sentences(self) -> list[str]:
        """The findings as a terminal shows them."""
        return [f"{about}: {said}" if about else said for about, said in self.findings]


def of_run(run: Run, metrics: Mapping[str, Any] | None) -> Verdict:
    """The verdict. metrics: the content of metrics.json, None where nothing was evaluated."""
    if metrics is None:
        return Verdict("unknown", [("", _missing(run))])
    judged = [
        (kind, _ABOUT[task], said)
        for task in _ABOUT
        for kind, said in _of_task(task, metrics.get(task))
    ]
    findings = [(about, said) for _, about, said in judged]
    if not findings:
        findings = [("", _nothing_held_out(metrics))]
    if run.is_stale(schema.EVALUATION):
        command = schema.STAGE_COMMANDS[schema.EVALUATION]
        findings.append(("", f"The figures are of an earlier version of the run; next: {command}"))
    kinds = {kind for kind, _, _ in judged}
    order: tuple[Kind, ...] = ("worse", "even", "better")  # the whole is as its worst part
    return Verdict(next((kind for kind in order if kind in kinds), "unknown"), findings)


def _missing(run: Run) -> str:
    order = (schema.EXAMPLES, schema.MODEL, schema.EMBEDDINGS, schema.EVALUATION)
    there = [stage for stage in (schema.GRAPH, *order) if run.get(stage)]
    first = next(stage for stage in order if not run.get(stage))
    return (
        f"Nothing has been measured yet. This run has {_listed(there)}, but no {first}; "
        f"next: {schema.STAGE_COMMANDS[first]}"
    )


def _nothing_held_out(metrics: Mapping[str, Any]) -> str:
    held_out = metrics.get("held_out", {}).get("sessions", 0)
    if held_out:
        return (
            f"Nothing was measured: none of {held_out:,} held-out sessions asks for an image that "
            "has an embedding."
        )
    return (
        "Nothing was measured: no session was held out. With holdout.fraction above 0, "
        f"{schema.STAGE_COMMANDS[schema.GRAPH]} keeps some."
    )


def _of_task(task: str, part: Any) -> list[tuple[Kind, str]]:
    """[(kind, sentences)] of a task; empty where it has no query or the model takes no part."""
    methods = part.get(figures.METHODS, {}) if isinstance(part, Mapping) else {}
    measure = figures.headline({TRAINED: methods.get(TRAINED, {})})
    if measure is None:
        return []
    ours = methods[TRAINED][measure]
    others = {
        name: of[measure] for name, of in methods.items() if name != TRAINED and measure in of
    }
    first = (
        f"On {part.get('sessions', 0):,} held-out sessions the trained embedding "
        f"{_reaches(task, measure, ours)}"
    )
    if not others:
        return [("unknown", f"{first}; there is no baseline to compare it with.")]
    # Chance comes last of those that are as good.
    best = max(others, key=lambda name: (others[name]["value"], name != RANDOM))
    kind, judgement = _compare(ours, others, best)
    against = f"{_number(measure, others[best])} by {best}, the best baseline"
    return [(kind, f"{first}, against {against}: {judgement}.")]


def _reaches(task: str, measure: str, figure: _Figure) -> str:
    name, _, k = measure.partition("@")
    if name == "recall" and k.isdigit():
        return f"finds {_number(measure, figure)} of {_WANTED[task]} within the first {int(k):,}"
    return f"reaches a {measure} of {_number(measure, figure)} for {_WANTED[task]}"


def _number(measure: str, figure: _Figure) -> str:
    """The figure, and the ends of its interval if it has one: "58.6 % (57.0 to 60.1)"."""
    share = measure.startswith("recall")
    value, *ends = (
        f"{100 * figure[end]:.1f}" if share else f"{figure[end]:.3f}"
        for end in ("value", "low", "high")
        if end in figure
    )
    unit = _PERCENT if share else ""
    return f"{value}{unit} ({ends[0]} to {ends[1]})" if len(ends) == 2 else f"{value}{unit}"


def _compare(ours: _Figure, others: Mapping[str, _Figure], best: str) -> tuple[Kind, str]:
    """How our figure stands to all others. best: the best of them."""
    if "low" not in ours or any("low" not in other for other in others.values()):
        doubt = "no intervals were drawn (evaluation.bootstrap is 0), so this may be chance"
        if others[best]["value"] >= ours["value"]:
            return "worse", f"not better than {best}; {doubt}"
        return "even", f"ahead of every baseline, but {doubt}"
    above = [name for name, other in others.items() if other["low"] > ours["high"]]
    level = [
        name for name, other in others.items() if other["high"] >= ours["low"] and name not in above
    ]
    below = len(others) - len(above) - len(level)
    rest = f"; better than the other {below:,} baselines" if below > 1 else ""
    rest = "; better than the other baseline" if below == 1 else rest
    told = f"the intervals overlap, so this run does not tell it apart from {_listed(level)}"
    if level == [best]:
        told = "the intervals overlap, so this run does not tell which of the two is better"
    if above:
        return "worse", f"worse than {_listed(above)}{f'; {told}' if level else ''}{rest}"
    if level:
        return "even", f"{told}{rest}"
    return "better", "better than every baseline"


def _listed(names: list[str]) -> str:
    """["a", "b", "c"] -> "a, b and c"."""
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)
