"""The help of every command: a first line that fits, sections, and an example that works."""

from __future__ import annotations

import shlex

import click
import pytest
from click.testing import CliRunner

from fedfs.cli import fedfs as cli
from fedfs.cli.command import REQUIRED, S3, SECTIONS, Command, section_of
from support.command_lines import understood


def all_commands(command=cli, path=("fedfs",)):
    yield path, command
    for name, child in getattr(command, "commands", {}).items():
        yield from all_commands(child, (*path, name))


@pytest.fixture(params=list(all_commands()), ids=lambda found: " ".join(found[0]))
def named(request):
    return request.param


def test_the_first_line_fits_into_the_listing_and_begins_with_a_verb(named):
    path, command = named
    first = command.help.splitlines()[0]
    assert len(first) <= 45
    assert "..." not in command.get_short_help_str()
    word = first.split()[0]
    assert word == word.capitalize()
    assert word not in {"A", "An", "The", "This"}
    assert first.endswith(".")
    assert path[-1] != word.lower() or len(first.split()) > 1


def test_options_stand_in_sections_the_required_ones_first_and_s3_last(named):
    path, command = named
    assert isinstance(command, Command)
    text = CliRunner().invoke(cli, [*path[1:], "--help"]).output
    titles = [line[:-1] for line in text.splitlines() if line[:-1] in SECTIONS]
    assert titles == sorted(titles, key=SECTIONS.index)
    for parameter in command.params:
        assert section_of(parameter) in titles
        if isinstance(parameter, click.Argument) or parameter.required:
            assert section_of(parameter) == REQUIRED
        elif parameter.opts[0].startswith("--s3-"):
            assert section_of(parameter) == S3
        if isinstance(parameter, click.Option):
            assert parameter.help, parameter.opts


def test_the_example_is_a_command_line_that_fedfs_understands(named):
    path, command = named
    words = shlex.split(command.example.replace("\\\n", " "))
    assert tuple(words[: len(path)]) == path
    understood(words[1:])
