"""What the documents name is there: files, settings, options; their figures are computed ones."""

import re
from pathlib import Path

import click
import pytest

from cli.main import cli
from cli.report import costs as report_costs
from cli.settings import Config
from pipeline.config import IndexConfig
from pipeline.embeddings import costs, index
from pipeline.examples import sizes
from pipeline.examples.costs import Needs
from pipeline.examples.trial import RecordBytes

ROOT = Path(__file__).parent.parent
DOCUMENTS = sorted([ROOT / "README.md", ROOT / "benchmarks" / "README.md", *ROOT.glob("docs/*.md")])
# Options of other programs that the documents name: Beam's, pip's, the benchmarks' own.
WRITTEN_HERE = ("scale.md", "privacy.md", "quality.md")
FILES = ("tsv", "parquet", "html")  # such as edges.tsv, which is no setting
OTHERS = {
    "--project", "--region", "--temp_location", "--sdk_container_image", "--machine_type",
    "--max_num_workers", "--disk_size_gb",
}  # fmt: skip


def ids(path):
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("path", DOCUMENTS, ids=ids)
def test_every_link_leads_to_a_file(path):
    for target in re.findall(r"\]\(([^)\s]+)\)", path.read_text()):
        if "://" not in target and not target.startswith("#"):
            assert (path.parent / target.partition("#")[0]).exists(), target


def keys(section, prefix=""):
    for name, value in section:
        yield prefix + name
        if hasattr(value, "model_fields"):
            yield from keys(value, f"{prefix}{name}.")


def spans(path):
    """What stands in backticks."""
    return re.findall(r"`([^`\n]+)`", re.sub(r"```.*?```", "", path.read_text(), flags=re.DOTALL))


@pytest.mark.parametrize("path", DOCUMENTS, ids=ids)
def test_every_setting_that_is_named_is_one(path):
    known = set(keys(Config()))
    sections = {name for name, value in Config() if hasattr(value, "model_fields")}
    named = [re.match(r"(\w+)\.(\w+)(?:\.\w+)*(?=$|[:= ])", span) for span in spans(path)]
    named = [m for m in named if m and m[1] in sections and m[2] not in FILES]
    for match in named:
        assert f"{match[1]}.{match[2]}" in known, match[0]
    if path.name in WRITTEN_HERE:
        assert len(named) > 5


def options(group):
    for command in group.commands.values():
        if isinstance(command, click.Group):
            yield from options(command)
        for option in command.params:
            if isinstance(option, click.Option):
                yield from (*option.opts, *option.secondary_opts)


@pytest.mark.parametrize("name", WRITTEN_HERE)
def test_every_option_that_is_named_is_one(name):
    text = (ROOT / "docs" / name).read_text()
    known = {*options(cli), *OTHERS}
    named = set(re.findall(r"(?<![\w-])--[a-z][\w-]*", text))
    assert named <= known
    assert f"docs/{name}" in (ROOT / "README.md").read_text()


@pytest.mark.parametrize("name", WRITTEN_HERE)
def test_every_module_that_is_named_is_there(name):
    for span in spans(ROOT / "docs" / name):
        if re.fullmatch(r"(pipeline|trainer|cli|benchmarks)/[\w/]+\.py", span):
            assert (ROOT / span).is_file(), span


def test_the_example_of_scale_is_what_the_plan_computes():
    text = (ROOT / "docs" / "scale.md").read_text()
    images, edges, content, framed = 10**8, 10**9, 3_132, 18_794
    estimated = images * 64 * 64 * 1.0  # bytes of JPEGs, as the job estimates them beforehand
    few = sizes.shard_count("auto", estimated)
    settings = {"neighbors": 5, "threads": 1, "max_memory": 3 * 10**9}
    many, _ = sizes.cut("auto", estimated, **settings)
    needs = [
        Needs(images, content + 200, RecordBytes(framed, framed), 5, shards)
        for shards in (few, many)
    ]
    memory = [need.memory_bytes(1) / 1e9 for need in needs]
    shuffled = needs[0].disk_bytes() / 1e12
    assert f"| 8.5 | {few:,} | {memory[0]:.1f} GB | {shuffled:.1f} TB | 1.9 TB |" in text
    assert f"| 8.5 | {many:,} | {memory[1]:.1f} GB | {shuffled:.1f} TB | 1.9 TB |" in text
    assert memory[1] <= 3.0
    config = IndexConfig()
    held = costs.index_memory(images, 64, 16, config) / 1e9
    written = costs.index_bytes(images, 64, 16, config) / 1e9
    assert f"| 21 | one machine | {held:.0f} GB | | {written:.0f} GB |" in text
    assert f"{index.cells_of(config, images):,} cells" in text
    report = report_costs.memory_bytes(images=images, edges=edges, dim=64, config=Config().report)
    assert f"| report | | one machine | {report / 1e9:.0f} GB |" in text
