"""The house: which way imports point, who owns the top-level names, what loads when."""

import ast
import importlib
import importlib.metadata
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = ("pipeline", "trainer", "cli")
# What a module may import of the other two packages.
ALLOWED = {
    "pipeline": (),
    "trainer": tuple(
        f"pipeline.{name}"
        for name in ("schema", "errors", "artifacts", "memory", "vectors", "shards")
    ),
    "cli": ("pipeline", "trainer"),
}
HEAVY = ("apache_beam", "tensorflow", "pyarrow", "numpy", "pydantic", "PIL", "rich")


def modules():
    return [path for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py"))]


def imported(path):
    """Dotted names of the modules that a file imports, `from a import b` as a.b."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_point_one_way(path):
    package = path.relative_to(ROOT).parts[0]
    for name in imported(path):
        top = name.split(".")[0]
        if top in PACKAGES and top != package:
            assert any(f"{name}.".startswith(f"{allowed}.") for allowed in ALLOWED[package]), (
                f"{path} imports {name}"
            )


def test_the_schema_and_the_errors_need_neither_beam_nor_tensorflow():
    loaded = loaded_by(
        "import pipeline.schema, pipeline.errors, pipeline.artifacts, pipeline.config"
    )
    assert not loaded & {"apache_beam", "tensorflow"}


def loaded_by(statement):
    """The heavy packages that a statement loads in a fresh process."""
    code = f"{statement}\nimport sys; print(*[m for m in {HEAVY!r} if m in sys.modules])"
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT
    )
    return set(result.stdout.splitlines()[-1].split())


def test_help_loads_nothing_heavy():
    assert loaded_by("import cli.main; cli.main.run(['--help'])") == set()


def test_only_trainer_gnn_touches_graph_nets():
    users = [p for p in modules() if any(n.split(".")[0] == "graph_nets" for n in imported(p))]
    assert [str(path.relative_to(ROOT)) for path in users] == ["trainer/gnn/networks.py"]


def test_this_distribution_alone_owns_its_top_level_names():
    owners = importlib.metadata.packages_distributions()
    for package in PACKAGES:
        assert set(owners.get(package, [])) <= {"imgembed"}


def test_every_module_says_what_it_is_for():
    for path in modules():
        assert ast.get_docstring(ast.parse(path.read_text())), path


# What Beam carries --------------------------------------------------------------------------------


def steps():
    """Every PTransform and DoFn of ours."""
    import apache_beam as beam

    names = [".".join(p.relative_to(ROOT).with_suffix("").parts) for p in modules()]
    for name in (name for name in names if name.startswith("pipeline.") and "__init__" not in name):
        module = importlib.import_module(name)
        for step in vars(module).values():
            ours = isinstance(step, type) and step.__module__ == name
            if ours and issubclass(step, (beam.PTransform, beam.DoFn)):
                yield step


def test_every_step_can_be_sent_to_a_worker_and_says_what_it_takes():
    import apache_beam as beam
    from apache_beam.internal import pickler

    found = list(steps())
    assert {"JoinNeighbors", "PrepareImages", "WriteExamples"} <= {step.__name__ for step in found}
    for step in found:
        assert pickler.loads(pickler.dumps(step)) is step
        if issubclass(step, beam.PTransform):
            assert "Input:" in step.__doc__, step
            assert step.__name__.lstrip("_")[0].isupper(), step


def test_no_function_is_pickled_by_its_code():
    """A lambda in a job has no name by which a worker could import it."""
    for path in modules():
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and ast.unparse(node.func).startswith("beam."):
                given = [*node.args, *(keyword.value for keyword in node.keywords)]
                assert not any(isinstance(value, ast.Lambda) for value in given), path


@pytest.mark.parametrize("path", sorted((ROOT / "benchmarks").glob("*.py")), ids=lambda p: p.stem)
def test_a_benchmark_of_a_claim_measures_it_when_it_is_called(path):
    tree = ast.parse(path.read_text())
    if not (ast.get_docstring(tree) or "").startswith("Claim:"):
        return  # what benchmarks share
    last = tree.body[-1]
    assert isinstance(last, ast.If), f"{path}: does nothing when it is called"
    assert ast.unparse(last.test) == "__name__ == '__main__'"
    assert f"benchmarks/{path.name}" in (ROOT / "benchmarks" / "README.md").read_text()
