"""What of a store a courier sees, and what this host remembers of the other side."""

from __future__ import annotations

from fedfs import exchange
from fedfs.exchange import FOR
from fedfs.observe import Observer, open_study
from fedfs.protocol import layout
from fedfs.store.base import Store

NO_KEY = layout.Key("", "")
"""Stands for what is no key of the protocol."""


def look(store: Store, site: str) -> Observer:
    """Look at a store as a site does.

    Raises:
        StudyError: it holds no study.
        StoreError: it cannot be read.
    """
    return open_study(store, site=site)


def keys_of(store: Store, site: str) -> set[str]:
    """Return the keys of the objects that a site can see, also where there is no study yet."""
    prefixes = (layout.FEDERATION, layout.AGGREGATOR, layout.site_prefix(site))
    return {entry.key for prefix in prefixes for entry in store.list(prefix)}


def memory_of(site: str, direction: str) -> str:
    """Name of what this host remembers for bundles of a direction: what the other side has."""
    return f"courier-{direction}-{site}"


def other(direction: str) -> str:
    """Return the direction back."""
    return exchange.FROM if direction == FOR else FOR
