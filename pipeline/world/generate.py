"""Write a whole world into a folder: a `WorldConfig` in, files and a `WorldSummary` out.

    world.json                                  the configuration and the summary, written last
    catalog/catalog.jsonl                       image_id, uri, label?, text?
    catalog/pictures/img-00042.png
    sessions/events-00000-of-00004.jsonl        the logs
    truth/images.parquet, truth/clicks.parquet  what no stage of the pipeline may read

The files are made in a scratch folder and moved at the end: an interrupted call leaves nothing.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from PIL import Image as PillowImage

from pipeline.errors import ImgembedError
from pipeline.world.catalog import Image, plan_images
from pipeline.world.config import WorldConfig
from pipeline.world.logs import add_broken_rows, event_files, file_name
from pipeline.world.pictures import draw_picture
from pipeline.world.placement import describe, former_counts, write_aside
from pipeline.world.randomness import generator
from pipeline.world.sessions import Session, bot_sessions, search_sessions
from pipeline.world.truth import clicks_table, images_table

CATALOG_FILE = "catalog/catalog.jsonl"
SESSIONS_FOLDER = "sessions"
IMAGES_TRUTH, CLICKS_TRUTH = "truth/images.parquet", "truth/clicks.parquet"

PNG_COMPRESSION = 4  # of 0 to 9; noisy pictures hardly shrink any further
PICTURES_PER_REPORT = 50

Progress = Callable[[str, int, int], None]  # what is written, how many are done, of how many


@dataclass(frozen=True)
class WorldSummary:
    """What a world holds; `written` is False where it was there already."""

    written: bool
    images: int
    intents: int
    labelled: int
    captioned: int
    cold: int
    hubs: int
    sessions: int  # of people, without bots
    users: int  # people with at least one session
    bots: int
    rows: int  # good rows of the logs
    broken_rows: int  # on top of the good ones


def write_world(
    out_dir: str | Path, config: WorldConfig, progress: Progress | None = None
) -> WorldSummary:
    """Writes the world into `out_dir`, or finds the very same one there and does nothing.

    `out_dir` may be missing or empty; anything else in it is an ImgembedError. `progress` is
    called now and then with what is being made, how many are done, and of how many.
    """
    out = Path(out_dir).resolve()
    try:
        former = former_counts(out, config)
        if former is not None:
            return WorldSummary(**former, written=False)
        return write_aside(out, lambda folder: _write_files(folder, config, progress or _silent))
    except OSError as error:
        raise ImgembedError(f"{out}: the world cannot be written: {error}") from error


def _write_files(folder: Path, config: WorldConfig, progress: Progress) -> WorldSummary:
    images = plan_images(config)
    _write_catalog(folder / CATALOG_FILE, images, config.seed, progress)
    progress("sessions", 0, config.sessions)
    sessions = [*search_sessions(images, config), *bot_sessions(images, config)]
    progress("sessions", config.sessions, config.sessions)
    broken_rows = _write_logs(folder / SESSIONS_FOLDER, sessions, images, config.seed)
    _write_truth(folder, sessions, images)
    summary = _summarize(images, sessions, broken_rows)
    counts = {name: count for name, count in asdict(summary).items() if name != "written"}
    describe(folder, config, counts)
    return summary


def _write_catalog(path: Path, images: Sequence[Image], seed: int, progress: Progress) -> None:
    for number, image in enumerate(images):
        _write_picture(path.parent / image.uri, image, generator(seed, "picture", number))
        if (number + 1) % PICTURES_PER_REPORT == 0:
            progress("pictures", number + 1, len(images))
    progress("pictures", len(images), len(images))
    _write_lines(path, [json.dumps(_catalog_row(image)) for image in images])


def _write_picture(path: Path, image: Image, rng: np.random.Generator) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = draw_picture(image.intent, image.count, rng)
    PillowImage.fromarray(pixels).save(path, compress_level=PNG_COMPRESSION)


def _catalog_row(image: Image) -> dict[str, str]:
    known = {"label": image.label, "text": image.text}
    row = {"image_id": image.image_id, "uri": image.uri}
    return row | {key: value for key, value in known.items() if value is not None}


def _write_logs(
    folder: Path, sessions: Sequence[Session], images: Sequence[Image], seed: int
) -> int:
    """Writes the event files; returns the number of broken rows in them."""
    files = event_files(sessions, images)
    broken_rows = add_broken_rows(files, seed)
    for number, lines in enumerate(files):
        _write_lines(folder / file_name(number), lines)
    return broken_rows


def _write_truth(folder: Path, sessions: Sequence[Session], images: Sequence[Image]) -> None:
    (folder / IMAGES_TRUTH).parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(images_table(images), folder / IMAGES_TRUTH, compression="zstd")
    pq.write_table(clicks_table(sessions, images), folder / CLICKS_TRUTH, compression="zstd")


def _write_lines(path: Path, lines: Sequence[str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes("".join(f"{line}\n" for line in lines).encode())


def _summarize(
    images: Sequence[Image], sessions: Sequence[Session], broken_rows: int
) -> WorldSummary:
    people = [session for session in sessions if not session.bot]
    return WorldSummary(
        written=True,
        images=len(images),
        intents=len({image.intent for image in images}),
        labelled=sum(image.label is not None for image in images),
        captioned=sum(image.text is not None for image in images),
        cold=sum(image.cold for image in images),
        hubs=sum(image.hub for image in images),
        sessions=len(people),
        users=len({session.user_id for session in people}),
        bots=len(sessions) - len(people),
        rows=sum(len(session.events) for session in sessions),
        broken_rows=broken_rows,
    )


def _silent(what: str, done: int, total: int) -> None:
    """Reports nothing."""
