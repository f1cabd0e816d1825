"""Options in the environment and in a file have their names of the command line."""

from __future__ import annotations

import json

import click
import pytest

from fedfs.cli import fedfs as cli
from fedfs.cli.configuration import leaves
from fedfs.cli.options import number_pairs
from fedfs.cli.spelling import as_defaults, spelled
from fedfs.errors import UserError
from fedfs.roles.toml_file import TomlFile


@pytest.fixture(params=list(leaves(cli)), ids=lambda leaf: " ".join(leaf[0]))
def leaf(request):
    return request.param


def value_of(option):
    """A value that an option takes, as TOML has it, and as click gets it."""
    if option.is_flag:
        return True, True
    if isinstance(option.type, click.Choice):
        return option.type.choices[0], option.type.choices[0]
    if isinstance(option.type, type(click.FLOAT)):
        return ([1.5] * option.nargs,) * 2 if option.nargs > 1 else (1.5, 1.5)
    if isinstance(option.type, type(click.INT)):
        return 2, [2] if option.multiple else 2
    if option.callback is number_pairs:
        return {"a": 1.5}, ["a=1.5"]
    return ("x.prom", ["x.prom"]) if option.multiple else ("x.prom", "x.prom")


def read(tmp_path, text):
    path = tmp_path / "fedfs.toml"
    path.write_text(text)
    return TomlFile.read(path)


def test_every_option_can_be_set_by_a_variable_and_in_a_file(leaf, tmp_path):
    path, command = leaf
    for option in command.params:
        if isinstance(option, click.Option) and not option.is_eager:
            name = spelled(option)
            variable = "_".join(("fedfs", *path, name)).replace("-", "_").upper()
            assert option.envvar == ([variable, "FEDFS_SITE"] if name == "site" else variable)
            written, expected = value_of(option)
            text = json.dumps(written).replace('{"a": 1.5}', "{a = 1.5}")
            found = as_defaults(read(tmp_path, f"[{'.'.join(path)}]\n{name} = {text}\n"), cli)
            for word in path:
                found = found[word]
            assert found == {option.name: expected}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("\n[site.run]\ndevise = 1\n", "line 3, names 'devise', which fedfs site run does not"),
        ("[sight.run]\ndevice = 1\n", "line 1, names 'sight', which fedfs does not have"),
        ("[site.run]\ndevice = 'gpu'\n", "line 2: device cannot be 'gpu': 'gpu' is not one of"),
        ("[site.run]\ndevice = 1.5\n", "line 2: device cannot be 1.5: it is a text"),
        ("[site.run]\nnum_gpus = 1.5\n", "line 2: num_gpus cannot be 1.5: it is a whole number"),
        ("[site.run]\nnum_gpus = true\n", "line 2: num_gpus cannot be True: it is a whole"),
        ("[site.run]\nonce = 1\n", "line 2: once cannot be 1: it is either true or false"),
        ("[init]\nmin_coverage = [1]\n", "line 2: min_coverage cannot be .*: it is a number"),
        ("[init]\ntarget_spacing = [1]\n", "line 2: target_spacing cannot be"),
        ("[init]\nname = '<fill in>'\n", "line 2: name still has the placeholder '<fill in>'"),
        (
            "[site.run]\nlocal-minutes = 1\nlocal_minutes = 2\n",
            "line 3, gives local_minutes a second time, after local-minutes on line 2",
        ),
        ("[init]\nname = 'a'\nname = 'b'\n", "line 3, is not TOML: .*: name = 'b'"),
        ("[init]\nname = \n", "line 2, is not TOML"),
        ("[init\n", "is not TOML"),
        ("config = 'other.toml'\n", "line 1, names 'config', which fedfs does not have"),
        ("store = 5.5\n", "line 1: store cannot be 5.5"),
        ("site = []\n", "line 1: site cannot be"),
    ],
)
def test_a_mistake_in_a_file_is_told_with_file_line_and_key(tmp_path, text, message):
    path = tmp_path / "fedfs.toml"
    path.write_text(text)
    with pytest.raises(UserError, match=f"fedfs.toml.*{message}"):
        cli.main(["--config", str(path), "status", "x"], standalone_mode=False)


def test_a_file_that_is_no_text_is_an_error(tmp_path):
    (tmp_path / "fedfs.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(UserError, match="not UTF-8"):
        TomlFile.read(tmp_path / "fedfs.toml")


def test_what_is_meant_is_guessed(tmp_path):
    with pytest.raises(UserError) as caught:
        as_defaults(read(tmp_path, "[site.run]\ndevise = 1\n"), cli)
    assert caught.value.hint == "is device meant?"
