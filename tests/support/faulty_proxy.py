"""A bad line: a TCP proxy that drops, delays and truncates connections by a seeded schedule.

Rules:
 * What happens to the n-th connection follows from the seed alone.
 * A connection ends with a reset or as if it had been finished; the latter truncates answers.
"""

from __future__ import annotations

import contextlib
import random
import socket
import struct
import threading
import time
from dataclasses import dataclass
from typing import Self

_CHUNK_BYTES = 64 << 10


@dataclass(frozen=True)
class Faults:
    """What the line does; nothing by default.

    Attributes:
        seed: of the schedule.
        refused: share of the connections that end at once.
        life_bytes: mean length of a connection's life in bytes, both ways together; 0 for ever.
        delay_s: upper bound of what each chunk is delayed by.
        drop_every_s: all connections end together after so many seconds, again and again.
        rate_bytes_s: of all connections together, both ways.
        hangs: connections are taken, and nothing comes any more, on earlier ones neither.
    """

    seed: int = 0
    refused: float = 0.0
    life_bytes: int = 0
    delay_s: float = 0.0
    drop_every_s: float = 0.0
    rate_bytes_s: float = 0.0
    hangs: bool = False


class FaultyProxy:
    """Listens on loopback until ``stop``.

    Attributes:
        endpoint: URL that stands for the server's.
        connections, dropped: how many there were.
        n_bytes: how many were passed on.
    """

    def __init__(self, port: int, faults: Faults) -> None:
        self.faults = faults
        self.connections = self.dropped = self.n_bytes = 0
        self._target = ("127.0.0.1", port)
        self._rng = random.Random(faults.seed)
        self._lock = threading.Lock()
        self._pairs: set[_Pair] = set()
        self._free_s = 0.0
        self._stopped = threading.Event()
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=64)
        self.endpoint = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self._threads = [threading.Thread(target=self._accept, daemon=True)]
        if faults.drop_every_s:
            self._threads.append(threading.Thread(target=self._drop_all, daemon=True))
        for thread in self._threads:
            thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        """Close everything."""
        self._stopped.set()
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._end_all(count=False)
        for thread in self._threads:
            thread.join(5)

    def _accept(self) -> None:
        while not self._stopped.is_set():
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            with self._lock:
                self.connections += 1
                refused = self._rng.random() < self.faults.refused
                mean = self.faults.life_bytes
                life = int(self._rng.expovariate(1 / mean)) if mean else 0
                reset = self._rng.random() < 0.5
            pair = _Pair(client, life, random.Random(self._rng.random()), reset=reset)
            if refused:
                self._end(pair)
                continue
            with self._lock:
                self._pairs.add(pair)
            if self.faults.hangs:
                continue
            try:
                pair.server = socket.create_connection(self._target)
            except OSError:
                self._end(pair)
                continue
            for ends in ((pair.client, pair.server), (pair.server, pair.client)):
                threading.Thread(target=self._pump, args=(pair, *ends), daemon=True).start()

    def _pump(self, pair: _Pair, source: socket.socket, sink: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while chunk := source.recv(_CHUNK_BYTES):
                if self.faults.hangs:
                    self._stopped.wait()
                if self.faults.delay_s:
                    time.sleep(pair.rng.random() * self.faults.delay_s)
                self._pace(len(chunk))
                if pair.left is not None:
                    chunk = chunk[: max(0, pair.left)]
                    pair.left -= len(chunk)
                sink.sendall(chunk)
                self.n_bytes += len(chunk)
                if pair.left is not None and pair.left <= 0:
                    self._end(pair)
                    return
        pair.close(reset=False)
        with self._lock:
            self._pairs.discard(pair)

    def _pace(self, n_bytes: int) -> None:
        if self.faults.rate_bytes_s:
            with self._lock:
                now_s = time.monotonic()
                self._free_s = max(self._free_s, now_s) + n_bytes / self.faults.rate_bytes_s
                wait_s = self._free_s - now_s
            time.sleep(wait_s)

    def _drop_all(self) -> None:
        while not self._stopped.wait(self.faults.drop_every_s):
            self._end_all(count=True)

    def _end_all(self, *, count: bool) -> None:
        with self._lock:
            pairs = list(self._pairs)
        for pair in pairs:
            self._end(pair, count=count)

    def _end(self, pair: _Pair, *, count: bool = True) -> None:
        pair.close(reset=pair.reset)
        with self._lock:
            self._pairs.discard(pair)
            self.dropped += count


class _Pair:
    def __init__(
        self,
        client: socket.socket,
        life: int,
        rng: random.Random,
        *,
        reset: bool,
    ) -> None:
        self.client = client
        self.server: socket.socket | None = None
        self.left = life or None
        self.rng = rng
        self.reset = reset

    def close(self, *, reset: bool) -> None:
        for end in (self.client, self.server):
            if end is None:
                continue
            with contextlib.suppress(OSError):
                if reset:
                    end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                # Wakes the thread that reads here; without that nothing is sent by closing.
                end.shutdown(socket.SHUT_RD if reset else socket.SHUT_RDWR)
            with contextlib.suppress(OSError):
                end.close()
