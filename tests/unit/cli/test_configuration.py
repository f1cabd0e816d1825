"""What is nearer counts: command line, environment, --config, the user's file, the system's."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from fedfs.cli import fedfs as cli
from fedfs.cli.configuration import host_files
from fedfs.errors import UserError


@pytest.fixture
def host(tmp_path, monkeypatch):
    """A host with files of its own; what they say of a site's minutes comes back in an error."""
    monkeypatch.setenv("FEDFS_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("FEDFS_SYSTEM_CONFIG", str(tmp_path / "etc.toml"))
    (tmp_path / "home").mkdir()
    return tmp_path


def minutes(*before):
    with pytest.raises(UserError) as caught:
        cli.main([*before, "site", "run"], standalone_mode=False)
    return float(str(caught.value).split()[2])


def test_the_nearest_of_files_and_environment_counts(host, monkeypatch):
    text = "[site]\nname = 'north'\n[site.run]\nlocal_minutes = "
    (host / "etc.toml").write_text(f"store = 'study'\n{text}-1\n")
    assert minutes() == -1
    (host / "home" / "fedfs.toml").write_text("[site.run]\nlocal-minutes = -2\n")
    assert minutes() == -2
    (host / "given.toml").write_text("[site.run]\nlocal_minutes = -3.0\n")
    given = ("--config", str(host / "given.toml"))
    assert minutes(*given) == -3
    monkeypatch.setenv("FEDFS_SITE_RUN_LOCAL_MINUTES", "-4")
    assert minutes(*given) == -4
    with pytest.raises(UserError, match="-5"):
        cli.main([*given, "site", "run", "--local-minutes", "-5"], standalone_mode=False)


def test_a_store_in_a_file_is_relative_to_it_and_gives_way(host, monkeypatch, tmp_path):
    monkeypatch.chdir("/")
    (host / "etc.toml").write_text("store = 'far'\nsite = 'north'\n")
    (host / "home" / "fedfs.toml").write_text("store = 'near'\n")

    def place(*words):
        return str(CliRunner().invoke(cli, ["status", *words]).exception.local_text)

    assert str(host / "home" / "near") in place()
    monkeypatch.setenv("FEDFS_STORE", str(host / "variable"))
    assert str(host / "variable") in place()
    assert str(host / "word") in place(str(host / "word"))


def test_the_files_of_a_host_are_the_systems_and_the_users(host, monkeypatch):
    monkeypatch.delenv("FEDFS_SYSTEM_CONFIG")
    assert host_files() == [Path("/etc/fedfs/fedfs.toml"), host / "home" / "fedfs.toml"]
    monkeypatch.setenv("FEDFS_SYSTEM_CONFIG", "")
    assert host_files() == [host / "home" / "fedfs.toml"]


def test_the_doctor_tells_which_files_were_read(host):
    done = CliRunner().invoke(cli, ["doctor", str(host), "--aggregator"])
    looked = f"looked for {host / 'etc.toml'} and {host / 'home' / 'fedfs.toml'}"
    assert f"settings       no configuration file; {looked}" in done.output
    (host / "etc.toml").write_text("[doctor]\naggregator = true\n")
    done = CliRunner().invoke(cli, ["doctor", str(host)])
    assert f"settings       read from {host / 'etc.toml'}" in done.output


def test_a_site_and_tables_of_it_in_one_file_have_a_form(host):
    (host / "etc.toml").write_text("site = 'north'\n[site.run]\ndevice = 'cpu'\n")
    with pytest.raises(UserError, match="etc.toml, line 2, is not TOML") as caught:
        cli.main(["status", "x"], standalone_mode=False)
    assert "[site]" in caught.value.hint


def test_a_file_of_the_host_that_cannot_be_read_is_an_error(host):
    (host / "etc.toml").mkdir()
    with pytest.raises(UserError, match=r"Cannot read .*etc.toml: Is a directory"):
        cli.main(["status", "x"], standalone_mode=False)


def test_what_is_missing_can_stand_elsewhere(host):
    done = CliRunner().invoke(cli, ["status"])
    assert "Missing argument 'STORE'. Give it, set FEDFS_STORE, or write" in done.output
    done = CliRunner().invoke(cli, ["site", "run", "x"])
    assert "Missing option '--site'. Give it, set FEDFS_SITE, or write" in done.output
