"""Files that once brought the program down, or that it took too long over, as they are read now."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from fuzzing import SHARES, within
from test_fuzz_pictures import SETTINGS
from test_fuzz_tables import read_catalog, read_edge_list, read_log

from cli.settings import load
from pipeline.config import ImagesConfig
from pipeline.errors import ConfigError, ImgembedError
from pipeline.examples import pictures
from pipeline.examples.catalog.find import input_files
from pipeline.examples.decoding import decode_pictures
from pipeline.judgments import read_judgments

CORPUS = Path(__file__).parent / "corpus"
# Of a table: the rows that are kept and the reasons of the others, or the words of a refusal.
TABLES = {
    "logs/deep-list.jsonl": ([1], ["image_id is a list", "session_id is a list"]),
    "logs/list-of-ids.parquet": "column 'image_id' is a list",
    "logs/struct-for-a-query.parquet": "column 'query' is struct",
    "catalogs/label-of-no-year.parquet": ([2], ["label is neither text"]),
    "catalogs/archive-of-an-unknown-store.jsonl": ([], ["cannot be read", "cannot be read"]),
    "catalogs/nul-in-a-uri.jsonl": ([], ["uri is not text", "cannot be read"]),
    "catalogs/uri-of-a-pipe.jsonl": ([], ["cannot be read", "cannot be read"]),
    "edges/weight-of-no-year.parquet": ([], ["bad weight", "bad weight"]),
    "judgments/grade-of-no-year.parquet": "row 1: grade (beyond what can be shown) is no number",
}
SETTINGS_FILES = {
    "billion-laughs.yaml": "line 6: not YAML: more than 1,000,000 characters",
    "long-text-repeated.yaml": "more than 1,000,000 characters",
    "anchor-within-itself.yaml": "line 1: not YAML: an anchor is used within itself",
    "list-for-a-key.yaml": "line 1: not YAML: a list or a section stands where",
    "section-for-a-key.yaml": "line 1: not YAML: a list or a section stands where",
    "thirteenth-month.yaml": "line 1: not YAML: '2001-13-45' is no value of its kind",
    "word-for-a-number.yaml": "line 1: not YAML: 'x' is no value of its kind",
    "word-for-a-time.yaml": "line 1: not YAML: 'x' is no value of its kind",
    "word-for-a-truth.yaml": "line 1: not YAML: 'x' is no value of its kind",
    "number-without-digits.yaml": "line 1: not YAML: '0x_' is no value of its kind",
    "five-thousand-digits.yaml": "line 1: not YAML: '9999",
    "lists-within-lists.yaml": "not YAML: lists or sections within too many others",
    "control-code.yaml": "not YAML: unacceptable character #x001f",
    "long-key.yaml": "graph.kkkk",
    "number-for-a-set.yaml": "line 1: not YAML: a section was announced, and there is none",
    "python-object.yaml": "could not determine a constructor for the tag",
}
PICTURES = {"icon-of-9000-pixels-a-side.ico": pictures.TOO_MANY_PIXELS}


def test_every_file_of_the_corpus_is_read():
    found = {str(path.relative_to(CORPUS)) for path in CORPUS.rglob("*") if path.is_file()}
    settings = {f"settings/{name}" for name in SETTINGS_FILES}
    assert found == {*TABLES, *settings, *(f"pictures/{name}" for name in PICTURES)}


def read_any(path):
    """(rows kept, rejected rows) of a table, as the folder that it lies in says what it is."""
    kind = path.parent.name
    if kind == "logs":
        return read_log(path, None)[:2]
    if kind == "edges":
        return read_edge_list(path)
    if kind == "catalogs":
        config = ImagesConfig(path=str(path))
        assert len(input_files(config)) >= 1
        return read_catalog(config)
    return read_judgments(str(path), format="auto", columns={})


@pytest.mark.parametrize("name", TABLES)
def test_a_table_of_the_corpus_is_refused_in_words_or_its_rows_are_kept_or_rejected(name):
    wanted = TABLES[name]
    with within():
        if isinstance(wanted, str):
            with pytest.raises(ImgembedError) as caught:
                read_any(CORPUS / name)
            assert wanted in str(caught.value)
            return
        kept, rejected = read_any(CORPUS / name)
    assert kept == wanted[0]
    reasons = rejected["reason"].to_pylist()
    assert len(reasons) == len(wanted[1])
    assert all(part in reason for part, reason in zip(wanted[1], reasons, strict=True))


@pytest.mark.parametrize("name", SETTINGS_FILES)
def test_settings_of_the_corpus_are_refused_in_one_line(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with within(), pytest.raises(ConfigError) as caught:
        load(str(CORPUS / "settings" / name))
    assert SETTINGS_FILES[name] in str(caught.value)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 600
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", PICTURES)
def test_a_picture_of_the_corpus_is_refused_before_it_is_decoded(name):
    data = (CORPUS / "pictures" / name).read_bytes()
    with within(5), pytest.raises(pictures.PictureError, match=PICTURES[name]):
        pictures.prepare(data, image_size=8, max_pixels=10_000, encoding="png")
    assert list(decode_pictures([data], SETTINGS)) == [PICTURES[name]]


def test_the_fuzz_tests_have_as_many_cases_as_they_are_asked_for():
    shares = [
        int(share)
        for path in CORPUS.parent.glob("test_fuzz_*.py")
        for share in re.findall(r"^@cases\((\d+)\)$", path.read_text(), re.MULTILINE)
    ]
    assert sum(shares) == SHARES
