"""Configuration files and --set as strangers write them: read, or refused in one line."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest
import yaml
from fuzzing import answer, cases
from hypothesis import given
from hypothesis import strategies as st
from malformed_tables import VALUES

from cli.settings import Config, load
from pipeline.errors import ConfigError

KEYS = sorted(
    {
        *Config.model_fields,
        *(
            name
            for field in Config.model_fields.values()
            for name in getattr(field.annotation, "model_fields", {})
        ),
    }
)
PIECES = (
    *("graph: ", "graph:\n  top_k: ", "seed: ", "images: {", "}", "[", "]", "- ", "? ", ": ", "\n"),
    *("  ", "\t", "&a ", "*a", "*b", "<<: ", "!!", "!!python/object/apply:os.system", "!!int x"),
    *("!!float x", "!!timestamp x", "!!bool x", "!!binary x", "!!set ", "!!omap ", "!!pairs [a]"),
    *("!!null x", "!!map x", "!!seq x", "!!str {}", "!x ", "---\n", "...\n", "%YAML 9.9\n", "%TAG"),
    *(
        "2001-13-45",
        "2001-01-01",
        "1:99:99",
        "0x_",
        "0b_",
        "0_",
        "._",
        ".inf",
        "9" * 5_000,
        "1e999",
    ),
    *(
        "|\n",
        ">\n",
        "'",
        '"',
        '"\\x1b[2J"',
        '"\\ud800"',
        "#",
        "{a: b}",
        "[a]: 1",
        "~",
        "=",
        "@",
        "`",
    ),
)
DOCUMENTS = st.lists(
    st.sampled_from(PIECES) | st.sampled_from(KEYS).map("{}: ".format) | st.text(max_size=5),
    max_size=10,
).map("".join)
SECTIONS = st.dictionaries(
    st.sampled_from(KEYS) | st.text(max_size=5) | st.none() | st.integers(0, 3),
    st.dictionaries(st.sampled_from(KEYS) | st.text(max_size=5), VALUES, max_size=3) | VALUES,
    max_size=4,
)


@pytest.fixture(scope="module")
def path():
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder) / "run.yaml"


def check(path, sets=()):
    """Loads a file; what it says is one line of a length that one can read."""
    found = answer(lambda: _loaded(path, sets))
    if isinstance(found, ConfigError):
        assert "\n" not in str(found)
        assert len(str(found)) < 1_000
    else:
        assert isinstance(found, Config)


def _loaded(path, sets):
    try:
        return load(path and str(path), sets=sets)
    except ConfigError as error:
        return error


@cases(50)
@given(DOCUMENTS.map(str.encode) | st.binary(max_size=40))
def test_a_configuration_of_any_bytes_is_read_or_refused(path, data):
    path.write_bytes(data)
    check(path)


@cases(60)
@given(SECTIONS)
def test_settings_of_any_kind_are_taken_or_refused(path, content):
    path.write_text(yaml.safe_dump(content, allow_unicode=True), errors="replace")
    check(path)


@cases(40)
@given(st.sampled_from(KEYS), st.sampled_from(KEYS) | st.text(max_size=5), DOCUMENTS)
def test_a_value_of_set_is_taken_or_refused(section, key, value):
    check(None, [f"{section}.{key}={value}"])
    check(None, [value, f"{section}={value}", f"{key}={value}"])
