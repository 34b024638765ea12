"""The YAML file and the command line's flags to one checked configuration."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from typing import Annotated, Any, get_args

import yaml
from pydantic import BaseModel, Field, ValidationError

from cli.report.config import ReportConfig
from pipeline.artifacts import KEPT_VERSIONS
from pipeline.config import (
    EdgesConfig,
    ExamplesConfig,
    ExportConfig,
    GraphConfig,
    HoldoutConfig,
    ImagesConfig,
    IndexConfig,
    PrivacyConfig,
    RunnerConfig,
    Section,
    SessionsConfig,
)
from pipeline.errors import ConfigError
from trainer.config import AgreementConfig, ModelConfig, TrainingConfig
from trainer.evaluation.config import EvaluationConfig

# Pydantic's words and ours.
_WORDS = {
    "Input should be": "wanted",
    "greater than or equal to": "at least",
    "less than or equal to": "at most",
}


_MOST_CHARACTERS = 1_000_000  # of a file's keys and values; `init` writes 2,000
_SHOWN = 200  # characters of a key or a value in an error


class Config(Section):
    """The whole configuration: one section a stage."""

    run_dir: str = Field("imgembed-run", description="where everything is written; may be gs://…")
    seed: int = Field(0, ge=0, lt=2**31, description="of every random choice")
    keep_versions: Annotated[int, Field(ge=1, le=10_000)] = Field(
        KEPT_VERSIONS, description="versions of a stage that stay, the one in force among them"
    )
    sessions: SessionsConfig = Field(default_factory=SessionsConfig)
    holdout: HoldoutConfig = Field(default_factory=HoldoutConfig)
    edges: EdgesConfig = Field(default_factory=EdgesConfig)
    graph: GraphConfig = Field(default_factory=GraphConfig)
    privacy: PrivacyConfig = Field(default_factory=PrivacyConfig)
    images: ImagesConfig = Field(default_factory=ImagesConfig)
    examples: ExamplesConfig = Field(default_factory=ExamplesConfig)
    model: ModelConfig = Field(default_factory=ModelConfig)
    training: TrainingConfig = Field(default_factory=TrainingConfig)
    agreement: AgreementConfig = Field(default_factory=AgreementConfig)
    export: ExportConfig = Field(default_factory=ExportConfig)
    index: IndexConfig = Field(default_factory=IndexConfig)
    evaluation: EvaluationConfig = Field(default_factory=EvaluationConfig)
    report: ReportConfig = Field(default_factory=ReportConfig)
    runner: RunnerConfig = Field(default_factory=RunnerConfig)


class _Loader(yaml.SafeLoader):
    """YAML in which a key that stands twice is an error, not a value lost.

    What an anchor names may be used again, but not so often, or within itself, that a few lines
    stand for more than anybody could write.
    """

    def compose_document(self) -> Any:
        node = super().compose_document()
        _measure(node, {})
        return node

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        seen: set[Any] = set()
        if not isinstance(node, yaml.MappingNode):  # such as `!!set 0`
            raise _fault(node, "a section was announced, and there is none")
        for key_node, _ in node.value:
            if not isinstance(key_node, yaml.ScalarNode):
                raise _fault(key_node, "a list or a section stands where a setting's name should")
            key = self.construct_object(key_node, deep=True)
            if key in seen:
                raise _fault(key_node, f"{key!r} stands twice")
            seen.add(key)
        return super().construct_mapping(node, deep)

    def construct_object(self, node: Any, deep: bool = False) -> Any:
        try:
            return super().construct_object(node, deep)
        except (ValueError, AttributeError, KeyError, OverflowError) as error:
            # Such as a date of a thirteenth month, or `!!int x`: the library looks at its form.
            raise _fault(node, f"{node.value!r:.60} is no value of its kind") from error


def _measure(node: Any, sizes: dict[int, int | None]) -> int:
    """How many characters a node stands for, with what its anchors repeat; _fault for too many."""
    if id(node) in sizes:
        known = sizes[id(node)]
        if known is None:
            raise _fault(node, "an anchor is used within itself")
        return known
    sizes[id(node)] = None
    size = 1
    if isinstance(node, yaml.ScalarNode):
        size += len(node.value)
    else:
        for item in node.value:  # of a section, pairs
            parts = item if isinstance(item, tuple) else (item,)
            size += sum(_measure(part, sizes) for part in parts)
    if size > _MOST_CHARACTERS:
        more = f"more than {_MOST_CHARACTERS:,} characters"
        raise _fault(node, f"{more}, with those that anchors repeat")
    sizes[id(node)] = size
    return size


def _fault(node: Any, problem: str) -> yaml.MarkedYAMLError:
    return yaml.constructor.ConstructorError(None, None, problem, node.start_mark)


def load(
    path: str | None, *, sets: Iterable[str] = (), flags: Mapping[str, Any] | None = None
) -> Config:
    """The configuration of a file (None = all defaults), changed by `--set`s, then by flags.

    sets: "section.key=value", the value in YAML. flags: {"section.key": value}; None = not given.
    """
    content = {} if path is None else _read(path)
    for item in sets:
        key, equals, text = item.partition("=")
        if not equals:
            raise ConfigError(f"--set {_short(item)}: wanted section.key=value")
        _put(content, key.strip(), _parse(text, f"--set {_short(key)}"), origin="--set")
    for key, value in (flags or {}).items():
        if value is not None:
            _put(content, key, value, origin="flags")
    try:
        return Config.model_validate(content)
    except ValidationError as error:
        raise ConfigError(_explain(error, path)) from None


def _read(path: str) -> dict[str, Any]:
    try:
        with open(path, encoding="utf-8") as file:
            content = _parse(file.read(), path)
    except OSError as error:
        raise ConfigError(f"--config {path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise ConfigError(f"--config {path}: is not UTF-8 text") from None
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise ConfigError(f"{path}: wanted sections such as 'graph:', found {content!r:.60}")
    # A section with every key commented out is a section of defaults.
    return {key: {} if value is None else value for key, value in content.items()}


def _parse(text: str, origin: str) -> Any:
    try:
        return yaml.load(text, _Loader)  # noqa: S506 - a SafeLoader
    except RecursionError:
        raise ConfigError(f"{origin}: not YAML: lists or sections within too many others") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f" line {mark.line + 1}" if mark else ""
        problem = " ".join((getattr(error, "problem", None) or str(error)).split())
        raise ConfigError(f"{origin}{where}: not YAML: {problem:.{_SHOWN}}") from None


def _put(content: dict[str, Any], key: str, value: Any, *, origin: str) -> None:
    *sections, last = key.split(".")
    for section in sections:
        content = content.setdefault(section, {})
        if not isinstance(content, dict):
            raise ConfigError(f"{origin}: {_short(key)}: {section!r:.{_SHOWN}} is no section")
    content[last] = value


def _explain(error: ValidationError, path: str | None) -> str:
    """The first fault as `run.yaml: graph.min_wieght: unknown setting; did you mean …?`."""
    fault = error.errors()[0]
    places = [str(place) for place in fault["loc"]]
    one_of = [e for e in error.errors() if e["loc"][:-1] == fault["loc"][:-1]]
    if _is_choice(places[-1]):  # of several types, none of which fits
        places.pop()
    else:
        one_of = [fault]
    key = _short(".".join(places))
    if fault["type"] == "extra_forbidden":
        text = _unknown(places)
    elif fault["type"] in ("model_type", "model_attributes_type", "dict_type"):
        text = f"wanted a section of settings, found {fault['input']!r:.{_SHOWN}}"
    elif fault["type"] == "value_error":
        text = str(fault["ctx"]["error"])
    else:
        wanted = " or ".join(_wanted(part["msg"]) for part in one_of).replace(" or wanted ", " or ")
        text = f"{wanted}, found {fault['input']!r:.{_SHOWN}}"
    others = error.error_count() - len(one_of)
    more = f" (and {others} more)" if others else ""
    return f"{path or 'settings'}: {key}: {text}{more}"


def _short(text: str) -> str:
    """The text on one line, or as much of it as one reads."""
    return " ".join(text.split())[:_SHOWN]


def _is_choice(place: str) -> bool:
    """Whether a place is one of the types that a setting may have, not a setting."""
    return place.startswith(("literal[", "constrained-", "int", "float", "none"))


def _wanted(message: str) -> str:
    for theirs, ours in _WORDS.items():
        message = message.replace(theirs, ours)
    return f"{message[0].lower()}{message[1:]}"


def _unknown(places: list[str]) -> str:
    known = list(section_at(places[:-1]).model_fields)
    close = difflib.get_close_matches(places[-1], known, n=1)
    if close:
        return f"unknown setting; did you mean {close[0]!r}?"
    return f"unknown setting; there are {', '.join(known)}"


def section_at(places: Iterable[str]) -> type[BaseModel]:
    """The class of a section by the way to it: ("examples", "split") -> SplitConfig."""
    section: type[BaseModel] = Config
    for place in places:
        field = section.model_fields.get(place)
        if field is None:
            break
        kinds = (field.annotation, *get_args(field.annotation))
        found = [k for k in kinds if isinstance(k, type) and issubclass(k, BaseModel)]
        if not found:
            break
        section = found[0]
    return section
