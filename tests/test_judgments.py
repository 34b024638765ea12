"""Judgments from files of every format, and graded measures worked out by hand."""

import csv
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from evaluation_runs import ANGLES, save_run

from cli import main
from pipeline import schema
from pipeline.artifacts import RunDir
from pipeline.errors import ConfigError, ImgembedError
from pipeline.judgments import read_judgments
from trainer.evaluation import inputs, methods
from trainer.evaluation.config import EvaluationConfig
from trainer.evaluation.judgments import Judged, gains, measure_judged
from trainer.evaluation.measuring import Measure

RATINGS = Path(__file__).parent.parent.parent / "shared" / "data" / "mediasearch" / "ratings.tsv"
ROWS = [
    ("red", 'a "quoted", 1.jpg', 2.0),
    ("red", "b", -1.0),
    ("größe, \"x\"", "c", 0.5),
]  # fmt: skip
NAMES = schema.JUDGMENT_SCHEMA.names


def write(folder: Path, format: str) -> str:
    path = folder / f"judged.{format}"
    if format == "parquet":
        columns = [list(column) for column in zip(*ROWS, strict=True)]
        pq.write_table(pa.table(columns, schema=schema.JUDGMENT_SCHEMA), path)
    elif format == "jsonl":
        lines = [json.dumps(dict(zip(NAMES, row, strict=True))) for row in ROWS]
        path.write_text("\n".join(lines), encoding="utf-8")
    else:
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file, delimiter="\t" if format == "tsv" else ",")
            writer.writerows([NAMES, *ROWS])
    return str(path)


def read(path: Any, columns: dict[str, str] | None = None) -> pa.Table:
    return read_judgments(str(path), format="auto", columns=columns or {})


@pytest.mark.parametrize("format", ["csv", "tsv", "jsonl", "parquet"])
def test_every_format_gives_the_same_judgments(tmp_path: Path, format: str) -> None:
    found = read(write(tmp_path, format))
    assert found.schema.equals(schema.JUDGMENT_SCHEMA)
    assert [tuple(row.values()) for row in found.to_pylist()] == ROWS


def test_several_files_are_read_and_whole_numbers_are_grades(tmp_path: Path) -> None:
    for name, grade in (("1", 3), ("2", 0)):
        line = json.dumps({"query": name, "image_id": 7, "grade": grade})
        (tmp_path / f"{name}.jsonl").write_text(line)
    assert read(tmp_path).to_pylist() == [
        {"query": "1", "image_id": "7", "grade": 3.0},
        {"query": "2", "image_id": "7", "grade": 0.0},
    ]


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("query,image_id,grade\nred,a,good\n", "judged.csv: row 1: grade 'good' is no number"),
        ("query,image_id,grade\nred,a,1\nred,b,\n", "judged.csv: row 2: grade is no number"),
        ("query,image_id,grade\nred,a,nan\n", "row 1: grade 'nan' is no number"),
        ("query,image_id,grade\nred,a,1000\n", "row 1: grade '1000' is above 30"),
        ("query,image_id,grade\n ,a,1\n", "row 1: query ' ' is empty"),
        ("query,image_id,grade\nred,,1\n", "row 1: image_id is empty"),
        ("query,image_id,grade\nred,a,1\nred,a\n", "judged.csv: row 2: "),
        ("query,image_id\nred,a\n", "no column grade; it has query, image_id; map it with"),
        ("query,image_id,grade\n", "holds no judgment, only columns"),
        ("", "is empty; wanted query, image_id, grade"),
    ],
)
def test_what_is_no_judgment_is_one_line(tmp_path: Path, text: str, error: str) -> None:
    (tmp_path / "judged.csv").write_text(text)
    with pytest.raises(ImgembedError) as found:
        read(tmp_path / "judged.csv")
    assert error in str(found.value)
    assert "\n" not in str(found.value)


def test_settings_that_do_not_fit_name_themselves(tmp_path: Path) -> None:
    with pytest.raises(ImgembedError, match=r"evaluation\.judgments: no file at"):
        read(tmp_path / "nowhere.csv")
    path = write(tmp_path, "csv")
    with pytest.raises(ConfigError, match=r"evaluation\.judgments_columns\.rank: no such column"):
        read(path, {"rank": "grade"})
    with pytest.raises(ImgembedError, match=r"judgments_columns\.grade: .* has no column 'stars'"):
        read(path, {"grade": "stars"})
    (tmp_path / "odd.xyz").write_text("[1, 2]")
    with pytest.raises(ImgembedError, match=r"name the format with evaluation\.judgments_format"):
        read(tmp_path / "odd.xyz")


@pytest.mark.skipif(not RATINGS.is_file(), reason=f"no ratings at {RATINGS}")
def test_real_ratings_with_quotes_and_commas_are_those_of_another_reader() -> None:
    found = read(RATINGS, {"image_id": "image_title", "grade": "rating"})
    with RATINGS.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file, delimiter="\t"))
    assert found.to_pylist() == [
        {"query": row["query"], "image_id": row["image_title"], "grade": float(row["rating"])}
        for row in rows
    ]
    assert any('"' in row["image_title"] for row in rows)
    assert any("," in row["image_title"] for row in rows)


# What is measured --------------------------------------------------------------------------------


def corpus_of(ids: str) -> inputs.Corpus:
    zeros = np.zeros(len(ids), np.int64)
    return inputs.Corpus(pa.array(list(ids)), np.eye(len(ids), dtype=np.float32), zeros, zeros)


def table(*rows: tuple[str, str, float]) -> pa.Table:
    columns = [list(column) for column in zip(*rows, strict=True)]
    return pa.table(columns, schema=schema.JUDGMENT_SCHEMA)


def measured(judged: Judged, corpus: inputs.Corpus, k: list[int]) -> dict[str, Any]:
    """All texts rank the corpus in its order."""
    scores = methods.by_popularity(np.arange(len(corpus))[::-1])
    measure = Measure(EvaluationConfig(k=k, bootstrap=0), 0, len(corpus))
    seen = np.zeros(len(judged.texts), bool)
    return measure_judged(judged, {"in order": scores}, measure, seen)


def test_graded_measures_are_as_worked_out() -> None:
    """One query; the corpus stands a b c d e f; a is not judged, z is not embedded."""
    corpus = corpus_of("abcdef")
    judged = Judged.of(
        table(("q", "b", 1), ("q", "c", -1), ("q", "d", 3), ("q", "f", 2), ("q", "z", 2)), corpus
    )
    found = measured(judged, corpus, [4])
    figures = {name: of["value"] for name, of in found["methods"]["in order"].items()}
    # Right are b at 2, d at 4, f at 6 and z nowhere. Gains: b 1, c 0, d 7, f 3, z 3.
    ideal = 7 + 3 / math.log2(3) + 3 / math.log2(4) + 1 / math.log2(5)
    gain = 1 / math.log2(3) + 7 / math.log2(5)
    expected = {
        "recall@4": 2 / 4,
        "mrr": 1 / 2,
        "map": (1 / 2 + 2 / 4 + 3 / 6) / 4,
        "ndcg@4": gain / ideal,
    }
    assert figures == pytest.approx(expected, abs=1e-6)
    # Among the judged ones that are embedded: b c d f.
    alone = found["judged_only"]
    ideal = 7 + 3 / math.log2(3) + 1 / math.log2(4)
    gain = 1 + 7 / math.log2(4) + 3 / math.log2(5)
    assert alone["queries"] == 1
    assert alone["methods"]["in order"]["ndcg@4"]["value"] == pytest.approx(gain / ideal, abs=1e-6)
    # A random order of these four: each rank gains (1 + 7 + 3) / 4.
    a_rank = 11 / 4 * sum(1 / math.log2(1 + rank) for rank in (1, 2, 3, 4))
    assert alone["methods"]["random"]["ndcg@4"]["value"] == pytest.approx(a_rank / ideal, abs=1e-6)


def test_what_cannot_be_measured_is_counted() -> None:
    corpus = corpus_of("abc")
    judged = Judged.of(
        table(
            ("good", "a", 1),
            ("good", "b", 0),
            ("bad", "a", -1),
            ("bad", "z", 0),
            ("gone", "z", 2),
            ("split", "c", 2),
            ("split", "c", -1),  # 0.5 on average: not right
        ),
        corpus,
    )
    found = measured(judged, corpus, [1])
    assert (found["rows"], found["repeated"]) == (7, 1)
    assert (found["images"], found["images_without_embedding"]) == (4, 1)
    assert (found["queries_judged"], found["queries_without_right_image"]) == (4, 2)
    assert found["queries"] == 2  # good and gone, for which nothing can be found
    assert found["methods"]["in order"]["recall@1"]["value"] == 0.5
    assert found["judged_only"]["queries"] == 1


def test_judgments_of_another_catalog_are_one_line() -> None:
    with pytest.raises(
        ImgembedError, match=r"none of the 1 judged images, such as 'x\.jpg', is am"
    ):
        Judged.of(table(("q", "x.jpg", 1)), corpus_of("abc"))


def test_without_an_answerable_query_there_is_no_measure() -> None:
    corpus = corpus_of("abc")
    found = measured(Judged.of(table(("q", "a", 0)), corpus), corpus, [1])
    assert (found["queries"], found["methods"]) == (0, {})
    assert found["judged_only"] == {"queries": 0, "methods": {}}


def test_the_order_of_the_rows_means_nothing() -> None:
    generator, corpus = np.random.default_rng(0), corpus_of("abcdef")
    rows = [(f"q{n % 7}", "abcdefz"[n % 7 if n < 7 else n // 7], n % 4) for n in range(40)]
    shuffled = [rows[place] for place in generator.permutation(40)]
    first, second = (
        measured(Judged.of(table(*of), corpus), corpus, [3]) for of in (rows, shuffled)
    )
    assert first == second


def test_gains_double_from_grade_to_grade() -> None:
    assert gains(np.array([-1.0, 0.0, 1.0, 2.0, 3.0])).tolist() == [0.0, 0.0, 1.0, 3.0, 7.0]


# The command -------------------------------------------------------------------------------------


def test_the_command_measures_judgments_and_reads_them_again_when_they_change(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, judged = save_run(tmp_path / "run", ANGLES), tmp_path / "judged.csv"
    command = ["evaluate", "--run-dir", run, "--set", "evaluation.k=[1]", "--judgments"]

    def evaluated(rows: str) -> tuple[str, str, dict[str, Any]]:
        judged.write_text(f"query,image_id,grade\n{rows}")
        assert main.run([*command, str(judged)]) == 0
        version = RunDir.open(run).require(schema.EVALUATION)
        metrics = json.loads(Path(version.file(schema.METRICS_FILE)).read_text())
        return version.name, capsys.readouterr().out, metrics["judgments"]

    # "red" at 2 degrees finds a first, of grade 1, where b has grade 2: gains 1 of 3.
    name, text, found = evaluated("red,a,1\nred,b,2\nnew,nowhere,0\n")
    assert found["methods"]["trained embedding"]["ndcg@1"]["value"] == pytest.approx(
        1 / 3, abs=1e-6
    )
    assert (found["queries_judged"], found["queries_without_right_image"]) == (2, 1)
    assert found["slices"]["seen"]["queries"] == 1
    title = (
        "judgments, NDCG by grade (1 queries, 1 of 3 judged images not embedded; "
        "1 queries without a right image left out)"
    )
    assert title in text
    again, _, found = evaluated("red,a,2\n")
    assert again != name
    assert found["methods"]["trained embedding"]["ndcg@1"]["value"] == 1.0


def test_judgments_that_cannot_be_read_are_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = save_run(tmp_path / "run", ANGLES)
    missing = str(tmp_path / "nowhere.csv")
    assert main.run(["evaluate", "--run-dir", run, "--quiet", "--judgments", missing]) == 1
    line = capsys.readouterr().err
    assert line == f"imgembed: evaluation.judgments: no file at {missing!r}\n"
    assert RunDir.open(run).current(schema.EVALUATION) is None
