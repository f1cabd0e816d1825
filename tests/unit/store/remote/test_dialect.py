"""What packages behind fsspec raise becomes errors of this project."""

import errno
import os
import sys

import pytest

from fedfs.errors import (
    SetupError,
    StoreError,
    StoreFullError,
    StorePermissionError,
    StoreUnavailableError,
)
from fedfs.store import open_store
from fedfs.store.remote.dialect import Dialect

SECRET = "Sup3r5ecretWord"


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (PermissionError(errno.EACCES, "denied"), StorePermissionError),
        (OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), StoreFullError),
        (OSError(errno.EDQUOT, os.strerror(errno.EDQUOT)), StoreFullError),
        (ConnectionResetError(errno.ECONNRESET, "reset"), StoreUnavailableError),
        (TimeoutError(), StoreUnavailableError),
        (EOFError(), StoreUnavailableError),
        (OSError(errno.EIO, "input"), StoreUnavailableError),
        (OSError("library"), StoreUnavailableError),
        (OSError(errno.ENAMETOOLONG, "long"), StoreError),
        (RuntimeError("what a library says"), StoreError),
        (ValueError(f"at x://me:{SECRET}@host/a"), StoreError),
    ],
)
def test_an_error_is_one_of_ours(error, kind):
    ours = Dialect().translate(error, "a/b cannot be read", "x://host/a")
    assert type(ours) is kind
    assert str(ours).startswith("a/b cannot be read: ")
    assert str(ours).endswith(".")
    assert ours.hint
    assert SECRET not in str(ours)
    assert ours.store == "x://host/a"


def test_a_package_that_is_not_installed_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "sshfs", None)
    monkeypatch.delitem(sys.modules, "fedfs.store.remote.sftp", raising=False)
    with pytest.raises(SetupError, match="What reads sftp:// is not installed") as caught:
        open_store("sftp://host/a")
    assert caught.value.hint == "run: pip install 'fedfs[sftp]'"
    with pytest.raises(SetupError, match="What reads dropbox:// is not installed") as caught:
        open_store("dropbox://a/b")
    assert "dropbox" in caught.value.hint
