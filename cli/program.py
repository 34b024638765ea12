"""Which program makes a stage: a mark of its source files, as far as the stage can reach them.

A version number alone is right for a release only; who works in a clone, or pulls it anew, has
another program under the same number. What counts is the files that a stage's modules import, and
what these import: a change to the command line or to the trainer makes no graph anew, and neither
does a release that leaves it alone.
"""

from __future__ import annotations

import ast
import functools
import hashlib
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

from pipeline import schema

_ROOT = Path(__file__).parent.parent
_PACKAGES = ("pipeline", "trainer", "cli")
# Where the work of a stage begins. One that is not named here depends on the whole program.
_ENTRIES = {
    schema.GRAPH: ("pipeline.graph.job", "pipeline.graph.edge_list"),
    schema.EXAMPLES: ("pipeline.examples.job",),
    schema.MODEL: ("trainer.fit",),
    schema.EMBEDDINGS: ("pipeline.embeddings.job",),
    schema.INDEX: ("pipeline.embeddings.index",),
    schema.EVALUATION: ("trainer.evaluation.run", "pipeline.judgments"),
    schema.AGREEMENT: ("trainer.denoise", "cli.doubts"),
    schema.REPORT: ("cli.report.content", "cli.report.page"),
}
# Files beside the modules that a stage is made by.
_TEMPLATES = {schema.REPORT: "cli/report/templates"}


@functools.cache
def code_version(stage: str) -> str:
    """A mark of the program as far as it can matter to a stage."""
    entries = _ENTRIES.get(stage) or tuple(_modules())
    digest = hashlib.sha256()
    for name in sorted(reachable(entries)):
        digest.update(f"{name}\n".encode())
        digest.update(_modules()[name].read_bytes())
    for path in sorted((_ROOT / _TEMPLATES[stage]).iterdir()) if stage in _TEMPLATES else ():
        digest.update(path.read_bytes())
    # Without source files, as from a zip archive, the version number must do.
    return digest.hexdigest()[:32] if _modules() else version("imgembed")


@functools.cache
def _modules() -> dict[str, Path]:
    """{dotted name: file} of all modules of the program; a package goes by its own name."""
    found = {}
    for package in _PACKAGES:
        for path in (_ROOT / package).rglob("*.py"):
            parts = path.relative_to(_ROOT).with_suffix("").parts
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def reachable(entries: tuple[str, ...]) -> set[str]:
    """The modules that some modules import, wherever in their code, and these themselves."""
    found: set[str] = set()
    waiting = list(entries)
    while waiting:
        name = waiting.pop()
        if name not in found:
            found.add(name)
            waiting.extend(_imported(name))
    return found


@functools.cache
def _imported(name: str) -> tuple[str, ...]:
    """The program's own modules that a module imports, and the packages that hold it."""
    tree = ast.parse(_modules()[name].read_bytes())
    around = {name.rpartition(".")[0]} if "." in name else set()
    return tuple(sorted({*_named(tree), *around} & _modules().keys()))


def _named(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
