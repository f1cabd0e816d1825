"""The network between this host and a guest, which reaches some servers of this host's loopback."""

from __future__ import annotations

import contextlib
import itertools
import shutil
import socket
import subprocess
import threading
from collections.abc import Sequence
from typing import Self

_BYTES = 1 << 16


class GuestLine:
    """A device of the network, and a relay for each server; both go with it.

    Args:
        ports: of the servers; they have the same ports there.

    Attributes:
        device: name of the device.
        host: address of this host, as the guest sees it.
        guest: address of the guest.
    """

    def __init__(self, ports: Sequence[int]) -> None:
        for number in itertools.count(1):
            self.device = f"fedfs{number}"
            if _ip("tuntap", "add", "dev", self.device, "mode", "tap", check=number > 200):
                break
        self.host, self.guest = f"10.219.{number}.1", f"10.219.{number}.2"
        _ip("addr", "add", f"{self.host}/30", "dev", self.device)
        _ip("link", "set", self.device, "up")
        self._listeners = [socket.create_server((self.host, port)) for port in ports]
        for listener, port in zip(self._listeners, ports, strict=True):
            threading.Thread(target=_relay_all, args=(listener, port), daemon=True).start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for listener in self._listeners:
            with contextlib.suppress(OSError):
                listener.shutdown(socket.SHUT_RDWR)
            listener.close()
        _ip("link", "delete", self.device)


def _ip(*words: str, check: bool = True) -> bool:
    command = [shutil.which("ip") or "ip", *words]
    return subprocess.run(command, capture_output=True, check=check).returncode == 0


def _relay_all(listener: socket.socket, port: int) -> None:
    while True:
        try:
            client, _ = listener.accept()
        except OSError:
            return
        try:
            server = socket.create_connection(("127.0.0.1", port))
        except OSError:  # it is away
            client.close()
            continue
        for source, target in ((client, server), (server, client)):
            threading.Thread(target=_relay, args=(source, target), daemon=True).start()


def _relay(source: socket.socket, target: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(_BYTES):
            target.sendall(data)
    for one in (source, target):  # the other direction ends too
        with contextlib.suppress(OSError):
            one.shutdown(socket.SHUT_RDWR)
