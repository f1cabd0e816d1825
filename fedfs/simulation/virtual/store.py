"""One store in memory, as each host sees it: over its own line, at its own time.

Rules:
 * What a host writes shows from when its transfer is done; to a host that a courier serves, from
   his next visit, and what such a host writes shows to others from then on.
 * A line that drops ends a transfer, which goes on behind the last complete part: as uploads and
   downloads of a bucket do. Listings take no time.
 * Payloads are those of a small network; their bytes count as those of a large one.
"""

import dataclasses
import math
from collections.abc import Callable, Iterator
from pathlib import Path

from fedfs.errors import StoreUnavailableError
from fedfs.protocol.track_place import parse_on_store
from fedfs.simulation.virtual.calendar import Courier, Line
from fedfs.simulation.virtual.trace import LineTrace
from fedfs.store.base import Entry
from fedfs.store.memory import IndexedMemoryStore
from fedfs.store.wrapper import Wrapper

MB = 1e6
PART_BYTES = 8 << 20
_HEADER_BYTES = 8


class Clock:
    """The time of one host."""

    def __init__(self, now_s: float) -> None:
        self.now_s = now_s

    def __call__(self) -> float:
        """Return POSIX seconds."""
        return self.now_s

    def advance(self, seconds: float) -> None:
        """Let time pass."""
        self.now_s += seconds

    def reach(self, then_s: float) -> None:
        """Let time pass until then."""
        self.now_s = max(self.now_s, then_s)


class SharedStore(IndexedMemoryStore):
    """The objects of a study.

    Attributes:
        visible_s: from when what is created shows.
        on_create: called with the key of each new object, and from when it shows.
    """

    def __init__(self) -> None:
        super().__init__(name="virtual", clock=lambda: self.visible_s)
        self.visible_s = 0.0
        self.on_create: Callable[[str, float], None] = lambda _key, _visible_s: None

    def create(self, key: str, data: bytes) -> bool:
        """See :meth:`fedfs.store.base.Store.create`."""
        is_new = super().create(key, data)
        if is_new:
            self.on_create(key, self.visible_s)
        return is_new


@dataclasses.dataclass
class Traffic:
    """Bytes that a host has moved, and seconds that this took."""

    up_bytes: float = 0.0
    down_bytes: float = 0.0
    seconds: float = 0.0


class HostStore(Wrapper):
    """The store as one host sees it.

    Nothing takes time before it is connected.

    Args:
        shared: all objects.
        clock: the host's; what is there by then shows to everybody.
        scale: counted bytes of each byte of tensors.

    Attributes:
        traffic: since it was connected.
    """

    _inner: SharedStore

    def __init__(
        self,
        shared: SharedStore,
        clock: Clock,
        *,
        scale: float = 1.0,
    ) -> None:
        super().__init__(shared)
        self.traffic = Traffic()
        self._clock = clock
        self._begin_s = clock.now_s
        self._up = self._down = math.inf
        self._scale = scale
        self._line: Line | None = None
        self._courier: Courier | None = None
        self._own: set[str] = set()
        self._done: dict[tuple[str, bool], float] = {}

    def connect(
        self,
        speed: LineTrace,
        *,
        line: Line | None = None,
        courier: Courier | None = None,
    ) -> None:
        """From now on transfers take time.

        Args:
            speed: of its line.
            line: when it can be reached; None for always.
            courier: serves the host in place of a line; None for none.
        """
        self.traffic = Traffic()
        self._up, self._down = MB * speed.up_mb_per_s, MB * speed.down_mb_per_s
        self._line, self._courier = line, courier

    def get(self, key: str, *, max_bytes: int) -> bytes:
        """See :meth:`fedfs.store.base.ReadableStore.get`."""
        self._require(key)
        data = super().get(key, max_bytes=max_bytes)
        self._transfer(key, len(data), is_up=False)
        return data

    def download(self, key: str, path: Path, *, max_bytes: int) -> None:
        """See :meth:`fedfs.store.base.ReadableStore.download`."""
        self._require(key)
        self._transfer(key, self._counted(key, self._inner.objects[key].data), is_up=False)
        super().download(key, path, max_bytes=max_bytes)

    def list(self, prefix: str, *, after: str = "") -> Iterator[Entry]:
        """See :meth:`fedfs.store.base.ReadableStore.list`."""
        self._require_line()
        for entry in super().list(prefix, after=after):
            if self._shows(entry.key, entry.modified_s):
                yield entry

    def create(self, key: str, data: bytes) -> bool:
        """See :meth:`fedfs.store.base.Store.create`."""
        self._transfer(key, self._counted(key, data), is_up=True)
        now_s = self._clock.now_s
        self._inner.visible_s = self._courier.next(now_s) if self._courier else now_s
        is_new = super().create(key, data)
        self._own.add(key)
        return is_new

    def upload(self, key: str, path: Path) -> bool:
        """See :meth:`fedfs.store.base.Store.upload`."""
        return self.create(key, path.read_bytes())

    def adopt(self, key: str, path: Path) -> bool:
        """See :meth:`fedfs.store.base.Store.adopt`."""
        return self.upload(key, path)

    def shows_at(self, visible_s: float) -> float:
        """Return from when this host sees what others see from a time on."""
        if self._courier is None or self._courier.last(visible_s) == visible_s:
            return visible_s
        return self._courier.next(visible_s)

    def back_at(self) -> float:
        """Return when the line is back; now, if it is there."""
        now_s = self._clock.now_s
        return self._line.back_at(now_s) if self._line else now_s

    def _shows(self, key: str, visible_s: float) -> bool:
        if key in self._own or visible_s <= self._begin_s:
            return True
        return self.shows_at(visible_s) <= self._clock.now_s

    def _require(self, key: str) -> None:
        found = self._inner.objects.get(key)
        if found is not None and not self._shows(key, found.modified_s):
            raise self._not_found(key)

    def _require_line(self) -> None:
        if self._line is not None and not self._line.is_up(self._clock.now_s):
            raise StoreUnavailableError("The line is down.", store=self.url, hint="it comes back")

    def _counted(self, key_text: str, data: bytes) -> float:
        """Return the bytes that an object counts as: those of its tensors for many."""
        key = parse_on_store(key_text)
        if key is None or not key.is_payload:
            return len(data)
        header = _HEADER_BYTES + int.from_bytes(data[:_HEADER_BYTES], "little")
        if header > len(data):  # encrypted
            header = 0
        return header + self._scale * (len(data) - header)

    def _transfer(self, key: str, n_bytes: float, *, is_up: bool) -> None:
        """Let the time of a transfer pass, and count it.

        Raises:
            StoreUnavailableError: the line drops before it is done.
        """
        if self._courier is not None:
            self._count(n_bytes, 0.0, is_up=is_up)
            return
        self._require_line()
        now_s, rate = self._clock.now_s, self._up if is_up else self._down
        left = n_bytes - self._done.pop((key, is_up), 0.0)
        drop_s = self._line.next_drop(now_s) if self._line else now_s + left / rate + 1
        if now_s + left / rate <= drop_s:
            self._count(left, left / rate, is_up=is_up)
            self._clock.advance(left / rate)
            return
        moved = (drop_s - now_s) * rate
        self._count(moved, drop_s - now_s, is_up=is_up)
        self._done[key, is_up] = n_bytes - left + moved // PART_BYTES * PART_BYTES
        self._clock.reach(drop_s)
        self._require_line()

    def _count(self, n_bytes: float, seconds: float, *, is_up: bool) -> None:
        if is_up:
            self.traffic.up_bytes += n_bytes
        else:
            self.traffic.down_bytes += n_bytes
        self.traffic.seconds += seconds
