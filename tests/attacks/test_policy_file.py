"""A policy file that is damaged or that others could write stops its site, and nobody else."""

from __future__ import annotations

import json
import re

import pytest
from click.testing import CliRunner

from fedfs.cli import fedfs as cli
from fedfs.errors import PolicyError
from fedfs.store import open_store
from support.federation import Federation, reach


def unknown_key(path):
    path.write_text("minimal_cases = 5\n")


def wrong_type(path):
    path.write_text("minimum_cases = 5\nencryption = true\n")


def group_writable(path):
    path.write_text("minimum_cases = 5\n")
    path.chmod(0o664)


def symbolic_link(path):
    other = path.with_name("elsewhere.toml")
    other.write_text("minimum_cases = 5\n")
    path.symlink_to(other)


def no_toml(path):
    path.write_bytes(b"\xff\xfe minimum_cases")


TABLE = [
    (unknown_key, r"line 1, names 'minimal_cases', which a site's policy does not have"),
    (wrong_type, r"line 2: encryption cannot be True"),
    (group_writable, r"can be written by others \(mode 0664\)"),
    (symbolic_link, r"is a symbolic link"),
    (no_toml, r"is not TOML"),
]


@pytest.fixture(scope="module")
def study(tmp_path_factory) -> Federation:
    folder = tmp_path_factory.mktemp("study")
    store = open_store(str(folder / "store"), must_exist=False)
    federation = Federation(folder / "hosts", store=store, rounds=1).start()
    reach(federation, 0)
    return federation


@pytest.mark.parametrize(("spoil", "said"), TABLE, ids=[spoil.__name__ for spoil, _ in TABLE])
def test_a_bad_policy_file_has_its_own_error_and_publishes_nothing(
    study, tmp_path, monkeypatch, spoil, said
):
    home = tmp_path / "home"
    home.mkdir()
    spoil(home / "site-policy.toml")
    monkeypatch.setenv("FEDFS_HOME", str(home))
    monkeypatch.delenv("FEDFS_SITE_POLICY")
    before = sorted(entry.key for entry in study.store.list(""))
    for command in ("run", "join", "pause", "leave --yes", "resume", "policy"):
        words = ["site", *command.split()]
        words += [] if command == "policy" else [study.store.url, "--site", "north"]
        words += ["-d", "Dataset001_X"] if command == "join" else []
        done = CliRunner().invoke(cli, words)
        assert isinstance(done.exception, PolicyError), (command, done.output)
        assert re.search(said, str(done.exception)), command
        assert done.exception.hint
    assert sorted(entry.key for entry in study.store.list("")) == before


def test_the_doctor_names_a_bad_policy_file(tmp_path, monkeypatch):
    monkeypatch.setattr("fedfs.roles.doctor.examine.examine", lambda *_, **__: [])
    group_writable(tmp_path / "site-policy.toml")
    monkeypatch.setenv("FEDFS_HOME", str(tmp_path))
    monkeypatch.delenv("FEDFS_SITE_POLICY")
    done = CliRunner().invoke(cli, ["doctor", str(tmp_path), "--site", "north", "--json"])
    told = {one["subject"]: one for one in json.loads(done.stdout)["findings"]}["site policy"]
    assert told["level"] == "problem"
    assert "can be written by others" in told["text"]


def test_the_others_go_on_meanwhile(study):
    while study.observe().state.newest < 1:
        for name in ("north", "east", "south", "aggregator"):
            study.run_process(name)
