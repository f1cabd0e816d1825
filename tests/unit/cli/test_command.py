"""The help of every command: a first line that fits, sections, and an example that works."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys

import click
import pytest
from click.shell_completion import BashComplete
from click.testing import CliRunner

from fedfs.aggregation import alignment, strategies, weighting
from fedfs.cli import fedfs as cli
from fedfs.cli.command import REQUIRED, S3, SECTIONS, Command, section_of
from fedfs.protocol import round_policies
from fedfs.protocol.messages import KEPT_LOCAL, LOCAL_EXPORTS, TRAINING_MODES
from fedfs.roles.coordinator.options import StudyOptions
from fedfs.tensors.encodings import ENCODINGS
from support.command_lines import all_commands, understood


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
        is_place = isinstance(parameter, click.Argument) and parameter.name in {"store", "sites"}
        if parameter.required or is_place:
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


def test_choices_of_init_are_what_a_study_may_have():
    rules = {
        "alignment": alignment.ALIGNMENTS,
        "sharing": alignment.SHARINGS,
        "mode": TRAINING_MODES,
        "policy": round_policies.POLICIES,
        "weighting": weighting.POLICIES,
        "encoding": ENCODINGS,
        "model_encoding": ENCODINGS,
        "encryption": ("none", "age"),
        "keep_local": {word or "none" for word in KEPT_LOCAL},
        "keep_local_export": {word or "none" for word in LOCAL_EXPORTS},
    }
    options = {option.name: option for option in cli.commands["init"].params}
    for name, known in rules.items():
        assert set(options[name].type.choices) == set(known), name
    for name, option in options.items():
        assert name in rules or not isinstance(option.type, click.Choice), name
    names = options["strategy"].names()
    assert {name.lower() for name in names} >= set(strategies.STRATEGIES)
    assert ", ".join(names) in option_help("init", "--strategy")
    configurations, folds = (",".join(options[name].names()) for name in ("configuration", "fold"))
    StudyOptions("x", {}, configuration=configurations, fold=folds)  # all together


def option_help(command: str, spelling: str) -> str:
    """The text of an option in the help, in one line."""
    text = CliRunner().invoke(cli, [command, "--help"]).output
    (found,) = re.findall(rf"^  (?:-\w, )?{spelling} .*(?:\n {{8,}}.*)*", text, re.MULTILINE)
    return " ".join(found.split())


@pytest.mark.parametrize(
    ("words", "begun", "completed"),
    [
        ("init x --strategy", "feda", "FedAdagrad FedAdam FedAvg FedAvgM"),
        ("init x --policy", "q", "quorum"),
        ("init x -c", "2d,3d_l", "2d,3d_lowres"),
        ("site run x -np 999 --device", "c", "cpu cuda"),
        ("site", "", "audit cases join leave pause policy resume run scores"),
    ],
)
def test_a_shell_completes_commands_choices_and_names(capsys, words, begun, completed):
    shell = BashComplete(cli, {}, "fedfs", "_FEDFS_COMPLETE")
    found = [item.value for item in shell.get_completions(words.split(), begun)]
    assert sorted(found) == completed.split()
    assert not capsys.readouterr().err


@pytest.mark.parametrize("words", ["approve STORE", "remove STORE east", "privacy --site"])
def test_a_shell_completes_the_sites_of_a_folder(tmp_path, monkeypatch, words):
    for name in ("north-1", "north-2", "south"):
        (tmp_path / "sites" / name).mkdir(parents=True)
    shell = BashComplete(cli, {}, "fedfs", "_FEDFS_COMPLETE")
    for store, found in ((tmp_path, ["north-1", "north-2"]), ("s3://bucket/x", [])):
        monkeypatch.setenv("FEDFS_STORE", str(store))
        given = words.replace("STORE", str(store)).split()
        assert [item.value for item in shell.get_completions(given, "nor")] == found


@pytest.mark.parametrize("words", [(), ("init",), ("site", "run"), ("simulate",), ("demo",)])
def test_a_help_imports_nothing_heavy(words):
    """``fedfs --help`` takes less than half a second as long as this holds."""
    code = (
        "import sys; from fedfs.cli import fedfs\n"
        f"fedfs.main([*{words!r}, '--help'], standalone_mode=False)\n"
        "sys.exit(' '.join({'torch', 'nnunetv2', 'scipy', 'rich', 's3fs', 'cryptography', 'jinja2',"
        f"'watchdog', {'' if words else repr('numpy')}}} & set(sys.modules)) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
