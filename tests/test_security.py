"""Attacks by whoever writes the logs, the catalog, the pictures or the configuration.

What stands elsewhere, so that the list can be read off here:

- pictures that declare more pixels than there may be: test_pictures.py (a_bomb_is_refused…,
  pixel_limit…); that take memory, time or the process: test_decoding.py; icons: test_corpus.py
- archives that unpack to more than they say or than may be, damaged ones: test_catalog_archives.py
- YAML tags that would call Python, anchors that explode or hold themselves: test_corpus.py
- HTML in ids, queries, labels and captions: test_report.py (other_peoples_input…, nothing_is_
  fetched…), test_search_page.py; the contact sheet is a picture
- ids of people in what is published or rejected: test_tables.py, test_graph_privacy.py
- the container's user: test_deploy.py (the_image_does_not_run_as_root…)
- anything at all in place of a file: test_fuzz_*.py
"""

from __future__ import annotations

import ast
import http.server
import io
import json
import os
import re
import struct
import subprocess
import sys
import threading
import zipfile
import zlib
from contextlib import suppress
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from fuzzing import within
from PIL import Image
from small_indexes import make_index, save_run, unit
from small_logs import run_command
from test_fuzz_tables import PICTURES, read_catalog, read_edge_list, read_log

from cli import printing
from cli.main import run
from pipeline import ids, schema, storage
from pipeline.config import ImagesConfig
from pipeline.errors import ImgembedError
from pipeline.examples import pictures
from pipeline.examples.catalog.archives import UnreadableError
from pipeline.examples.catalog.find import inspect
from pipeline.examples.catalog.sources import read_bytes
from pipeline.examples.catalog.trees import picture_rows
from pipeline.examples.decoding import decode_pictures
from pipeline.graph import output
from pipeline.tables.blocks import MAX_CONTENT
from trainer import projector

ROOT = Path(__file__).parent.parent
ESCAPE = "\x1b[2J\x1b]0;owned\x07\x9b31m\u202e"
HUGE = 10_000_000

# Pictures -----------------------------------------------------------------------------------------


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(*chunks: bytes, width: int = 4, height: int = 4, data: bytes | None = None) -> bytes:
    pixels = zlib.compress(bytes((3 * width + 1) * height)) if data is None else data
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    body = b"".join(chunks) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + head + body


def test_what_is_packed_beside_the_pixels_is_not_unpacked_without_end():
    """128 MB of zeros as a colour profile, as a text, and as the pixels of a picture of 16."""
    bomb = zlib.compress(bytes(1 << 27), 9)
    small = zlib.compress(bytes(1 << 19), 9)
    packed = {
        "profile": png(chunk(b"iCCP", b"x\0\0" + bomb)),
        "text": png(chunk(b"zTXt", b"x\0\0" + bomb)),
        "international text": png(chunk(b"iTXt", b"x\0\1\0\0\0" + bomb)),
        "many texts": png(*[chunk(b"zTXt", b"x\0\0" + small) for _ in range(300)]),
        "pixels": png(data=bomb),
    }
    with within(60):
        found = dict(zip(packed, decode_pictures(packed.values(), PICTURES), strict=True))
    assert found.pop("pixels").content  # 48 bytes of it are the picture; the rest is not looked at
    assert set(found.values()) == {pictures.BROKEN}


@pytest.mark.parametrize("format", ["GIF", "WEBP", "PNG"])
def test_of_thousands_of_frames_one_is_decoded(format, monkeypatch):
    draw = np.random.default_rng(0)
    frames = [
        Image.fromarray(draw.integers(0, 256, (2, 2, 3), np.uint8)).resize((16, 16), 0)
        for _ in range(2_000)
    ]
    sink = io.BytesIO()
    frames[0].save(sink, format, save_all=True, append_images=frames[1:], lossless=True)
    data = sink.getvalue()
    with Image.open(io.BytesIO(data)) as picture:
        assert picture.n_frames == 2_000
        seek = type(picture).seek
    seen = []
    monkeypatch.setattr(type(picture), "seek", lambda self, n: (seen.append(n), seek(self, n))[1])
    found = pictures.prepare(data, image_size=8, max_pixels=1_000, encoding="png")
    assert found.content
    assert max(seen, default=0) == 0


def icon(header: bytes) -> bytes:
    """An icon that says it is of 16 x 16 pixels, and holds another picture."""
    entry = struct.pack("<BBBBHHII", 16, 16, 0, 0, 1, 32, len(header), 22)
    return struct.pack("<HHH", 0, 1, 1) + entry + header


@pytest.mark.parametrize(
    "inner",
    [
        png(width=60_000, height=60_000, data=b""),
        struct.pack("<IiiHHIIiiII", 40, 60_000, 120_000, 1, 8, 1, 0, 0, 0, 0, 0),
        struct.pack("<IiiHHIIiiII", 40, 60_000, -120_000, 1, 8, 1, 0, 0, 0, 0, 0),
    ],
)
def test_the_pictures_within_an_icon_are_within_the_limit_too(inner):
    with pytest.raises(pictures.PictureError, match=pictures.TOO_MANY_PIXELS):
        pictures.prepare(icon(inner), image_size=8, max_pixels=50_000_000, encoding="png")


# Files --------------------------------------------------------------------------------------------


def test_members_of_an_archive_do_not_climb_out_of_it(tmp_path):
    secret = tmp_path / "secret.png"
    secret.write_bytes(png())
    path = tmp_path / "in" / "a.zip"
    path.parent.mkdir()
    names = ["../secret.png", "/abs.png", "..\\win.png", "x/../../secret.png", "ok.png"]
    with zipfile.ZipFile(path, "w") as archive:
        for name in names:
            archive.writestr(zipfile.ZipInfo(name), b"not the secret")
    before = sorted(tmp_path.rglob("*"))
    found = inspect(ImagesConfig(path=str(path), ids="path"))
    table = pa.concat_tables([picture_rows(task)[0] for task in found.tasks])
    assert {"ok", "/abs"} >= set(table["image_id"].to_pylist()) - {"..\\win"}
    climbing = ("../secret.png", "../../secret.png", "x/../../secret.png")
    for uri in (*table["uri"].to_pylist(), *(f"{path}/{name}" for name in climbing)):
        with suppress(UnreadableError):
            assert read_bytes(uri) == b"not the secret"  # of the archive, not of the disk
    assert sorted(tmp_path.rglob("*")) == before


def test_links_in_a_folder_lead_neither_into_circles_nor_into_other_folders(tmp_path):
    outside, folder = tmp_path / "outside", tmp_path / "in"
    (folder / "deep").mkdir(parents=True)
    outside.mkdir()
    (outside / "secret.csv").write_text("image_id,session_id\n")
    (folder / "a.csv").write_text("image_id,session_id\n")
    (folder / "deep" / "up").symlink_to(folder)
    (folder / "other").symlink_to(outside)
    (folder / "own.csv").symlink_to(outside / "secret.csv")
    with within(10):
        found = [info.path for info in storage.list_files(str(folder))]
    # A link to a file is the file: whoever may write into the folder could have copied it.
    assert found == [str(folder / "a.csv"), str(folder / "own.csv")]
    (folder / "own.csv").unlink()
    (folder / "self.csv").symlink_to(folder / "self.csv")
    with within(10), pytest.raises((ImgembedError, OSError)) as caught:
        storage.list_files(str(folder))
    assert "self.csv" in str(caught.value)


@pytest.mark.parametrize("device", ["pipe", "/dev/zero", "/dev/tty"])
def test_what_is_no_file_is_never_opened(tmp_path, device):
    path = Path(device)
    if device == "pipe":
        path = tmp_path / "in" / "a.jsonl"
        path.parent.mkdir()
        os.mkfifo(path)
        with within(10), pytest.raises(ImgembedError, match="neither a file nor a folder"):
            storage.list_files(str(path.parent))
    (tmp_path / "catalog.jsonl").write_text(json.dumps({"image_id": "a", "uri": str(path)}))
    with within(10):
        kept, rejected = read_catalog(ImagesConfig(path=str(tmp_path / "catalog.jsonl")))
    assert kept == []
    assert "cannot be read" in rejected["reason"][0].as_py()


def test_a_uri_fetches_nothing_from_the_network_and_shows_nothing_of_a_file(tmp_path):
    """A catalog may name any file that its user may read; what is no picture stays unseen."""
    asked = []

    class Listener(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.path)
            self.send_response(200)
            self.end_headers()
            self.wfile.write(png())

        def do_HEAD(self):
            self.do_GET()

    secret = tmp_path / "passwords"
    secret.write_text("root:SECRET")
    with http.server.HTTPServer(("127.0.0.1", 0), Listener) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"127.0.0.1:{server.server_port}"
        uris = (
            *(f"http://{address}/a.png", f"HTTP://{address}/a.zip/a.png", f"ftp://{address}/a"),
            *(f"https://{address}/a.png", f"file://{secret}", str(secret)),
        )
        lines = [json.dumps({"image_id": str(n), "uri": uri}) for n, uri in enumerate(uris)]
        (tmp_path / "catalog.jsonl").write_text("\n".join(lines))
        with within(60):
            kept, rejected = read_catalog(ImagesConfig(path=str(tmp_path / "catalog.jsonl")))
        server.shutdown()
    assert asked == []
    assert kept == []
    assert rejected.num_rows == len(uris)
    assert "SECRET" not in json.dumps(rejected.to_pylist())


# Ids ----------------------------------------------------------------------------------------------


def check_rejected(rejected: pa.Table, count: int) -> None:
    assert rejected.num_rows == count
    for row in rejected.to_pylist():
        assert len(row["content"]) <= MAX_CONTENT
        assert len(row["reason"]) < 200


def test_ids_of_ten_megabytes_are_rejected_rows_that_are_shown_in_short(tmp_path):
    huge = "x" * HUGE
    rows = [{"image_id": huge, "session_id": "s"}, {"image_id": "a", "session_id": huge}]
    log = tmp_path / "log.jsonl"
    log.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with within(60):
        kept, rejected, found, _ = read_log(log, None)
    assert (kept, found) == ([2], {"a"})
    check_rejected(rejected, 1)
    edges = tmp_path / "edges.jsonl"
    edges.write_text(json.dumps({"src": huge, "dst": "a"}) + '\n{"src": "a", "dst": "b"}\n')
    with within(60):
        kept, rejected = read_edge_list(edges)
    assert kept == [2]
    check_rejected(rejected, 1)


@pytest.mark.parametrize("column", ["image_id", "label", "group"])
def test_words_of_ten_megabytes_in_a_catalog_are_rejected_rows(tmp_path, column):
    good = {"image_id": "a", "features": [1.0]}
    longest = {**good, "image_id": "b", column: "x" * ids.MAX_ID_LENGTH}
    rows = [good, longest, {**good, column: "x" * HUGE}]
    path = tmp_path / "catalog.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with within(60):
        kept, rejected = read_catalog(ImagesConfig(path=str(path)))
    assert kept == [1, 2]
    check_rejected(rejected, 1)
    assert "too long" in rejected["reason"][0].as_py()


# Spreadsheets -------------------------------------------------------------------------------------

FORMULAS = (
    '=HYPERLINK("http://evil","x")',
    "+WEBSERVICE(A1)",
    "-2+3+cmd|' /C calc'!A0",
    "@SUM(1+1)*cmd|' /C calc'!A0",
    "=1+cmd|' /C calc'!A0",
)
NO_FORMULAS = ("-123", "@name", "=", "+49 30 1", "a=SUM(b)", "-IMG (2)", "photo(1)", "-dQw4w9WgXcQ")


@pytest.mark.parametrize("cell", FORMULAS)
def test_no_table_of_ours_holds_what_a_spreadsheet_would_run(cell, tmp_path):
    """edges.tsv and the projector's metadata are all that we write as text with columns."""
    for row in ((cell, "b", 1.5), ("a", cell, 1.5)):
        edges = pa.table([[value] for value in row], names=["src", "dst", "weight"])
        with pytest.raises(ImgembedError, match="is a formula to a spreadsheet"):
            output._tsv_lines(edges)
    (line,) = projector._lines([("a", "label", cell)]).splitlines()
    assert line.split("\t")[2] == f"'{cell}"


@pytest.mark.parametrize("cell", NO_FORMULAS)
def test_ids_that_only_begin_like_a_formula_stay_as_they_are(cell):
    edges = pa.table([[cell], ["b"], [1.5]], names=["src", "dst", "weight"])
    assert output._tsv_lines(edges) == f"{cell}\tb\t1.5\n".encode()
    assert projector._lines([(cell, "-1.5")]) == f"{cell}\t-1.5\n"


def test_nothing_else_is_written_as_text_with_columns():
    """Whoever adds an export for spreadsheets has to think of formulas."""
    writers = {
        str(path.relative_to(ROOT))
        for package in ("pipeline", "trainer", "cli")
        for path in (ROOT / package).rglob("*.py")
        if re.search(
            r"csv\.writer|csv\.write_csv|DictWriter|\.to_csv|\{.\}\\t|\"\\t\"\.join",
            path.read_text(),
        )
    }
    assert writers == {"pipeline/graph/output.py", "trainer/projector.py"}


# Terminals ----------------------------------------------------------------------------------------


class Tty(io.StringIO):
    """A terminal, as far as one asks."""

    def isatty(self) -> bool:
        return True


def terminals(monkeypatch):
    """(stdout, stderr), which are terminals from now on."""
    streams = Tty(), Tty()
    monkeypatch.setattr(sys, "stdout", streams[0])
    monkeypatch.setattr(sys, "stderr", streams[1])
    return streams


def check_terminal(streams, *, shown=r"\x1b[2J"):
    said = "".join(stream.getvalue() for stream in streams)
    assert shown in said
    assert not set(said) & set("\x1b\x07\x9b\u202e")


def test_an_id_in_an_answer_does_not_reach_the_terminal_raw(tmp_path, monkeypatch):
    terminal = terminals(monkeypatch)
    images = {"bridge": unit(0)[0], f"a{ESCAPE}": unit(10)[0]}
    make_index(tmp_path / "run", save_run(tmp_path / "run", images))
    search = ["search", "--run-dir", str(tmp_path / "run"), "--image-id", "bridge"]
    assert run(search) == 0
    check_terminal(terminal)
    assert run([*search, "--json"]) == 0
    check_terminal(terminal)
    assert run([*search[:-1], f"a{ESCAPE}x"]) == 1
    check_terminal(terminal)


def test_a_program_gets_ids_as_they_are(tmp_path, capsys):
    images = {"bridge": unit(0)[0], f"a{ESCAPE}": unit(10)[0]}
    make_index(tmp_path / "run", save_run(tmp_path / "run", images))
    assert run(["search", "--run-dir", str(tmp_path / "run"), "--image-id", "bridge"]) == 0
    assert capsys.readouterr().out.endswith(f"a{ESCAPE}\n")


def test_names_of_files_and_columns_do_not_reach_the_terminal_raw(tmp_path, capfd):
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs" / "a.csv").write_text(f"image_id{ESCAPE},session_id\na,b\n")
    command = ["build-graph", "--sessions", tmp_path / "logs", "--run-dir", tmp_path / "run"]
    assert run_command(*command) == 1
    told = capfd.readouterr().err
    assert r"\x1b[2J" in told
    assert not set(told) & set("\x1b\x07\x9b\u202e")
    assert told.strip().splitlines()[-1].startswith("imgembed: ")
    (tmp_path / "logs" / "a.csv").write_text("image_id,session_id\na,b\nc,b\na,d\nc,d\n")
    (tmp_path / "logs" / f"note{ESCAPE}.txt").write_text("no log")
    assert run_command(*command, "--set", "graph.measure=count") == 0
    told = capfd.readouterr().err
    assert r"note\x1b[2J" in told
    assert not set(told) & set("\x1b\x07\x9b\u202e")
    (log, *_) = (tmp_path / "run" / schema.LOGS_FOLDER).glob("*.log")
    assert "\x1b" not in log.read_text()  # people read it on a terminal as well


def test_a_result_is_printed_by_the_one_function_that_spells_out():
    """Not by click.echo or print: what those are given goes to the terminal raw."""
    allowed = {
        "cli/printing.py",  # it itself
        "cli/main.py",  # errors, which are spelled out everywhere
        "cli/driving.py",  # a command line, to whoever launches it
        "cli/commands/init.py",  # the name of the file, as it was typed
    }
    found = set()
    for path in sorted((ROOT / "cli").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and ast.unparse(node.func) in ("click.echo", "print"):
                found.add(str(path.relative_to(ROOT)))
    assert found <= allowed


def test_letters_that_the_terminal_does_not_have_are_spelled_out(tmp_path):
    (tmp_path / "図" / "logs").mkdir(parents=True)
    ended = subprocess.run(
        [sys.executable, "-m", "cli.main", "runs", "list", "--run-dir", tmp_path / "図"],
        env=os.environ | {"PYTHONIOENCODING": "latin-1"},
        capture_output=True,
        check=False,
    )
    assert (ended.returncode, ended.stderr) == (0, b"")
    assert ended.stdout.endswith(b"\\u56f3: no stage has been made yet\n")


def test_the_name_of_a_folder_is_no_markup(tmp_path, capsys):
    folder = tmp_path / "a[b]" / "[/c]"
    demo = ["demo", "--out", str(folder), "--images", "24", "--sessions", "20", "--set", "no=1"]
    assert run(demo) == 2
    told = capsys.readouterr().err
    assert f"drawn into {folder / 'data'}\n" in told
    assert "settings: no: unknown setting" in told


def test_lines_stay_lines_and_letters_of_all_scripts_stay_as_they_are():
    text = "élan 🌉 👨\u200d👩\u200d👧 数\u3000字\nשלום"
    assert printing.lines(text) == text
    assert printing.printable("a\nb\tc") == "a\\nb\\tc"


def test_an_error_of_a_thousand_columns_is_as_long_as_one_reads(tmp_path, capsys):
    (tmp_path / "a.csv").write_text(",".join(f"column{n}" for n in range(10_000)) + "\n1\n")
    assert run(["build-graph", "--sessions", str(tmp_path), "--run-dir", str(tmp_path / "r")]) == 1
    told = capsys.readouterr().err
    assert "no column image_id" in told
    assert len(told) < 2_100


# Our own sources ----------------------------------------------------------------------------------

# What runs code that is written in the data that it reads.
RUNS_DATA = {"eval", "exec", "compile", "__import__", "os.system", "os.popen"}
LOADS_OBJECTS = {"pickle", "cloudpickle", "dill", "marshal", "shelve", "joblib", "jsonpickle"}


def calls_and_imports(path: Path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call):
            yield (
                ast.unparse(node.func),
                {word.arg: ast.unparse(word.value) for word in node.keywords},
            )
        elif isinstance(node, ast.Import):
            yield from ((f"import {alias.name}", {}) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield f"import {node.module}", {}


def dangers(path: Path):
    """What of a source file would run code out of data."""
    for name, words in calls_and_imports(path):
        last = name.rsplit(".", 1)[-1]
        if name in RUNS_DATA or (
            name.startswith("import ") and name.split()[1].split(".")[0] in LOADS_OBJECTS
        ):
            yield name
        if name in ("np.load", "numpy.load") and words.get("allow_pickle") != "False":
            yield f"{name} without allow_pickle=False"
        if words.get("allow_pickle", "False") != "False" or words.get("safe_mode") == "False":
            yield f"{name} of objects"
        if name == "yaml.load" and path.name != "settings.py":
            yield name
        if last in ("unsafe_load", "full_load", "load_all", "enable_unsafe_deserialization"):
            yield name
        if name.endswith("models.load_model") and words.get("safe_mode") != "True":
            yield f"{name} without safe_mode=True"
        if words.get("shell") == "True":
            yield f"{name} by a shell"


def sources():
    folders = ("pipeline", "trainer", "cli", "deploy")
    return [path for folder in folders for path in sorted((ROOT / folder).rglob("*.py"))]


def test_nothing_of_ours_runs_code_out_of_data():
    found = {str(path.relative_to(ROOT)): list(dangers(path)) for path in sources()}
    assert len(found) > 250
    assert {path: what for path, what in found.items() if what} == {}


@pytest.mark.parametrize(
    "line",
    [
        "import pickle",
        "from joblib import load",
        "np.load(path)",
        "np.load(path, allow_pickle=True)",
        "yaml.load(text, yaml.Loader)",
        "yaml.unsafe_load(text)",
        "eval(text)",
        "tf.keras.models.load_model(path)",
        "tf.keras.models.load_model(path, safe_mode=False)",
        "subprocess.run(text, shell=True)",
    ],
)
def test_the_search_for_it_finds_it(tmp_path, line):
    (tmp_path / "a.py").write_text(line)
    assert list(dangers(tmp_path / "a.py"))


def test_the_yaml_of_the_settings_is_a_safe_one():
    import yaml

    from cli import settings

    assert issubclass(settings._Loader, yaml.SafeLoader)
