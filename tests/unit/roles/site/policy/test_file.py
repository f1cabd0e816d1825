"""A policy file that cannot be trusted or understood is an error, and never passed over."""

from __future__ import annotations

import os

import pytest

from fedfs.errors import PolicyError
from fedfs.roles.site.policy.file import NAME, NO_FILE, policy_in_force, read_policy
from fedfs.roles.site.policy.rules import DEFAULT, KEYS, READERS, SitePolicy
from fedfs.roles.site.policy.template import EXPLANATIONS, template


@pytest.fixture
def home(tmp_path, monkeypatch):
    (tmp_path / "etc").mkdir()
    (tmp_path / "home").mkdir()
    monkeypatch.setenv("FEDFS_SYSTEM_CONFIG", str(tmp_path / "etc/fedfs.toml"))
    monkeypatch.delenv("FEDFS_SITE_POLICY", raising=False)
    return tmp_path / "home"


def write(path, text="minimum_cases = 7\n", mode=0o644):
    path.write_text(text)
    path.chmod(mode)
    return path


def test_without_a_file_the_defaults_are_in_force(home):
    assert policy_in_force(home) == NO_FILE
    assert (DEFAULT.minimum_cases, DEFAULT.extremes, DEFAULT.models_elsewhere) == (5, False, False)


def test_the_named_file_counts_then_the_systems_then_the_users(home, tmp_path, monkeypatch, caplog):
    own = write(home / NAME, "minimum_cases = 2\n")
    assert policy_in_force(home).policy.minimum_cases == 2
    system = write(tmp_path / "etc" / NAME, "minimum_cases = 3\n")
    found = policy_in_force(home)
    assert (found.policy.minimum_cases, found.path, found.not_in_force) == (3, system, (own,))
    assert f"{own} is not in force" in caplog.text
    monkeypatch.setenv("FEDFS_SITE_POLICY", str(write(tmp_path / "third", "minimum_cases = 4\n")))
    assert policy_in_force(home).policy.minimum_cases == 4
    named = write(tmp_path / "fourth", "minimum_cases = 5\n")
    assert policy_in_force(home, named).policy.minimum_cases == 5
    assert policy_in_force(home, named).not_in_force == (system, own)
    with pytest.raises(PolicyError, match=r"absent.toml cannot be read: No such file"):
        policy_in_force(home, tmp_path / "absent.toml")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("minimum_case = 5\n", r"site-policy.toml, line 1, names 'minimum_case', which"),
        ("\n[scores]\nnone = true\n", r"line 2: scores cannot be \{'none': True\}"),
        ('minimum_cases = "5"\n', r"line 1: minimum_cases cannot be '5': it is a whole number"),
        ("minimum_cases = true\n", r"minimum_cases cannot be True"),
        ("minimum_cases = 0\n", r"minimum_cases cannot be 0: it is a whole number from 1 on"),
        ('# x\nextremes = "no"\n', r"line 2: extremes cannot be 'no': it is true or false"),
        ('encryption = "age"\n', r'encryption cannot be .*"required" or "optional"'),
        ('encodings = "int8"\n', r"encodings cannot be 'int8': it is a list of names"),
        ('coordinators = ["b8be"]\n', r"coordinators cannot be .*32 hexadecimal digits"),
        ("max_round_hours = inf\n", r"max_round_hours cannot be inf: it is a number above 0"),
        ("minimum_cases = 5\nminimum_cases = 6\n", r"site-policy.toml.* is not TOML"),
        ("minimum_cases = \n", r"line 1, is not TOML"),
    ],
)
def test_an_unknown_key_or_a_wrong_type_is_named_with_its_line(home, text, said):
    write(home / NAME, text)
    with pytest.raises(PolicyError, match=said) as caught:
        policy_in_force(home)
    assert caught.value.hint


@pytest.mark.parametrize("mode", [0o664, 0o646, 0o666, 0o620])
def test_a_file_that_others_can_write_is_refused(home, mode):
    write(home / NAME, mode=mode)
    with pytest.raises(PolicyError, match=f"can be written by others .mode {mode:04o}"):
        policy_in_force(home)


def test_a_symbolic_link_is_refused_even_to_nothing(home, tmp_path):
    (home / NAME).symlink_to(write(tmp_path / "policy.toml"))
    with pytest.raises(PolicyError, match="is a symbolic link"):
        policy_in_force(home)
    (tmp_path / "policy.toml").unlink()
    with pytest.raises(PolicyError, match="is a symbolic link"):
        policy_in_force(home)


def test_what_is_no_file_or_cannot_be_read_is_refused(home):
    (home / NAME).mkdir()
    with pytest.raises(PolicyError, match="is no file"):
        policy_in_force(home)
    (home / NAME).rmdir()
    os.mkfifo(home / NAME, 0o600)
    with pytest.raises(PolicyError, match="is no file"):
        policy_in_force(home)


def test_a_file_of_another_user_is_refused(home, monkeypatch):
    write(home / NAME)
    monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 1)
    if os.getuid() == 0:
        os.chown(home / NAME, 12345, -1)
    with pytest.raises(PolicyError, match="belongs to another user"):
        policy_in_force(home)


def test_the_template_has_every_key_and_is_the_default(home):
    assert KEYS == tuple(READERS) == tuple(EXPLANATIONS)
    assert read_policy(write(home / NAME, template())) == DEFAULT
    lines = [line.removeprefix("# ") for line in template().splitlines()]
    filled = "\n".join(line for line in lines if line.split(" = ")[0] in KEYS)
    found = read_policy(write(home / NAME, filled))
    assert isinstance(found, SitePolicy)
    assert None not in found.to_json().values()
