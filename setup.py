"""Packaging of imgembed: the packages `pipeline`, `trainer` and `cli` are installed as they are."""

from pathlib import Path

from setuptools import find_packages, setup

REQUIRED = [
    # The batch jobs. Above 2.77 the embedded runner's internals have not been measured.
    "apache-beam[gcp]>=2.77,<2.78; python_version >= '3.11'",
    # On Python 3.10 tensorflow-metadata holds protobuf below what the Bigtable client of later
    # versions wants, and those before 2.76 hold pyarrow below 24.
    "apache-beam[gcp]>=2.75,<2.76; python_version < '3.11'",
    "pyarrow>=23,<24; python_version < '3.11'",
    # The trainer runs on the Keras 3 that comes with this TensorFlow.
    "tensorflow>=2.21,<2.22",
    # Vocabularies and scaling that serving shares with training; goes with tensorflow 2.21.
    "tensorflow-transform>=1.21,<1.22",
    # Message passing for graph regularization, on Sonnet 2.
    "graph_nets>=1.1,<1.2",
    "dm-sonnet>=2.0.2,<2.1",
    # Tables in memory and on disk; its CSV and Parquet writers' bytes are tested.
    "pyarrow>=25,<26; python_version >= '3.11'",
    "numpy>=2.0,<3",
    # JSONL rows, twice as fast as Arrow's reader and row by row; Beam brings it as well.
    "orjson>=3.9,<4",
    # Session logs as Avro and TFRecord, and the checksums of the latter; Beam and
    # tensorflow-transform bring them as well.
    "fastavro>=1.12,<2",
    "tfx-bsl>=1.21,<1.22",
    "google-crc32c>=1.5,<2",
    # Configuration: checks types and ranges, and says what is wrong.
    "pydantic>=2.7,<3",
    "pyyaml>=6,<7",
    # The noise that a privacy budget asks for. It holds attrs below 24. Its quantiles are scipy's,
    # which it brings as well.
    "dp-accounting>=0.6,<0.7",
    "scipy>=1.13,<2",
    # The command line and its progress lines.
    "click>=8.1,<9",
    "rich>=13,<16",
    # The approximate index: cells that come out the same whatever the threads, mapped into memory.
    # What a file of it means may change with a minor version.
    "faiss-cpu>=1.15,<1.16",
    # Pages for people, with escaping on.
    "jinja2>=3.1.5,<4",
    # What versions a package wants, for `imgembed doctor`; Beam brings it as well.
    "packaging>=23,<28",
    # Pictures in every mode and format, the same on every machine.
    "pillow>=11,<13",
    # The report: its charts, its pictures' markup, and the map's t-SNE. Principal components
    # alone, which numpy gives, show two of the embedding's dimensions, groups on top of each other.
    "matplotlib>=3.10,<4",
    "markupsafe>=2.1,<4",
    "scikit-learn>=1.7,<2",
    "threadpoolctl>=3.1,<4",
]
TEST = [
    # A second implementation of the graph, in SQL, that ours must agree with.
    "duckdb>=1.4,<3",
    "hypothesis>=6.100,<7",
    "mypy>=1.13,<3",
    "pytest>=8,<10",
    # The tests of a file on one of two cores.
    "pytest-xdist>=3.6,<4",
    "ruff>=0.11,<1",
    "types-PyYAML",
    # Cloud Storage on this machine, for logs and runs in a bucket.
    "gcp-storage-emulator>=2024.8,<2027",
    # Writes the zstd files that our reader must read or refuse.
    "zstandard>=0.23,<1",
    # Speaks with a headless Chromium, where there is one, to look at the report.
    "websockets>=15,<18",
]

setup(
    name="imgembed",
    version="0.1.0",
    description="Image embeddings from what people look at together: an image co-occurrence graph "
    "from search sessions, a graph-regularized embedding, and search by text and by image.",
    long_description=Path(__file__).with_name("README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.10,<3.14",
    packages=find_packages(
        include=["pipeline", "pipeline.*", "trainer", "trainer.*", "cli", "cli.*"]
    ),
    package_data={"cli": ["templates/*.html"], "cli.report": ["templates/*"]},
    install_requires=REQUIRED,
    extras_require={"test": TEST},
    entry_points={"console_scripts": ["imgembed = cli.main:main"]},
)
