"""A store under which a process dies."""

from __future__ import annotations

from typing import Any

from fedfs.store.base import Store
from support.forwarding_store import ForwardingStore


class KilledError(BaseException):
    """The process is gone."""


class DyingStore(ForwardingStore):
    """Passes calls on and dies at the ``k``-th, before or after it took effect."""

    def __init__(self, inner: Store, k: int, *, after: bool) -> None:
        super().__init__(inner)
        self.left, self.after = k, after

    def _call(self, name: str, *args: Any, **kwargs: Any) -> Any:
        self.left -= 1
        if self.left == 0 and not self.after:
            raise KilledError
        result = super()._call(name, *args, **kwargs)
        if self.left == 0:
            raise KilledError
        return result
