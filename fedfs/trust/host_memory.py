"""Memory of this host, beside its keys: ``FEDFS_HOME/studies/<study>/``.

::

    site-<name>.json                                  what `site join` was told: dataset, store
    seen.json                                         newest charter and version seen here
    lock                                              held while one of the last two is written
    <role>.lock                                       held while a role decides by what it knows
"""

import contextlib
import fcntl
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from fedfs.errors import MisplacedError, SetupError
from fedfs.store.local_files import replacing

FILE_HINT = "check its owner and permissions, or restore it from a backup"


class HostMemory:
    """Memory of this host: what it has seen of one study, and what its roles were told.

    Args:
        folder: of the study on this host.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def remember(self, role: str, values: Mapping[str, Any]) -> None:
        """Keep what a role needs to know the next time, beside what it keeps already."""
        with self._locked():
            self._write(self._folder / f"{role}.json", {**self.recall(role), **values})

    def recall(self, role: str) -> Mapping[str, Any]:
        """Return what :meth:`remember` kept; empty if nothing."""
        return self._read(self._folder / f"{role}.json")

    @contextlib.contextmanager
    def alone(self, role: str) -> Iterator[None]:
        """Let other processes of a role wait, while this one decides by what it knows and adds it.

        Raises:
            SetupError: the folder cannot be written.
        """
        with self._locked(f"{role}.lock"):
            yield

    def note_charter(self, number: int, sha256: str) -> None:
        """Check the newest charter on the store against the newest ever seen here; remember it.

        Raises:
            MisplacedError: the store shows an older charter, or another one of the same number.
        """
        path = self._folder / "seen.json"
        with self._locked():
            seen = self._read(path)
            known = seen.get("charter_number", 0), seen.get("charter_sha256")
            if _is_newer("charter", (number, sha256), known, hint=", ask the coordinator"):
                self._write(path, {**seen, "charter_number": number, "charter_sha256": sha256})

    def note_version(self, role: str, track: str, number: int, sha256: str) -> None:
        """Check the newest version on a role's store against the newest it has seen; remember it.

        Args:
            role: whose store it is; that of a site without a network lags behind.
            track: the track.
            number: the newest version, -1 if there is none.
            sha256: hash of its weights.

        Raises:
            MisplacedError: the store shows an older version, or other weights of the same one.
        """
        path, name = self._folder / "seen.json", f"{role} {track}"
        with self._locked():
            seen = self._read(path)
            versions = dict(seen.get("versions", {}))
            known, hint = versions.get(name, (-1, "")), f". If that was meant, remove {path}"
            if _is_newer("version", (number, sha256), known, hint=hint):
                self._write(path, {**seen, "versions": {**versions, name: (number, sha256)}})

    @contextlib.contextmanager
    def _locked(self, name: str = "lock") -> Iterator[None]:
        """Hold this host's memory of the study: processes of several roles and tracks write it.

        Raises:
            SetupError: the folder cannot be written.
        """
        path = self._folder / name
        try:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise not_writable(path, error) from error
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
            yield
        finally:
            os.close(handle)

    def _read(self, path: Path) -> Mapping[str, Any]:
        try:
            value = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return {}
        except (OSError, ValueError) as error:
            raise SetupError(
                f"{path} cannot be read: {error}.",
                hint=FILE_HINT,
            ) from error
        return value if isinstance(value, dict) else {}

    def _write(self, path: Path, values: Mapping[str, Any]) -> None:
        try:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            with replacing(path) as temporary:
                temporary.write_text(json.dumps(dict(values), indent=1, sort_keys=True))
        except OSError as error:
            raise not_writable(path, error) from error


def _is_newer(what: str, found: tuple[int, str], known: tuple[int, Any], *, hint: str) -> bool:
    """Return whether number and hash on the store are of something newer than this host knows.

    Raises:
        MisplacedError: they are of something older, or the hash of the same number has changed.
    """
    number, before = found[0], known[0]
    if number < before or (number == before >= 0 and found[1] != known[1]):
        raise MisplacedError(
            f"shows {what} {number}, but this host has seen {what} {before} of it",
            about="the store",
            hint=f"the store was rolled back or tampered with: restore it{hint}",
        )
    return bool(number > before)


def not_writable(path: Path, error: OSError) -> SetupError:
    """Return the error of a file of this host that cannot be written."""
    return SetupError(
        f"{path} cannot be written: {error.strerror}.",
        hint="set FEDFS_HOME to a folder that you can write",
    )
