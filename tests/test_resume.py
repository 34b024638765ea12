"""A training that is killed or asked to end goes on as if nothing had happened, to the last bit."""

import json
import re
import signal
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import pytest
import tiny_examples
import training_runs
from tiny_examples import Form

from pipeline import schema
from pipeline.artifacts import NewVersion, Version
from trainer.checkpoints import Checkpoints, Snapshot, is_unfinished, mark
from trainer.config import ModelConfig, TrainingConfig
from trainer.fit import train
from trainer.progress import Interrupted, Listener, Pace

MODEL = ModelConfig(dim=8, image_filters=[4, 8], feature_hidden=[16], token_dim=4)
EACH_STEP = 1e-9  # minutes
NOBODY = Listener()
STEPS = -(-training_runs.SEEDS // 4)  # of an epoch, of 4 images each


def files_of(folder: str) -> tuple[dict[str, bytes], bytes]:
    """(weights, history) of a version."""
    return training_runs.weights(folder), Path(folder, schema.HISTORY_FILE).read_bytes()


# The whole program --------------------------------------------------------------------------------


@pytest.mark.slow
def test_killed_again_and_again_it_ends_with_the_weights_of_an_undisturbed_run(
    tmp_path: Path,
) -> None:
    """Pictures: random cut-outs, dropout, moving statistics and drawn neighbours all go on."""
    settings: dict[str, Any] = {"training__epochs": 3, "training__batch_size": 4}
    whole = training_runs.start(training_runs.run_with_examples(tmp_path / "whole"), **settings)
    run = training_runs.run_with_examples(tmp_path / "run")

    # Before the first checkpoint.
    process = training_runs.start(run, **settings, training__checkpoint_minutes=10.0)
    training_runs.wait_until(lambda: any((run / "model").glob("v0001/tensorboard/*")), process)
    process.kill()
    process.communicate()
    assert training_runs.checkpoints(run) == []

    settings["training__checkpoint_minutes"] = EACH_STEP
    # In the middle of the first epoch; in its validation; in the middle of the second.
    for moment in (lambda step, epochs: 3 <= step < STEPS,
                   lambda step, epochs: step == STEPS and epochs == 0,
                   lambda step, epochs: STEPS + 2 <= step < 2 * STEPS):  # fmt: skip
        process = training_runs.start(run, **settings)
        kill_when(moment, run, process)

    process = training_runs.start(run, **settings)
    reached = training_runs.step_of(training_runs.checkpoints(run)[-1])
    training_runs.wait_until(lambda: newest(run)[0] > reached + 1, process)
    process.send_signal(signal.SIGTERM)
    lines = training_runs.finish(process, code=128 + signal.SIGTERM)
    step = newest(run)[0]
    assert any(f"goes on from step {reached}" in line for line in lines)
    assert lines[-1] == (
        f"imgembed: terminated at step {step} of {3 * STEPS}; imgembed train goes on from there "
        "(same configuration, without --force)"
    )

    lines = training_runs.finish(training_runs.start(run, **settings))
    assert any(f"goes on from step {step}" in line for line in lines)
    training_runs.finish(whole)
    ended, undisturbed = training_runs.model(run), training_runs.model(tmp_path / "whole")
    assert files_of(ended.path) == files_of(undisturbed.path)
    assert ended.manifest["metrics"] == undisturbed.manifest["metrics"]
    assert sorted(path.name for path in (run / "model").iterdir()) == ["CURRENT", "v0001"]


def newest(run: Path) -> tuple[int, int]:
    """(steps, epochs that are done with validation) of the newest checkpoint; (0, 0) before it."""
    found = training_runs.checkpoints(run)
    if not found:
        return 0, 0
    try:
        return training_runs.step_of(found[-1]), len(training_runs.notes_of(found[-1])["history"])
    except FileNotFoundError:  # another one has taken its place
        return newest(run)


def kill_when(moment: Any, run: Path, process: Any) -> None:
    """Kills it where the newest checkpoint is of that moment; it is held while we look."""

    def is_there() -> bool:
        if not moment(*newest(run)):
            return False
        process.send_signal(signal.SIGSTOP)
        if moment(*newest(run)):
            return True
        process.send_signal(signal.SIGCONT)
        return False

    training_runs.wait_until(is_there, process)
    process.kill()
    process.communicate()


@pytest.mark.slow
def test_a_forced_training_that_was_stopped_goes_on_although_a_version_is_up_to_date(
    tmp_path: Path,
) -> None:
    run = training_runs.run_with_examples(tmp_path, Form(features=True))
    settings: dict[str, Any] = {
        "training__epochs": 60,
        "training__patience": 60,
        "training__batch_size": 4,
        "model__feature_hidden": [8],
    }
    training_runs.finish(training_runs.start(run, **settings))
    process = training_runs.start(run, "--force", **settings)
    training_runs.wait_until(lambda: newest(run)[0] > 0, process)
    process.send_signal(signal.SIGINT)
    line = training_runs.finish(process, code=130)[-1]
    assert re.match(
        rf"imgembed: interrupted at step \d+ of {60 * STEPS}; imgembed train goes", line
    )
    before = training_runs.model(run)
    assert before.name == "v0001"
    lines = training_runs.finish(training_runs.start(run, **settings))
    assert any("goes on from step" in line for line in lines)
    forced = training_runs.model(run)
    assert forced.name == "v0002"
    assert files_of(forced.path) == files_of(before.path)
    assert training_runs.finish(training_runs.start(run, **settings))[-1].endswith("is up to date")


# In this process ----------------------------------------------------------------------------------


@pytest.fixture(scope="module", params=["gcn", "plain"])
def case(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Version, dict[str, Any], tuple[dict[str, bytes], bytes]]:
    """Examples, settings, and what an undisturbed training of them ends with."""
    folder = tmp_path_factory.mktemp("whole")
    examples = tiny_examples.write_examples(folder / "examples", Form(features=True))
    settings = {"graph_network": "gcn"} if request.param == "gcn" else {}
    run(examples, folder / "model", settings)
    return examples, settings, files_of(str(folder / "model" / "v0001"))


def run(
    examples: Version,
    folder: Path,
    settings: Mapping[str, Any] = MappingProxyType({}),
    listener: Listener = NOBODY,
    *,
    restart: bool = False,
    **training: Any,
) -> dict[str, Any]:
    given = {"epochs": 3, "batch_size": 4, "checkpoint_minutes": EACH_STEP, **training}
    manifest = train(
        examples=examples,
        model=MODEL.model_copy(update=settings),
        training=TrainingConfig(**given),
        seed=3,
        out=NewVersion("model", "v0001", str(folder)),
        checkpoints=str(folder / ".checkpoints"),
        restart=restart,
        listener=listener,
    )
    assert manifest is not None
    return manifest


class PowerCut(BaseException):
    pass


def cut_at(step: int) -> Listener:
    def on_step(pace: Pace) -> None:
        if pace.step == step:
            raise PowerCut

    return Listener(on_step=on_step)


def test_it_goes_on_from_any_step_to_the_same_weights_and_history(
    case: Any, tmp_path: Path
) -> None:
    examples, settings, expected = case
    # A graph network takes long to begin: it is cut but once.
    for step in (STEPS + 5,) if settings else (2, STEPS, STEPS + 1, STEPS + 5):
        with pytest.raises(PowerCut):
            run(examples, tmp_path, settings, cut_at(step))
    notes: list[str] = []
    run(examples, tmp_path, settings, Listener(on_note=notes.append))
    assert notes == [f"goes on from step {STEPS + 4}"]  # cut before the checkpoint of the step
    assert files_of(str(tmp_path / "v0001")) == expected


@pytest.fixture(scope="module")
def features(tmp_path_factory: pytest.TempPathFactory) -> Version:
    return tiny_examples.write_examples(tmp_path_factory.mktemp("features"), Form(features=True))


def test_asked_to_stop_it_keeps_the_running_step(features: Version, tmp_path: Path) -> None:
    steps: list[int] = []
    listener = Listener(
        on_step=lambda pace: steps.append(pace.step), is_asked_to_stop=lambda: len(steps) == 4
    )
    with pytest.raises(Interrupted) as stopped:
        run(features, tmp_path, listener=listener, checkpoint_minutes=10.0)
    assert (stopped.value.step, stopped.value.steps, stopped.value.kept) == (5, 3 * STEPS, True)
    notes: list[str] = []
    with pytest.raises(PowerCut):
        run(
            features,
            tmp_path,
            listener=Listener(on_note=notes.append, on_step=cut_at(6).on_step),
            checkpoint_minutes=20.0,  # changes nothing of what is computed
        )
    assert notes == ["goes on from step 5"]


def test_another_training_is_not_taken_up(features: Version, tmp_path: Path) -> None:
    for change in ({"learning_rate": 0.1}, {"epochs": 4}, {}):
        notes: list[str] = []
        listener = Listener(on_note=notes.append, on_step=cut_at(4).on_step)
        with pytest.raises(PowerCut):
            run(features, tmp_path, listener=listener, **change)
        assert len(list((tmp_path / ".checkpoints").iterdir())) == 2
        if change != {"learning_rate": 0.1}:
            assert notes == [
                "an unfinished training was removed (of another configuration, other examples or "
                "programs); begins anew"
            ]
    notes = []
    listener = Listener(on_note=notes.append, on_step=cut_at(4).on_step)
    with pytest.raises(PowerCut):
        run(features, tmp_path, listener=listener, restart=True)
    assert notes == ["an unfinished training was removed (as asked); begins anew"]


def test_a_damaged_checkpoint_falls_back_to_the_one_before(tmp_path: Path) -> None:
    notes: list[str] = []
    kept = Checkpoints(str(tmp_path), "a" * 32, say=notes.append)
    assert kept.begin() is None
    for step in (10, 20, 30):
        state = [np.full(3, step, np.float32), np.array(step), np.zeros([0, 2], np.int64)]
        assert kept.write(Snapshot(step, state, [np.ones(2)], {"history": [{"loss": 0.1}]}))
    assert [path.name[-7:] for path in sorted(tmp_path.iterdir())] == ["020.npz", "030.npz"]
    path = max(tmp_path.iterdir())
    whole = path.read_bytes()
    middle = whole.index(np.full(3, 30, np.float32).tobytes())
    flipped = whole[:middle] + b"\x01" + whole[middle + 1 :]
    for damaged in (whole[: len(whole) // 2], b"", flipped, b"no archive at all"):
        path.write_bytes(damaged)
        notes.clear()
        found = kept.begin()
        assert found is not None
        assert (found.step, notes[1:]) == (20, ["goes on from step 20"])
        assert notes[0].startswith(f"{path}: is damaged (")
        assert not path.exists()
        np.testing.assert_array_equal(found.state[0], [20, 20, 20])
        assert (found.state[2].shape, found.notes["history"]) == ((0, 2), [{"loss": 0.1}])
        assert [best.tolist() for best in found.best] == [[1, 1]]


def test_checkpoints_of_other_devices_or_trainings_are_removed_and_said_so(tmp_path: Path) -> None:
    snapshot = Snapshot(5, [np.zeros(1)])
    Checkpoints(str(tmp_path), "a" * 32, replicas=2).write(snapshot)
    (tmp_path / "half.npz.part").write_bytes(b"half")
    assert is_unfinished(str(tmp_path), "a" * 32)
    assert not is_unfinished(str(tmp_path), "b" * 32)
    notes: list[str] = []
    assert Checkpoints(str(tmp_path), "a" * 32, say=notes.append).begin() is None
    assert [note.partition(": ")[2] for note in notes] == [
        "is of a training on 2 devices, here are 1; removed"
    ]
    assert list(tmp_path.iterdir()) == []


def test_a_checkpoint_that_cannot_be_written_does_not_end_the_training(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    notes: list[str] = []
    kept = Checkpoints(str(tmp_path / "file" / "folder"), "a" * 32, say=notes.append)
    assert not kept.write(Snapshot(7, []))
    assert "the checkpoint of step 7 is lost" in notes[0]


def test_the_mark_tells_what_is_computed_apart(features: Version) -> None:
    settings = {"model": ModelConfig(), "training": TrainingConfig(), "seed": 0}
    same = mark(examples=features, **settings)
    rarely = TrainingConfig(checkpoint_minutes=99.0)
    assert mark(examples=features, **{**settings, "training": rarely}) == same
    for change in (
        {"seed": 1},
        {"model": ModelConfig(dim=8)},
        {"training": TrainingConfig(clip_norm=None)},
    ):
        assert mark(examples=features, **{**settings, **change}) != same
    other = Version("examples", "v0001", features.path, {**features.manifest, "fingerprint": "x"})
    assert mark(examples=other, **settings) != same


def test_curves_of_a_training_that_went_on_are_whole(features: Version, tmp_path: Path) -> None:
    import tensorflow as tf

    for cut in (2 * STEPS + 2, None):
        try:
            run(features, tmp_path, listener=cut_at(cut) if cut else Listener())
        except PowerCut:
            assert cut
            for path in (tmp_path / "v0001" / schema.TENSORBOARD_FOLDER).iterdir():
                path.unlink()  # as the folder of an unfinished version goes
    (path,) = (tmp_path / "v0001" / schema.TENSORBOARD_FOLDER).glob("events.*")
    events = [tf.compat.v1.Event.FromString(r.numpy()) for r in tf.data.TFRecordDataset(str(path))]
    steps = {(v.tag, event.step) for event in events for v in event.summary.value}
    history = json.loads((tmp_path / "v0001" / schema.HISTORY_FILE).read_text())["epochs"]
    assert {("epoch/loss", epoch["epoch"]) for epoch in history} <= steps
    looks = range(10, 3 * STEPS + 1, 10)
    assert {step for tag, step in steps if tag == "step/learning_rate"} == set(looks)
