"""A server that takes connections and is silent: given up, and soon enough for cron."""

import threading
import time

import pytest
from click.testing import CliRunner

from fedfs.cli import fedfs as cli
from fedfs.errors import StoreUnavailableError
from fedfs.store import RetryingStore
from fedfs.store.retry import Patience
from fedfs.store.s3 import store as s3
from fedfs.store.s3.client import SILENCE_S
from fedfs.store.s3.store import S3Store
from support.faulty_proxy import Faults, FaultyProxy
from support.slow import slow

LIMIT_S = 60.0
"""Longest time that ``--once`` may take with a silent server."""


@pytest.fixture
def silent(monkeypatch):
    """The URL of a server that never answers."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "x")
    with FaultyProxy(9, Faults(hangs=True)) as line:
        monkeypatch.setenv("AWS_ENDPOINT_URL", line.endpoint)
        yield line.endpoint


def open_quick(faster, bucket="bucket"):
    """Return what ``open_store`` does, with all waiting as many times shorter."""
    rest = {"first_s": Patience.first_s / faster, "budget_s": Patience.budget_s / faster}
    silence_s, patience = SILENCE_S / faster, Patience(4, **rest)
    inner = S3Store(f"s3://{bucket}/p", silence_s=silence_s, patience=patience)
    return RetryingStore(inner, Patience(**rest))


def test_each_verb_ends_in_time(silent, tmp_path, monkeypatch):
    monkeypatch.setattr(s3, "PART_BYTES", 1 << 20)
    (tmp_path / "large").write_bytes(bytes(5 << 20))
    store = open_quick(50)
    with pytest.raises(StoreUnavailableError):
        store.get("a", max_bytes=1)  # what is loaded once takes longer than what is measured
    for verb in (
        lambda: store.get("a", max_bytes=1),
        lambda: store.create("a", b""),
        lambda: store.upload("a", tmp_path / "large"),
        lambda: store.download("a", tmp_path / "down", max_bytes=1),
        lambda: list(store.list("")),
        lambda: store.delete("a"),
    ):
        begun_s = time.monotonic()
        with pytest.raises(StoreUnavailableError, match=r"nothing came or went for 0\.4 s"):
            verb()
        assert time.monotonic() - begun_s < LIMIT_S / 50


@pytest.mark.xdist_group("ceph")
def test_an_upload_ends_in_time(ceph, tmp_path, monkeypatch):
    monkeypatch.setattr(s3, "PART_BYTES", 5 << 20)
    for name, value in ceph.environment().items():
        monkeypatch.setenv(name, value)
    bucket = ceph.make_bucket()
    (tmp_path / "large").write_bytes(bytes(40 << 20))
    with FaultyProxy(ceph.port, Faults(rate_bytes_s=20 << 20)) as line:
        monkeypatch.setenv("AWS_ENDPOINT_URL", line.endpoint)
        store = open_quick(10, bucket)
        store.delete("a")
        fall_silent = threading.Timer(0.5, setattr, (line, "faults", Faults(hangs=True)))
        fall_silent.start()
        begun_s = time.monotonic()
        with pytest.raises(StoreUnavailableError, match="nothing came or went"):
            store.upload("a", tmp_path / "large")
        assert time.monotonic() - begun_s < 0.5 + LIMIT_S / 10
        assert not fall_silent.is_alive()


@slow
@pytest.mark.usefixtures("silent")
def test_a_command_ends_in_time():
    begun_s = time.monotonic()
    done = CliRunner().invoke(cli, ["aggregate", "s3://bucket/p", "--once"])
    assert isinstance(done.exception, StoreUnavailableError), done.output
    assert time.monotonic() - begun_s < LIMIT_S
