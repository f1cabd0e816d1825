"""What of a store a courier sees, and what this host remembers of the other side."""

from __future__ import annotations

from collections.abc import Iterator

from fedfs import exchange
from fedfs.exchange import FOR
from fedfs.observe import Observer, open_study
from fedfs.protocol import layout
from fedfs.store.base import Entry, Store

NO_KEY = layout.Key("", "")
"""Stands for what is no key of the protocol."""


def look(store: Store, site: str) -> Observer:
    """Look at a store as a site does.

    Raises:
        StudyError: it holds no study.
        StoreError: it cannot be read.
    """
    return open_study(store, site=site)


def objects_of(store: Store, site: str) -> Iterator[Entry]:
    """Yield the objects that a site can see."""
    for prefix in (layout.FEDERATION, layout.AGGREGATOR, layout.site_prefix(site)):
        yield from store.list(prefix)


def keys_of(store: Store, site: str) -> set[str]:
    """Return the keys of the objects that a site can see."""
    return {entry.key for entry in objects_of(store, site)}


def memory_of(site: str, direction: str) -> str:
    """Name of what this host remembers for bundles of a direction: what the other side has."""
    return f"courier-{direction}-{site}"


def other(direction: str) -> str:
    """Return the direction back."""
    return exchange.FROM if direction == FOR else FOR
