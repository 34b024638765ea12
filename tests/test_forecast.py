"""`imgembed plan` of the stages after the examples, and what does not fit into a budget."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from small_logs import clicks, run_command, write_log

from cli.budget import Budget, Need, beyond
from cli.forecast import Catalog, forecasts
from cli.settings import load
from pipeline.artifacts import RunDir
from pipeline.errors import ConfigError

GB = 10**9
PICTURES = Catalog(images=100_000, image_bytes=6_000.0, side=64, shards=3)


def plan(run, catalog=PICTURES, **flags):
    """{stage: its forecast} under settings such as training__epochs=2."""
    config = load(None, flags={name.replace("__", "."): value for name, value in flags.items()})
    return {found.stage: found for found in forecasts(config, run, catalog)}


@pytest.fixture
def run(tmp_path):
    return RunDir.open(str(tmp_path / "run"))


def commit(run, stage, **content):
    with run.begin(stage) as new:
        return new.commit(content)


def test_before_anything_has_run_figures_are_estimates_that_say_so(run):
    found = plan(run, training__epochs=2)
    model = found["model"]
    assert model.counts == {"images": 80_000, "steps": 5_000}
    # A step of 32 images with a neighbour each is twice the 43 ms of 32 pictures.
    assert model.seconds == pytest.approx(5_000 * 0.086)
    assert "estimate" in model.source
    assert plan(run, training__epochs=2, model__size="base")["model"].seconds > 3 * model.seconds
    export = found["embeddings"]
    assert export.seconds == pytest.approx(150)
    assert export.output_bytes == 1.5 * 100_000 * 64 * 4
    assert found["evaluation"].seconds is None
    assert list(found) == ["model", "embeddings", "index", "evaluation", "report"]
    for forecast in found.values():
        assert min(forecast.memory_bytes, forecast.input_bytes, forecast.output_bytes) >= 0


def test_what_nobody_has_measured_has_no_time(run):
    features = Catalog(images=1_000, image_bytes=400.0, side=None, shards=1)
    assert plan(run, features)["model"].seconds is None
    assert plan(run, features)["embeddings"].seconds is None
    assert plan(run, model__image_tower="MobileNetV3Small")["model"].seconds is None
    assert plan(run, model__graph_network="gcn")["model"].seconds is None


def test_what_has_run_here_is_the_measure_while_settings_are_alike(run):
    made = {"seconds": 60.0, "peak_memory_bytes": 2 * GB}
    commit(run, "examples", image_size=64, splits={"train": {"records": 3_200}})
    config = load(None)
    settings = {"model": config.model.model_dump(), "training": config.training.model_dump()}
    commit(run, "model", made=made, epochs=3, config=settings, upstream={"examples": "v0001"})
    commit(run, "embeddings", made=made, counts={"images": 4_000})
    commit(run, "evaluation", made=made)
    found = plan(run, training__epochs=2)
    # 300 steps took 60 s.
    assert found["model"].seconds == pytest.approx(5_000 * 0.2)
    assert found["model"].memory_bytes == 2 * GB
    assert found["embeddings"].seconds == pytest.approx(60 * 100_000 / 4_000)
    assert found["evaluation"].seconds == 60
    for changed in (
        {"model__size": "tiny"},
        {"training__batch_size": 64},
        {"images__image_size": 8},
    ):
        assert "estimate" in plan(run, **changed)["model"].source, changed


# Budgets ------------------------------------------------------------------------------------------


def test_a_budget_is_read_in_units():
    assert Budget.parse("memory=8GB,disk=1TB") == Budget(8 * GB, 1_000 * GB)
    assert Budget.parse(" disk = 5 GiB ") == Budget(None, 5 << 30)
    for text in ("", "memory", "memory=much", "cores=2", "memory=1GB,memory=2GB", "disk=-1"):
        with pytest.raises(ConfigError, match="--budget"):
            Budget.parse(text)


@given(
    st.lists(st.tuples(*[st.integers(0, 100)] * 3), max_size=6),
    st.none() | st.integers(0, 150),
    st.none() | st.integers(0, 300),
)
def test_a_plan_fits_where_no_moment_of_it_takes_more(stages, memory, disk):
    needs = [Need(str(number), *stage) for number, stage in enumerate(stages)]
    found = list(beyond(needs, Budget(memory, disk)))
    most_memory = max((stage[0] for stage in stages), default=0)
    written = [sum(stage[2] for stage in stages[: n + 1]) for n in range(len(stages))]
    most_disk = max((w + stage[1] for w, stage in zip(written, stages, strict=True)), default=0)
    fits = (memory is None or most_memory <= memory) and (disk is None or most_disk <= disk)
    assert fits == (not found)


def test_what_does_not_fit_is_an_exit_code_after_the_whole_plan(tmp_path, capfd):
    write_log(tmp_path / "log.jsonl", clicks(sessions=50))
    command = (
        "plan",
        "--sessions",
        tmp_path / "log.jsonl",
        "--run-dir",
        tmp_path / "run",
        "--json",
    )
    assert run_command(*command, "--budget", "memory=2GB,disk=1GB") == 0
    assert json.loads(capfd.readouterr().out)["beyond_budget"] == []
    assert run_command(*command, "--budget", "memory=100MB") == 1
    printed, said = capfd.readouterr()
    (line,) = json.loads(printed)["beyond_budget"]
    assert line.startswith("graph takes about ")
    assert said == f"imgembed: beyond the budget: {line}\n"
    assert run_command(*command, "--budget", "time=3") == 2
    capfd.readouterr()
    assert run_command(*command[:-1], "--runner", "flink") == 0
    shown = capfd.readouterr().out
    assert "memory of a worker" in shown
    assert "shuffled" in shown
    assert not (tmp_path / "run").exists()
