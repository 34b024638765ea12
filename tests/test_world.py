"""The synthetic world of `imgembed sample`: deterministic, true to its truth, safe to interrupt."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from cli.main import run
from pipeline.errors import ImgembedError
from pipeline.world.attributes import COLOURS, SHAPES, TEXTURES, Intent
from pipeline.world.catalog import num_intents
from pipeline.world.config import WorldConfig
from pipeline.world.generate import WorldSummary, write_world
from pipeline.world.pictures import SIDE
from pipeline.world.raw_pixels import accuracy, nearest_neighbours, raw_pixel_accuracy

SMALL = WorldConfig(images=240, sessions=400, bots=2, seed=7)
TINY = WorldConfig(images=24, sessions=20, bots=1, seed=3)
MAX_ID_LENGTH = 1024
EVENT_KEYS = {"session_id", "user_id", "timestamp", "query", "image_id", "action", "position"}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("world") / "small"
    write_world(out, SMALL)
    return out


@pytest.fixture(scope="module")
def summary(world: Path) -> WorldSummary:
    return write_world(world, SMALL)


def log_lines(world: Path) -> list[str]:
    files = sorted((world / "sessions").iterdir())
    return [line for file in files for line in file.read_text().splitlines()]


def is_good(line: str) -> bool:
    try:
        row = json.loads(line)
    except ValueError:
        return False
    known = set(row) == EVENT_KEYS and isinstance(row["timestamp"], int)
    return known and len(row["image_id"]) <= MAX_ID_LENGTH


def good_events(world: Path) -> list[dict]:
    return [json.loads(line) for line in log_lines(world) if is_good(line)]


def catalog_rows(world: Path) -> list[dict]:
    return [json.loads(line) for line in (world / "catalog/catalog.jsonl").open()]


def truth(world: Path, name: str) -> list[dict]:
    return pq.read_table(world / f"truth/{name}.parquet").to_pylist()


def contents(world: Path) -> dict[str, bytes]:
    files = (path for path in world.rglob("*") if path.is_file())
    return {str(path.relative_to(world)): path.read_bytes() for path in files}


def test_the_same_configuration_gives_the_same_bytes(world: Path, tmp_path: Path) -> None:
    write_world(tmp_path / "again", SMALL)
    assert contents(tmp_path / "again") == contents(world)


def test_another_seed_gives_other_pictures_and_other_sessions(tmp_path: Path) -> None:
    write_world(tmp_path / "a", TINY)
    write_world(tmp_path / "b", WorldConfig(images=24, sessions=20, bots=1, seed=4))
    one, other = contents(tmp_path / "a"), contents(tmp_path / "b")
    assert set(one) == set(other)
    assert all(one[name] != other[name] for name in one)


def test_pictures_stay_the_same_when_there_are_more_sessions(tmp_path: Path) -> None:
    write_world(tmp_path / "a", TINY)
    write_world(tmp_path / "b", WorldConfig(images=24, sessions=40, bots=1, seed=3))
    one, other = contents(tmp_path / "a/catalog"), contents(tmp_path / "b/catalog")
    assert one == other


def test_a_cold_image_is_in_no_session(world: Path) -> None:
    cold = {row["image_id"] for row in truth(world, "images") if row["cold"]}
    assert len(cold) == round(SMALL.cold * SMALL.images)
    assert not cold & {event["image_id"] for event in good_events(world)}
    assert not any(image_id in line for line in log_lines(world) for image_id in cold)


def test_every_intent_keeps_an_image_that_is_not_cold(tmp_path: Path) -> None:
    config = WorldConfig(images=24, sessions=30, cold=1.0, noise=1.0, broad=0.5, bots=0)
    write_world(tmp_path / "cold", config)
    warm = Counter(row["intent"] for row in truth(tmp_path / "cold", "images") if not row["cold"])
    assert set(warm.values()) == {1}
    assert len(warm) == num_intents(24)


def test_the_share_of_noise_is_the_one_asked_for(world: Path) -> None:
    people = [click for click in truth(world, "clicks") if not click["bot"]]
    share = np.mean([click["noise"] for click in people])
    assert abs(share - SMALL.noise) < 0.04  # three standard deviations of 1,900 clicks


def test_noise_is_what_does_not_show_the_intent(world: Path) -> None:
    shown = {row["image_id"]: set(row["intent"].split()) for row in truth(world, "images")}
    for click in truth(world, "clicks"):
        if not click["bot"]:
            fits = set(click["intent"].split()) <= shown[click["image_id"]]
            assert fits != click["noise"]


def test_half_of_the_noise_falls_on_hubs(world: Path) -> None:
    hubs = {row["image_id"] for row in truth(world, "images") if row["hub"]}
    stray = [click["image_id"] for click in truth(world, "clicks") if click["noise"]]
    assert len(hubs) == 2
    assert 0.3 < np.mean([image_id in hubs for image_id in stray]) < 0.6


def test_broad_searches_leave_one_attribute_out(world: Path) -> None:
    clicks = truth(world, "clicks")
    intents = {click["session_id"]: click["intent"] for click in clicks if not click["bot"]}
    words = Counter(len(intent.split()) for intent in intents.values())
    assert set(words) == {2, 3}
    assert abs(words[2] / len(intents) - SMALL.broad) < 0.05


def test_labels_and_captions_are_known_for_the_shares_asked_for(world: Path) -> None:
    rows = catalog_rows(world)
    shapes = {row["image_id"]: row["shape"] for row in truth(world, "images")}
    labels = {row["image_id"]: row["label"] for row in rows if "label" in row}
    assert len(labels) == round(SMALL.labelled * SMALL.images)
    assert all(shapes[image_id] == label for image_id, label in labels.items())
    assert sum("text" in row for row in rows) == round(SMALL.captioned * SMALL.images)


def test_a_caption_holds_the_words_of_its_picture(world: Path) -> None:
    shown = {row["image_id"]: row for row in truth(world, "images")}
    for row in catalog_rows(world):
        image = shown[row["image_id"]]
        words = (image["shape"], image["colour"], image["texture"])
        assert all(word in row.get("text", image["intent"]) for word in words)


def test_the_catalog_lists_the_pictures_that_are_there(world: Path) -> None:
    for row in catalog_rows(world):
        with Image.open(world / "catalog" / row["uri"]) as picture:
            assert (picture.size, picture.mode) == ((SIDE, SIDE), "RGB")


def test_every_good_row_is_a_click_of_the_truth_on_an_image_of_the_catalog(world: Path) -> None:
    events, known = good_events(world), {row["image_id"] for row in catalog_rows(world)}
    clicks = truth(world, "clicks")
    assert {event["image_id"] for event in events} <= known
    assert Counter((event["session_id"], event["image_id"]) for event in events) == Counter(
        (click["session_id"], click["image_id"]) for click in clicks
    )
    assert {event["action"] for event in events} == {"click", "save"}


def test_few_rows_are_broken_and_in_four_ways(world: Path, summary: WorldSummary) -> None:
    broken = [line for line in log_lines(world) if not is_good(line)]
    assert summary.broken_rows == len(broken) == round(0.003 * summary.rows)
    assert any(not line.endswith("}") for line in broken)
    parsed = [json.loads(line) for line in broken if line.endswith("}")]
    assert any("image_id" not in row for row in parsed)
    assert any(isinstance(row["timestamp"], str) for row in parsed)
    assert any(len(row.get("image_id", "")) > MAX_ID_LENGTH for row in parsed)


def test_a_session_lies_in_one_file_among_others_in_order_of_time(world: Path) -> None:
    files_of: dict[str, set[str]] = {}
    for file in (world / "sessions").iterdir():
        events = [json.loads(line) for line in file.read_text().splitlines() if is_good(line)]
        times = [event["timestamp"] for event in events]
        assert times == sorted(times)
        for event in events:
            files_of.setdefault(event["session_id"], set()).add(file.name)
    assert len(files_of) == SMALL.sessions + SMALL.bots
    assert {len(files) for files in files_of.values()} == {1}


def test_bots_are_longer_than_what_the_pipeline_lets_pass(world: Path) -> None:
    bots = Counter(click["session_id"] for click in truth(world, "clicks") if click["bot"])
    people = Counter(click["session_id"] for click in truth(world, "clicks") if not click["bot"])
    assert len(bots) == SMALL.bots
    assert min(bots.values()) > 500
    assert max(people.values()) <= 9  # eight clicks and a repeated one
    assert 3.5 < np.mean(list(people.values())) < 5.5


def test_the_summary_counts_what_is_there(world: Path, summary: WorldSummary) -> None:
    images, clicks = truth(world, "images"), truth(world, "clicks")
    assert summary.intents == len({row["intent"] for row in images}) == 30
    assert summary.rows == len(clicks)
    assert summary.users == len({click["user_id"] for click in clicks if not click["bot"]})
    assert (summary.images, summary.hubs, summary.cold) == (240, 2, 12)


def test_raw_pixels_are_a_poor_guide(world: Path) -> None:
    raw = raw_pixel_accuracy(world)
    assert raw.shape < 0.5
    assert raw.intent < 0.2


def test_the_nearest_neighbour_is_the_one_of_a_plain_loop() -> None:
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (700, 2, 2, 3), dtype=np.uint8)  # more than a chunk
    flat = pixels.reshape(700, -1).astype(np.int64)
    distances = ((flat[:, None] - flat[None]) ** 2).sum(axis=2)
    np.fill_diagonal(distances, distances.max() + 1)
    assert nearest_neighbours(pixels).tolist() == distances.argmin(axis=1).tolist()
    assert nearest_neighbours(pixels, 5).tolist() == distances.argmin(axis=1)[:5].tolist()


def test_accuracy_is_the_share_of_neighbours_with_the_same_label() -> None:
    nearest = np.array([1, 0, 3])  # of three queries among four pictures
    assert accuracy(nearest, np.array(["a", "a", "b", "c"])) == 2 / 3


def test_the_number_of_intents_stays_between_twelve_and_all() -> None:
    every = len(SHAPES) * len(COLOURS) * len(TEXTURES)
    assert [num_intents(images) for images in (24, 96, 240, 10**6)] == [12, 12, 30, every]


def test_an_intent_is_named_by_its_words() -> None:
    intent = Intent("striped", "red", "triangle")
    assert intent.name == "striped red triangle"
    assert intent.broader("texture").name == "red triangle"


def test_the_same_world_is_not_written_again(world: Path, summary: WorldSummary) -> None:
    before = (world / "world.json").stat().st_mtime_ns
    assert not summary.written
    assert not write_world(world, SMALL).written
    assert (world / "world.json").stat().st_mtime_ns == before


def test_another_world_in_the_folder_is_refused_by_what_differs(world: Path) -> None:
    with pytest.raises(ImgembedError, match="with seed 7; wanted 8$"):
        write_world(world, WorldConfig(images=240, sessions=400, bots=2, seed=8))


def test_a_folder_that_holds_something_else_is_refused_and_left_alone(tmp_path: Path) -> None:
    (tmp_path / "letter.txt").write_text("dear")
    with pytest.raises(ImgembedError, match="holds other files"):
        write_world(tmp_path, TINY)
    assert [path.name for path in tmp_path.iterdir()] == ["letter.txt"]


def test_a_file_in_the_place_of_the_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("")
    with pytest.raises(ImgembedError, match="is a file"):
        write_world(tmp_path / "out", TINY)


def test_an_empty_folder_is_filled(tmp_path: Path) -> None:
    assert write_world(tmp_path, TINY).written
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {"catalog", "sessions", "truth", "world.json"}


@pytest.mark.parametrize("there_before", [False, True])
def test_an_interrupted_call_leaves_nothing(tmp_path: Path, there_before: bool) -> None:
    out = tmp_path / "out"
    if there_before:
        out.mkdir()

    def interrupt(what: str, done: int, total: int) -> None:
        if what == "sessions":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_world(out, TINY, interrupt)
    assert list(tmp_path.rglob("*")) == ([out] if there_before else [])


def test_progress_goes_up_to_the_whole(tmp_path: Path) -> None:
    reports: list[tuple[str, int, int]] = []
    write_world(tmp_path / "out", TINY, lambda *report: reports.append(report))
    assert ("pictures", 24, 24) in reports
    assert ("sessions", 20, 20) in reports


@pytest.mark.parametrize(
    "setting",
    [{"images": 23}, {"sessions": 0}, {"users": 0}, {"seed": -1}, {"bots": -1}]
    + [{name: 1.01} for name in ("labelled", "captioned", "noise", "broad", "cold")]
    + [{"noise": -0.1}, {"cold": float("nan")}],
)
def test_a_setting_out_of_range_is_named_in_one_line(setting: dict[str, float]) -> None:
    ((name, value),) = setting.items()
    with pytest.raises(ImgembedError, match=f"^sample: {name} is {value!r}; wanted .+$"):
        WorldConfig(**setting)


def test_a_configuration_that_somebody_has_changed_stays(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["sample", "--out", str(tmp_path / "w"), "--images", "24", "--sessions", "20"]
    assert run([*command, "--quiet"]) == 0
    config = tmp_path / "w" / "cfg.yaml"
    assert "path: " in config.read_text()
    config.write_text("seed: 7\n")
    assert run([*command, "--quiet"]) == 0
    assert "is there already, the very same" in capsys.readouterr().out
    assert config.read_text() == "seed: 7\n"
