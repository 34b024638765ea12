"""Where a job on an engine reads and writes: paths that mean the same in every worker."""

from __future__ import annotations

import os

from cli.settings import Config
from pipeline import storage
from pipeline.errors import ConfigError

# Sections and their keys that are paths of inputs.
_INPUTS = {"sessions": ("path", "previous"), "edges": ("path",), "images": ("path", "root")}


def settled(config: Config) -> Config:
    """The configuration with paths for its runner.

    The workers of an engine run in other folders: relative paths are made absolute for them. Those
    of Dataflow run on other machines, where a path of this one is a ConfigError. Other clusters may
    share a folder with this machine.
    """
    runner = config.runner.name
    if runner == "direct":
        return config
    changes: dict[str, object] = {"run_dir": _settled("run_dir", config.run_dir, runner)}
    for section, keys in _INPUTS.items():
        values = getattr(config, section)
        paths = {key: getattr(values, key) for key in keys if getattr(values, key)}
        found = {key: _settled(f"{section}.{key}", path, runner) for key, path in paths.items()}
        changes[section] = values.model_copy(update=found)
    return config.model_copy(update=changes)


def _settled(key: str, path: str, runner: str) -> str:
    if not storage.is_local(path):
        return path
    if runner == "dataflow":
        raise ConfigError(
            f"{key}: {path!r} is a path of this machine, which Dataflow's workers do not see; "
            "wanted one in a bucket, such as gs://bucket/…"
        )
    whole = os.path.abspath(path)
    return whole + os.sep if path.endswith(os.sep) else whole
