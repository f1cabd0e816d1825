"""A store as one process sees it on a bad day; several of them wrap one store."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from fedfs.errors import StoreUnavailableError
from fedfs.store.base import Entry
from fedfs.store.memory import MemoryStore
from support.dying_store import KilledError
from support.forwarding_store import ForwardingStore


class FaultyStore(ForwardingStore):
    """Fails as it is told to.

    Attributes:
        dies: ``"before"`` or ``"after"`` its effect, the next call kills the process; the latter is
            a lost acknowledgement. "" for not.
        unavailable: so many calls from now on find no store.
        behind: so many of the objects created last are missing from listings.
    """

    def __init__(self, inner: MemoryStore) -> None:
        super().__init__(inner)
        self.memory = inner
        self.dies = ""
        self.unavailable = 0
        self.behind = 0

    def _call(self, name: str, *args: Any, **kwargs: Any) -> Any:
        if self.unavailable:
            self.unavailable -= 1
            raise StoreUnavailableError(f"{self.url} cannot be reached")
        dies, self.dies = self.dies, ""
        if dies == "before":
            raise KilledError
        result = super()._call(name, *args, **kwargs)
        if dies == "after":
            raise KilledError
        return result

    def list(self, prefix: str, *, after: str = "") -> Iterator[Entry]:
        hidden = set(list(self.memory.objects)[-self.behind :]) if self.behind else set()
        listed = super().list(prefix, after=after)
        return iter([entry for entry in listed if entry.key not in hidden])
