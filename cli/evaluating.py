"""What an evaluation is given besides the run, and the comparison of two runs."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import pyarrow as pa

from cli import summaries, terminal
from cli.printing import echo
from cli.settings import Config
from pipeline.judgments import read_judgments
from trainer.evaluation.config import EvaluationConfig


def judgments_of(config: EvaluationConfig) -> pa.Table | None:
    """The judgments that the configuration names; None where it names none."""
    if config.judgments is None:
        return None
    return read_judgments(
        config.judgments, format=config.judgments_format, columns=config.judgments_columns
    )


def compare_runs(config: Config, first: str, second: str, *, quiet: bool, as_json: bool) -> None:
    """Prints which of two run directories is better; writes nothing but a log into the second."""
    from trainer.evaluation.compare import Side, compare
    from trainer.evaluation.verdicts import verdicts

    # Before a log is written into what is no run.
    sides = [Side.open(path) for path in (first, second)]
    judgments = judgments_of(config.evaluation)
    with terminal.opened("compare", second, quiet=quiet) as shown, shown.step("Comparing"):
        result = compare(*sides, config=config.evaluation, seed=config.seed, judgments=judgments)
    result = {**result, "verdicts": verdicts(result)}
    echo(json.dumps(result, indent=2, ensure_ascii=False) if as_json else _text(result))


def _text(result: Mapping[str, Any]) -> str:
    from trainer.evaluation.verdicts import comparison_tables

    sessions = result["sessions"]
    lines = [
        *(f"{name.upper()}: {_side(result[name])}" for name in ("a", "b")),
        f"on {result['images']['common']:,} common images and {sessions['evaluated']:,} of "
        f"{sessions['common']:,} common held-out sessions (A holds out "
        f"{sessions['held_out_by_a']:,}, B {sessions['held_out_by_b']:,})",
        "",
        *result["verdicts"],
        *(
            f"{part}: not compared, {found['not_compared']}"
            for part, found in result.items()
            if isinstance(found, dict) and "not_compared" in found
        ),
    ]
    tables = summaries.shown_tables(comparison_tables(result))
    return "\n".join([*lines, "", tables, "", "± is the 95 % interval of the difference"])


def _side(side: Mapping[str, Any]) -> str:
    return f"{side['run']}, model {side['model_version']}, {side['images']:,} images"
