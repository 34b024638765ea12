"""What `imgembed doctor` finds: one thing looked at, how it is, and what to do about it."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

OK, WARNING, FAILED = "ok", "warning", "failed"
MARKS = {OK: "✓", WARNING: "!", FAILED: "✗"}


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at. advice: what to do; empty where nothing is to be done."""

    name: str
    state: str
    found: str
    advice: str = ""

    def to_json(self) -> dict[str, Any]:
        return asdict(self)
