"""Private keys and memory of this host: ``FEDFS_HOME/studies/<study>/``.

::

    coordinator.key aggregator.key site-<name>.key    PKCS #8 PEM, mode 0600, checked at every use
    site-<name>.json                                  what `site join` was told: dataset, store
    seen.json                                         newest charter seen: a store cannot roll back

One folder per study, not per store: a study keeps its keys when its files move to another store,
and several sites can live on one host.
"""

from __future__ import annotations

import contextlib
import json
import os
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import platformdirs

from fedfs.errors import KeyFileError, MisplacedError, SetupError
from fedfs.trust.signing import SigningKey


def default_home() -> Path:
    """Return ``FEDFS_HOME``, or the user's configuration folder for fedfs."""
    named = os.environ.get("FEDFS_HOME")
    return Path(named) if named else platformdirs.user_config_path("fedfs")


def default_cache() -> Path:
    """Return ``FEDFS_HOME/cache``, or the user's cache folder for fedfs."""
    named = os.environ.get("FEDFS_HOME")
    return Path(named) / "cache" if named else platformdirs.user_cache_path("fedfs")


class Keyring:
    """Keys and memory of one study on this host.

    Args:
        home: the fedfs home of this host.
        study: id of the study.
    """

    def __init__(self, home: Path, study: str) -> None:
        self.folder = home / "studies" / study

    def has(self, role: str) -> bool:
        """Whether this host holds the key of ``role`` (``site-<name>`` for a site)."""
        return self._path(role).exists()

    def create(self, role: str, key: SigningKey | None = None) -> SigningKey:
        """Store and return a key, a new one if none is given.

        Raises:
            KeyFileError: there is one already; it is never overwritten.
            SetupError: the folder cannot be written.
        """
        key, path = key or SigningKey.generate(), self._path(role)
        try:
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        except FileExistsError as error:
            raise KeyFileError(f"{path} exists already", hint="keys are never replaced") from error
        except OSError as error:
            raise _not_writable(path, error) from error
        with os.fdopen(handle, "wb") as file:
            file.write(key.to_pem())
            file.flush()
            os.fsync(file.fileno())
        return key

    def load(self, role: str) -> SigningKey:
        """Return the key of ``role``.

        Raises:
            KeyFileError: missing, unreadable, or readable by others.
        """
        path = self._path(role)
        try:
            mode = stat.S_IMODE(path.stat().st_mode)
            if mode & 0o077:
                raise KeyFileError(
                    f"the private key {path} can be read by others (mode {mode:04o})",
                    hint=f"chmod 600 {path}",
                )
            return SigningKey.from_pem(path.read_bytes())
        except FileNotFoundError as error:
            raise KeyFileError(
                f"this host holds no {role} key of study {self.folder.name}",
                hint="work on the host that made it, or set FEDFS_HOME to where it lies",
            ) from error
        except OSError as error:
            raise KeyFileError(f"cannot read {path}: {error.strerror}") from error

    def discard(self, role: str) -> None:
        """Delete a key that was made for something that then failed; keep nothing behind."""
        self._path(role).unlink(missing_ok=True)
        with contextlib.suppress(OSError):
            self.folder.rmdir()

    def load_or_create(self, role: str) -> SigningKey:
        """Return the key of ``role``, made now if there is none."""
        return self.load(role) if self.has(role) else self.create(role)

    def remember(self, role: str, values: Mapping[str, Any]) -> None:
        """Keep what a role needs to know the next time, beside what it keeps already."""
        self._write(self.folder / f"{role}.json", {**self.recall(role), **values})

    def recall(self, role: str) -> Mapping[str, Any]:
        """Return what :meth:`remember` kept; empty if nothing."""
        return self._read(self.folder / f"{role}.json")

    def note_charter(self, number: int, sha256: str) -> None:
        """Check the newest charter on the store against the newest ever seen here; remember it.

        Raises:
            MisplacedError: the store shows an older charter, or another one of the same number.
        """
        path = self.folder / "seen.json"
        seen = self._read(path)
        before = seen.get("charter_number", 0)
        if number < before or (number == before and seen.get("charter_sha256") != sha256):
            raise MisplacedError(
                f"the store shows charter {number}, but this host has seen charter {before} of it",
                hint="the store was rolled back or tampered with: restore it, ask the coordinator",
            )
        if number > before:
            self._write(path, {"charter_number": number, "charter_sha256": sha256})

    def _path(self, role: str) -> Path:
        return self.folder / f"{role}.key"

    def _read(self, path: Path) -> Mapping[str, Any]:
        try:
            value = json.loads(path.read_text())
        except FileNotFoundError:
            return {}
        except (OSError, ValueError) as error:
            raise SetupError(f"cannot read {path}: {error}") from error
        return value if isinstance(value, dict) else {}

    def _write(self, path: Path, values: Mapping[str, Any]) -> None:
        temporary = path.with_name(f".{path.name}.{os.getpid()}")
        try:
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            temporary.write_text(json.dumps(dict(values), indent=1, sort_keys=True))
            temporary.replace(path)
        except OSError as error:
            with contextlib.suppress(OSError):
                temporary.unlink()
            raise _not_writable(path, error) from error


def _not_writable(path: Path, error: OSError) -> SetupError:
    return SetupError(
        f"cannot write {path}: {error.strerror}",
        hint="set FEDFS_HOME to a folder that you can write",
    )
