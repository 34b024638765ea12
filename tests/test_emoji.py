"""The main job on real pictures and real sessions: transparency, lists of items, Unicode."""

import json
import shutil
import zipfile
from pathlib import Path

import pytest
import yaml
from test_end_to_end import imgembed

DATA = Path(__file__).parent.parent.parent / "shared" / "data" / "emoji"
CONFIG = {
    "sessions": {"path": "sessions.jsonl"},
    "graph": {"min_sessions": 1},  # 901 sessions are few
    "images": {
        "path": "emoji.jsonl",
        "root": "noto72.zip",
        "columns": {"image_id": "emoji_id", "uri": "image", "label": "group", "text": "keywords"},
        "image_size": 48,
    },
    "training": {"epochs": 16},
}

pytestmark = pytest.mark.skipif(not DATA.is_dir(), reason=f"no emoji data at {DATA}")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A folder with the data, a config, and a run made from them."""
    folder = tmp_path_factory.mktemp("emoji")
    for name in ("sessions.jsonl", "emoji.jsonl", "noto72.zip"):
        shutil.copy(DATA / name, folder)
    zipfile.ZipFile(DATA / "noto72.zip").extract("noto72/1f600.png", folder)  # to search with
    (folder / "cfg.yaml").write_text(yaml.safe_dump(CONFIG))
    imgembed("build-graph", "--config", "cfg.yaml", cwd=folder)
    imgembed("train", "--config", "cfg.yaml", cwd=folder)
    return folder


def manifest(folder, stage):
    (version,) = (folder / "imgembed-run" / stage).glob("v*")
    return json.loads((version / "manifest.json").read_text())


def names(folder):
    rows = [json.loads(line) for line in (folder / "emoji.jsonl").open(encoding="utf-8")]
    return {row["emoji_id"]: row for row in rows}


def test_every_row_is_accounted_for(run):
    counts = manifest(run, "graph")["counts"]
    # 901 rows, one of them with an empty list of items.
    assert counts["rows"] == {"read": 901, "kept": 900, "rejected": 0, "without_images": 1}
    assert counts["sessions"]["all"] == 900
    examples = manifest(run, "examples")
    assert sum(split["records"] for split in examples["splits"].values()) == 1644
    assert examples["counts"]["rows"] == {"read": 1644, "kept": 1644, "rejected": 0}
    assert len(examples["classes"]) == 9
    embedded = manifest(run, "embeddings")["counts"]
    assert (embedded["rows"], embedded["images"], embedded["rejected"]) == (1644, 1644, 0)


def test_a_text_search_finds_what_the_words_say(run):
    emoji = names(run)
    for word, least in (("clock", 5), ("face", 5)):  # of 10; 35 and 205 of 1,644 have the word
        stdout, _ = imgembed("search", "--text", word, "-k", 10, "--json", cwd=run)
        found = [" ".join(emoji[hit["image_id"]]["keywords"]) for hit in json.loads(stdout)]
        assert sum(word in keywords for keywords in found) >= least, found


def test_a_picture_with_transparency_finds_itself_and_its_like(run):
    emoji = names(run)
    stdout, _ = imgembed("search", "--image", "noto72/1f600.png", "-k", 10, "--json", cwd=run)
    hits = json.loads(stdout)
    assert hits[0]["image_id"] == "1f600"
    groups = [emoji[hit["image_id"]]["group"] for hit in hits[1:]]
    assert groups.count("Smileys & Emotion") >= 6  # faces are like faces


def test_evaluation_stands_beside_the_baselines(run):
    stdout, _ = imgembed("evaluate", "--config", "cfg.yaml", "--json", cwd=run)
    assert "evaluation" in json.loads(stdout)
    metrics = next((run / "imgembed-run" / "evaluation").glob("v*/metrics.json"))
    methods = json.loads(metrics.read_text())["text_to_image"]["methods"]
    assert (
        methods["trained embedding"]["recall@10"]["value"] > methods["random"]["recall@10"]["value"]
    )
