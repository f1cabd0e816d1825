"""The files of each kind, with the values of a host filled in."""

from __future__ import annotations

import re
import shlex
import stat

import pytest

from fedfs.errors import UserError
from fedfs.roles.deploy.files import (
    KINDS,
    PROGRAM,
    HostValues,
    files_of,
    folder,
    installed_program,
    names_of,
    write_files,
)
from support.command_lines import understood

FILES = [path for path in folder().rglob("*") if path.is_file() and path.suffix != ".pyc"]


def test_every_file_of_the_folder_belongs_to_a_kind():
    kept = {path.name.removesuffix(".example") for path in FILES}
    listed = {name.rpartition("/")[2] for kind in KINDS.values() for name in names_of(kind)}
    assert kept - listed == {
        "README.md",
        *("aggregator.json", "coordinator.json", "reader.json", "site.json", "tls-only.json"),
        *("helper.json", "lifecycle.json", "make_bucket.py", "requirements.txt"),
    }


@pytest.mark.parametrize("kind", KINDS.values(), ids=lambda kind: kind.name)
def test_without_values_the_files_are_as_they_are(kind):
    there = {path.read_text() for path in FILES}
    assert set(files_of(kind, HostValues()).values()) <= there


def test_units_run_this_installation_as_the_user_who_is_named():
    texts = files_of(KINDS["systemd"], HostValues(user="nnunet", program="/home/nnunet/bin/fedfs"))
    services = [text for name, text in texts.items() if name.endswith(".service")]
    assert len(services) == 6
    for text in services:
        assert "\nUser=nnunet\n" in text
        assert re.search(r"^ExecStart=/home/nnunet/bin/fedfs ", text, re.MULTILINE)
        assert PROGRAM not in text


def test_lines_for_cron_name_the_site(monkeypatch):
    monkeypatch.setenv("FEDFS_STORE", "/store")
    texts = files_of(KINDS["cron"], HostValues(site="milan"))
    lines = texts["fedfs.crontab"].splitlines()
    (line,) = [line for line in lines if "site run" in line and line[0] == "*"]
    words = shlex.split(re.search(r"/fedfs (.*?) >>", line)[1])
    assert understood(words)["name"] == "milan"
    assert "\nFEDFS_SITE=milan\n" in texts["fedfs.env"]


def test_manifests_name_the_site_wherever_it_stands():
    texts = files_of(KINDS["kubernetes"], HostValues(site="milan"))
    assert not [name for name, text in texts.items() if "north" in text]
    assert "claimName: fedfs-milan" in texts["site.yaml"]


def test_variables_of_the_shell_get_into_the_list_of_variables(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    variables = {
        "FEDFS_STORE": "s3://studies/organ",
        "FEDFS_HOME": "keys",
        "AWS_PROFILE": "north",
        "HTTPS_PROXY": "http://me:secret@proxy:3128",
        "SOMETHING": "else",
    }
    text = files_of(KINDS["systemd"], HostValues(variables=variables))["fedfs.env"]
    lines = text.splitlines()
    assert "FEDFS_STORE=s3://studies/organ" in lines
    assert "# FEDFS_STORE=s3://bucket/study" in lines  # the other example stays one
    assert f"FEDFS_HOME={tmp_path}/keys" in lines  # a service begins in another folder
    assert "AWS_PROFILE=north" in lines
    assert "nnUNet_raw=/data/nnUNet_raw" in lines
    assert "secret" not in text
    manifest = files_of(KINDS["kubernetes"], HostValues(variables=variables))["config.yaml"]
    assert "\n  FEDFS_STORE: s3://studies/organ\n" in manifest


def test_a_value_that_the_file_cannot_hold_is_refused():
    values = HostValues(variables={"FEDFS_STORE": "/mnt/my share"})
    with pytest.raises(UserError, match="FEDFS_STORE cannot be written into fedfs.env"):
        files_of(KINDS["cron"], values)


@pytest.mark.parametrize("values", [{"user": "root; rm"}, {"site": "North"}, {"user": ""}])
def test_names_of_another_form_are_refused(values):
    with pytest.raises(UserError):
        HostValues(**values)


def test_written_files_replace_nothing(tmp_path):
    texts = files_of(KINDS["compose"], HostValues()) | {"fedfs.env": "A=1\n"}
    paths = write_files(texts, tmp_path / "new")
    assert [str(path.relative_to(tmp_path / "new")) for path in paths] == list(texts)
    assert stat.S_IMODE((tmp_path / "new" / "fedfs.env").stat().st_mode) == 0o600
    write_files(texts, tmp_path / "new")  # the same again is no fault
    with pytest.raises(UserError, match=r"fedfs.env is there already"):
        write_files({"other": "x", "fedfs.env": "A=2\n"}, tmp_path / "new")
    assert not (tmp_path / "new" / "other").exists()


def test_the_program_of_this_installation_is_found():
    assert installed_program().endswith("/fedfs")
