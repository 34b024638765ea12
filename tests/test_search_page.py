"""`imgembed search --html`: pictures where there are any, and nothing of others' text as markup."""

from __future__ import annotations

import base64
import io
import json
import shutil
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import test_show
from PIL import Image
from small_indexes import make_index, save_run, unit

from cli.main import run
from cli.search_page import Card, render
from cli.search_pictures import find_images
from cli.searching import Searcher
from cli.settings import Config
from pipeline.examples.pictures import PictureError, thumbnail

EVIL = '<script>alert("1")</script>'
IDS = ["bridge", "castle", EVIL, "gone"]


class Reader(HTMLParser):
    """Which elements and attributes a page has, and its text."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs

    def handle_data(self, data):
        self.text += data

    def pictures(self) -> list[Image.Image]:
        uris = [value for name, value in self.attributes if name == "src" and value]
        assert all(uri.startswith("data:image/jpeg;base64,") for uri in uris)
        return [Image.open(io.BytesIO(base64.b64decode(uri.split(",")[1]))) for uri in uris]


def png(color: str, size: tuple[int, int] = (400, 100)) -> bytes:
    sink = io.BytesIO()
    Image.new("RGB", size, color).save(sink, "PNG")
    return sink.getvalue()


def write_catalog(folder: Path) -> Path:
    """A table of the images, with a picture each but for the last, whose file is gone."""
    folder.mkdir()
    rows = []
    for number, (image_id, color) in enumerate(zip(IDS, ("red", "lime", "blue", ""), strict=True)):
        name = f"{number}.png"
        if color:
            (folder / name).write_bytes(png(color))
        row = {
            "image_id": image_id,
            "uri": name,
            "label": EVIL,
            "text": [f"caption {number}", EVIL],
        }
        rows.append(json.dumps(row) + "\n")
    path = folder / "catalog.jsonl"
    path.write_text("".join(rows))
    return path


@pytest.fixture
def run_dir(tmp_path: Path) -> str:
    catalog = write_catalog(tmp_path / "catalog")
    vectors = dict(zip(IDS, unit(0, 30, 60, 90), strict=True))
    make_index(tmp_path / "run", save_run(tmp_path / "run", vectors, catalog=str(catalog)))
    return str(tmp_path / "run")


def test_the_page_holds_the_pictures_and_escapes_all_else(run_dir: str, tmp_path, capsys) -> None:
    path = tmp_path / "new" / "answer.html"
    command = ["search", "--run-dir", run_dir, "--image-id", "bridge", "--html", str(path)]
    assert run([*command, "--json"]) == 0
    out = capsys.readouterr()
    assert [hit["image_id"] for hit in json.loads(out.out)] == ["castle", EVIL, "gone"]
    assert str(path) in out.err
    page = path.read_text()
    reader = Reader(page)
    assert "script" not in reader.tags
    assert {name for name, _ in reader.attributes} <= {
        *("lang", "charset", "name", "content", "http-equiv", "class", "src", "alt", "title")
    }
    assert "http" not in page.replace("http-equiv", "")  # no network
    assert EVIL in reader.text
    assert reader.text.count("no picture") == 1
    pictures = reader.pictures()
    assert [picture.size for picture in pictures] == [(200, 50)] * 3
    colors = [np.asarray(picture.convert("RGB")).mean(axis=(0, 1)) for picture in pictures]
    np.testing.assert_allclose(colors, np.eye(3) * 255, atol=6)
    assert "caption 1" in reader.text
    assert "0.866" in reader.text


def test_texts_of_the_query_are_escaped_as_well() -> None:
    card = Card("<b>", None, ("<i>",), 1, 0.5)
    page = render(words=[EVIL, '"><img src=x onerror=y>'], asked=[card], hits=[card], total=9)
    tags = Reader(page).tags
    assert not {"script", "img", "b", "i"} & set(tags)


def test_an_answer_of_nothing_is_a_page_too(run_dir: str, tmp_path: Path) -> None:
    ids = [part for image_id in IDS for part in ("--image-id", image_id)]
    path = tmp_path / "none.html"
    assert run(["search", "--run-dir", run_dir, *ids, "--html", str(path)]) == 0
    assert "0 of 4 images" in Reader(path.read_text()).text


def test_a_page_that_cannot_be_written_is_one_line(run_dir: str, tmp_path: Path, capsys) -> None:
    where = str(tmp_path)  # a folder
    assert run(["search", "--run-dir", run_dir, "--image-id", "gone", "--html", where]) == 1
    err = capsys.readouterr().err
    assert err.startswith("imgembed: --html ")
    assert err.count("\n") == 1


def test_without_the_catalog_the_examples_have_the_pictures(tmp_path: Path) -> None:
    examples = test_show.make(tmp_path, image_encoding="raw")
    ids = [*test_show.IDS, "of no example"]
    vectors = dict(zip(ids, unit(*range(len(ids))), strict=True))
    save_run(Path(examples.run), vectors, catalog=str(tmp_path / "moved"))
    found = find_images(Searcher.open(Config(run_dir=examples.run)), ids, 100)
    assert sorted(found) == test_show.IDS
    for index, image_id in enumerate(test_show.IDS):
        with Image.open(io.BytesIO(found[image_id].thumbnail)) as shown:
            color = np.asarray(shown.convert("RGB")).mean(axis=(0, 1))
        np.testing.assert_allclose(color, (20 * index, 255 - 20 * index, 128), atol=4)


def test_without_catalog_and_examples_there_is_no_picture(run_dir: str) -> None:
    shutil.rmtree(Path(run_dir).parent / "catalog")
    assert find_images(Searcher.open(Config(run_dir=run_dir)), IDS, 100) == {}


@pytest.mark.parametrize(
    ("size", "wanted"), [((400, 100), (200, 50)), ((3, 900), (1, 200)), ((40, 30), (40, 30))]
)
def test_a_thumbnail_keeps_its_shape_and_is_never_enlarged(size, wanted) -> None:
    with Image.open(io.BytesIO(thumbnail(png("red", size), side=200, max_pixels=10**6))) as small:
        assert (small.format, small.size) == ("JPEG", wanted)


def test_a_thumbnail_is_upright_on_white_and_refuses_what_is_no_picture() -> None:
    sink = io.BytesIO()
    picture = Image.new("RGBA", (60, 20), (0, 0, 0, 0))
    exif = picture.getexif()
    exif[0x0112] = 6
    picture.save(sink, "PNG", exif=exif)
    with Image.open(io.BytesIO(thumbnail(sink.getvalue(), side=30, max_pixels=10**6))) as small:
        assert small.size == (10, 30)
        assert small.getpixel((5, 5)) == (255, 255, 255)
    with pytest.raises(PictureError, match="more pixels"):
        thumbnail(sink.getvalue(), side=30, max_pixels=100)
    with pytest.raises(PictureError, match="not a picture"):
        thumbnail(b"no picture", side=30, max_pixels=100)
