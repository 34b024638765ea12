"""Search among embeddings: exactness, ties, ids that are not there, and queries by the model."""

import errno
import io
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from small_indexes import make_index, save_embeddings, save_run, unit

from cli import printing, searching
from cli.main import run
from cli.searching import Query, Searcher
from cli.settings import Config
from pipeline import schema
from pipeline.artifacts import Version
from pipeline.embeddings import scoring, search
from pipeline.embeddings.search import Hit, QueryEncoder, SearchIndex
from pipeline.errors import ImgembedError


@pytest.fixture
def index(tmp_path: Path) -> SearchIndex:
    names = ["bridge", "castle", "dune", "élan"]
    return SearchIndex.open(
        save_embeddings(tmp_path, dict(zip(names, unit(0, 30, 90, 180), strict=True)))
    )


def test_the_nearest_come_first_with_their_cosines(index: SearchIndex) -> None:
    hits = index.search(unit(0)[0], 3)
    assert [hit.image_id for hit in hits] == ["bridge", "castle", "dune"]
    assert [hit.score for hit in hits] == pytest.approx([1.0, np.cos(np.pi / 6), 0.0], abs=1e-6)


def test_excluded_images_are_no_answer(index: SearchIndex) -> None:
    hits = index.search(unit(0)[0], 2, exclude=["bridge", "bridge", "nowhere"])
    assert [hit.image_id for hit in hits] == ["castle", "dune"]


def test_a_k_beyond_the_index_gives_all_of_it(index: SearchIndex) -> None:
    assert len(index.search(unit(0)[0], 100)) == 4
    assert index.search(unit(0)[0], 1, exclude=index.ids) == []


def test_a_k_below_one_is_refused(index: SearchIndex) -> None:
    with pytest.raises(ImgembedError, match=r"^k: 0 is too small"):
        index.search(unit(0)[0], 0)


def test_an_empty_index_has_no_answer(tmp_path: Path) -> None:
    empty = SearchIndex.open(save_embeddings(tmp_path, {}))
    assert empty.search(unit(0)[0], 5) == []
    with pytest.raises(ImgembedError, match=r"image id 'a': not among the embeddings$"):
        empty.vector_of("a")


def test_a_vector_of_another_length_is_refused(index: SearchIndex) -> None:
    with pytest.raises(ImgembedError, match="3 dimensions, the embeddings have 2"):
        index.search(np.ones(3, np.float32), 1)


def test_an_unknown_id_is_answered_with_similar_ones(index: SearchIndex) -> None:
    with pytest.raises(ImgembedError, match=r"'brigde': not among.*did you mean 'bridge'"):
        index.vector_of("brigde")
    np.testing.assert_array_equal(index.vector_of("dune"), unit(90)[0])


def test_equal_images_come_in_the_order_of_their_ids(tmp_path: Path) -> None:
    vectors = np.random.default_rng(0).normal(size=(300, 17)).astype(np.float32)
    vectors[::3] = vectors[0]
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    rows = {f"{number:03}": vector for number, vector in enumerate(vectors)}
    twins = SearchIndex.open(save_embeddings(tmp_path, rows, dim=17))
    hits = twins.search(vectors[0], 40)
    assert [hit.image_id for hit in hits] == [f"{number:03}" for number in range(0, 120, 3)]
    assert len({hit.score for hit in hits}) == 1


@pytest.mark.parametrize("k", [1, 7, 199, 200])
def test_the_answers_are_those_of_a_full_sort(k: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scoring, "RESCORED_ROWS", 3)
    matrix = np.random.default_rng(1).normal(size=(200, 8)).astype(np.float32)
    matrix /= np.linalg.norm(matrix, axis=1, keepdims=True)
    scores = matrix.astype(np.float64) @ matrix[5].astype(np.float64)
    rows, found = scoring.best_rows(matrix, matrix[5], k)
    assert rows.tolist() == sorted(range(200), key=lambda row: -scores[row])[:k]
    np.testing.assert_allclose(found, np.sort(scores)[::-1][:k])


def test_several_queries_are_their_normalized_sum() -> None:
    np.testing.assert_allclose(search.combine(unit(0, 90)), unit(45)[0], atol=1e-6)
    with pytest.raises(ImgembedError, match="cancel each other"):
        search.combine(unit(0, 180))


def test_a_search_by_id_loads_neither_beam_nor_tensorflow(tmp_path: Path) -> None:
    save_embeddings(tmp_path, {"a": unit(0)[0]})
    program = (
        "import sys; from pipeline.artifacts import Version; "
        "from pipeline.embeddings.search import QueryEncoder, SearchIndex; "
        f"v = Version('embeddings', 'v0001', {str(tmp_path)!r}, "
        "{'dim': 2, 'model_version': 'v0001'}); "
        "encoder = QueryEncoder.open(Version('model', 'v0001', '', {}), v); "
        "index = SearchIndex.open(v); index.search(index.vector_of('a'), 1); "
        "print([m for m in ('apache_beam', 'tensorflow') if m in sys.modules])"
    )
    ran = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert ran.stdout == "[]\n"


def test_a_model_that_did_not_make_the_embeddings_is_refused(tmp_path: Path) -> None:
    embeddings = save_embeddings(tmp_path, {})
    newer = Version(schema.MODEL, "v0002", "", {"fingerprint": "ffffffffffff"})
    with pytest.raises(ImgembedError, match=r"made by model v0001-01234567.*is v0002-ffffffff"):
        QueryEncoder.open(newer, embeddings)


def png(color: tuple[int, int, int]) -> bytes:
    sink = io.BytesIO()
    Image.new("RGB", (40, 30), color).save(sink, "PNG")
    return sink.getvalue()


def test_words_and_pictures_become_unit_vectors(tmp_path: Path) -> None:
    from tiny_model import DIM, save_model

    model = save_model(tmp_path / "model")
    encoder = QueryEncoder.open(model, save_embeddings(tmp_path / "embeddings", {}))
    red = encoder.embed_picture(png((255, 0, 0)), max_pixels=10_000)
    for vector in (encoder.embed_text("red bridge"), red):
        assert vector.shape == (DIM,)
        assert np.linalg.norm(vector) == pytest.approx(1.0, abs=1e-5)
    with pytest.raises(ImgembedError, match="not a picture"):
        encoder.embed_picture(b"GI am no picture", max_pixels=10_000)
    with pytest.raises(ImgembedError, match="is empty"):
        encoder.embed_text("  ")


def test_a_query_picture_loses_what_the_pictures_of_the_examples_lost(tmp_path: Path) -> None:
    from tiny_model import save_model

    noise = np.random.default_rng(0).integers(0, 256, (30, 40, 3), dtype=np.uint8)
    sink = io.BytesIO()
    Image.fromarray(noise).save(sink, "PNG")
    model = save_model(tmp_path / "model")
    embeddings = save_embeddings(tmp_path / "embeddings", {})
    vectors = {}
    for encoding in ("png", "raw", "jpeg", None):
        trained = replace(model, manifest={**model.manifest, "image_encoding": encoding})
        encoder = QueryEncoder.open(trained, embeddings)
        vectors[encoding] = encoder.embed_picture(sink.getvalue(), max_pixels=10_000)
    np.testing.assert_array_equal(vectors["png"], vectors["raw"])
    np.testing.assert_array_equal(vectors["png"], vectors[None])
    assert 1e-6 < np.abs(vectors["png"] - vectors["jpeg"]).max() < 0.1


def test_a_model_without_a_text_tower_says_so() -> None:
    model = Version(schema.MODEL, "v0001", "run/model/v0001", {"signatures": ["features"]})
    with pytest.raises(ImgembedError, match="no signature 'text', which a search by text needs"):
        QueryEncoder(model).embed_text("red")
    with pytest.raises(ImgembedError, match="no signature 'image'"):
        QueryEncoder(model).embed_picture(b"", max_pixels=1)


# Runs ---------------------------------------------------------------------------------------------


def run_of(folder: Path, catalog: str | None = None) -> tuple[Config, Version]:
    """A run directory with embeddings of four images and nothing else."""
    rows = dict(zip(["bridge", "castle", "dune", "élan"], unit(0, 30, 90, 180), strict=True))
    embeddings = save_run(folder / "run", rows, catalog=catalog)
    return Config(run_dir=str(folder / "run")), embeddings


def test_a_run_is_searched_through_its_index(tmp_path: Path) -> None:
    config, embeddings = run_of(tmp_path)
    without = Searcher.open(config)
    assert without.index_of.stage == schema.EMBEDDINGS
    made = make_index(tmp_path / "run", embeddings)
    searcher = Searcher.open(config)
    assert searcher.index_of == made
    query = Query(ids=["bridge", "dune"])
    assert searcher.search(query, 5) == without.search(query, 5)
    assert [hit.image_id for hit in searcher.search(query, 5)] == ["castle", "élan"]


def test_an_index_of_older_embeddings_is_passed_over(tmp_path: Path) -> None:
    config, embeddings = run_of(tmp_path)
    make_index(
        tmp_path / "run", replace(embeddings, manifest={**embeddings.manifest, "fingerprint": "89"})
    )
    assert Searcher.open(config).index_of.stage == schema.EMBEDDINGS


def test_many_embeddings_without_an_index_are_told_of(tmp_path: Path, monkeypatch) -> None:
    config, embeddings = run_of(tmp_path)
    assert Searcher.open(config).advice is None
    monkeypatch.setattr(searching, "_MUCH_TO_READ", 4)
    assert "it is made by: imgembed export" in Searcher.open(config).advice
    make_index(tmp_path / "run", embeddings)
    assert Searcher.open(config).advice is None


def test_the_command_searches_by_id_without_beam_and_tensorflow(tmp_path: Path) -> None:
    _, embeddings = run_of(tmp_path)
    make_index(tmp_path / "run", embeddings, kind="approximate")
    code = (
        "import sys; from cli.main import run; "
        "code = run(['search', '--image-id', 'bridge', '-k', '2', '--run-dir', sys.argv[1]]); "
        "print(code, [m for m in ('apache_beam', 'tensorflow') if m in sys.modules])"
    )
    ran = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "run")],
        capture_output=True,
        text=True,
        check=True,
    )
    assert ran.stdout == "  1   0.866  castle\n  2   0.000  dune\n0 []\n"
    assert ran.stderr == ""
    assert not (tmp_path / "run" / schema.LOGS_FOLDER).exists()


def test_what_was_cut_after_its_commit_is_not_searched(tmp_path: Path) -> None:
    config, embeddings = run_of(tmp_path)
    index = make_index(tmp_path / "run", embeddings)
    Searcher.open(config)
    vectors = Path(index.file(schema.INDEX_VECTORS_FILE))
    vectors.write_bytes(vectors.read_bytes()[:-1])
    with pytest.raises(ImgembedError, match=r"vectors.npy: has \d+ bytes, and \d+ were committed"):
        Searcher.open(config)


def test_without_a_query_and_a_terminal_it_says_what_to_give(tmp_path: Path, capsys) -> None:
    assert run(["search", "--run-dir", str(tmp_path)]) == 2
    assert "nothing to search for: give --text" in capsys.readouterr().err
    assert run(["search", "--html", "a.html"]) == 2
    assert "--html: there is no query" in capsys.readouterr().err


class Closed(io.StringIO):
    """A pipe that nobody reads any more."""

    def write(self, text: str) -> int:
        raise BrokenPipeError(errno.EPIPE, "Broken pipe")


@pytest.mark.parametrize("query", [("--text", "red"), ("--image-id", "dune")])
def test_a_reader_who_has_had_enough_is_no_failure(tmp_path: Path, monkeypatch, query) -> None:
    run_of(tmp_path)
    monkeypatch.setattr(Searcher, "search", lambda *_: [Hit("bridge", 1.0)])
    monkeypatch.setattr(sys, "stdout", Closed())
    assert run(["search", *query, "--run-dir", str(tmp_path / "run")]) == 0


def test_what_a_terminal_would_obey_is_spelled_out() -> None:
    assert printing.printable("\x1b[2Jred\u202e élan 🌉") == "\\x1b[2Jred\\u202e élan 🌉"
