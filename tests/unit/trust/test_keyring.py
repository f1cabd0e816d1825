"""Private keys in files with a passphrase, and in the hands of another program."""

from __future__ import annotations

import errno
import json
import os
import sys

import pytest

from fedfs.errors import KeyFileError, SetupError
from fedfs.trust.keyring import Keyring
from fedfs.trust.signing import SigningKey


@pytest.fixture
def keyring(tmp_path):
    return Keyring(tmp_path, "study")


def test_keys_with_a_passphrase_need_it(keyring, monkeypatch, tmp_path):
    monkeypatch.setenv("FEDFS_PASSPHRASE", "correct horse")
    key = keyring.create("coordinator")
    assert b"ENCRYPTED" in (keyring.folder / "coordinator.key").read_bytes()
    assert keyring.load("coordinator").public == key.public
    (tmp_path / "passphrase").write_text("correct horse\n")
    monkeypatch.delenv("FEDFS_PASSPHRASE")
    monkeypatch.setenv("FEDFS_PASSPHRASE_FILE", str(tmp_path / "passphrase"))
    assert keyring.load("coordinator").public == key.public
    monkeypatch.setenv("FEDFS_PASSPHRASE", "wrong")
    with pytest.raises(KeyFileError, match="wrong passphrase"):
        keyring.load("coordinator")
    monkeypatch.delenv("FEDFS_PASSPHRASE")
    monkeypatch.delenv("FEDFS_PASSPHRASE_FILE")
    with pytest.raises(KeyFileError, match="has a passphrase"):
        keyring.load("coordinator")


SIGNER = """
import base64, sys
from cryptography.hazmat.primitives.serialization import load_pem_private_key
key = load_pem_private_key(open(sys.argv[1], "rb").read(), None)
sys.stdout.write(base64.b64encode(key.sign(sys.stdin.buffer.read())).decode())
"""


def test_a_key_that_another_program_holds_signs(keyring, tmp_path, federation):
    key = SigningKey.generate()
    (tmp_path / "token.pem").write_bytes(key.to_pem())
    (tmp_path / "signer.py").write_text(SIGNER)
    command = [sys.executable, str(tmp_path / "signer.py"), str(tmp_path / "token.pem")]
    made = keyring.use_external("site-north", key.public, command)
    charter = federation.charter
    assert made.sign(charter) == key.sign(charter)
    assert keyring.load("site-north").public == key.public
    assert keyring.roles() == ["site-north"]
    with pytest.raises(KeyFileError, match="does not sign with the key"):
        keyring.use_external("aggregator", SigningKey.generate().public, command)
    with pytest.raises(KeyFileError, match="failed with 1"):
        keyring.use_external("aggregator", key.public, [*command[:2], "nowhere.pem"])
    with pytest.raises(KeyFileError, match="cannot be run"):
        keyring.use_external("aggregator", key.public, ["./no-such-program"])
    assert json.loads((keyring.folder / "site-north.signer").read_text())["command"] == command


@pytest.mark.parametrize("links", [True, False])
@pytest.mark.parametrize("call", ["write", "fsync"])
def test_a_disk_that_is_full_leaves_no_key_behind(keyring, monkeypatch, call, links):
    def refuse(code):
        def fail(*_args, **_options):
            raise OSError(code, os.strerror(code))

        return fail

    if not links:
        monkeypatch.setattr("os.link", refuse(errno.EPERM))
    with monkeypatch.context() as patch:
        if call == "fsync":
            patch.setattr("os.fsync", refuse(errno.ENOSPC))
        else:
            patch.setattr("os.fdopen", refuse(errno.ENOSPC))
        with pytest.raises(SetupError, match="No space left"):
            keyring.create("site-north")
    assert list(keyring.folder.iterdir()) == []
    made = keyring.create("site-north")
    assert keyring.load("site-north").public == made.public
    (path,) = keyring.folder.iterdir()
    assert path.stat().st_mode & 0o777 == 0o600
    with pytest.raises(KeyFileError, match="exists already"):
        keyring._store(path, b"another")
    assert keyring.load("site-north").public == made.public
