"""`imgembed runs`: the versions of a run directory: listed, shown, put in force again, removed."""

from __future__ import annotations

import io
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table

from cli import summaries
from cli.figures import say_bytes, say_duration
from cli.printing import echo
from cli.settings import Config
from pipeline import locking, schema, storage
from pipeline.artifacts import KEEPS, RunDir, Version
from pipeline.errors import ConfigError, ImgembedError

_WIDTH = 1_000  # of a table: a line is as long as it is, and nothing of it is cut off
_ROWS: Mapping[str, Sequence[str]] = {  # where a manifest says how many rows its stage has
    schema.GRAPH: ("counts", "edges", "kept"),
    schema.EXAMPLES: ("counts", "rows", "kept"),
    schema.EMBEDDINGS: ("counts", "images"),
    schema.AGREEMENT: ("edges", "judged"),
}


@dataclass(frozen=True)
class Listed:
    """A whole version. in_force: CURRENT names it. outdated: what it was made of is not."""

    version: Version
    in_force: bool
    outdated: bool
    size: int  # bytes of its files

    def to_json(self) -> dict[str, Any]:
        manifest = self.version.manifest
        return {
            "stage": self.version.stage,
            "version": self.version.name,
            "in_force": self.in_force,
            "outdated": self.outdated,
            "made": manifest.get("made"),
            "rows": rows_of(self.version),
            "bytes": self.size,
            "upstream": manifest.get("upstream", {}),
            "path": self.version.path,
        }


def rows_of(version: Version) -> int | None:
    """How many rows a version has: edges, examples, images; None where it has none, or tells none.

    A stage that is not known here says it as `rows` of its manifest.
    """
    found: Any = version.manifest
    for key in _ROWS.get(version.stage, ("rows",)):
        found = found.get(key) if isinstance(found, Mapping) else None
    return found if isinstance(found, int) else None


def list_versions(run: RunDir) -> list[Listed]:
    """All whole versions, by stage and by age."""
    names = in_force(run)
    outdated = outdated_stages(run)
    return [
        Listed(
            version,
            names.get(stage) == version.name,
            stage in outdated
            if names.get(stage) == version.name
            else any(names.get(s) != v for s, v in made_of(version).items()),
            sum(info.size for info in storage.list_files(version.path)),
        )
        for stage in schema.STAGE_COMMANDS
        for version in run.whole(stage)
    ]


def in_force(run: RunDir) -> dict[str, str]:
    """{stage: the version that CURRENT names, where it is whole}."""
    found = ((stage, run.current_name(stage)) for stage in schema.STAGE_COMMANDS)
    return {
        stage: name
        for stage, name in found
        if name is not None and run.version(stage, name) is not None
    }


def made_of(version: Version) -> dict[str, str]:
    """{stage: version} that a version was made of, other stages' only."""
    upstream = version.manifest.get("upstream", {})
    return {stage: name for stage, name in upstream.items() if stage != version.stage}


def outdated_stages(run: RunDir) -> dict[str, dict[str, str]]:
    """{stage: {what its version in force was made of, and is no longer in force, or outdated}}."""
    names, found = in_force(run), dict[str, dict[str, str]]()
    for stage in schema.STAGE_COMMANDS:  # each after those that it is made of
        version = run.version(stage, names[stage]) if stage in names else None
        upstream = made_of(version) if version else {}
        differing = {s: v for s, v in upstream.items() if names.get(s) != v or s in found}
        if differing:
            found[stage] = differing
    return found


# Shown --------------------------------------------------------------------------------------------


def print_list(config: Config, *, as_json: bool) -> None:
    """Prints all versions of a run directory."""
    listed = list_versions(_opened(config))
    if as_json:
        _print_json([each.to_json() for each in listed])
    elif not listed:
        echo(f"{config.run_dir}: no stage has been made yet")
    else:
        echo(_table(listed))


def _table(listed: Sequence[Listed]) -> str:
    shown = Table(box=SIMPLE)
    for name in ("stage", "version", "", "made", "made of"):
        shown.add_column(name, no_wrap=True)
    for name in ("took", "rows", "size"):
        shown.add_column(name, justify="right", no_wrap=True)
    for each in listed:
        version, rows = each.version, rows_of(each.version)
        made = version.manifest.get("made", {})
        shown.add_row(
            version.stage,
            version.name,
            "in force" if each.in_force else "",
            made.get("began", "")[:16].replace("T", " "),
            " ".join(f"{s} {v}" for s, v in made_of(version).items())
            + ("  (!)" if each.in_force and each.outdated else ""),
            say_duration(made["seconds"]) if made else "",
            "" if rows is None else f"{rows:,}",
            say_bytes(each.size),
        )
    lines = _lines(shown)
    if any(each.in_force and each.outdated for each in listed):
        lines.append(
            "  (!) made of a version that is no longer in force; imgembed run brings it in line"
        )
    return "\n".join(lines)


def _lines(table: Table) -> list[str]:
    console = Console(width=_WIDTH, file=io.StringIO())
    with console.capture() as capture:
        console.print(table)
    return [line.rstrip() for line in capture.get().splitlines() if line.strip()]


def print_version(config: Config, stage: str, name: str | None, *, as_json: bool) -> None:
    """Prints what is known of one version, of the one in force if none is named."""
    run = _opened(config)
    version = run.require(stage) if name is None else _named(run, stage, name)
    here = in_force(run).get(stage) == version.name
    if as_json:
        _print_json({**version.manifest, "in_force": here, "path": version.path})
        return
    echo(_summary(version))
    for line in _details(version, here):
        echo(f"  {line}")


def _summary(version: Version) -> str:
    try:
        return summaries.summarize(version)
    except (KeyError, TypeError):  # another release's manifest, which says less
        return f"{version.stage} {version.name}:\n  {version.path}"


def _details(version: Version, here: bool) -> Iterator[str]:
    yield "in force" if here else f"not in force; {_rollback(version)} puts it there"
    made = version.manifest.get("made")
    if made:
        memory = made["peak_memory_bytes"]
        held = f", at most {say_bytes(memory)} of memory" if memory else ""
        yield f"made {made['began']} in {say_duration(made['seconds'])}{held}"
    upstream = version.manifest.get("upstream", {})
    if upstream:
        yield "made of " + ", ".join(f"{stage} {name}" for stage, name in upstream.items())
    changed = list(changed_settings(version.manifest.get("config", {})))
    yield f"settings: {', '.join(changed) or 'the defaults'}"
    packages = version.manifest.get("packages", {})
    yield "packages: " + ", ".join(f"{name} {number}" for name, number in packages.items())


def changed_settings(sections: Mapping[str, Any]) -> Iterator[str]:
    """The settings of a manifest that are not the default, as `graph.top_k = 5`."""
    yield from _changed(sections, Config().model_dump(), "")


def _changed(found: Mapping[str, Any], defaults: Any, prefix: str) -> Iterator[str]:
    for key, value in found.items():
        default = defaults.get(key) if isinstance(defaults, Mapping) else None
        if isinstance(value, Mapping) and isinstance(default, Mapping) and default:
            yield from _changed(value, default, f"{prefix}{key}.")
        elif value != default:
            yield f"{prefix}{key} = {json.dumps(value, ensure_ascii=False)}"


# In force again -----------------------------------------------------------------------------------


def roll_back(config: Config, stage: str, name: str | None, *, as_json: bool) -> None:
    """Puts an older version in force again, and says what follows for the later stages."""
    run = _opened(config)
    with locking.alone_in(run.path):
        former = run.current_name(stage)
        version = _named(run, stage, name) if name else _before(run, stage, former)
        run.put_in_force(version)
    outdated = outdated_stages(run)
    if as_json:
        _print_json(
            {
                "stage": stage,
                "version": version.name,
                "former": former,
                "path": version.path,
                "outdated": outdated,
            }
        )
        return
    was = f"; {former} no longer is" if former not in (None, version.name) else ""
    echo(f"{stage} {version.name} is in force{was}")
    for line in _consequences(version, outdated):
        echo(f"  {line}")


def _before(run: RunDir, stage: str, current: str | None) -> Version:
    """The last whole version before the one in force."""
    whole = run.whole(stage)
    names = [version.name for version in whole]
    older = whole[: names.index(current)] if current in names else whole
    if not older:
        raise ImgembedError(
            f"run directory {run.path!r}: {stage} has no older version{_say(names)}"
        )
    return older[-1]


def _named(run: RunDir, stage: str, name: str) -> Version:
    version = run.version(stage, name)
    if version is None:
        names = [version.name for version in run.whole(stage)]
        raise ImgembedError(
            f"run directory {run.path!r}: {stage} has no whole version {name!r}{_say(names)}"
        )
    return version


def _say(names: Sequence[str]) -> str:
    return f"; there is {', '.join(names)}" if names else "; it was never made"


def _consequences(version: Version, outdated: Mapping[str, Mapping[str, str]]) -> Iterator[str]:
    for other, name in outdated.get(version.stage, {}).items():
        yield (
            f"it was made of {other} {name}, which is not in force; to put that in force too: "
            f"imgembed runs rollback {other} {name}"
        )
    later = {stage: upstream for stage, upstream in outdated.items() if stage != version.stage}
    for stage, upstream in later.items():
        yield f"{stage} was made of {' and '.join(f'{s} {v}' for s, v in upstream.items())}"
    if later:
        yield (
            "these are as they were; to bring them in line: imgembed run --from "
            f"{next(iter(later))}, which takes versions that were made of {version.stage} "
            f"{version.name} where they are still there, and makes the others anew"
        )
    yield (
        f"imgembed run from the beginning keeps {version.stage} {version.name} only where inputs, "
        "settings and program are those that it was made with"
    )


def _rollback(version: Version) -> str:
    return f"imgembed runs rollback {version.stage} {version.name}"


# Removed ------------------------------------------------------------------------------------------


def prune(
    config: Config, stages: Sequence[str], keep: int, *, dry_run: bool, as_json: bool
) -> None:
    """Removes all but the last versions of each stage; says what went, or would go."""
    run = _opened(config)
    wanted = stages or list(schema.STAGE_COMMANDS)
    with locking.alone_in(run.path) as alone:
        surplus = [version for stage in wanted for version in surplus_of(run, stage, keep)]
        sizes = [sum(i.size for i in storage.list_files(v.path)) for v in surplus]
        if not dry_run:
            for version in surplus:
                run.remove(version)
            if alone:
                for stage in wanted:
                    run.remove_unfinished(stage)
    if as_json:
        removed = [
            {"stage": v.stage, "version": v.name, "bytes": size, "path": v.path}
            for v, size in zip(surplus, sizes, strict=True)
        ]
        _print_json({"dry_run": dry_run, "removed": removed, "bytes": sum(sizes)})
        return
    verb = "would be removed" if dry_run else "removed"
    for version, size in zip(surplus, sizes, strict=True):
        echo(f"{version.stage} {version.name} {verb} ({say_bytes(size)})")
    echo(f"{len(surplus)} versions {verb}, {say_bytes(sum(sizes))}")


def surplus_of(run: RunDir, stage: str, keep: int) -> list[Version]:
    """The whole versions of a stage that nobody needs, the oldest first.

    Needed are `keep` versions, the one in force and the last ones; besides what that one's manifest
    keeps, and what the versions in force of other stages were made of.
    """
    whole, current = run.whole(stage), in_force(run).get(stage)
    others = [version.name for version in whole if version.name != current]
    wanted = keep if current is None else keep - 1
    needed = set(others[max(0, len(others) - wanted) :])
    for version in _in_force(run):
        if version.stage == stage:
            needed.update((version.name, *version.manifest.get(KEEPS, [])))
        needed.add(made_of(version).get(stage, ""))
    return [version for version in whole if version.name not in needed]


def _in_force(run: RunDir) -> Iterable[Version]:
    for stage, name in in_force(run).items():
        version = run.version(stage, name)
        if version is not None:
            yield version


def _opened(config: Config) -> RunDir:
    """The run directory; ImgembedError where there is none."""
    if not storage.entries(config.run_dir):
        raise ImgembedError(f"run directory {config.run_dir!r}: there is nothing in it")
    return RunDir.open(config.run_dir, config.keep_versions)


def stage_name(name: str) -> str:
    """A stage by its name; ConfigError where there is none of that name."""
    if name not in schema.STAGE_COMMANDS:
        raise ConfigError(f"{name!r} is no stage; there are {', '.join(schema.STAGE_COMMANDS)}")
    return name


def _print_json(content: Any) -> None:
    echo(json.dumps(content, indent=2, ensure_ascii=False))
