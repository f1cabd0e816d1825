"""A store that reports how far each transfer is."""

from __future__ import annotations

import pytest

from fedfs.errors import SetupError, StoreError
from fedfs.store import MemoryStore
from fedfs.store.reporting import ReportingStore


def test_a_transfer_is_counted_in_bytes_and_never_beyond_its_size(tmp_path):
    heard = []
    store = ReportingStore(MemoryStore(), heard.append)
    path = tmp_path / "file"
    path.write_bytes(b"x" * 3_000_000)
    key = f"sites/north/updates/00000/update-{'0' * 64}.safetensors"
    store.upload(key, path)
    store.upload(key, path)  # compares
    store.download(key, tmp_path / "back", max_bytes=3_000_000)
    assert {(p.step, p.total, p.unit) for p in heard} == {
        ("upload", 3_000_000, "bytes"),
        ("download", 3_000_000, "bytes"),
    }
    for step in ("upload", "download"):
        assert next(p.done for p in heard if p.step == step) == 0
        assert max(p.done for p in heard if p.step == step) == 3_000_000
    assert (tmp_path / "back").read_bytes() == path.read_bytes()
    with pytest.raises(SetupError):
        store.upload(key.replace("00000/", "00001/"), tmp_path / "absent")
    with pytest.raises(StoreError):
        store.download(key.replace("north", "east"), tmp_path / "back", max_bytes=1)
