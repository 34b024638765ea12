"""What the trainer reads out of the examples stage."""

import itertools
from dataclasses import replace
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
import tiny_examples
from tiny_examples import Form

from pipeline import schema
from pipeline.artifacts import Version
from pipeline.errors import ImgembedError
from trainer import dataset, draws, parsing
from trainer.example_files import ExampleFiles
from trainer.popularity import Popularity, drawn_probabilities


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Version:
    return tiny_examples.write_examples(tmp_path_factory.mktemp("pictures"))


def training_batches(version: Version, **options: Any) -> tf.data.Dataset:
    files = ExampleFiles.open(version)
    settings = {"batch_size": 16, "neighbors": 1, "epochs": 2, "seed": 3, "shuffle_buffer": 100}
    return dataset.training_batches(files, files.transform(), **{**settings, **options})


def all_in_order(
    version: Version, split: str, neighbors: int, *, edges: bool = False
) -> dict[str, np.ndarray]:
    files = ExampleFiles.open(version)
    (batch,) = dataset.evaluation_batches(
        files, files.transform(), split, batch_size=100, neighbors=neighbors, edges=edges
    )
    return {name: values.numpy() for name, values in batch.items()}


def test_every_dataset_knows_its_number_of_batches_and_drops_nothing(pictures: Version) -> None:
    batches = training_batches(pictures)  # 42 seeds: 16, 16, 10
    assert int(batches.cardinality()) == 6
    assert [len(batch["id"]) for batch in batches] == [16, 16, 10] * 2
    files = ExampleFiles.open(pictures)
    evaluation = dataset.evaluation_batches(
        files, files.transform(), "validation", batch_size=5, neighbors=1
    )
    assert int(evaluation.cardinality()) == 3
    assert [len(batch["id"]) for batch in evaluation] == [5, 5, 4]


def test_an_epoch_holds_every_example_once_and_another_epoch_another_order(
    pictures: Version,
) -> None:
    ids = np.concatenate([batch["id"] for batch in training_batches(pictures)])
    first, second = ids[:42], ids[42:]
    assert set(first) == set(second)
    assert len(set(first)) == 42
    assert first.tolist() != second.tolist()


def test_the_same_seed_gives_the_same_batches(pictures: Version) -> None:
    tf.random.set_seed(0)
    once = list(training_batches(pictures))
    tf.random.set_seed(1)
    again = list(training_batches(pictures))
    tf.nest.map_structure(np.testing.assert_array_equal, once, again)
    other = list(training_batches(pictures, seed=4))
    assert once[0]["id"].numpy().tolist() != other[0]["id"].numpy().tolist()


def test_pictures_labels_and_neighbours_are_those_of_the_files(pictures: Version) -> None:
    found = all_in_order(pictures, "train", neighbors=3)
    for index in (1, 2, 3):
        expected = tf.io.decode_png(tiny_examples.picture(index)).numpy()
        np.testing.assert_array_equal(found["content"][index], expected)
    near = tiny_examples.neighbors_of(3)
    assert found["neighbor_weight"][3].tolist() == [weight for _, weight in near]
    for slot, (other, _) in enumerate(near):
        expected = tf.io.decode_png(tiny_examples.picture(other)).numpy()
        np.testing.assert_array_equal(found["neighbor_content"][3, slot], expected)
    # Image 1 has one neighbour: what is missing is zeros, and has no label.
    assert found["neighbor_weight"][1].tolist() == [4.0, 0.0, 0.0]
    assert not found["neighbor_content"][1, 1:].any()
    assert found["neighbor_id"][1, 1:].tolist() == [0, 0]
    assert found["neighbor_label"][1, 1:].tolist() == [-1, -1]
    assert found["label"][:4].tolist() == [2, -1, 0, -1]
    assert found["heldout_label"].tolist() == [-1] * 42


def test_ids_agree_between_seeds_and_neighbours(pictures: Version) -> None:
    found = all_in_order(pictures, "train", neighbors=1)
    assert found["graph_id"].shape == (42, 3)
    assert found["graph_id"][3].tolist() == found["id"][[6, 9, 12]].tolist()
    assert found["neighbor_id"][3].tolist() == found["id"][[6]].tolist()
    assert (found["id"] != 0).all()


def test_labels_outside_the_training_split_are_held_out(pictures: Version) -> None:
    found = all_in_order(pictures, "validation", neighbors=1)
    assert found["label"].tolist() == [-1] * 14
    assert found["heldout_label"][:3].tolist() == [2, -1, 0]  # images 42, 43, 44


def test_neighbours_are_drawn_by_weight(pictures: Version) -> None:
    """Image 3 has neighbours of weights 4, 3 and 2."""
    rows = 4_000
    weights = tf.tile(tf.constant([[4.0, 3.0, 2.0, 0.0]]), [rows, 1])
    numbers = draws.Draws(tf.constant([1, 2], tf.int64), tf.constant(rows), tf.range(rows))
    taken, chosen = draws.draw_neighbors(weights, 1, numbers)
    shares = np.bincount(chosen.numpy().ravel(), minlength=4) / rows
    assert shares == pytest.approx([4 / 9, 3 / 9, 2 / 9, 0.0], abs=0.03)
    assert (taken.numpy() == 1.0).all()  # the weight has spoken in the draw


def test_asking_for_more_neighbours_than_there_are_gives_those_there_are(pictures: Version) -> None:
    batch = next(iter(training_batches(pictures, neighbors=10)))
    assert batch["neighbor_id"].shape[1] == 3
    weights = np.sort(batch["neighbor_weight"].numpy(), axis=1)
    assert {tuple(row) for row in weights} <= {(0, 0, 0), (0, 0, 4), (0, 3, 4), (2, 3, 4)}


def test_without_neighbours_nothing_of_them_is_read(pictures: Version) -> None:
    batch = next(iter(training_batches(pictures, neighbors=0)))
    assert batch["neighbor_content"].shape == (16, 0, 16, 16, 3)
    assert batch["neighbor_weight"].shape == (16, 0)


def test_tokens_come_from_the_transform_and_the_strongest_text(pictures: Version) -> None:
    found = all_in_order(pictures, "train", neighbors=1)
    transform = ExampleFiles.open(pictures).transform()
    words = transform.tokens(tf.constant(["red", "green"])).to_list()
    assert found["tokens"][3].tolist()[: len(words[0])] == words[0]
    assert found["tokens"][1].tolist()[: len(words[1])] == words[1]
    # Every seventh image has no text.
    assert (found["tokens"][7] == -1).all()
    assert found["text_id"][7] == 0
    assert not found["seed_text_id"][7].any()


def test_texts_of_the_same_words_are_the_same(tmp_path: Path) -> None:
    texts = ["striped red star", "Star, striped red!", "red star", "", "..."]

    def change(index: int, values: tiny_examples.Values) -> tiny_examples.Values:
        return {**values, "text": [texts[index % 5]], "text_weight": [1.0]}

    found = all_in_order(tiny_examples.write_examples(tmp_path / "x", change=change), "train", 0)
    ids = found["text_id"][:5].tolist()
    assert ids[0] == ids[1] != ids[2]
    assert found["seed_text_id"][:5, 0].tolist() == ids


def test_a_text_of_weight_zero_is_never_drawn_nor_does_it_break_the_batch(tmp_path: Path) -> None:
    def change(index: int, values: tiny_examples.Values) -> tiny_examples.Values:
        return {**values, "text": ["red", "blue"], "text_weight": [0.0, 1.0]}

    version = tiny_examples.write_examples(tmp_path / "x", change=change)
    blue = ExampleFiles.open(version).transform().tokens(tf.constant(["blue"])).to_list()
    for batch in training_batches(version):
        assert (batch["tokens"].numpy() == blue).all()


def test_ready_features_come_as_they_are(tmp_path: Path) -> None:
    version = tiny_examples.write_examples(tmp_path / "x", Form(features=True))
    found = all_in_order(version, "train", neighbors=2)
    raw = np.stack([tiny_examples.raw_features(i) for i in range(42)]).astype(np.float32)
    np.testing.assert_allclose(found["content"], raw)
    np.testing.assert_allclose(found["neighbor_content"][3], raw[[6, 9]])
    assert not found["neighbor_content"][1, 1].any()


FORMS = [
    Form(layout=layout, encoding=encoding, multi_label=multi_label)
    for encoding, multi_label in (("png", False), ("jpeg", True), ("raw", True), ("raw", False))
    for layout in ("nsl", "compact")
] + [Form(features=True, layout=layout, multi_label=True) for layout in ("nsl", "compact")]


@pytest.mark.parametrize("form", [form for form in FORMS if form.layout == "compact"])
def test_both_layouts_give_the_same_batches(tmp_path: Path, form: Form) -> None:
    ours = tiny_examples.write_examples(tmp_path / "compact", form)
    theirs = tiny_examples.write_examples(tmp_path / "nsl", replace(form, layout="nsl"))
    for split, neighbors in (("train", 3), ("validation", 0)):
        one, two = (all_in_order(version, split, neighbors) for version in (ours, theirs))
        assert one.keys() == two.keys()
        for name, values in one.items():
            np.testing.assert_array_equal(values, two[name], err_msg=name)
    batches = (training_batches(version, epochs=1) for version in (ours, theirs))
    for one, two in zip(*batches, strict=True):
        tf.nest.map_structure(np.testing.assert_array_equal, one, two)


@pytest.mark.parametrize("layout", ["nsl", "compact"])
@pytest.mark.parametrize("encoding", ["jpeg", "raw"])
def test_pixels_are_those_of_the_files_in_every_encoding(
    tmp_path: Path, layout: schema.Layout, encoding: schema.ImageEncoding
) -> None:
    form = Form(layout=layout, encoding=encoding)
    found = all_in_order(tiny_examples.write_examples(tmp_path / "x", form), "train", neighbors=3)
    np.testing.assert_array_equal(found["content"][5], shown(5, encoding))
    for slot, (other, _) in enumerate(tiny_examples.neighbors_of(3)):
        np.testing.assert_array_equal(found["neighbor_content"][3, slot], shown(other, encoding))
    assert not found["neighbor_content"][1, 1:].any()


def shown(index: int, encoding: str) -> np.ndarray:
    if encoding == "raw":
        return tiny_examples.pixels(index)
    return tf.io.decode_jpeg(tiny_examples.picture(index, encoding)).numpy()


def test_several_labels_come_filled_up(tmp_path: Path) -> None:
    version = tiny_examples.write_examples(tmp_path / "x", Form(multi_label=True))
    found = all_in_order(version, "train", neighbors=2)
    assert found["labels"][:5].tolist() == [[2, 1], [-1, -1], [0, -1], [-1, -1], [1, 0]]
    assert found["label"][:5].tolist() == [2, -1, 0, -1, 1]  # the first
    # Image 2 has the neighbours 5, without a label, and 8, which has two.
    assert found["neighbor_labels"][2].tolist() == [[-1, -1], [0, 2]]
    assert found["heldout_labels"].shape == (42, 0)
    held_out = all_in_order(version, "validation", neighbors=0)
    assert held_out["labels"].shape == (14, 0)
    assert held_out["heldout_labels"][:3].tolist() == [[2, -1], [-1, -1], [0, 2]]  # 42, 43, 44
    assert held_out["neighbor_labels"].shape[:2] == (14, 0)


def test_only_examples_of_several_labels_have_them(pictures: Version) -> None:
    found = all_in_order(pictures, "train", neighbors=1)
    assert not {"labels", "neighbor_labels", "heldout_labels"} & found.keys()


@pytest.mark.parametrize("layout", ["nsl", "compact"])
@pytest.mark.parametrize("multi_label", [False, True])
def test_examples_without_any_neighbour_slot_are_read(
    tmp_path: Path, layout: schema.Layout, multi_label: bool
) -> None:
    form = Form(layout=layout, multi_label=multi_label, neighbors=0)
    batch = next(iter(training_batches(tiny_examples.write_examples(tmp_path / "x", form))))
    assert batch["neighbor_content"].shape == (16, 0, 16, 16, 3)
    assert batch["graph_id"].shape == (16, 0)


def test_many_files_are_mixed_anew_in_every_epoch_by_the_seed_alone(tmp_path: Path) -> None:
    version = tiny_examples.write_examples(tmp_path / "x", files=5)

    def ids(**options: int) -> list[int]:
        batches = training_batches(version, shuffle_buffer=4, epochs=2, **options)
        return np.concatenate([batch["id"] for batch in batches]).tolist()

    once = ids()
    first, second = once[:42], once[42:]
    assert len(set(first)) == 42
    assert set(first) == set(second)
    assert first != second
    assert ids() == once
    assert ids(seed=4) != once
    # Other neighbours are drawn for other batches, but the order does not depend on them.
    assert ids(neighbors=3) == once
    in_order = all_in_order(version, "train", neighbors=0)["id"].tolist()
    near = np.abs(np.diff([in_order.index(one) for one in first]))
    assert np.median(near) > 4  # examples of different files stand side by side


@pytest.fixture(scope="module")
def scattered(tmp_path_factory: pytest.TempPathFactory) -> Version:
    return tiny_examples.write_examples(tmp_path_factory.mktemp("scattered"), files=3)


@pytest.fixture(scope="module")
def six_steps(scattered: Version) -> list[dict[str, tf.Tensor]]:
    return list(training_batches(scattered, **SCATTERED))


SCATTERED: dict[str, Any] = {"shuffle_buffer": 11, "neighbors": 2, "edges": True}


@pytest.mark.parametrize("start", [2, 3, 4, 6])
def test_a_dataset_that_begins_later_goes_on_as_the_whole_one_does(
    scattered: Version, six_steps: list[dict[str, tf.Tensor]], start: int
) -> None:
    batches = training_batches(scattered, **SCATTERED, start_step=start)
    assert int(batches.cardinality()) == 6 - start
    rest = list(batches)
    tf.nest.map_structure(np.testing.assert_array_equal, rest, six_steps[start:])


PADDING = {"graph_weights": 0.0, "seed_text_id": 0, "tokens": -1, "graph_senders": -1}
PADDING |= {"graph_receivers": -1}


def rows_of(batch: dict[str, tf.Tensor], rows: slice) -> dict[str, list[Any]]:
    """Some rows of a batch, without what fills up the shorter ones."""
    taken = {name: values.numpy()[rows] for name, values in batch.items()}
    return {
        name: [[x for x in row if x != PADDING[name]] for row in values.tolist()]
        if name in PADDING
        else values.tolist()
        for name, values in taken.items()
    }


@pytest.mark.parametrize("count", [2, 3])
def test_workers_see_the_rows_of_the_batches_of_one(
    scattered: Version, six_steps: list[dict[str, tf.Tensor]], count: int
) -> None:
    for index in range(count):
        shard = list(training_batches(scattered, **SCATTERED, shard=(index, count)))
        assert len(shard) == 6
        for part, whole in zip(shard, six_steps, strict=True):
            assert rows_of(part, slice(None)) == rows_of(whole, slice(index, None, count))


def test_a_worker_for_which_no_row_is_left_still_gets_the_step(pictures: Version) -> None:
    for index, rows in ((0, [14, 1]), (1, [14, 0]), (2, [13, 0])):
        batches = training_batches(pictures, batch_size=41, epochs=1, shard=(index, 3))
        assert [len(batch["id"]) for batch in batches] == rows


def test_the_images_of_a_step_are_named(
    scattered: Version, six_steps: list[dict[str, tf.Tensor]]
) -> None:
    files = ExampleFiles.open(scattered)
    for step in (1, 5):
        names = dataset.image_ids(files, step=step, batch_size=16, seed=3, shuffle_buffer=11)
        found = six_steps[step]["id"].numpy().tolist()
        assert parsing.hash_ids(tf.constant(names)).numpy().tolist() == found
        assert all(name.startswith("img-") for name in names)


def test_edges_among_the_drawn_nodes_are_those_of_the_graph(
    six_steps: list[dict[str, tf.Tensor]],
) -> None:
    number_of = {
        int(one): index
        for index, one in enumerate(
            parsing.hash_ids(tf.constant([f"img-{i}" for i in range(63)])).numpy()
        )
    }
    left_out = 0
    for batch in six_steps:
        for row, seed in enumerate(batch["id"].numpy()):
            index = number_of[seed]
            drawn = [number_of.get(one) for one in batch["neighbor_id"].numpy()[row]]
            nodes = [index, *(other for other, _ in tiny_examples.neighbors_of(index))]
            expected = {
                (place(nodes[sender], index, drawn), place(nodes[receiver], index, drawn), weight)
                for sender, receiver, weight in tiny_examples.edges_of(index)
            }
            left_out += sum(-1 in edge for edge in expected)
            found = zip(*(batch[name].numpy()[row] for name in EDGES), strict=True)
            there = {(int(s), int(r), float(w)) for s, r, w in found if s != -1}
            assert there == {edge for edge in expected if -1 not in edge[:2]}
    assert left_out > 10  # neighbours that were not drawn


EDGES = ("graph_senders", "graph_receivers", "graph_weights")


def place(node: int, seed: int, drawn: list[int | None]) -> int:
    if node == seed:
        return 0
    return drawn.index(node) + 1 if node in drawn else -1


@pytest.mark.parametrize("layout", ["nsl", "compact"])
def test_edges_are_read_only_where_asked_for(tmp_path: Path, layout: schema.Layout) -> None:
    version = tiny_examples.write_examples(tmp_path / "x", Form(layout=layout))
    assert not set(EDGES) & all_in_order(version, "train", neighbors=3).keys()
    found = all_in_order(version, "train", neighbors=3, edges=True)
    senders, receivers, weights = (found[name][3] for name in EDGES)
    edges = list(zip(senders, receivers, weights, strict=True))
    assert [edge for edge in edges if edge[0] >= 0] == tiny_examples.edges_of(3)
    bare = tiny_examples.write_examples(tmp_path / "y", Form(layout=layout, neighbors=0))
    found = all_in_order(bare, "train", neighbors=3, edges=True)
    assert [found[name].shape for name in EDGES] == [(42, 0)] * 3


def test_texts_are_drawn_by_weight() -> None:
    rows = 4_000
    weights = tf.RaggedTensor.from_row_lengths(
        tf.tile([3.0, 0.5, 1.5], [rows // 2]), tf.tile(tf.constant([3, 0], tf.int64), [rows // 2])
    )
    numbers = draws.Draws(tf.constant([1, 2], tf.int64), tf.constant(rows), tf.range(rows))
    drawn = draws.draw_text(weights, numbers).numpy()
    shares = np.bincount(drawn[::2], minlength=3) / (rows / 2)
    assert shares == pytest.approx([0.6, 0.1, 0.3], abs=0.03)
    assert not drawn[1::2].any()  # those without a text
    assert draws.draw_text(weights, None).numpy()[:2].tolist() == [0, 0]


@pytest.mark.parametrize("layout", ["nsl", "compact"])
def test_popularity_is_one_as_a_seed_and_the_chances_to_be_drawn(
    tmp_path: Path, layout: schema.Layout
) -> None:
    version = tiny_examples.write_examples(tmp_path / "x", Form(layout=layout), files=2)
    expected = dict.fromkeys(range(42), 1.0)  # the training split
    for index in range(42):
        near = tiny_examples.neighbors_of(index)
        for other, weight in near:
            chance = weight / sum(weight for _, weight in near)
            expected[other] = expected.get(other, 0.0) + chance
    popularity = Popularity.of(ExampleFiles.open(version), neighbors=1)
    assert len(popularity.ids) == len(expected)
    ids = parsing.hash_ids(tf.constant([f"img-{index}" for index in expected]))
    found = tf.function(popularity.log_expected)(ids).numpy()
    np.testing.assert_allclose(np.exp(found), list(expected.values()), rtol=1e-5)
    unknown = parsing.hash_ids(tf.constant(["img-62", "", "nobody"]))
    assert popularity.log_expected(unknown).numpy().tolist() == [0.0, 0.0, 0.0]
    # Of as many as there are, every neighbour of a seed is there for certain.
    every = Popularity.of(ExampleFiles.open(version), neighbors=3)
    assert every.expected.sum() == pytest.approx(42 + sum(index % 4 for index in range(42)))


def chances(weights: dict[int, float], number: int) -> dict[int, float]:
    """Of each to be among `number` drawn one after the other, over all orders."""
    found = dict.fromkeys(weights, 0.0)
    for order in itertools.permutations(weights, number):
        left, chance = sum(weights.values()), 1.0
        for one in order:
            chance, left = chance * weights[one] / left, left - weights[one]
        for one in order:
            found[one] += chance
    return found


def test_chances_to_be_drawn_are_those_of_drawing_one_after_the_other() -> None:
    weights = np.array([[10.0, 5.0, 2.0, 1.0, 1.0], [3.0, 1.0, 0.0, 0.0, 0.0], [0.0] * 5])
    for number in (1, 2, 3, 4):
        found = drawn_probabilities(weights, number)
        exact = chances(dict(enumerate(weights[0])), number)
        np.testing.assert_allclose(found[0], list(exact.values()), atol=1e-6)
        assert found.sum(axis=1) == pytest.approx([number, min(number, 2), 0])
    assert drawn_probabilities(np.zeros((3, 0)), 2).shape == (3, 0)


def test_a_metric_over_the_records_is_right_for_it_sees_no_step_without_data(
    pictures: Version,
) -> None:
    """With an unknown number of batches Keras counts one step too many in each epoch."""

    class Steps(keras.Model):
        def __init__(self) -> None:
            super().__init__()
            self.scale = self.add_weight(shape=(), initializer="ones")
            self.ones = keras.metrics.Sum(name="steps")

        def call(self, inputs: dict[str, tf.Tensor]) -> tf.Tensor:
            self.ones.update_state(1.0)
            return self.scale * tf.ones([tf.shape(inputs["id"])[0], 1])

        def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
            return tf.reduce_mean(y_pred)

    model = Steps()
    model.compile(optimizer="sgd", jit_compile=False)
    history = model.fit(
        training_batches(pictures), epochs=2, steps_per_epoch=3, verbose=0, shuffle=False
    )
    assert history.history["steps"] == [3.0, 3.0]
    assert int(model.optimizer.iterations) == 6
    files = ExampleFiles.open(pictures)
    evaluation = dataset.evaluation_batches(
        files, files.transform(), "validation", batch_size=5, neighbors=1
    )
    assert model.evaluate(evaluation, verbose=0, return_dict=True)["steps"] == 3.0


def test_missing_files_are_named(tmp_path: Path, pictures: Version) -> None:
    missing = Version("examples", "v0001", str(tmp_path), pictures.manifest)
    with pytest.raises(ImgembedError, match=r"0 files train-\*.tfrecord.*42 examples.* are in 1"):
        ExampleFiles.open(missing).files("train")


def test_examples_of_an_earlier_program_are_refused_in_one_line(pictures: Version) -> None:
    old = {name: value for name, value in pictures.manifest.items() if name != "layout"}
    with pytest.raises(
        ImgembedError, match="earlier imgembed.*make the stage anew with: "
    ) as error:
        ExampleFiles.open(Version("examples", "v0001", pictures.path, old))
    assert "\n" not in str(error.value)
