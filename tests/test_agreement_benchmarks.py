"""What the benchmarks of agreement stand on: graphs err as often as they say, no label leaks."""

import sys
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent.parent / "benchmarks"))

import citations
import cora_agreement
import edge_noise
import noise_methods
import noise_worlds
from noise_worlds import Pictures, make_world

CONFUSED = (np.arange(10) + 1) % 10


def pictures(each: int = 150) -> Pictures:
    draw = np.random.default_rng(0)
    truth = draw.permutation(np.repeat(np.arange(10), each))
    nodes = np.eye(10, dtype=np.float32)[truth] + 0.3 * draw.standard_normal((len(truth), 10))
    return Pictures(nodes.astype(np.float32), None, truth, CONFUSED, (1_100, 100))


@pytest.mark.parametrize(
    ("kind", "noise"),
    [("uniform", 0.0), ("uniform", 0.4), ("uniform", 0.7), ("confuser", 0.3), ("confuser", 0.5)],
)
def test_as_many_edges_err_as_the_noise_says(kind: str, noise: float) -> None:
    worlds = [
        make_world(pictures(), kind=kind, noise=noise, labels=2, seed=seed) for seed in range(4)
    ]
    found = np.mean([np.average(world.agree, weights=world.counts) for world in worlds])
    assert found == pytest.approx(noise_worlds.expected_agreement(kind, noise, 10), abs=0.02)
    for world in worlds:
        assert 2 * len(world.edges) / world.pool.sum() == pytest.approx(6.3, abs=0.4)
        assert world.pool[world.edges].all()
        assert not (world.pool & (world.validation | world.test)).any()
        assert np.bincount(world.truth[world.seeds]).tolist() == [2] * 10
        one, other = world.partners.T
        assert (world.truth[one] == world.truth[other]).all()


def test_methods_but_the_oracle_do_not_see_the_truth_of_unlabelled_pictures() -> None:
    world = make_world(pictures(), kind="uniform", noise=0.4, labels=2, seed=0)
    truth = world.truth.copy()
    hidden = np.flatnonzero(~(world.seeds | world.validation))
    truth[hidden] = np.random.default_rng(1).permutation(truth[hidden])
    other = replace(world, pictures=replace(world.pictures, truth=truth))
    settings = noise_methods.SETTINGS.model_copy(update={"iterations": 1, "steps": 30})
    for name in (
        "GAM, pairs and classes + InfoNCE",
        "weighted InfoNCE + self-training",
        "NGM without iteration 0",
        "cosine filter",
    ):
        found = []
        for each in (world, other):
            case = noise_methods.Case(each, keep_best=True, seed=0, settings=settings)
            case.recipe = replace(case.recipe, steps=15)
            found.append(noise_methods.METHODS[name](case).probabilities)
        np.testing.assert_array_equal(*found)


def test_gradients_tell_which_way_a_picture_grows_brighter() -> None:
    ramp = np.broadcast_to(4 * np.arange(32, dtype=np.uint8)[:, None], (32, 32, 3))
    across, down, flat = ramp, ramp.transpose(1, 0, 2), np.full_like(ramp, 90)
    found = noise_worlds.gradients(np.stack([across, down, flat])).reshape(3, 9, 4, 9)
    np.testing.assert_allclose(found[0][..., 0], 0.5, atol=1e-2)  # four cells of a block alike
    np.testing.assert_allclose(found[0][..., 1:], 0.0, atol=1e-2)
    # Right between the fifth and the sixth of nine angles.
    np.testing.assert_allclose(found[1][..., 4:6], 8**-0.5, atol=1e-2)
    assert not found[2].any()


def row(method: str, seed: int, validation: list[float], transductive: float) -> dict[str, object]:
    setting = edge_noise.Setting("digits", 2, "uniform", 0.4, seed, "A")
    found = {"method": method, "validation": validation, "transductive": transductive}
    return {**asdict(setting), **found}


def test_a_choice_goes_by_validation_and_of_equals_does_without_agreement() -> None:
    gam, plain = edge_noise.GAM, edge_noise.SELF_TRAINING
    rows = [
        *[row(gam, 0, [0.9, -0.2], 0.5), row(plain, 0, [0.9, -0.3], 0.6)],  # the loss decides
        *[row(gam, 1, [0.8, -0.2], 0.5), row(plain, 1, [0.9, -0.3], 0.6)],
        *[row(gam, 2, [0.9, -0.2], 0.5), row(plain, 2, [0.9, -0.2], 0.6)],
        row(gam, 3, [0.9, -0.2], 0.5),  # nothing to choose between yet
    ]
    found = [each for each in edge_noise.with_chosen(rows) if each["method"] == edge_noise.GUARDED]
    assert [(each["seed"], each["transductive"]) for each in found] == [
        (0, 0.5),
        (1, 0.6),
        (2, 0.6),
    ]


def test_differences_are_of_the_seeds_that_both_methods_have() -> None:
    rows = [
        *[row("one", 0, [], 0.90), row("other", 0, [], 0.80)],
        *[row("one", 1, [], 0.70), row("other", 1, [], 0.66)],
        row("one", 2, [], 0.10),
    ]
    scores = edge_noise.Scores(rows)
    # 10 and 4 points: mean 7, deviation 3 sqrt(2), by sqrt(2).
    assert scores.difference("one", "other", "uniform", 0.4, "A") == "+7.0 ± 3.0"
    assert scores.difference("one", "none", "uniform", 0.4, "A") == "not measured"


@pytest.mark.skipif(not citations.DATA.exists(), reason=f"{citations.DATA} is not there")
def test_no_label_of_a_paper_that_is_hidden_has_a_part_in_coras_co_training() -> None:
    cora = citations.read_cora()
    labels = cora.labels.copy()
    known = np.concatenate([cora.train, cora.validation])
    others = np.setdiff1d(np.arange(cora.papers), known)
    labels[others] = np.random.default_rng(0).permutation(labels[others])
    trial = cora_agreement.Trial(
        "gcn",
        "graph",
        1.0,
        {"iterations": 1, "steps": 20, "edge_features": False, "min_confidence": 0.0},
        {"steps": 10},
    )
    found = [
        cora_agreement.train(each.hide_test(), trial, seed=0)[0]
        for each in (cora, replace(cora, labels=labels))
    ]
    np.testing.assert_array_equal(*found)
    with pytest.raises(ValueError, match="labels of test papers are in sight"):
        cora_agreement.train(cora, trial, seed=0)
