"""Passwords of stores: from the host's environment or its netrc file, never from a URL."""

import netrc
import os
from pathlib import Path

from fedfs.errors import SetupError

VARIABLE = "FEDFS_STORE_PASSWORD"


def password_for(host: str, user: str | None) -> str | None:
    """Return the password for a server; None where none is kept.

    Raises:
        SetupError: the netrc file cannot be read.
    """
    return login_for(host, user)[1]


def login_for(host: str, user: str | None) -> tuple[str | None, str | None]:
    """Return user and password for a server.

    Args:
        host: name of the server, as the URL has it.
        user: of the URL; None to take the one of the netrc file.

    Raises:
        SetupError: the netrc file cannot be read.
    """
    if password := os.environ.get(VARIABLE):
        return user, password
    path = Path(os.environ.get("NETRC") or "~/.netrc").expanduser()
    try:
        found = netrc.netrc(path).authenticators(host)
    except FileNotFoundError:
        return user, None
    except (OSError, netrc.NetrcParseError, UnicodeDecodeError):
        # What the parser says may quote the file.
        raise SetupError(
            f"{path} cannot be read as a netrc file.",
            hint="it holds passwords: only its owner may read it; man netrc has its form",
        ) from None
    if found is None or (user is not None and found[0] not in ("", user)):
        return user, None
    return user or found[0], found[2] or None
