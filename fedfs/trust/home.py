"""Folders of fedfs on this host; apart from the keys, so that a help need not load cryptography."""

import os
from pathlib import Path

import platformdirs


def default_home() -> Path:
    """Return ``FEDFS_HOME``, or the user's configuration folder for fedfs."""
    named = os.environ.get("FEDFS_HOME")
    return Path(named) if named else platformdirs.user_config_path("fedfs")


def default_cache() -> Path:
    """Return ``FEDFS_HOME/cache``, or the user's cache folder for fedfs."""
    named = os.environ.get("FEDFS_HOME")
    return Path(named) / "cache" if named else platformdirs.user_cache_path("fedfs")
