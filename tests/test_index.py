"""The index stage: what it finds and says of it, its bytes, ids of any text, faults."""

from __future__ import annotations

import mmap
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial.distance import cdist
from small_indexes import clustered, make_index, names, normalized, save_embeddings, unit

from pipeline import schema
from pipeline.artifacts import Version
from pipeline.embeddings.index_cells import cell_count
from pipeline.embeddings.index_files import Ids
from pipeline.embeddings.search import SearchIndex
from pipeline.errors import ImgembedError

DIM = 16
VECTORS = clustered(4_000, DIM)
IDS = names(len(VECTORS))
TEXTS = {f"query {number}": vector for number, vector in enumerate(clustered(400, DIM, seed=3))}
FILES = (schema.INDEX_IDS_FILE, schema.INDEX_VECTORS_FILE, schema.INDEX_CELLS_FILE)


@pytest.fixture(scope="module")
def embeddings(tmp_path_factory: pytest.TempPathFactory) -> Version:
    folder = tmp_path_factory.mktemp("embeddings")
    return save_embeddings(folder, dict(zip(IDS, VECTORS, strict=True)), DIM, queries=TEXTS)


@pytest.fixture(scope="module")
def index(embeddings: Version, tmp_path_factory: pytest.TempPathFactory) -> Version:
    return make_index(tmp_path_factory.mktemp("run"), embeddings, kind="approximate")


def contents(index: Version) -> dict[str, bytes]:
    return {name: Path(index.file(name)).read_bytes() for name in FILES}


def exact(queries: np.ndarray) -> np.ndarray:
    """Cosines of queries and all images, by scipy, [q, n]."""
    return 1.0 - cdist(queries.astype(np.float64), VECTORS.astype(np.float64), "cosine")


def test_it_finds_what_a_full_search_finds_with_true_cosines(index: Version) -> None:
    opened = SearchIndex.open(index)
    rows = np.arange(0, 4_000, 40)
    cosines = exact(VECTORS[rows])
    found = 0
    for row, scores in zip(rows, cosines, strict=True):
        hits = opened.search(VECTORS[row], 10, exclude=[IDS[row]])
        assert len(hits) == 10
        numbers = [IDS.index(hit.image_id) for hit in hits]
        assert row not in numbers
        assert [hit.score for hit in hits] == pytest.approx(scores[numbers], abs=1e-6)
        assert [hit.score for hit in hits] == sorted((hit.score for hit in hits), reverse=True)
        scores[row] = -np.inf
        found += len(set(numbers) & set(np.argsort(-scores)[:10].tolist()))
    assert found / (10 * len(rows)) > 0.95


def test_the_manifest_says_how_much_it_finds(index: Version) -> None:
    manifest = index.manifest
    said = manifest["recall@10"]
    assert [of["queries"] for of in said.values()] == [1_000, 200]
    assert 0.975 <= said["images"]["recall"] <= 1.0
    # Probes that are the half of those cannot be enough for both, unless they are the first tried.
    assert manifest["probes"] >= 8
    assert manifest["cells"] == cell_count(4_000) == 252


@pytest.mark.parametrize("probes", [1, 2, 5])
def test_the_recall_it_says_is_that_of_all_images(
    embeddings: Version, tmp_path: Path, probes: int
) -> None:
    settings = {"kind": "approximate", "probes": probes, "min_recall": 0.0}
    made = make_index(tmp_path, embeddings, **settings)
    opened = SearchIndex.open(made)
    cosines = exact(VECTORS)
    np.fill_diagonal(cosines, -np.inf)
    best = np.argsort(-cosines, axis=1)[:, :10]
    shares = []
    for row in range(0, 4_000, 4):
        hits = opened.search(VECTORS[row], 10, exclude=[IDS[row]])
        wanted = {IDS[other] for other in best[row]}
        shares.append(len(wanted & {hit.image_id for hit in hits}) / 10)
    said = made.manifest["recall@10"]["images"]["recall"]
    # Two samples of 1,000 of 4,000 queries; an error of the mean is a third of this.
    assert said == pytest.approx(np.mean(shares), abs=0.03)


def test_too_little_recall_ends_the_stage_and_says_what_to_raise(
    embeddings: Version, tmp_path: Path
) -> None:
    with pytest.raises(ImgembedError) as failure:
        make_index(tmp_path, embeddings, kind="approximate", probes=1, min_recall=0.999)
    said = str(failure.value)
    assert "index.min_recall asks for 99.9%" in said
    assert "raise index.probes (1 of 252 cells), or set index.kind to exact" in said
    assert "\n" not in said
    assert not (tmp_path / schema.INDEX / schema.CURRENT_FILE).exists()


def test_candidates_are_to_be_raised_where_all_cells_are_looked_into(tmp_path: Path) -> None:
    alike = normalized(clustered(1, 64) + 1e-3 * np.random.default_rng(2).normal(size=(2_000, 64)))
    rows = dict(zip(names(2_000), alike, strict=True))
    embeddings = save_embeddings(tmp_path / "e", rows, 64)
    settings = {"kind": "approximate", "candidates": 1, "min_recall": 1.0}
    with pytest.raises(ImgembedError, match=r"raise index\.candidates \(1\), or set index\.kind"):
        make_index(tmp_path / "run", embeddings, **settings)


def test_vectors_without_any_cells_to_be_found_are_still_found(tmp_path: Path) -> None:
    vectors = normalized(np.random.default_rng(1).normal(size=(3_000, 48)))
    rows = dict(zip(names(3_000), vectors, strict=True))
    even = save_embeddings(tmp_path / "even", rows, 48)
    manifest = make_index(tmp_path / "run", even, kind="approximate").manifest
    assert manifest["probes"] > 32  # far more than where there are clusters
    assert manifest["recall@10"]["images"]["recall"] >= 0.95


def test_threads_shards_and_order_do_not_change_a_byte(
    embeddings: Version, index: Version, tmp_path: Path
) -> None:
    shuffled = {IDS[row]: VECTORS[row] for row in np.random.default_rng(0).permutation(4_000)}
    other = save_embeddings(tmp_path / "other", shuffled, DIM, queries=TEXTS, shards=5)
    again = make_index(tmp_path / "run", other, threads=4, kind="approximate")
    assert contents(again) == contents(index)
    assert again.manifest == index.manifest


def test_the_seed_changes_the_cells_alone(
    embeddings: Version, index: Version, tmp_path: Path
) -> None:
    other = contents(make_index(tmp_path, embeddings, seed=1, kind="approximate"))
    same = contents(index)
    assert [other[name] == same[name] for name in FILES] == [True, True, False]


def test_auto_is_exact_below_a_number_of_images(embeddings: Version, tmp_path: Path) -> None:
    for below, kind in ((4_001, "exact"), (4_000, "approximate")):
        made = make_index(tmp_path, embeddings, exact_below=below)
        assert made.manifest["kind"] == kind
        assert Path(made.file(schema.INDEX_CELLS_FILE)).exists() == (kind == "approximate")


def test_an_exact_index_answers_as_the_embeddings_do(embeddings: Version, tmp_path: Path) -> None:
    made = SearchIndex.open(make_index(tmp_path, embeddings, kind="exact"))
    read = SearchIndex.open(embeddings)
    for row in (0, 17, 3_999):
        assert made.search(VECTORS[row], 25) == read.search(VECTORS[row], 25)


def test_vectors_are_mapped_not_read(index: Version) -> None:
    matrix: Any = SearchIndex.open(index).matrix
    while isinstance(matrix, np.ndarray):
        matrix = matrix.base
    assert isinstance(matrix, mmap.mmap)


def test_a_k_beyond_the_index_gives_all_of_it_once(index: Version) -> None:
    opened = SearchIndex.open(index)
    hits = opened.search(VECTORS[3], 5_000, exclude=[IDS[3], "nowhere", IDS[3]])
    assert len({hit.image_id for hit in hits}) == len(hits) == 3_999
    few = opened.search(VECTORS[3], 700)  # most of the cells
    assert [hit.image_id for hit in few] == [
        hit.image_id for hit in SearchIndex.open(index).search(VECTORS[3], 5_000)[:700]
    ]


def test_excluded_images_leave_their_places_to_others(index: Version) -> None:
    opened = SearchIndex.open(index)
    first = [hit.image_id for hit in opened.search(VECTORS[9], 40)]
    rest = [hit.image_id for hit in opened.search(VECTORS[9], 10, exclude=first[:30])]
    assert rest == first[30:]


def test_equal_images_come_in_the_order_of_their_ids(tmp_path: Path) -> None:
    vectors = clustered(1_200, DIM, seed=5)
    vectors[::60] = vectors[0]
    rows = dict(zip(names(1_200), vectors, strict=True))
    made = make_index(
        tmp_path / "run", save_embeddings(tmp_path / "e", rows, DIM), kind="approximate"
    )
    hits = SearchIndex.open(made).search(vectors[0], 20)
    assert [hit.image_id for hit in hits] == names(1_200)[::60]
    assert len({hit.score for hit in hits}) == 1


@pytest.mark.parametrize("count", [0, 1, 2, 3, 50])
def test_few_images_have_an_index_too(tmp_path: Path, count: int) -> None:
    rows = dict(zip(names(count), clustered(count, DIM) if count else [], strict=True))
    embeddings = save_embeddings(tmp_path / "e", rows, DIM)
    opened = SearchIndex.open(make_index(tmp_path / "run", embeddings, kind="approximate"))
    assert len(opened.search(VECTORS[0], 100)) == count


# Ids ----------------------------------------------------------------------------------------------

ANY_TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)


@given(st.sets(ANY_TEXT, max_size=30), ANY_TEXT)
def test_ids_of_any_text_are_found(texts: set[str], other: str) -> None:
    ordered = sorted(texts, key=str.encode)
    ids = Ids(pa.array(ordered, pa.large_string()))
    assert [ids.find(text) for text in ordered] == list(range(len(ordered)))
    assert ids.find(other) == (ordered.index(other) if other in texts else None)


def test_ids_of_any_text_go_through_the_files(tmp_path: Path) -> None:
    odd = [
        "",
        " ",
        "a/b\\c",
        "\x1b[31mred",
        "<script>",
        "élan",
        "e\u0301lan",
        "🌉",
        "\uffff",
        "x" * 5_000,
    ]
    rows = dict(zip(odd, clustered(len(odd), DIM), strict=True))
    opened = SearchIndex.open(
        make_index(
            tmp_path / "rün ☂", save_embeddings(tmp_path / "e", rows, DIM), kind="approximate"
        )
    )
    for name in odd:
        assert opened.search(opened.vector_of(name), 1)[0].image_id == name
        np.testing.assert_array_equal(opened.vector_of(name), rows[name])
    with pytest.raises(ImgembedError, match="not among the embeddings"):
        opened.vector_of("\udcff")  # a byte of a command line that is no UTF-8


def test_an_unknown_id_among_many_is_answered_with_similar_ones() -> None:
    many = [f"img-{number:06}" for number in range(200_000)]
    ids = Ids(pa.array([*many[:99], "img-00009z", *many[99:], "zebra crossing"], pa.large_string()))
    assert ids.close_to("zebra crosing") == ["zebra crossing"]
    assert ids.close_to("img-00009zz")[0] == "img-00009z"


# Faults -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("fault", ["cut", "gone", "empty"])
def test_a_damaged_file_is_one_line(index: Version, tmp_path: Path, name: str, fault: str) -> None:
    made = replace(index, path=str(shutil.copytree(index.path, tmp_path / "copy")))
    path = Path(made.file(name))
    whole = path.read_bytes()
    path.unlink()
    if fault != "gone":
        path.write_bytes(whole[: len(whole) // 2] if fault == "cut" else b"")
    with pytest.raises(ImgembedError, match=r"imgembed export --force") as failure:
        SearchIndex.open(made).search(VECTORS[0], 10)
    assert "\n" not in str(failure.value)


def test_files_of_another_version_are_refused(embeddings: Version, tmp_path: Path) -> None:
    made = make_index(tmp_path / "run", embeddings, kind="exact")
    few = save_embeddings(tmp_path / "e", {"a": unit(0)[0]})
    other = make_index(tmp_path / "other", few)
    Path(made.file(schema.INDEX_IDS_FILE)).write_bytes(
        Path(other.file(schema.INDEX_IDS_FILE)).read_bytes()
    )
    with pytest.raises(ImgembedError, match=r"holds 1 ids .*the manifest says 4,000 images"):
        SearchIndex.open(made)
