"""A store under which a process dies, and federations whose processes do."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
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


def calls_of(
    federation: Federation, victim: str, run: Callable[[], object]
) -> list[tuple[str, str]]:
    """Run a study in which nobody is killed; return what a process of it calls."""
    store = DyingStore(federation.store)
    federation.processes[victim] = federation.new_process(victim, store)
    run()
    return store.calls


def run_with_a_kill(
    federation: Federation, run: Callable[[], object], victim: str, call: int, *, after: bool
) -> bool:
    """Run a study, kill a process at a call to the store, run on; return whether it was killed.

    Args:
        federation: whose processes run.
        run: runs them, as far as they come.
        victim: name of the process.
        call: number of the call.
        after: it is carried out before the kill.
    """
    try:
        store = DyingStore(federation.store, call, after=after)
        federation.processes[victim] = federation.new_process(victim, store)
        run()
    except KilledError:
        federation.kill(victim)
        run()
        return True
    return False
