"""Passwords come from the environment or the netrc file, and are shown nowhere."""

import pytest

from fedfs.errors import SetupError
from fedfs.store.remote.credentials import login_for, password_for

SECRET = "Sup3r5ecretWord"


@pytest.fixture(autouse=True)
def netrc(tmp_path, monkeypatch):
    path = tmp_path / "netrc"
    path.write_text(f"machine dav.example login fedfs password {SECRET}\n")
    path.chmod(0o600)
    monkeypatch.setenv("NETRC", str(path))
    monkeypatch.delenv("FEDFS_STORE_PASSWORD", raising=False)
    return path


def test_a_password_is_that_of_host_and_user():
    assert login_for("dav.example", None) == ("fedfs", SECRET)
    assert password_for("dav.example", "fedfs") == SECRET
    assert password_for("dav.example", "somebody") is None
    assert login_for("other.example", "me") == ("me", None)


def test_the_environment_counts_more(monkeypatch):
    monkeypatch.setenv("FEDFS_STORE_PASSWORD", "other")
    assert login_for("dav.example", "me") == ("me", "other")


def test_without_a_file_there_is_no_password(monkeypatch, tmp_path):
    monkeypatch.setenv("NETRC", str(tmp_path / "absent"))
    assert login_for("dav.example", None) == (None, None)


def test_a_file_that_is_no_netrc_file_is_named_but_not_quoted(netrc):
    netrc.write_text(f"machine dav.example passwort {SECRET}\n")
    with pytest.raises(SetupError, match=str(netrc)) as caught:
        password_for("dav.example", None)
    assert caught.value.hint
    assert SECRET not in f"{caught.value} {caught.value.__cause__}"
