"""Private keys and memory of this host: ``FEDFS_HOME/studies/<study>/``.

::

    coordinator.key aggregator.key site-<name>.key    PKCS #8 PEM, mode 0600, checked at every use
    site-<name>.2.key                                 its successor; the charter says which counts
    site-<name>.signer                                a key that another program holds
    site-<name>.age                                   age identity: others encrypt to it
    site-<name>.json                                  what `site join` was told: dataset, store
    seen.json                                         newest charter and version seen here
    lock                                              held while one of the last two is written

Keys are encrypted if ``FEDFS_PASSPHRASE`` or ``FEDFS_PASSPHRASE_FILE`` is set when they are made.
One folder per study, not per store: a study keeps its keys when its files move to another store,
and several sites can live on one host.
"""

import contextlib
import fcntl
import json
import os
import re
import stat
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from fedfs.errors import KeyFileError, MisplacedError, SetupError
from fedfs.store.local_files import create_secret, replacing
from fedfs.trust.home import default_cache, default_home
from fedfs.trust.sealing import Identity
from fedfs.trust.signing import ExternalKey, SigningKey

__all__ = ["Keyring", "default_cache", "default_home"]

_NAME = re.compile(r"([a-z0-9-]+?)(?:\.([0-9]{1,4}))?\.(?:key|signer|age)")
_FILE_HINT = "check its owner and permissions, or restore it from a backup"
_KEYS = (".key", ".signer")


class Keyring:
    """Keys and memory of one study on this host.

    Args:
        home: the fedfs home of this host.
        study: id of the study.
    """

    def __init__(self, home: Path, study: str) -> None:
        self.folder = home / "studies" / study

    def has(self, role: str) -> bool:
        """Return whether this host holds a key of ``role`` (``site-<name>`` for a site)."""
        return bool(self._paths(role))

    def create(self, role: str, key: SigningKey | None = None) -> SigningKey:
        """Store and return a key, a new one if none is given; one beside others is their successor.

        Raises:
            SetupError: the folder cannot be written.
        """
        key = key or SigningKey.generate()
        self._store(self._next(role, "key"), key.to_pem(self._passphrase()))
        return key

    def use_external(self, role: str, public_key: str, command: Sequence[str]) -> SigningKey:
        """Note a key that another program holds, and return it.

        Raises:
            KeyFileError: the program does not sign with it.
            SetupError: the folder cannot be written.
        """
        key = ExternalKey(public_key, command)
        key.sign_bytes(b"fedfs")
        signer = {"public_key": public_key, "command": list(command)}
        self._store(self._next(role, "signer"), json.dumps(signer, indent=1).encode())
        return key

    def load(self, role: str, public_key: str | None = None) -> SigningKey:
        """Return the key of ``role``: the newest, or the one with a public key.

        Raises:
            KeyFileError: missing, unreadable, or readable by others.
        """
        keys = self.load_all(role)
        for key in keys:
            if public_key is None or key.public == public_key:
                return key
        raise KeyFileError(
            f"The study names another {role} key than this host holds.",
            hint="is this the host that made it? compare with: fedfs key show",
        )

    def load_all(self, role: str) -> list[SigningKey]:
        """Return all keys of ``role`` on this host, the newest first.

        Raises:
            KeyFileError: there is none, or one is unreadable or readable by others.
        """
        paths = self._paths(role)
        if not paths:
            raise KeyFileError(
                f"This host holds no {role} key of study {self.folder.name}.",
                hint="work on the host that made it, or set FEDFS_HOME to where it lies",
            )
        return [self._load(path) for path in reversed(paths)]

    def identities(self, role: str) -> list[Identity]:
        """Return the age identities of ``role`` on this host, the newest first; empty if none.

        Raises:
            KeyFileError: one is unreadable or readable by others.
        """
        return [
            Identity.from_text(
                self._read_secret(path), self._passphrase(), name=f"The identity {path}"
            )
            for path in reversed(self._paths(role, ".age"))
        ]

    def create_identity(self, role: str) -> Identity:
        """Store and return a new age identity; one beside others is their successor.

        Raises:
            SetupError: the folder cannot be written.
        """
        made = Identity.generate()
        self._store(self._next(role, "age", (".age",)), made.to_text(self._passphrase()))
        return made

    def identity(self, role: str) -> Identity:
        """Return the newest age identity of ``role``, made now if there is none."""
        return next(iter(self.identities(role)), None) or self.create_identity(role)

    def roles(self) -> list[str]:
        """Return the roles of which this host holds keys, sorted."""
        return self._roles(*_KEYS)

    def identity_files(self) -> list[str]:
        """Return the names of the files of age identities on this host, sorted."""
        return [path.name for _, _, path in self._files((".age",))]

    def all_identities(self) -> list[Identity]:
        """Return the age identities of all roles on this host.

        Raises:
            KeyFileError: one is unreadable or readable by others.
        """
        roles = self._roles(".age")
        return [identity for role in roles for identity in self.identities(role)]

    def discard(self, role: str) -> None:
        """Delete a key that was made for something that then failed; keep nothing behind."""
        for path in (*self._paths(role), *self._paths(role, ".age")):
            path.unlink(missing_ok=True)
        with contextlib.suppress(OSError):
            self.folder.rmdir()

    def load_or_create(self, role: str) -> SigningKey:
        """Return the newest key of ``role``, made now if there is none."""
        return self.load(role) if self.has(role) else self.create(role)

    def remember(self, role: str, values: Mapping[str, Any]) -> None:
        """Keep what a role needs to know the next time, beside what it keeps already."""
        with self._locked():
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
        path, name = self.folder / "seen.json", f"{role} {track}"
        with self._locked():
            seen = self._read(path)
            versions = dict(seen.get("versions", {}))
            known, hint = versions.get(name, (-1, "")), f". If that was meant, remove {path}"
            if _is_newer("version", (number, sha256), known, hint=hint):
                self._write(path, {**seen, "versions": {**versions, name: (number, sha256)}})

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        """Hold this host's memory of the study: processes of several roles and tracks write it.

        Raises:
            SetupError: the folder cannot be written.
        """
        path = self.folder / "lock"
        try:
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise _not_writable(path, error) from error
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
            yield
        finally:
            os.close(handle)

    def _files(self, endings: Sequence[str]) -> list[tuple[str, int, Path]]:
        """Return role, number and path of all files with one of the endings, sorted."""
        paths = self.folder.iterdir() if self.folder.is_dir() else ()
        names = ((_NAME.fullmatch(path.name), path) for path in paths if path.suffix in endings)
        return sorted((name[1], int(name[2] or 1), path) for name, path in names if name)

    def _roles(self, *endings: str) -> list[str]:
        return sorted({role for role, _, _ in self._files(endings)})

    def _paths(self, role: str, *endings: str) -> list[Path]:
        """Return the files of a role's keys, the oldest first."""
        return [path for name, _, path in self._files(endings or _KEYS) if name == role]

    def _next(self, role: str, ending: str, among: Sequence[str] = _KEYS) -> Path:
        numbers = [number for name, number, _ in self._files(among) if name == role]
        name = f"{role}.{numbers[-1] + 1}" if numbers else role
        return self.folder / f"{name}.{ending}"

    def _read_secret(self, path: Path) -> bytes:
        try:
            mode = stat.S_IMODE(path.stat().st_mode)
            if mode & 0o077:
                raise KeyFileError(
                    f"The private key {path} can be read by others (mode {mode:04o}).",
                    hint=f"chmod 600 {path}",
                )
            return path.read_bytes()
        except OSError as error:
            raise KeyFileError(
                f"{path} cannot be read: {error.strerror}.",
                hint=_FILE_HINT,
            ) from error

    def _load(self, path: Path) -> SigningKey:
        data = self._read_secret(path)
        if path.suffix != ".signer":
            return SigningKey.from_pem(data, self._passphrase(), name=f"The key {path}")
        try:
            signer = json.loads(data)
            return ExternalKey(str(signer["public_key"]), [str(w) for w in signer["command"]])
        except (ValueError, LookupError, TypeError) as error:
            raise KeyFileError(
                f"{path} does not name a public key and a command.",
                hint="make it again: fedfs key create --external COMMAND",
            ) from error

    def _store(self, path: Path, data: bytes) -> None:
        try:
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            create_secret(path, data)
        except FileExistsError as error:
            raise KeyFileError(f"{path} exists already.", hint="keys are never replaced") from error
        except OSError as error:
            raise _not_writable(path, error) from error

    @staticmethod
    def _passphrase() -> bytes | None:
        """Return the passphrase of this host's keys, from the environment; None without.

        Raises:
            KeyFileError: its file cannot be read.
        """
        given, path = os.environ.get("FEDFS_PASSPHRASE"), os.environ.get("FEDFS_PASSPHRASE_FILE")
        try:
            text = given or (Path(path).read_text(encoding="utf-8").strip() if path else "")
        except OSError as error:
            raise KeyFileError(
                f"The file of the passphrase, {path}, cannot be read: {error.strerror}.",
                hint="FEDFS_PASSPHRASE_FILE names it",
            ) from error
        return text.encode() or None

    def _read(self, path: Path) -> Mapping[str, Any]:
        try:
            value = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return {}
        except (OSError, ValueError) as error:
            raise SetupError(
                f"{path} cannot be read: {error}.",
                hint=_FILE_HINT,
            ) from error
        return value if isinstance(value, dict) else {}

    def _write(self, path: Path, values: Mapping[str, Any]) -> None:
        try:
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            with replacing(path) as temporary:
                temporary.write_text(json.dumps(dict(values), indent=1, sort_keys=True))
        except OSError as error:
            raise _not_writable(path, error) from error


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


def _not_writable(path: Path, error: OSError) -> SetupError:
    return SetupError(
        f"{path} cannot be written: {error.strerror}.",
        hint="set FEDFS_HOME to a folder that you can write",
    )
