"""What is unchanged is taken over from the version before, and nothing in the files tells."""

import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from export_cases import (
    QUERIES,
    export,
    files_of,
    picture,
    save_features,
    save_pictures,
    save_queries,
)
from tiny_model import save_model

from pipeline import contents
from pipeline.artifacts import Version
from pipeline.config import ExportConfig, ImagesConfig
from pipeline.contents import KnownContents, content_hash, hash_array
from pipeline.embeddings import embed, losses
from pipeline.errors import ImgembedError
from pipeline.examples import decoding
from pipeline.vectors import read_vectors

MANY = 60
ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Version:
    return save_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def graph(tmp_path_factory: pytest.TempPathFactory) -> Version:
    return save_queries(tmp_path_factory.mktemp("graph"))


@pytest.fixture(scope="module", params=["float32", "int8"])
def before(
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
    model: Version,
    graph: Version,
) -> tuple[ImagesConfig, Version]:
    """A catalog, and an export of it."""
    folder = tmp_path_factory.mktemp("before")
    images = save_pictures(folder / "catalog", range(MANY))
    settings = ExportConfig(dtype=request.param, formats=["tfrecord", "npy"])
    return images, export(folder / "e", images=images, model=model, graph=graph, export=settings)


def settings_of(version: Version) -> ExportConfig:
    return ExportConfig(dtype=version.manifest["dtype"], formats=version.manifest["formats"])


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    """How many pictures are decoded, and how many rows the model sees."""
    found = {"decoded": 0, "embedded": 0}
    decode, look = decoding._Worker.decode, embed.models.embed_rows

    def decoded(self: Any, group: Any) -> Any:
        found["decoded"] += len(group)
        return decode(self, group)

    def embedded(saved_model: Any, signature: str, rows: Any, size: int) -> Any:
        found["embedded"] += len(rows)
        return look(saved_model, signature, rows, size)

    monkeypatch.setattr(decoding._Worker, "decode", decoded)
    monkeypatch.setattr(embed.models, "embed_rows", embedded)
    return found


def changed_catalog(folder: Path, before: ImagesConfig) -> ImagesConfig:
    """A picture altered, one added, one removed, one under another name."""
    shutil.copytree(str(before.path), folder)
    (folder / "03.png").write_bytes(picture(1003))
    (folder / "new.png").write_bytes(picture(1004))
    (folder / "05.png").unlink()
    (folder / "06.png").rename(folder / "zz.png")
    return before.model_copy(update={"path": str(folder)})


@pytest.mark.parametrize("shards", [1, 4])
def test_a_catalog_with_changes_comes_out_as_if_all_were_embedded(
    shards: int,
    before: tuple[ImagesConfig, Version],
    model: Version,
    graph: Version,
    calls: dict[str, int],
    tmp_path: Path,
) -> None:
    old_images, old = before
    images = changed_catalog(tmp_path / "catalog", old_images)
    given = {"images": images, "model": model, "graph": graph, "export": settings_of(old)}
    after = export(tmp_path / "after", "v0002", shards=shards, previous=old, **given)
    assert calls == {"decoded": 3, "embedded": 2}  # the broken picture is looked at again
    assert after.manifest["taken_over"] == {
        "from": "v0001",
        "why_nothing": None,
        "images": MANY - 2,
        "queries": len(QUERIES),
        "images_embedded": 2,
        "queries_embedded": 0,
    }
    assert after.manifest["counts"]["images"] == MANY
    assert after.manifest["rejected"] == old.manifest["rejected"]

    whole = export(tmp_path / "whole", "v0002", shards=shards, **given)
    assert whole.manifest["taken_over"]["from"] is None
    assert files_of(after) == files_of(whole)
    assert after.manifest["precision"] == whole.manifest["precision"]
    ids = read_vectors(after, "images", "image_id")[0].to_pylist()
    assert {"new", "zz"} < set(ids)
    assert not {"05", "06"} & set(ids)


def test_what_was_taken_over_is_taken_over_again(
    before: tuple[ImagesConfig, Version], model: Version, graph: Version, tmp_path: Path
) -> None:
    images, old = before
    given = {"images": images, "model": model, "graph": graph, "export": settings_of(old)}
    second = export(tmp_path / "2", "v0002", previous=old, **given)
    third = export(tmp_path / "3", "v0003", previous=second, **given)
    assert third.manifest["taken_over"]["images_embedded"] == 0
    assert files_of(third) == files_of(old)
    assert third.manifest["precision"] == old.manifest["precision"]


Change = Callable[[dict[str, Any]], dict[str, Any]]
CHANGES: dict[str, tuple[Change, str]] = {
    "another model": (
        lambda given: {"model": replace(given["model"], name="v0002")},
        "the model changed",
    ),
    "another batch size": (
        lambda given: {"export": given["export"].model_copy(update={"batch_size": 16})},
        "export.batch_size changed",
    ),
    "another limit of pixels": (
        lambda given: {"images": given["images"].model_copy(update={"max_pixels": 1_000})},
        "max_pixels changed",
    ),
    "another encoding": (
        lambda given: {
            "model": replace(
                given["model"], manifest={**given["model"].manifest, "image_encoding": "raw"}
            )
        },
        "image_encoding changed",
    ),
}


@pytest.mark.parametrize("change", CHANGES)
def test_nothing_is_taken_over_where_a_vector_would_be_made_otherwise(
    change: str,
    before: tuple[ImagesConfig, Version],
    model: Version,
    calls: dict[str, int],
    tmp_path: Path,
) -> None:
    images, old = before
    alter, why = CHANGES[change]
    given = {"images": images, "model": model, "export": settings_of(old)}
    version = export(tmp_path, "v0002", previous=old, **{**given, **alter(given)})
    assert version.manifest["taken_over"]["from"] is None
    assert version.manifest["taken_over"]["why_nothing"] == why
    assert calls["embedded"] == MANY


def test_a_batch_size_that_calls_the_model_alike_is_no_other(
    before: tuple[ImagesConfig, Version], model: Version, tmp_path: Path
) -> None:
    images, old = before
    settings = settings_of(old).model_copy(update={"batch_size": 257})
    version = export(tmp_path, images=images, model=model, previous=old, export=settings)
    assert version.manifest["taken_over"]["images"] == MANY


@pytest.mark.parametrize("dtype", ["float32", "float16", "int8"])
def test_vectors_are_rounded_anew_where_they_are_there_in_full(
    dtype: str,
    before: tuple[ImagesConfig, Version],
    model: Version,
    graph: Version,
    calls: dict[str, int],
    tmp_path: Path,
) -> None:
    images, old = before
    given = {
        "images": images,
        "model": model,
        "graph": graph,
        "export": ExportConfig(dtype=dtype),
    }
    version = export(tmp_path / "after", "v0002", previous=old, **given)
    stored = old.manifest["dtype"]
    kept = stored in (dtype, "float32")
    assert calls["embedded"] == (0 if kept else MANY + len(QUERIES))
    assert version.manifest["taken_over"]["why_nothing"] == (
        None if kept else f"the version before is in {stored}"
    )
    whole = export(tmp_path / "whole", **given)
    assert files_of(version) == files_of(whole)
    assert version.manifest["precision"] == whole.manifest["precision"]


def test_queries_are_taken_over_where_they_are_the_same_and_else_embedded_all(
    before: tuple[ImagesConfig, Version], model: Version, tmp_path: Path
) -> None:
    images, old = before
    graphs = {
        "again": save_queries(tmp_path / "again", name="v0002"),
        "more": save_queries(tmp_path / "more", [*QUERIES, "zebra"]),
        "fewer": save_queries(tmp_path / "fewer", QUERIES[:-1]),
    }
    for name, graph in graphs.items():
        given = {"images": images, "model": model, "graph": graph, "export": settings_of(old)}
        version = export(tmp_path / f"after {name}", "v0002", previous=old, **given)
        found = version.manifest["taken_over"]
        assert found["images"] == MANY
        assert found["queries"] == (len(QUERIES) if name == "again" else 0)
        assert found["queries"] + found["queries_embedded"] == version.manifest["counts"]["queries"]
        assert files_of(version) == files_of(export(tmp_path / f"whole {name}", **given))


def test_features_are_known_by_their_numbers(calls: dict[str, int], tmp_path: Path) -> None:
    model = save_model(tmp_path / "model", signatures=("features",))
    few = save_features(tmp_path / "few.jsonl", 4, ["a", "b", "c"])
    many = save_features(tmp_path / "many.jsonl", 4, ["a", "x", "c", "d"])
    old = export(tmp_path / "old", images=few, model=model)
    calls["embedded"] = 0
    version = export(tmp_path / "new", images=many, model=model, previous=old)
    assert calls["embedded"] == 1
    assert version.manifest["taken_over"]["images"] == 3  # x has the numbers that b had
    whole = export(tmp_path / "whole", images=many, model=model)
    assert files_of(version) == files_of(whole)


def test_a_version_whose_files_are_gone_is_not_built_on(
    before: tuple[ImagesConfig, Version], model: Version, tmp_path: Path
) -> None:
    images, old = before
    copy = tmp_path / "old" / old.name
    shutil.copytree(old.path, copy)
    Path(Version("", "", str(copy), {}).shards("images")[0]).unlink()
    version = export(
        tmp_path / "new",
        images=images,
        model=model,
        previous=replace(old, path=str(copy)),
        export=settings_of(old),
    )
    assert version.manifest["taken_over"]["why_nothing"] == "files of the version before are gone"
    assert version.manifest["counts"]["images"] == MANY


def test_a_damaged_version_is_named_with_the_way_out(
    before: tuple[ImagesConfig, Version], model: Version, tmp_path: Path
) -> None:
    images, old = before
    copy = tmp_path / "old" / old.name
    shutil.copytree(old.path, copy)
    (path,) = Version("", "", str(copy), {}).shards("images")
    Path(path).write_bytes(Path(path).read_bytes()[:-100])
    with pytest.raises(ImgembedError, match=r"cannot be read .*imgembed export --force") as caught:
        export(
            tmp_path / "new",
            images=images,
            model=model,
            previous=replace(old, path=str(copy)),
            export=settings_of(old),
        )
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_export_of_an_earlier_program_is_no_ground_to_build_on(
    before: tuple[ImagesConfig, Version], model: Version, tmp_path: Path
) -> None:
    images, old = before
    manifest = {name: value for name, value in old.manifest.items() if name != "made_by"}
    version = export(
        tmp_path,
        images=images,
        model=model,
        previous=replace(old, manifest=manifest),
        export=settings_of(old),
    )
    assert version.manifest["taken_over"]["images"] == 0


def test_nothing_is_taken_over_from_other_sources_under_the_same_version_number(
    before: tuple[ImagesConfig, Version], model: Version, tmp_path: Path
) -> None:
    images, old = before
    for package in ("pipeline", "trainer"):
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / package, tmp_path / package, ignore=ignored)
    with open(tmp_path / "pipeline" / "precision.py", "a") as file:
        file.write("# changed\n")
    code = "from pipeline.embeddings import takeover; print(takeover._sources())"
    options = {"capture_output": True, "text": True, "check": True, "cwd": tmp_path}
    command = [sys.executable, "-c", code]
    other = subprocess.run(command, env={"PYTHONPATH": str(tmp_path)}, **options).stdout.strip()
    assert other != old.manifest["made_by"]["sources"]

    made_by = {**old.manifest["made_by"], "sources": other}
    previous = replace(old, manifest={**old.manifest, "made_by": made_by})
    given = {"images": images, "model": model, "export": settings_of(old)}
    version = export(tmp_path / "new", previous=previous, **given)
    assert version.manifest["taken_over"]["images"] == 0
    assert version.manifest["taken_over"]["why_nothing"] == "the program changed"


def test_a_sample_that_was_cut_off_knows_nothing_beyond_its_last_draw(
    model: Version, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(losses, "MOST_ROWS", 20)
    images = save_pictures(tmp_path / "catalog", range(MANY))
    settings = ExportConfig(dtype="int8")
    old = export(tmp_path / "old", images=images, model=model, export=settings)
    drawn = pq.read_table(old.shards("sample_images")[0])["draw"].to_pylist()
    assert len(drawn) == 20
    # Three of the sample leave the catalog, and others come.
    (path,) = old.shards("images")
    table = pq.read_table(path).to_pylist()
    by_draw = {int.from_bytes(row["content_hash"][:8], "little"): row["image_id"] for row in table}
    for draw in drawn[:3]:
        Path(str(images.path), f"{by_draw[draw]}.png").unlink()
    for number in range(500, 540):
        Path(str(images.path), f"{number}.png").write_bytes(picture(number))
    new = export(
        tmp_path / "new", "v0002", images=images, model=model, export=settings, previous=old
    )
    kept = pq.read_table(new.shards("sample_images")[0])
    hashes = pq.read_table(new.shards("images")[0])["content_hash"].to_pylist()
    there = sorted(int.from_bytes(digest[:8], "little") for digest in hashes)
    expected = [draw for draw in there if draw <= drawn[-1]][:20]
    assert kept["draw"].to_pylist() == expected
    assert len(expected) >= 17
    assert new.manifest["precision"]["images"]["searched"] == len(expected)


def test_known_contents_are_those_of_the_files_and_no_others(tmp_path: Path) -> None:
    known = [content_hash(b"%d" % number) for number in range(500)]
    for part in range(2):
        table = {"content_hash": hash_array(known[part::2])}
        pq.write_table(contents.pa.table(table), tmp_path / f"{part}.parquet")
    asked = [content_hash(b"%d" % number) for number in range(400, 600)]
    files = tuple(str(tmp_path / f"{part}.parquet") for part in range(2))
    found = KnownContents(files).has(asked)
    assert found.tolist() == [number < 500 for number in range(400, 600)]
    # The first half alone is not enough.
    half = [asked[0][:8] + bytes(8)]
    assert KnownContents(files).has(half).tolist() == [False]
    assert KnownContents().has(asked).sum() == 0
    assert np.array_equal(KnownContents(files).has([]), np.zeros(0, bool))
