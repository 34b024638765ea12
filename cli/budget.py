"""A limit of memory and disk that a plan must fit into: `--budget memory=8GB,disk=100GB`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import cast

from cli.figures import say_bytes
from pipeline.config import read_bytes
from pipeline.errors import ConfigError

_NAMES = ("memory", "disk")


@dataclass(frozen=True)
class Budget:
    """Bytes that there are; None = no limit. memory: of the process, or of each worker."""

    memory: int | None = None
    disk: int | None = None

    @classmethod
    def parse(cls, text: str) -> Budget:
        """A budget as it stands on the command line; ConfigError where it makes no sense."""
        found: dict[str, int] = {}
        for part in text.split(","):
            name, equals, value = (piece.strip() for piece in part.partition("="))
            if not equals or name not in _NAMES or name in found:
                raise ConfigError(
                    f"--budget {text}: wanted memory=BYTES, disk=BYTES, or both with a comma "
                    f"between; found {part!r}"
                )
            try:
                found[name] = cast("int", read_bytes(value))
            except ValueError as error:
                raise ConfigError(f"--budget {text}: {name}: {error}") from None
        return cls(**found)


@dataclass(frozen=True)
class Need:
    """Bytes that a stage takes. working: on disk while it runs; written: on disk from then on."""

    stage: str
    memory: int = 0
    working: int = 0
    written: int = 0


def beyond(needs: Iterable[Need], budget: Budget) -> Iterator[str]:
    """What does not fit, a line each. What a stage writes stays while the later ones run."""
    kept = 0
    for need in needs:
        if budget.memory is not None and need.memory > budget.memory:
            yield (
                f"{need.stage} takes about {say_bytes(need.memory)} of memory, more than "
                f"{say_bytes(budget.memory)}"
            )
        disk = kept + need.working + need.written
        if budget.disk is not None and disk > budget.disk:
            yield (
                f"{need.stage} takes about {say_bytes(disk)} of disk, with what the stages before "
                f"it have written, more than {say_bytes(budget.disk)}"
            )
        kept += need.written
