"""Folders of fedfs on this host; apart from the keys, so that a help need not load cryptography."""

import os
from pathlib import Path

import platformdirs

SYSTEM_FILE = Path("/etc/fedfs/fedfs.toml")
SYSTEM_VARIABLE = "FEDFS_SYSTEM_CONFIG"
"""Names another file than :data:`SYSTEM_FILE`, or none if it is empty."""


def system_file() -> Path | None:
    """Return the configuration file of this host's system; None for none. It need not be there."""
    named = os.environ.get(SYSTEM_VARIABLE, str(SYSTEM_FILE))
    return Path(named) if named else None


def default_home() -> Path:
    """Return ``FEDFS_HOME``, or the user's configuration folder for fedfs."""
    named = os.environ.get("FEDFS_HOME")
    return Path(named) if named else platformdirs.user_config_path("fedfs")


def default_cache() -> Path:
    """Return ``FEDFS_HOME/cache``, or the user's cache folder for fedfs."""
    named = os.environ.get("FEDFS_HOME")
    return Path(named) / "cache" if named else platformdirs.user_cache_path("fedfs")
