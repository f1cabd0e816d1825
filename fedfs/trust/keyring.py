"""Private keys of this host: ``FEDFS_HOME/studies/<study>/``.

::

    coordinator.key aggregator.key site-<name>.key    PKCS #8 PEM, mode 0600, checked at every use
    site-<name>.2.key                                 its successor; the charter says which counts
    site-<name>.signer                                a key that another program holds
    site-<name>.age                                   age identity: others encrypt to it

Keys are encrypted if ``FEDFS_PASSPHRASE`` or ``FEDFS_PASSPHRASE_FILE`` is set when they are made.
One folder per study, not per store: a study keeps its keys when its files move to another store,
and several sites can live on one host.
"""

import contextlib
import json
import os
import re
import stat
from collections.abc import Sequence
from pathlib import Path

from fedfs.errors import KeyFileError
from fedfs.store.local_files import create_secret
from fedfs.trust.home import default_cache, default_home
from fedfs.trust.host_memory import FILE_HINT, HostMemory, not_writable
from fedfs.trust.sealing import Identity
from fedfs.trust.signing import ExternalKey, SigningKey

__all__ = ["Keyring", "default_cache", "default_home"]

_NAME = re.compile(r"([a-z0-9-]+?)(?:\.([0-9]{1,4}))?\.(?:key|signer|age)")
_KEYS = (".key", ".signer")


class Keyring:
    """Keys of one study on this host, with its memory of the study.

    Args:
        home: the fedfs home of this host.
        study: id of the study.

    Attributes:
        folder: where they lie.
        memory: what this host has seen of the study, beside them.
    """

    def __init__(self, home: Path, study: str) -> None:
        self.folder = home / "studies" / study
        self.memory = HostMemory(self.folder)

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
                hint=FILE_HINT,
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
            raise not_writable(path, error) from error

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
