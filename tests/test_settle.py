"""What each image is, is settled: one row an id, its split, its texts, its sessions, its order."""

from __future__ import annotations

import itertools
import random
from collections import Counter, defaultdict
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline import schema
from pipeline.config import SplitConfig
from pipeline.errors import ImgembedError
from pipeline.examples import settle, spill
from pipeline.examples.places import Places, stretch
from pipeline.examples.prepare import PREPARED_SCHEMA, check_unique
from pipeline.sorting import rows_of

SPLIT = SplitConfig(train=0.7, validation=0.2, test=0.1)
QUERIES = pa.schema([("query", pa.string()), ("image_id", pa.string()), ("sessions", pa.int64())])
NODES = pa.schema([("image_id", pa.string()), ("sessions", pa.int64())])


def prepared(rows: list[dict]) -> pa.Table:
    return pa.Table.from_pylist(rows, schema=PREPARED_SCHEMA)


def queries(*rows: tuple[str, str, int]) -> pa.Table:
    return pa.Table.from_pylist(
        [dict(zip(QUERIES.names, row, strict=True)) for row in rows], schema=QUERIES
    )


def options(folder: object = "", *, shards: int = 1, **changed: Any) -> settle.SettleOptions:
    given = {"split": SPLIT, "texts": 2, "captions": True, **changed}
    return settle.SettleOptions(folder=str(folder), places=Places(0, shards), **given)


def settled(rows: list[dict], **changed: Any) -> tuple[dict[str, dict], dict[str, int]]:
    """({id: settled row}, counters)."""
    table, counts = settle.settle(
        prepared(rows), queries(), NODES.empty_table(), options(**changed)
    )
    return {row["image_id"]: row for row in table.to_pylist()}, counts


# Places -----------------------------------------------------------------------------------------


@given(
    places=st.lists(st.integers(0, 2**64 - 1), max_size=30),
    known=st.lists(st.integers(0, 2**64 - 1), max_size=9, unique=True),
)
@settings(deadline=None)
def test_places_are_looked_up_as_in_a_dictionary(places, known):
    rows = {place: row for row, place in enumerate(sorted(known))}
    places = places + known
    found = rows_of(np.array(places, np.uint64), np.array(sorted(known), np.uint64))
    assert found.tolist() == [rows.get(place, -1) for place in places]


@given(places=st.lists(st.integers(0, 2**64 - 1)), number=st.integers(1, 2000))
@settings(deadline=None)
def test_stretches_are_equal_and_ascend_with_the_places(places, number):
    ascending = sorted({0, 2**64 - 1, *places})
    found = stretch(np.array(ascending, np.uint64), number).tolist()
    assert found == [(place >> 32) * number >> 32 for place in ascending]
    assert found == sorted(found)
    assert (found[0], found[-1]) == (0, number - 1)


# Duplicates -------------------------------------------------------------------------------------


def test_an_id_that_is_there_twice_is_an_error_that_names_both_places_in_any_order():
    rows = [
        {"image_id": "b", "file": "2.csv", "row": 1},
        {"image_id": "a", "file": "2.csv", "row": 2},
        {"image_id": "b", "file": "1.csv", "row": 10},
        {"image_id": "c", "file": "0.csv", "row": 1},
        {"image_id": "b", "file": "1.csv", "row": 9},
        {"image_id": "c", "file": "0.csv", "row": 2},
    ]
    expected = (
        "images: the id 'b' is there twice, at 1.csv row 9 and at 1.csv row 10; every image needs "
        "an id of its own"
    )
    for seed in range(10):
        random.Random(seed).shuffle(rows)
        with pytest.raises(ImgembedError) as error:
            check_unique(prepared(rows))
        assert str(error.value) == expected


def test_an_id_that_comes_from_two_tables_of_a_shard_is_found(tmp_path):
    parts = [prepared([{"image_id": "x", "file": name, "row": 1}]) for name in ("b", "a")]
    element = (0, {"images": parts, "queries": [], "nodes": []})
    with pytest.raises(ImgembedError, match="'x' is there twice, at a row 1 and at b row 1"):
        settle.settle_shard(element, options(tmp_path))


@pytest.mark.parametrize("ids", [[], ["a"], ["a", "A", "a ", "ä", "a\u0308", ""]])
def test_ids_that_differ_are_no_duplicates(ids):
    check_unique(prepared([{"image_id": i, "file": "f", "row": n} for n, i in enumerate(ids)]))


# Texts ------------------------------------------------------------------------------------------


def texts_of(images: list[dict], table: pa.Table, **changed: Any) -> list[list[tuple[str, float]]]:
    """[rows] (text, weight) of each image."""
    limits = {"texts": 2, "captions": True, **changed}
    texts, weights, _ = settle.join_texts(prepared(images), table, **limits)
    return [list(zip(*row, strict=True)) for row in zip(texts, weights, strict=True)]


def test_texts_are_captions_then_the_most_frequent_queries():
    images = [{"image_id": "a", "text": ["caption", "second"]}, {"image_id": "b"}]
    clicked = queries(("y", "a", 3), ("rare", "a", 1), ("x", "a", 3), ("other", "nobody", 9))
    expected = [[("caption", 1.0), ("second", 1.0), ("x", 3.0), ("y", 3.0)], []]
    assert texts_of(images, clicked) == expected
    assert texts_of(images, clicked, captions=False) == [[("x", 3.0), ("y", 3.0)], []]
    assert texts_of(images, clicked, texts=1) == [expected[0][:3], []]
    assert texts_of(images, clicked, texts=0) == [expected[0][:2], []]
    assert texts_of(images, clicked, texts=0, captions=False) == [[], []]


@given(
    rows=st.lists(
        st.tuples(st.sampled_from("uvwxyzä"), st.sampled_from("abc?"), st.integers(1, 3)),
        max_size=20,
        unique_by=lambda row: row[:2],
    ),
    limit=st.integers(0, 4),
)
@settings(max_examples=60, deadline=None)
def test_queries_of_an_image_are_its_most_frequent_ones_ties_by_text(rows, limit):
    of: dict[str, list[tuple[str, float]]] = defaultdict(list)
    for query, image, sessions in sorted(rows, key=lambda row: (-row[2], row[0].encode())):
        of[image].append((query, float(sessions)))
    images = [{"image_id": image} for image in "abc"]
    expected = [of[image][:limit] for image in "abc"]
    assert texts_of(images, queries(*rows), texts=limit) == expected
    assert texts_of(images, queries(*rows[::-1]), texts=limit) == expected
    _, _, counts = settle.join_texts(prepared(images), queries(*rows), texts=limit, captions=True)
    unknown = sum(image == "?" for _, image, _ in rows)
    assert counts == {"query rows": len(rows), "query rows without an image": unknown}


# Splits -----------------------------------------------------------------------------------------


def splits_of(rows: list[dict], split: SplitConfig = SPLIT, seed: int = 0) -> list[str]:
    return settle.choose_splits(prepared(rows), split=split, seed=seed).to_pylist()


def numbered(count: int, **columns: Any) -> list[dict]:
    return [{"image_id": f"img{i}", **columns} for i in range(count)]


def test_splits_have_about_their_shares_and_follow_the_seed():
    first = splits_of(numbered(4000), seed=1)
    # Three standard deviations of a binomial of 4,000: 87 of 0.7, 76 of 0.2, 57 of 0.1.
    assert abs(first.count("train") - 2800) < 87
    assert abs(first.count("validation") - 800) < 76
    assert abs(first.count("test") - 400) < 57
    assert first == splits_of(numbered(4000), seed=1)
    assert first != splits_of(numbered(4000), seed=2)


def test_splits_do_not_change_when_images_are_added():
    rows = numbered(300)
    some = rows[::7]
    expected = dict(zip((row["image_id"] for row in rows), splits_of(rows), strict=True))
    assert splits_of(some) == [expected[row["image_id"]] for row in some]
    assert splits_of(some[::-1]) == [expected[row["image_id"]] for row in some[::-1]]


def test_a_larger_training_share_only_adds_to_the_training_split():
    smaller, larger = SplitConfig(), SplitConfig(train=0.9, validation=0.05, test=0.05)
    pairs = zip(splits_of(numbered(500), smaller), splits_of(numbered(500), larger), strict=True)
    assert all(after == "train" for before, after in pairs if before == "train")


@pytest.mark.parametrize("shares", [s for s in itertools.product((0, 1), repeat=3) if s[0]])
def test_a_share_of_zero_gets_nothing(shares):
    names = ("train", "validation", "test")
    values = {n: share / sum(shares) for n, share in zip(names, shares, strict=True)}
    found = Counter(splits_of(numbered(300), SplitConfig(**values)))
    assert set(found) == {name for name, share in zip(names, shares, strict=True) if share}


def test_the_split_of_the_catalog_wins():
    rows = numbered(2000)
    rows[5]["split"], rows[6]["split"], rows[6]["group"] = "test", "validation", "g"
    found = splits_of(rows, SplitConfig(train=1.0, validation=0.0, test=0.0))
    assert (found[5], found[6]) == ("test", "validation")
    assert found.count("train") == 1998


def test_a_group_is_never_parted_and_groups_have_about_the_shares():
    rows = [{"image_id": f"{g}-{i}", "group": f"g{g}"} for g in range(2000) for i in range(2)]
    found = splits_of(rows)
    assert found[::2] == found[1::2]
    # Three standard deviations of a binomial of 2,000 and 0.7: 62.
    assert abs(found[::2].count("train") - 1400) < 62


def test_images_without_a_group_are_drawn_as_if_there_were_no_groups():
    rows = numbered(200)
    plain = splits_of(rows)
    grouped = [row | {"group": "g"} if i % 2 else row for i, row in enumerate(rows)]
    found = splits_of(grouped)
    assert found[::2] == plain[::2]
    assert len(set(found[1::2])) == 1


def test_a_group_is_drawn_apart_from_an_image_of_that_name():
    names = [f"x{i}" for i in range(200)]
    of_images = splits_of([{"image_id": name} for name in names])
    of_groups = splits_of([{"image_id": f"-{name}", "group": name} for name in names])
    assert of_images != of_groups


# All of it --------------------------------------------------------------------------------------


def test_rows_stand_by_their_place_and_keep_their_content():
    rows = numbered(50, image=b"x", label=["l"], channel_sums=[1, 2, 3], channel_squares=[4, 5, 6])
    rows[7] |= {"image": b"", "label": None}
    table, _ = settle.settle(prepared(rows), queries(), NODES.empty_table(), options())
    assert table.schema == settle.SETTLED_SCHEMA
    found = table.to_pylist()
    of = {row["image_id"]: row for row in rows}
    assert [row["place"] for row in found] == sorted(row["place"] for row in found)
    assert {row["image_id"] for row in found} == set(of)
    for row in found:
        assert row["place"] == Places(0, 1).of(pa.array([row["image_id"]]))[0]
        for name in ("image", "label", "channel_sums", "channel_squares"):
            assert row[name] == of[row["image_id"]][name]


def test_sessions_are_those_of_the_graph_and_null_where_it_does_not_know_the_image():
    nodes = pa.table([["b", "?", "c"], [4, 9, None]], schema=NODES)
    table, _ = settle.settle(
        prepared([{"image_id": i} for i in "abc"]), queries(), nodes, options()
    )
    found = {row["image_id"]: row["sessions"] for row in table.to_pylist()}
    assert found == {"a": None, "b": 4, "c": None}


def test_two_ids_of_one_place_are_an_error_by_name():
    images = prepared([{"image_id": "a"}, {"image_id": "b"}])
    with pytest.raises(ImgembedError, match="'a' and 'b' have the same 64-bit hash"):
        settle._check_places(images, np.array([3, 3], np.uint64))


def test_counters_add_up():
    rows = numbered(60)
    for index, row in enumerate(rows):
        row["label"] = [None, ["x"], ["x", "y"]][index % 3]
        row["text"] = ["one", "two"][: index % 3] or None
        row["image"] = b"12345"
    found, counts = settled(rows)
    for split in schema.SPLITS:
        mine = [row for row in found.values() if row["split"] == split]
        assert counts[f"images/{split}"] == len(mine)
        assert counts[f"labelled/{split}"] == sum(row["label"] is not None for row in mine)
        assert counts[f"texts/{split}"] == sum(len(row["text"]) for row in mine)
    assert sum(counts[f"images/{split}"] for split in schema.SPLITS) == 60
    assert counts["labels"] == 60
    assert counts["several labels"] == 20
    assert counts["content bytes"] == 300


@pytest.mark.parametrize("shards", [1, 3, 8])
def test_shards_of_files_one_after_the_other_are_the_same_images(tmp_path, shards):
    rows = numbered(20, image=b"x")
    places = Places(0, shards)
    table = prepared(rows)
    parts: dict[int, list[pa.Table]] = {shard: [] for shard in range(shards)}
    for shard, part in places.split(table, places.of(table["image_id"])):
        parts[shard].append(part)
    analyzed = []
    for shard in range(shards):
        element = (shard, {"images": parts[shard], "queries": [], "nodes": []})
        outcome = settle.settle_shard(element, options(tmp_path, shards=shards))
        analyzed += [part for _, part in outcome.outputs]
    whole, _ = settle.settle(table, queries(), NODES.empty_table(), options())
    for prefix, columns in (
        (spill.IMAGES, settle.NODE_COLUMNS),
        (spill.PLACES, settle.PLACE_COLUMNS),
    ):
        paths = [spill.shard_path(str(tmp_path), prefix, i, shards) for i in range(shards)]
        found = pa.concat_tables([spill.read_table(path) for path in paths])
        assert found.equals(whole.select(columns))
    assert pa.concat_tables(analyzed).equals(whole.select(settle.ANALYZED_COLUMNS))


def test_a_shard_without_images_is_an_empty_file_and_is_not_analyzed(tmp_path):
    outcome = settle.settle_shard(
        (0, {"images": [], "queries": [], "nodes": []}), options(tmp_path)
    )
    assert outcome.outputs == []
    assert set(outcome.counts.values()) == {0}
    path = spill.shard_path(str(tmp_path), spill.PLACES, 0, 1)
    assert spill.read_table(path).num_rows == 0
    assert spill.read_table(path, ["image_id"]).column_names == ["image_id"]
