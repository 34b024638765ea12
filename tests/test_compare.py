"""Two runs compared: the same sessions, the same draws, and what must not be compared."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from evaluation_runs import HOLDOUT, save_run

from cli import main
from pipeline.errors import ImgembedError
from trainer.evaluation import inputs, methods
from trainer.evaluation.compare import Paired, Side, compare
from trainer.evaluation.config import EvaluationConfig
from trainer.evaluation.measuring import Measure
from trainer.evaluation.queries import image_queries
from trainer.evaluation.verdicts import verdict

A = {"a": 0, "b": 10, "c": 50, "d": 180}
B = {"a": 0, "c": 10, "b": 50, "d": 180}


def compared(first: str, second: str, **settings: Any) -> dict[str, Any]:
    config = EvaluationConfig(**{"k": [1], "bootstrap": 100, **settings})
    return compare(Side.open(first), Side.open(second), config=config, seed=0)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    folder = tmp_path_factory.mktemp("runs")
    return save_run(folder / "a", A), save_run(folder / "b", B)


@pytest.fixture(scope="module")
def result(runs: tuple[str, str]) -> dict[str, Any]:
    return compared(*runs)


def figures(part: dict[str, Any], measure: str) -> list[float]:
    return [part["measures"][measure][side]["value"] for side in ("a", "b", "difference")]


def test_both_runs_are_measured_on_the_same_queries(result: dict[str, Any]) -> None:
    assert result["sessions"] == {
        "held_out_by_a": 3,
        "held_out_by_b": 3,
        "common": 3,
        "evaluated": 3,
    }
    images = result["image_to_image"]
    assert (images["queries"], images["sessions"]) == (4, 2)
    # A: a -> b 1, b -> a 1; c -> a 2 and a -> c 2 of {., nowhere}.
    # B: a -> b 2, b -> a 2 (behind c); c -> a 1, a -> c 1.
    assert figures(images, "recall@1") == [0.5, 0.25, -0.25]
    assert figures(images, "mrr") == [0.75, 0.75, 0.0]
    texts = result["text_to_image"]
    # "red" at 2 degrees -> {a, b}: A finds both first, B a alone; "new" at 170 -> d.
    assert figures(texts, "mrr") == [1.0, 1.0, 0.0]
    assert figures(texts, "ndcg@1") == [1.0, 1.0, 0.0]
    assert figures(result["labels"], "accuracy")[0] == 0.5
    assert result["collapse"]["a"].keys() == {"rank_me", "uniformity"}


def test_a_run_is_like_itself(runs: tuple[str, str]) -> None:
    found = compared(runs[0], runs[0])
    for task in ("image_to_image", "text_to_image", "labels"):
        for of in found[task]["measures"].values():
            assert of["difference"] == {"value": 0.0, "low": 0.0, "high": 0.0}


def test_exchanged_runs_give_the_opposite(runs: tuple[str, str], result: dict[str, Any]) -> None:
    opposite = compared(runs[1], runs[0])
    for task in ("image_to_image", "text_to_image"):
        for name, of in result[task]["measures"].items():
            other = opposite[task]["measures"][name]
            assert (other["a"], other["b"]) == (of["b"], of["a"])
            assert other["difference"]["value"] == -of["difference"]["value"]
            assert other["difference"]["low"] == pytest.approx(-of["difference"]["high"], abs=1e-6)


def test_the_interval_is_of_differences_of_sessions_drawn_for_both() -> None:
    """Paired: far narrower than that of the runs alone, which find different sessions hard."""
    generator = np.random.default_rng(0)
    images, sessions = 60, 80
    drawn = [generator.choice(images, 2, replace=False) for _ in range(sessions)]
    holdout = inputs.Holdout(
        np.repeat(np.arange(sessions), 2),
        pa.array([str(image) for pair in drawn for image in pair]),
        pa.nulls(2 * sessions, pa.string()),
        sessions,
    )
    first = generator.normal(size=(images, 8)).astype(np.float32)
    second = first + 0.1 * generator.normal(size=first.shape).astype(np.float32)
    vectors = tuple(of / np.linalg.norm(of, axis=1, keepdims=True) for of in (first, second))
    rows = np.array(drawn).ravel()
    measure = Measure(EvaluationConfig(k=[10], bootstrap=300), 5, images)
    found = Paired(measure, vectors).images(holdout, rows)["measures"]["mrr"]

    # By the definition: a session's value is the mean of its two queries.
    queries, _ = image_queries(holdout, rows)
    values = [
        measure.of(methods.without_query(methods.by_cosine(of, of)), queries)[:, 1]
        .reshape(-1, 2)
        .mean(axis=1)
        for of in vectors
    ]
    difference, draw = values[1] - values[0], np.random.default_rng(5)
    means = [difference[draw.integers(sessions, size=sessions)].mean() for _ in range(300)]
    assert found["difference"]["value"] == pytest.approx(difference.mean(), abs=1e-6)
    assert [found["difference"][bound] for bound in ("low", "high")] == pytest.approx(
        np.percentile(means, [2.5, 97.5]), abs=1e-6
    )
    width = {side: found[side]["high"] - found[side]["low"] for side in found}
    assert width["difference"] < 0.6 * width["a"]


def test_only_images_and_sessions_of_both_count(tmp_path: Path, runs: tuple[str, str]) -> None:
    """B has no d, and holds out sessions 0 and 1 under other numbers, one of them twice."""
    again = [(7, *row[1:]) for row in HOLDOUT if row[0] == 1]
    moved = [(9, *row[1:]) for row in HOLDOUT if row[0] == 0]
    twice = [(8, *row[1:]) for row in HOLDOUT if row[0] == 1]
    other = save_run(
        tmp_path / "b",
        {name: angle for name, angle in B.items() if name != "d"},
        holdout=[*again, *twice, *moved],
    )
    found = compared(runs[0], other)
    assert found["images"] == {"common": 3}
    assert found["sessions"] == {
        "held_out_by_a": 3,
        "held_out_by_b": 3,
        "common": 2,
        "evaluated": 2,
    }
    assert found["text_to_image"]["queries"] == 1  # "new" was asked in session 2


def test_sessions_that_trained_the_other_run_are_refused(
    tmp_path: Path, runs: tuple[str, str]
) -> None:
    other = save_run(tmp_path / "b", B, holdout=HOLDOUT[:2], seed=1)
    with pytest.raises(ImgembedError, match=r"seed was 0 for the one and 1 .* may have trained"):
        compared(runs[0], other)
    # The same sessions all the same: nothing can have leaked.
    same = save_run(tmp_path / "c", B, seed=1)
    assert compared(runs[0], same)["sessions"]["common"] == 3


def test_runs_without_anything_in_common_are_refused(tmp_path: Path, runs: tuple[str, str]) -> None:
    none = save_run(tmp_path / "none", B, holdout=[(0, 0, "x", None), (0, 1, "y", None)])
    with pytest.raises(ImgembedError, match=r"no held-out session in common \(3 and 1\)"):
        compared(runs[0], none)
    strange = save_run(tmp_path / "strange", {"x": 0, "y": 90})
    with pytest.raises(ImgembedError, match="no embedded image in common"):
        compared(runs[0], strange)


def test_a_model_of_another_graph_is_refused(tmp_path: Path, runs: tuple[str, str]) -> None:
    """The graph in force was built with another seed than the one that the model learned from."""
    run = Path(save_run(tmp_path / "b", B, seed=1))
    older = run / "graph" / "v0000"
    shutil.copytree(run / "graph" / "v0001", older)
    manifest = json.loads((older / "manifest.json").read_text())
    manifest["config"]["seed"] = 0
    (older / "manifest.json").write_text(json.dumps(manifest))
    for stage, upstream in (("model", {"examples": "v0001"}), ("examples", {"graph": "v0000"})):
        path = run / stage / "v0001" / "manifest.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), "upstream": upstream}))
    with pytest.raises(ImgembedError, match="holds out sessions that the model was trained on"):
        Side.open(str(run))


def test_a_model_without_texts_leaves_the_texts_out(tmp_path: Path, runs: tuple[str, str]) -> None:
    found = compared(runs[0], save_run(tmp_path / "b", B, texts=False))
    assert found["text_to_image"]["measures"] == {}
    assert found["text_to_image"]["not_compared"].endswith("b takes no text")
    assert found["image_to_image"]["measures"]


def figure(value: float, low: float, high: float) -> dict[str, dict[str, float]]:
    difference = {"value": value, "low": low, "high": high}
    return {"a": {"value": 0.5}, "b": {"value": 0.5 + value}, "difference": difference}


def test_a_verdict_says_who_is_better_and_by_how_much() -> None:
    assert (
        verdict("mrr", figure(0.03, 0.01, 0.06))
        == "B is better by 0.030 ± 0.030 in mrr (0.500 → 0.530)"
    )
    assert (
        verdict("mrr", figure(-0.03, -0.06, -0.01))
        == "A is better by 0.030 ± 0.030 in mrr (0.500 → 0.470)"
    )
    neither = verdict("mrr", figure(0.01, 0.0, 0.02))
    assert neither.startswith("neither run is shown to be better in mrr (0.500 → 0.510): B - A = +")
    alone = {**figure(0.01, 0, 0), "difference": {"value": 0.01}}
    assert verdict("mrr", alone).endswith("B - A = +0.010")


# The command -------------------------------------------------------------------------------------


def imgembed(capsys: pytest.CaptureFixture[str], *arguments: str, code: int = 0) -> str:
    capsys.readouterr()
    found = main.run([*arguments])
    out, err = capsys.readouterr()
    assert found == code, err
    return out if code == 0 else err


def test_the_command_prints_words_tables_and_json(
    runs: tuple[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    judged = tmp_path / "judged.csv"
    judged.write_text("query,image_id,grade\nred,b,2\nred,a,1\n")
    common = ["evaluate", "--compare", *runs, "--set", "evaluation.k=[1, 3]"]
    text = imgembed(capsys, *common, "--judgments", str(judged))
    assert "on 4 common images and 3 of 3 common held-out sessions" in text
    assert "image to image: neither run is shown to be better in recall@3" in text
    assert "judgments (1 queries)" in text
    found = json.loads(imgembed(capsys, *common, "--json"))
    assert found["image_to_image"]["measures"]["recall@3"]["difference"].keys() == {
        "value",
        "low",
        "high",
    }
    assert found["verdicts"][0].startswith("image to image: neither run is shown to be better")
    assert not (Path(runs[0]) / "evaluation").exists()


def test_options_that_go_with_one_run_are_refused(
    runs: tuple[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for extra in (["--run-dir", runs[0]], ["--force"]):
        line = imgembed(capsys, "evaluate", "--compare", *runs, *extra, code=2)
        assert line.count("\n") == 1
        assert extra[0] in line
    empty = str(tmp_path / "empty")
    line = imgembed(capsys, "evaluate", "--compare", runs[0], empty, code=1)
    assert "no graph yet" in line
    assert not Path(empty).exists()


@pytest.mark.parametrize("stage", ["graph", "examples", "embeddings"])
def test_a_run_that_lost_a_file_is_not_compared(
    runs: tuple[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str], stage: str
) -> None:
    copy = shutil.copytree(runs[1], tmp_path / "run")
    manifest = copy / stage / "v0001" / "manifest.json"
    content = json.loads(manifest.read_text())
    manifest.write_text(json.dumps(content | {"file_bytes": {"lost.parquet": 10}}))
    line = imgembed(capsys, "evaluate", "--compare", runs[0], str(copy), code=1)
    assert f"{stage}/v0001/lost.parquet: is gone since it was committed" in line
    assert line.count("\n") == 1
