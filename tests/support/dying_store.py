"""A store under which a process dies, and federations whose processes do."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from fedfs.protocol.track_place import parse_on_store
from fedfs.store.base import Store
from support.federation import Federation
from support.forwarding_store import ForwardingStore
from support.slow import SLOW

READS = ("get", "list", "download")


class KilledError(BaseException):
    """The process is gone."""


class DyingStore(ForwardingStore):
    """Passes calls on and dies at the ``k``-th, before or after it took effect; 0 never dies.

    Attributes:
        calls: every call so far: its name, and the kind of its key.
    """

    def __init__(self, inner: Store, k: int = 0, *, after: bool = False) -> None:
        super().__init__(inner)
        self.left, self.after = k, after
        self.calls: list[tuple[str, str]] = []

    def _call(self, name: str, *args: Any, **kwargs: Any) -> Any:
        key = parse_on_store(args[0])
        self.calls.append((name, key.kind if key else args[0]))
        self.left -= 1
        if self.left == 0 and not self.after:
            raise KilledError
        result = super()._call(name, *args, **kwargs)
        if self.left == 0:
            raise KilledError
        return result


def kills(calls: Sequence[tuple[str, str]], *, few: bool = False) -> Iterator[tuple[int, bool]]:
    """Yield the calls at which a process is killed, and whether after they took effect.

    Those are the first and the last write of each kind of key, before and after, and the first read
    of each, before: a kill after a read is one before the next call. With ``FEDFS_SLOW_TESTS=1`` it
    is every call, before and after.

    Args:
        calls: all calls of a process that is not killed, as a :class:`DyingStore` has them.
        few: only the last write of each kind of key, in turn before and after.
    """
    if SLOW:
        yield from ((k, after) for k in range(1, len(calls) + 1) for after in (False, True))
        return
    first = {call: k for k, call in reversed(list(enumerate(calls, 1)))}
    last = {call: k for k, call in enumerate(calls, 1)}
    writes = [call for call in first if call[0] not in READS]
    if few:
        yield from ((last[call], i % 2 == 0) for i, call in enumerate(writes))
        return
    yield from ((first[call], False) for call in first.keys() - writes)
    for k in sorted({place[call] for call in writes for place in (first, last)}):
        yield from ((k, False), (k, True))


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
