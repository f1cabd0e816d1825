"""A site whose key never leaves a token: the commands of the page for hospital IT, on SoftHSM2."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from fedfs.cli import fedfs as cli
from fedfs.errors import KeyFileError
from fedfs.store import open_store
from support import invariants
from support.federation import Federation
from support.servers import missing_of, skip_without

ROOT = Path(__file__).parents[2]
PACKAGES = "softhsm2 opensc"
LIBRARIES = Path("/usr/lib")
PIN = "123456"


@pytest.fixture
def token(tmp_path, monkeypatch):
    """Return the PKCS#11 library of a new token that is called north."""
    missing = missing_of("softhsm2-util", "pkcs11-tool")
    skip_without(missing, on="A TOKEN", packages=PACKAGES)
    (tmp_path / "tokens").mkdir()
    text = f"directories.tokendir = {tmp_path}/tokens\nobjectstore.backend = file\n"
    (tmp_path / "softhsm2.conf").write_text(text)
    monkeypatch.setenv("SOFTHSM2_CONF", str(tmp_path / "softhsm2.conf"))
    command = "softhsm2-util --init-token --free --label north --so-pin 12345678 --pin"
    subprocess.run([*command.split(), PIN], check=True, capture_output=True)
    return str(next(LIBRARIES.glob("**/libsofthsm2.so")))


def commands():
    """Return the commands of the page, each as its words."""
    page = (ROOT / "docs" / "hospital-it.md").read_text()
    (block,) = re.findall(r"```sh\n(MODULE=.*?)```", page, re.DOTALL)
    lines = block.replace("\\\n", " ").splitlines()
    assert lines[0].startswith("MODULE=")
    return lines[1:]


def test_a_token_signs_all_that_its_site_says(token, tmp_path, monkeypatch):
    pytest.importorskip("PyKCS11")
    store = tmp_path / "store"
    federation = Federation(
        tmp_path / "hosts", targets={"north": 1.0}, rounds=1,
        store=open_store(str(store), must_exist=False),
    )  # fmt: skip
    pin_file = tmp_path / "pin"
    pin_file.write_text(f"{PIN}\n")
    known = {
        "$MODULE": token, "/etc/fedfs/pin": str(pin_file), "BASE64": "",
        "s3://studies/organ": str(store), "python3": sys.executable, "$PWD/": "",
        "token/sign.py": str(ROOT / "deploy" / "token" / "sign.py"),
    }  # fmt: skip

    def words(line: str) -> list[str]:
        for name, value in known.items():
            line = line.replace(name, value)
        return shlex.split(line)

    make, print_files, show, create = commands()
    assert "keypairgen" in make
    assert print_files == "fedfs deploy print token -o token"
    subprocess.run([*words(make), "--pin", PIN], check=True, capture_output=True)
    shown = subprocess.run(words(show), check=True, capture_output=True, text=True)
    known["BASE64"] = shown.stdout.strip()
    monkeypatch.setenv("FEDFS_HOME", str(federation.home("north")))
    done = CliRunner().invoke(cli, words(create)[1:], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    federation.join()
    federation.approve()
    federation.run()
    state = federation.observe().state
    invariants.check(state)
    assert state.newest == 1
    assert [entry.public_key for entry in state.charter.roster] == [known["BASE64"]]
    assert not list(federation.keyring("north").folder.glob("*.key"))
    (key,) = federation.keyring("north").load_all("site-north")
    key.sign_bytes(bytes(100_000))
    pin_file.write_text("wrong\n")
    with pytest.raises(KeyFileError, match="PIN"):
        key.sign_bytes(b"")
