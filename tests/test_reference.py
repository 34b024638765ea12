"""docs/cli.md and docs/config.md are what the program says of itself."""

from pathlib import Path

import click
import pytest

from cli import reference
from cli.main import cli
from cli.settings import Config

DOCS = Path(__file__).parent.parent / "docs"


@pytest.mark.parametrize("name", reference.FILES)
def test_the_reference_is_what_make_docs_would_write(tmp_path, name):
    reference.write(str(tmp_path))
    assert (DOCS / name).read_text() == (tmp_path / name).read_text(), "run: make docs"


def commands(group, name):
    """(name, command) of all commands below a group."""
    for under, command in group.commands.items():
        yield f"{name} {under}", command
        if isinstance(command, click.Group):
            yield from commands(command, f"{name} {under}")


def test_every_command_and_option_has_help_and_stands_in_the_reference():
    text = (DOCS / "cli.md").read_text()
    found = dict(commands(cli, "imgembed"))
    assert len(found) > 15
    for name, command in found.items():
        _, _, part = text.partition(f"## {name}\n")
        part = part.partition("\n## ")[0]
        assert command.help.split("\n")[0] in part, name
        for option in command.params:
            if isinstance(option, click.Option):
                assert option.help, (name, option.name)
                assert f"`{option.opts[0]}" in part, (name, option.opts)


def keys(section, prefix=""):
    for name, value in section:
        if hasattr(value, "model_fields"):
            yield from keys(value, f"{prefix}{name}.")
        else:
            yield prefix + name


def test_every_setting_stands_in_the_reference_with_its_range():
    text = (DOCS / "config.md").read_text()
    for key in keys(Config()):
        section, _, name = key.rpartition(".")
        _, _, part = text.partition(f" {section}\n") if section else ("", "", text)
        assert f"\n| `{name}` | " in part.partition("\n#")[0] or not section, key
    assert "| `top_k` | a whole number (at least 1) | `10` |" in text
    assert "| `delta` | a number (above 0, below 1) | `1e-06` |" in text
    assert "| `max_degree` | a whole number (at least 1) or `null` | `null` |" in text
