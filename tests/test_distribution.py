"""Several devices and several processes learn what one would; each test in processes of its own.

A collective operation that fails spoils all later ones of its process.
"""

import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_examples
import training_runs
from tiny_examples import CLASSES, Form

from pipeline import schema
from pipeline.errors import ConfigError
from trainer.workers import Worker, this_worker

MODEL = {"dim": 8, "feature_hidden": [16], "image_filters": [4, 8], "token_dim": 4, "dropout": 0.0}
# Terms that look at each row alone: the same on one device and on two.
OF_ROWS = {"edge_contrast": 0.0, "text_contrast": 0.0, "graph_regularization": 1.0}
TRAINING = {"epochs": 2, "batch_size": 16, "clip_norm": 0.1, **OF_ROWS}


def labelled(index: int, values: tiny_examples.Values) -> tiny_examples.Values:
    """Every training image with a label: a mean over the labelled ones is one over all."""
    if tiny_examples.split_of(index) != "train":
        return values
    return values | {"label": CLASSES.index(tiny_examples.colour_of(index))}


@pytest.fixture(scope="module")
def features(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("features")
    return training_runs.run_with_examples(folder, Form(features=True), change=labelled)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return training_runs.run_with_examples(tmp_path_factory.mktemp("pictures"))


def learn(
    run: Path, out: Path, *, workers: int = 1, devices: int = 1, **changes: Any
) -> list[dict[str, np.ndarray]]:
    """What each worker's learner holds after five steps, the last of them of fewer rows."""
    settings = {
        "examples": str(run / "examples" / "v0001"),
        "devices": devices,
        "steps": 5,
        "model": MODEL,
        "training": TRAINING,
        **changes,
    }
    environments = training_runs.cluster(workers) if workers > 1 else [{}]
    processes: list[subprocess.Popen] = []
    for index, environment in enumerate(environments):
        told = json.dumps({**settings, "out": str(out / f"{index}.npz")})
        command = [sys.executable, training_runs.LEARNER, told]
        processes.append(training_runs.spawn(command, environment))
    for process in processes:
        training_runs.finish(process)
    return [dict(np.load(out / f"{index}.npz")) for index in range(workers)]


@pytest.fixture(scope="module")
def alone(features: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, np.ndarray]:
    return learn(features, tmp_path_factory.mktemp("alone"))[0]


def assert_close(found: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> None:
    """Losses, weights and the optimizer's moments, which show the size of gradients too."""
    assert found["losses"] == pytest.approx(expected["losses"], abs=1e-5)
    for name in expected:
        if name.startswith(("weight-", "slot-")):
            np.testing.assert_allclose(found[name], expected[name], atol=1e-5, err_msg=name)
    np.testing.assert_allclose(found["sums"], expected["sums"], rtol=1e-4, atol=1e-3)


def test_two_devices_learn_what_one_does(
    features: Path, alone: dict[str, np.ndarray], tmp_path: Path
) -> None:
    (found,) = learn(features, tmp_path, devices=2)
    assert (alone["replicas"], found["replicas"]) == (1, 2)
    assert_close(found, alone)


def test_two_workers_learn_what_one_does_and_end_with_identical_weights(
    features: Path, alone: dict[str, np.ndarray], tmp_path: Path
) -> None:
    chief, other = learn(features, tmp_path, workers=2)
    assert_close(chief, alone)
    for name in chief.keys() - {"seeds"}:
        assert chief[name].tobytes() == other[name].tobytes(), name
    assert chief["wishes"].tolist() == [1.0, 0.0]  # what one worker wishes all know
    assert int(other["from_chief"]) == 2**40


def test_random_numbers_differ_between_workers_and_moving_statistics_do_not(
    pictures: Path, tmp_path: Path
) -> None:
    """Pictures have cut-outs, dropout and batch normalization, and loss scaling here."""
    settings = {"epochs": 2, "batch_size": 16, "precision": "mixed_float16"}
    chief, other = learn(
        pictures, tmp_path, workers=2, model={**MODEL, "dropout": 0.3}, training=settings
    )
    assert (chief["seeds"][:, 0] != other["seeds"][:, 0]).all()
    np.testing.assert_array_equal(chief["seeds"][:, 1], other["seeds"][:, 1])
    for name in chief.keys() - {"seeds"}:
        assert chief[name].tobytes() == other[name].tobytes(), name
    assert np.isfinite(chief["losses"]).all()


@pytest.mark.slow
def test_workers_train_one_model_that_goes_on_after_all_were_stopped(tmp_path: Path) -> None:
    run = training_runs.run_with_examples(tmp_path, Form(features=True))
    settings = {
        "training__epochs": 40,
        "training__patience": 40,
        "training__batch_size": 8,
        "training__checkpoint_minutes": 5e-3,
        "model__feature_hidden": [8],
    }

    def start_all(**changes: Any) -> list[subprocess.Popen]:
        return [
            training_runs.start(run, environment=environment, **{**settings, **changes})
            for environment in training_runs.cluster(2)
        ]

    chief, other = start_all()
    training_runs.wait_until(lambda: len(training_runs.checkpoints(run)) == 2, chief)
    other.send_signal(signal.SIGTERM)  # one is asked, and all end with a checkpoint
    line = training_runs.finish(chief, code=128 + signal.SIGTERM)[-1]
    training_runs.finish(other, code=128 + signal.SIGTERM)
    step = training_runs.step_of(training_runs.checkpoints(run)[-1])
    assert line.startswith(f"imgembed: terminated at step {step:,} of 240; imgembed train goes")

    chief, other = start_all()
    training_runs.wait_until(
        lambda: training_runs.step_of(training_runs.checkpoints(run)[-1]) > step, chief
    )
    chief.kill()
    chief.communicate()
    lines = training_runs.finish(other, code=1)
    assert "start all workers again: they go on from the last checkpoint" in lines[-1]

    # The same run to its end, and another one in one go.
    reached = training_runs.step_of(training_runs.checkpoints(run)[-1])
    chief, other = start_all()
    lines = training_runs.finish(chief)
    assert any(f"goes on from step {reached:,}" in line for line in lines)
    assert not any("epoch" in line for line in training_runs.finish(other))
    ended = training_runs.model(run)
    assert ended.name == "v0001"
    assert ended.manifest["epochs"] == 40
    whole = training_runs.run_with_examples(tmp_path / "whole", Form(features=True))
    run = whole
    for process in start_all():
        training_runs.finish(process)
    undisturbed = training_runs.model(whole)
    assert training_runs.weights(ended.path) == training_runs.weights(undisturbed.path)
    history = [Path(v.path, schema.HISTORY_FILE).read_bytes() for v in (ended, undisturbed)]
    assert history[0] == history[1]


def test_tf_config_names_this_worker_and_the_chief() -> None:
    def of(cluster: Any, **task: Any) -> Worker:
        return this_worker({"TF_CONFIG": json.dumps({"cluster": cluster, "task": task})})

    assert this_worker({}) == this_worker({"TF_CONFIG": " "}) == Worker()
    assert Worker().is_chief
    two = {"worker": ["a:1", "b:2"]}
    assert of(two, type="worker", index=1) == Worker(1, ("a:1", "b:2"))
    assert of(two, type="worker", index=0).is_chief
    with_chief = {"chief": ["c:0"], **two}
    assert of(with_chief, type="chief", index=0) == Worker(0, ("c:0", "a:1", "b:2"))
    assert of(with_chief, type="worker", index=0) == Worker(1, ("c:0", "a:1", "b:2"))
    assert of({"worker": ["a:1"]}, type="worker", index=0).is_alone
    assert of({}).is_alone  # what Kubernetes operators set for a job of one process


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("{", "is not JSON"),
        ("[]", "found []"),
        ('{"cluster": {"worker": ["a:1"], "ps": ["b:1"]}}', "cluster.ps: unknown kind of task"),
        ('{"cluster": {"worker": "a:1"}}', "cluster.worker: found 'a:1'; wanted a list"),
        ('{"cluster": {"worker": ["a"]}}', "cluster.worker: found ['a']"),
        ('{"cluster": {"worker": ["a:1", "a:1"]}}', "an address stands twice"),
        ('{"cluster": {"worker": ["a:1", "b:1"]}}', "task None is none of the cluster's 2 tasks"),
        (
            '{"cluster": {"worker": ["a:1"]}, "task": {"type": "worker", "index": 1}}',
            "task {'type': 'worker', 'index': 1} is none of the cluster's 1 tasks",
        ),
    ],
)
def test_a_broken_tf_config_is_one_line(text: str, found: str) -> None:
    with pytest.raises(ConfigError) as raised:
        this_worker({"TF_CONFIG": text})
    assert found in str(raised.value)
    assert "\n" not in str(raised.value)
