"""The file of a site's policy: where it is looked for, how it is read, what is refused.

Rules:
 * The one that is named counts (``--policy``, ``FEDFS_SITE_POLICY``), else that of the system,
   ``site-policy.toml`` beside ``/etc/fedfs/fedfs.toml``, else the user's, beside the keys. A file
   that is there and does not count is named in the log.
 * A file that is there is never passed over because something is wrong with it.
 * Whoever could write the file could write the policy: as of a private key, owner and mode are
   checked, and a symbolic link is refused. Others may read it.
"""

import difflib
import errno
import logging
import os
import stat
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from fedfs.errors import PolicyError, UserError
from fedfs.protocol.codec import JSON
from fedfs.roles.site.policy.rules import DEFAULT, KEYS, READERS, SitePolicy
from fedfs.roles.toml_file import TomlFile
from fedfs.trust.home import system_file

log = logging.getLogger(__name__)

NAME = "site-policy.toml"
VARIABLE = "FEDFS_SITE_POLICY"
_WRITABLE_BY_OTHERS = 0o022
_CHUNK_BYTES = 1 << 16
_TEMPLATE_HINT = "fedfs site policy --template writes one with all keys"


@dataclass(frozen=True)
class PolicyInForce:
    """A site's policy, and where it comes from.

    Attributes:
        policy: the policy.
        path: its file; None for the defaults.
        not_in_force: files that are there too.
    """

    policy: SitePolicy = DEFAULT
    path: Path | None = None
    not_in_force: tuple[Path, ...] = ()

    @property
    def source(self) -> str:
        """The file, or that there is none, as text."""
        return "defaults, as there is no file" if self.path is None else str(self.path)

    def to_json(self) -> dict[str, JSON]:
        """Return the policy with where it comes from."""
        return {
            "file": None if self.path is None else str(self.path),
            "not_in_force": [str(path) for path in self.not_in_force],
            "values": self.policy.to_json(),
        }


NO_FILE = PolicyInForce()
"""The defaults."""


def policy_in_force(home: Path, given: Path | None = None) -> PolicyInForce:
    """Return the policy that is in force on this host.

    Args:
        home: the fedfs home of this host.
        given: its file, as named on the command line; None for that of the environment, of the
            system or of the user.

    Raises:
        PolicyError: its file is not there though it is named, or cannot be used.
    """
    named = given or (Path(os.environ[VARIABLE]) if os.environ.get(VARIABLE) else None)
    usual = [path for path in usual_places(home) if os.path.lexists(path)]
    if named is None and not usual:
        return NO_FILE
    path = named or usual[0]
    others = tuple(one for one in usual if one.absolute() != path.absolute())
    for other in others:
        log.warning("the site policy %s is not in force, but %s", other, path)
    found = PolicyInForce(read_policy(path), path, others)
    log.info("site policy in force: %s", path)
    return found


def usual_places(home: Path) -> list[Path]:
    """Return where a policy is looked for: the system's first, then the user's."""
    system = system_file()
    return [*([system.with_name(NAME)] if system else []), home / NAME]


def read_policy(path: Path) -> SitePolicy:
    """Return the policy of a file.

    Raises:
        PolicyError: it cannot be read, others than its owner could write it, or it holds what is no
            policy.
    """
    try:
        file = TomlFile.parse(path, _read_checked(path))
    except UserError as error:
        raise PolicyError(str(error), hint=error.hint or _TEMPLATE_HINT) from error
    values = {}
    for key, value in file.table.items():
        if key not in READERS:
            raise _unknown(file, key)
        try:
            values[key] = READERS[key](value)
        except ValueError as error:
            raise PolicyError(
                f"{file.at(key)}: {key} cannot be {value!r}: it is {error}.", hint=_TEMPLATE_HINT
            ) from None
    return SitePolicy(**values)


def _unknown(file: TomlFile, key: str) -> PolicyError:
    close: Sequence[str] = difflib.get_close_matches(key.replace("-", "_"), KEYS, 1)
    return PolicyError(
        f"{file.at(key)}, names {key!r}, which a site's policy does not have.",
        hint=f"is {close[0]} meant?" if close else _TEMPLATE_HINT,
    )


def _read_checked(path: Path) -> bytes:
    """Return the bytes of a file that only its owner, this user or root, can write."""
    try:
        # The file that is checked is the one that is read, whatever takes its name meanwhile.
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise PolicyError(
                f"The site policy {path} is a symbolic link.",
                hint="put the file itself there, or name it with --policy",
            ) from error
        raise PolicyError(
            f"The site policy {path} cannot be read: {error.strerror}.",
            hint="check the path, its owner and its permissions",
        ) from error
    try:
        _check_owner(path, os.fstat(handle))
        return b"".join(iter(lambda: os.read(handle, _CHUNK_BYTES), b""))
    finally:
        os.close(handle)


def _check_owner(path: Path, found: os.stat_result) -> None:
    if not stat.S_ISREG(found.st_mode):
        raise PolicyError(f"The site policy {path} is no file.", hint=_TEMPLATE_HINT)
    if found.st_uid not in {0, os.geteuid()}:
        raise PolicyError(
            f"The site policy {path} belongs to another user (uid {found.st_uid}).",
            hint=f"chown root {path}, or to the user that runs fedfs",
        )
    mode = stat.S_IMODE(found.st_mode)
    if mode & _WRITABLE_BY_OTHERS:
        raise PolicyError(
            f"The site policy {path} can be written by others (mode {mode:04o}).",
            hint=f"chmod go-w {path}",
        )
