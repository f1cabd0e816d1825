"""A store under which a process dies, and federations whose processes do."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fedfs.store.base import Store
from support.federation import Federation
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


def run_with_a_kill(federation: Federation, names: Sequence[str], victim: str, call: int) -> bool:
    """Run processes in turn, and kill one at a call to the store; return whether it came to that.

    Args:
        federation: whose processes run.
        names: of processes, as often as each has its turn.
        victim: the process; only the first of its name is killed.
        call: number of the call, which is carried out before the kill if it is even.
    """
    killed = False
    for name in names:
        if name == victim and name not in federation.processes and not killed:
            store = DyingStore(federation.store, call, after=call % 2 == 0)
            try:
                federation.processes[name] = federation.new_process(name, store)
            except KilledError:
                killed = True
        try:
            federation.run_process(name)
        except KilledError:
            killed = True
            federation.kill(name)
    return killed
