"""Options in the environment and in a file have their names of the command line."""

from __future__ import annotations

import click
import pytest

from fedfs.cli import fedfs as cli
from fedfs.cli.spelling import as_defaults, spelled
from fedfs.errors import UserError


def leaves(command=cli, path=()):
    for name, child in getattr(command, "commands", {}).items():
        yield from leaves(child, (*path, name))
    if not isinstance(command, click.Group):
        yield path, command


@pytest.fixture(params=list(leaves()), ids=lambda leaf: " ".join(leaf[0]))
def leaf(request):
    return request.param


def test_every_option_can_be_set_by_a_variable_and_in_a_file(leaf):
    path, command = leaf
    for option in command.params:
        if isinstance(option, click.Option) and not option.is_eager:
            name = spelled(option)
            words = ("fedfs", *path, name)
            assert option.envvar == "_".join(words).replace("-", "_").upper()
            table = {name: 1}
            for word in reversed(path):
                table = {word: table}
            found = as_defaults(table, cli, "fedfs")
            for word in path:
                found = found[word]
            assert found == {option.name: 1}


def test_a_variable_and_a_file_reach_the_command(tmp_path, monkeypatch):
    path = tmp_path / "fedfs.toml"
    path.write_text('[site.run]\nsite = "north"\nlocal-minutes = 0.0\n')
    arguments = ["--config", str(path), "site", "run", str(tmp_path)]
    with pytest.raises(UserError, match="Local minutes 0.0 are not above 0"):
        cli.main(arguments, standalone_mode=False)
    monkeypatch.setenv("FEDFS_SITE_RUN_LOCAL_MINUTES", "-3")
    with pytest.raises(UserError, match="Local minutes -3.0 are not above 0"):
        cli.main(arguments, standalone_mode=False)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[site.run]\ndevise = 1\n", "names 'devise', which fedfs site run does not have"),
        ("[sight.run]\ndevice = 1\n", "names 'sight', which fedfs does not have"),
    ],
)
def test_a_name_that_does_not_exist_is_an_error(tmp_path, text, message):
    path = tmp_path / "fedfs.toml"
    path.write_text(text)
    with pytest.raises(UserError, match=message) as caught:
        cli.main(["--config", str(path), "status", "x"], standalone_mode=False)
    assert "it has" in caught.value.hint
