"""`imgembed demo`: a synthetic world, every stage on it, and results to look at."""

from __future__ import annotations

import os
from collections.abc import Sequence

import pyarrow.parquet as pq
from rich.console import Console
from rich.markup import escape

from cli import summaries, terminal
from cli.contact_sheet import Answer, Row, write_contact_sheet
from cli.indexing import make_index
from cli.printing import echo
from cli.report.stage import make_report
from cli.sampling import draw_world, world_paths
from cli.searching import search_run
from cli.settings import Config, load
from cli.stages import Stages
from cli.training import make_model
from pipeline import schema
from pipeline.artifacts import Version
from pipeline.world.config import WorldConfig
from pipeline.world.generate import IMAGES_TRUTH

CONTACT_SHEET = "results.png"
_TEXT_ROWS, _IMAGE_ROWS, _ANSWERS = 4, 2, 8


def run_demo(
    out: str, *, images: int, sessions: int, seed: int, sets: Sequence[str], quiet: bool
) -> None:
    """Runs all stages in `out`; prints the tables, the paths, and commands to go on with."""
    data, run_dir = os.path.join(out, "data"), os.path.join(out, "run")
    console = Console(stderr=True, quiet=quiet)
    draw_world(data, WorldConfig(images=images, sessions=sessions, seed=seed), console)
    drawn = f"{images:,} pictures and {sessions:,} sessions drawn into {escape(data)}"
    console.print(f"[green]✓[/] {drawn}", highlight=False, soft_wrap=True)
    catalog, logs = world_paths(data)
    flags = {"run_dir": run_dir, "seed": seed, "sessions.path": logs, "images.path": catalog}
    config = load(None, sets=sets, flags=flags)
    with terminal.opened("demo", run_dir, quiet=quiet) as shown:
        stages = Stages(config, shown)
        stages.graph()
        stages.examples()
        make_model(stages)
        stages.export()
        make_index(stages)
        evaluation = stages.evaluate()
        with shown.step("Searching"):
            sheet = os.path.join(out, CONTACT_SHEET)
            examples = _queries(data)
            write_contact_sheet(sheet, _rows(config, data, *examples))
        page = make_report(stages).file(schema.REPORT_FILE)
    echo(_report(evaluation, sheet, page, run_dir, *examples))


def _truth(data: str) -> dict[str, dict[str, object]]:
    """What each picture shows; only for framing right answers, no stage reads it."""
    rows = pq.read_table(os.path.join(data, IMAGES_TRUTH)).to_pylist()
    return {row["image_id"]: row for row in rows}


def _queries(data: str) -> tuple[list[str], list[str]]:
    """(texts, image ids) to show: kinds far apart in the alphabet, and pictures never clicked."""
    truth = _truth(data)
    intents = sorted({str(row["intent"]) for row in truth.values()})
    cold = sorted(image_id for image_id, row in truth.items() if row["cold"])
    ids = cold or sorted(truth)
    # One more than an even step: an even one would meet the same shape again and again.
    step = max(1, len(intents) // _TEXT_ROWS + 1)
    return intents[step // 2 :: step][:_TEXT_ROWS], ids[:_IMAGE_ROWS]


def _rows(config: Config, data: str, texts: Sequence[str], ids: Sequence[str]) -> list[Row]:
    truth = _truth(data)
    folder = os.path.join(data, "catalog", "pictures")

    def answers(intent: object, **query: Sequence[str]) -> list[Answer]:
        return [
            Answer(
                os.path.join(folder, f"{hit.image_id}.png"),
                f"{hit.score:.2f}",
                truth[hit.image_id]["intent"] == intent,
            )
            for hit in search_run(config, k=_ANSWERS, **query)
        ]

    rows = [Row(text, answers(text, texts=[text])) for text in texts]
    for image_id in ids:
        picture = os.path.join(folder, f"{image_id}.png")
        found = answers(truth[image_id]["intent"], ids=[image_id])
        rows.append(Row(image_id, found, picture=picture))
    return rows


def _report(
    evaluation: Version,
    sheet: str,
    page: str,
    run_dir: str,
    texts: Sequence[str],
    ids: Sequence[str],
) -> str:
    return (
        f"{summaries.evaluation_tables(evaluation, details=False)}\n\n"
        f"± is the 95 % interval. All tables: imgembed evaluate --run-dir {run_dir}\n\n"
        f"Where to look:\n"
        f"  {page}: the report, open it in a browser\n"
        f"  {sheet}: queries and their results, right ones in green\n"
        f"  {os.path.join(run_dir, schema.MODEL)}: the model; tensorboard --logdir there\n"
        f"  {os.path.join(run_dir, schema.EMBEDDINGS)}: embeddings as Parquet\n"
        f"Go on with:\n"
        f'  imgembed search --run-dir {run_dir} --text "{texts[0]}"\n'
        f"  imgembed search --run-dir {run_dir} --image-id {ids[0]}\n"
    )
