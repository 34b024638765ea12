"""Configuration: YAML, --set and flags to checked settings, and faults that read as one line."""

import pytest
import yaml

from cli.settings import Config, load
from cli.template import render
from pipeline.errors import ConfigError


def write(tmp_path, text):
    path = tmp_path / "run.yaml"
    path.write_text(text)
    return str(path)


def fault(path, **options):
    with pytest.raises(ConfigError) as caught:
        load(path, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_flags_override_sets_and_sets_override_the_file(tmp_path):
    path = write(tmp_path, "seed: 3\ngraph:\n  top_k: 5\n  min_sessions: 4\nimages:\n")
    config = load(path, sets=["graph.top_k=6", "seed=7"], flags={"seed": 8, "run_dir": None})
    assert (config.graph.top_k, config.graph.min_sessions, config.seed) == (6, 4, 8)
    assert config.run_dir == "imgembed-run"


def test_values_of_set_are_yaml():
    config = load(None, sets=["sessions.columns={image_id: photo}", "training.learning_rate=1e-3"])
    assert config.sessions.columns == {"image_id": "photo"}
    assert config.training.learning_rate == 0.001


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("graph: {min_wieght: 2}", "graph.min_wieght: unknown setting; there are measure"),
        (
            "graph: {min_session: 2}",
            "graph.min_session: unknown setting; did you mean 'min_sessions'?",
        ),
        ("grpah: {}", "grpah: unknown setting; did you mean 'graph'?"),
        ("examples: {split: {trian: 1}}", "examples.split.trian: unknown setting; did you mean"),
        ("graph: {top_k: ten}", "graph.top_k: wanted a valid integer"),
        ("graph: {top_k: 0}", "graph.top_k: wanted at least 1, found 0"),
        (
            "graph: {measure: lrr}",
            "graph.measure: wanted 'count', 'jaccard', 'cosine', 'lift', 'pmi', 'ppmi', 'npmi' or "
            "'llr', found 'lrr'",
        ),
        ("graph: {min_significance: 0}", "graph.min_significance: wanted greater than 0, found 0"),
        ("sessions: {actions: {buy: -1}}", "sessions.actions.buy: wanted at least 0.01, found -1"),
        ("privacy: {epsilon: 0}", "privacy.epsilon: wanted greater than 0, found 0"),
        ("runner: {workers: 0}", "runner.workers: wanted 'auto' or at least 1, found 0"),
        ("graph: 3", "graph: wanted a section of settings, found 3"),
        ("holdout: {fraction: .nan}", "holdout.fraction: wanted a finite number"),
        ("examples: {split: {train: 0.5}}", "sum to 0.7, not to 1"),
        ("runner: {name: spark}", "runner.name: 'spark' is none of direct, dataflow, flink"),
        ("runner: {name: DaskRunner}", "runner.name: 'DaskRunner' drops outputs in silence"),
        ("- a", "wanted sections such as 'graph:'"),
        ("a: [", "line 1: not YAML"),
        ("seed: 1\nseed: 2", "line 2: not YAML: 'seed' stands twice"),
    ],
)
def test_each_fault_is_one_line_that_names_file_key_and_what_was_wanted(tmp_path, text, message):
    found = fault(write(tmp_path, text))
    assert found.startswith(str(tmp_path / "run.yaml"))
    assert message in found


def test_beams_names_of_runners_mean_ours():
    for name in ("direct", "DirectRunner", "FnApiRunner"):
        assert load(None, flags={"runner.name": name}).runner.name == "direct"
    assert load(None, flags={"runner.name": "DataflowRunner"}).runner.name == "dataflow"


def test_a_fault_of_set_and_a_missing_file_are_one_line(tmp_path):
    assert "wanted section.key=value" in fault(None, sets=["graph.top_k"])
    assert "'seed' is no section" in fault(write(tmp_path, "seed: 1"), sets=["seed.x=1"])
    assert "No such file" in fault(str(tmp_path / "nowhere.yaml"))


def test_the_written_file_holds_every_setting_at_its_default(tmp_path):
    text = render({"sessions.path": "my logs/", "images.path": None})
    config = load(write(tmp_path, text))
    assert config == Config(sessions={"path": "my logs/"})
    assert yaml.safe_load(text).keys() == Config.model_fields.keys()
    for line in text.splitlines():
        assert line.startswith(("#", "  train", "    ")) or "#" in line or not line, line
