"""`imgembed doctor`: whether this machine, and the runner that is chosen, can do the work."""

from __future__ import annotations

import functools
import json
import tempfile
import time
from collections.abc import Iterator, Sequence

from cli import doctor_machine, doctor_packages, terminal
from cli.findings import FAILED, MARKS, OK, WARNING, Finding
from cli.printing import echo
from cli.settings import Config
from pipeline.errors import ImgembedError

_SLOW = 30.0  # s, from which on a tiny job of the embedded runner is slow


def examine(config: Config, *, submit: bool, as_json: bool) -> int:
    """Prints what was found, with what is to do; 1 where something fails, else 0.

    submit: also run the tiny job where that costs something, on Dataflow.
    """
    found = []
    for finding in findings(config, submit=submit):
        found.append(finding)
        if not as_json:
            echo(_line(finding))
    failed = [finding for finding in found if finding.state == FAILED]
    if as_json:
        content = {"ok": not failed, "findings": [finding.to_json() for finding in found]}
        echo(json.dumps(content, indent=2, ensure_ascii=False))
    else:
        echo(_end(found, failed))
    return 1 if failed else 0


def findings(config: Config, *, submit: bool) -> Iterator[Finding]:
    """Everything that is looked at, the quick things first."""
    yield from doctor_packages.findings()
    yield from doctor_machine.findings(config)
    yield _trial(config, submit)


def _line(finding: Finding) -> str:
    text = f"{MARKS[finding.state]} {finding.name:<14}{finding.found}"
    return f"{text}\n{'':<16}→ {finding.advice}" if finding.advice else text


def _end(found: Sequence[Finding], failed: Sequence[Finding]) -> str:
    warnings = sum(finding.state == WARNING for finding in found)
    if failed:
        return f"\n{len(failed)} of {len(found)} checks failed: {', '.join(f.name for f in failed)}"
    said = f", with {warnings} warnings" if warnings else ""
    return f"\nready{said}"


def _trial(config: Config, submit: bool) -> Finding:
    """A tiny job on the runner that is chosen."""
    from pipeline.rehearsal import rehearse
    from pipeline.runner import make_pipeline

    name, make = config.runner.name, functools.partial(make_pipeline, config.runner)
    try:
        temporary = tempfile.TemporaryDirectory(prefix="imgembed-")
    except OSError as error:
        advice = "set the environment variable TMPDIR to a folder that may be written to"
        return Finding("trial", FAILED, f"no tiny job on {name}: {error.strerror}", advice)
    with temporary as folder:
        began = time.monotonic()
        try:
            with terminal.opened("doctor", folder, quiet=True):
                if name == "dataflow" and not submit:
                    make()
                    return Finding(
                        "trial",
                        WARNING,
                        "Beam takes the options for dataflow; no job was submitted",
                        "give --submit for a tiny one: some minutes of a worker",
                    )
                rehearse(make)
        except ImgembedError as error:
            said = " ".join(str(error).split("(details:")[0].split())
            advice = f"see that --runner {name} and Beam's options after `--` are right"
            return Finding("trial", FAILED, f"a tiny job on {name}: {said}", advice)
        seconds = time.monotonic() - began
    slow = name == "direct" and seconds > _SLOW
    advice = "the machine is busy, or its cores are slow; stages will take their time"
    return Finding(
        "trial",
        WARNING if slow else OK,
        f"a tiny job on {name} took {seconds:.1f} s, and counted every row",
        advice if slow else "",
    )
