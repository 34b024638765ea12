"""Cora in short: what benchmarks/cora.py claims, and that it reads no label of a test paper."""

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent.parent / "benchmarks"))

import citations
import planetoid

pytestmark = pytest.mark.skipif(
    not citations.DATA.exists(), reason=f"{citations.DATA} is not there"
)
SHORT = planetoid.Recipe("gcn", 16, 0.5, 0.1, steps=12)


@pytest.fixture(scope="module")
def cora() -> citations.Cora:
    return citations.read_cora()


def test_the_split_is_planetoids(cora: citations.Cora) -> None:
    assert (cora.papers, cora.vocabulary, cora.classes, len(cora.edges)) == (2708, 1433, 7, 5278)
    assert np.bincount(cora.labels[cora.train]).tolist() == [20] * 7
    split = np.concatenate([cora.train, cora.validation, cora.test])
    assert len(np.unique(split)) == len(split) == 140 + 500 + 1000


def test_no_label_of_a_test_paper_has_a_part_in_training(cora: citations.Cora) -> None:
    labels = cora.labels.copy()
    known = np.concatenate([cora.train, cora.validation])
    others = np.setdiff1d(np.arange(cora.papers), known)
    labels[others] = np.random.default_rng(0).permutation(labels[others])
    assert (labels[cora.test] != cora.labels[cora.test]).mean() > 0.5
    weights = [
        planetoid.train(each.hide_test(), SHORT, seed=0)[0].get_weights()
        for each in (cora, replace(cora, labels=labels))
    ]
    assert all((a == b).all() for a, b in zip(*weights, strict=True))
    with pytest.raises(ValueError, match="labels of test papers are in sight"):
        planetoid.train(cora, SHORT, seed=0)


def test_graph_regularization_and_gcn_find_what_labels_alone_do_not(cora: citations.Cora) -> None:
    steps = {"steps": 80}
    alone, regularized, convolved = (
        planetoid.score_on_test(cora, recipe, [0])[0]
        for recipe in (
            planetoid.Recipe("mlp", 32, 0.5, **steps),
            planetoid.Recipe("mlp", 32, 0.0, 10.0, **steps),
            planetoid.Recipe("gcn", 32, 0.8, **steps),
        )
    )
    assert 0.45 < alone < 0.65
    assert regularized > alone + 0.08
    assert convolved > 0.78
