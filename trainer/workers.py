"""Which of several workers this process is, by the environment variable TF_CONFIG.

Needs no TensorFlow, so that a command knows whether it is the chief before it loads any.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pipeline.errors import ConfigError

VARIABLE = "TF_CONFIG"
_WANTED = 'wanted {"cluster": {"worker": ["HOST:PORT", …]}, "task": {"type": "worker", "index": 0}}'


@dataclass(frozen=True)
class Worker:
    """One of the processes that train a model together; the first one is the chief.

    The chief alone writes, holds the run directory's lock, measures and shows progress.
    """

    index: int = 0
    addresses: tuple[str, ...] = ("",)

    @property
    def is_chief(self) -> bool:
        return self.index == 0

    @property
    def is_alone(self) -> bool:
        return len(self.addresses) == 1


def this_worker(environment: Mapping[str, str] = os.environ) -> Worker:
    """This process as TF_CONFIG names it; alone without one. ConfigError where it makes no sense.

    A task of type "chief" stands before those of type "worker"; without one, worker 0 is the chief.
    """
    text = environment.get(VARIABLE, "")
    if not text.strip():
        return Worker()
    try:
        content = json.loads(text)
    except ValueError as error:
        raise ConfigError(f"{VARIABLE}: is not JSON ({error}): {text!r}; {_WANTED}") from None
    tasks = _tasks(content)
    if not tasks:
        return Worker()
    task = content.get("task")
    named = (task.get("type"), task.get("index")) if isinstance(task, dict) else (None, None)
    if named not in tasks:
        raise ConfigError(
            f"{VARIABLE}: task {task!r} is none of the cluster's {len(tasks)} tasks; {_WANTED}"
        )
    return Worker(list(tasks).index(named), tuple(tasks.values()))


def _tasks(content: Any) -> dict[tuple[str, int], str]:
    """{(type, index): address} of all tasks, the chief's first."""
    cluster = content.get("cluster", {}) if isinstance(content, dict) else None
    if not isinstance(cluster, dict):
        raise ConfigError(f"{VARIABLE}: found {content!r}; {_WANTED}")
    unknown = cluster.keys() - {"chief", "worker"}
    if unknown:
        raise ConfigError(
            f"{VARIABLE}: cluster.{min(unknown)}: unknown kind of task; wanted worker, and at most "
            "one chief"
        )
    found = {}
    for kind in ("chief", "worker"):
        addresses = cluster.get(kind, [])
        if not isinstance(addresses, list) or not all(map(_is_address, addresses)):
            raise ConfigError(
                f"{VARIABLE}: cluster.{kind}: found {addresses!r}; wanted a list of HOST:PORT"
            )
        found.update({(kind, index): address for index, address in enumerate(addresses)})
    if len(set(found.values())) < len(found):
        raise ConfigError(f"{VARIABLE}: cluster: an address stands twice; each worker has its own")
    return found


def _is_address(value: Any) -> bool:
    return isinstance(value, str) and value.rpartition(":")[2].isdigit() and value[0] != ":"
