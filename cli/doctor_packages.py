"""Python and the packages that imgembed stands on: whether their versions fit together."""

from __future__ import annotations

import platform
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, metadata, requires, version

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from cli.findings import FAILED, OK, Finding

_OURS = "imgembed"
_NAMED = ("apache-beam", "tensorflow", "pyarrow", "numpy")  # whose versions are shown
_INSTALL = "install them as they are tested: pip install -c requirements.lock imgembed"


def findings() -> Iterator[Finding]:
    """Python, and every package that imgembed needs, or that one of these needs."""
    yield _python()
    yield _packages()


def _python() -> Finding:
    wanted = SpecifierSet(metadata(_OURS)["Requires-Python"] or "")
    found = platform.python_version()
    if wanted.contains(found, prereleases=True):
        return Finding("python", OK, f"{found} on {platform.system()} {platform.machine()}")
    advice = f"make an environment with a Python that is {wanted}"
    return Finding("python", FAILED, found, advice)


def _packages() -> Finding:
    wrong = list(conflicts(_OURS))
    if wrong:
        return Finding("packages", FAILED, "; ".join(wrong), _INSTALL)
    shown = ", ".join(f"{name} {version(name)}" for name in _NAMED)
    return Finding("packages", OK, f"{shown}; all that these need is there, in versions that fit")


def conflicts(name: str) -> Iterator[str]:
    """What a distribution, or one that it needs, wants and does not find: a line each."""
    waiting: list[tuple[str, frozenset[str]]] = [(name, frozenset())]
    seen = set(waiting)
    while waiting:
        needing, extras = waiting.pop()
        for text in requires(needing) or []:
            requirement = Requirement(text)
            if not _applies(requirement, extras):
                continue
            try:
                found = version(requirement.name)
            except PackageNotFoundError:
                yield f"{needing} needs {_said(requirement)}, which is missing"
                continue
            if not requirement.specifier.contains(found, prereleases=True):
                yield f"{needing} needs {_said(requirement)}, there is {found}"
            needed = (requirement.name, frozenset(requirement.extras))
            if needed not in seen:
                seen.add(needed)
                waiting.append(needed)


def _applies(requirement: Requirement, extras: frozenset[str]) -> bool:
    """Whether a requirement counts here, with the extras that its package was asked for with."""
    if requirement.marker is None:
        return True
    return any(requirement.marker.evaluate({"extra": extra}) for extra in ("", *extras))


def _said(requirement: Requirement) -> str:
    return f"{requirement.name} {requirement.specifier}".strip()
