"""Observers for whoever reads a study, of as much of it as this host may read.

A policy of the store may hide from a site what other sites publish (``deploy/s3`` does). Commands
that only read then show the rest, and say what is hidden.
"""

import contextlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fedfs.errors import StorePermissionError
from fedfs.exchange.observer import Observer
from fedfs.exchange.read import open_study, open_tracks
from fedfs.protocol.areas import NO_SITE
from fedfs.store.base import ReadableStore
from fedfs.trust.keyring import Keyring


def open_visible(store: ReadableStore, home: Path | None, **options: Any) -> dict[str, Observer]:
    """Return observers of the tracks of a study, by name, which see what this host may read.

    That is all of it; or what all may read and what a site publishes that has a key on this host;
    or what all may read.

    Args:
        store: where the study is.
        home: the fedfs home of this host; None for a host that has no keys.
        options: as of :func:`fedfs.exchange.read.open_tracks`.

    Raises:
        StorePermissionError: not even that may be read.
        FedfsError: see :func:`fedfs.exchange.read.open_study`.
    """
    try:
        return open_tracks(store, **options)
    except StorePermissionError:
        study = open_study(store, site=NO_SITE).state.charter.study
    for role in Keyring(home, study).roles() if home else ():
        if role.startswith("site-"):
            with contextlib.suppress(StorePermissionError):
                return open_tracks(store, site=role.removeprefix("site-"), **options)
    return open_tracks(store, site=NO_SITE, **options)


def tell_hidden(observers: Mapping[str, Observer]) -> str:
    """Return a sentence on what observers do not see; "" if they see all."""
    site = next(iter(observers.values())).site
    if site is None:
        return ""
    own = f" and site {site!r}" if site else ""
    return (
        f"This host may read what the coordinator, the aggregator{own} published; "
        f"what {'other ' if site else ''}sites published is hidden from it."
    )
