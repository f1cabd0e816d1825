"""What a person sees of a long step, in a terminal and in a log; and the log file at the host."""

from __future__ import annotations

import logging

import pytest

from fedfs.cli import terminal
from fedfs.cli.terminal import ProgressDisplay
from fedfs.errors import SetupError, StoreError, TrainingError
from fedfs.learner import Progress
from fedfs.roles.logfile import logged_to
from fedfs.store import MemoryStore
from fedfs.store.reporting import ReportingStore


@pytest.fixture
def clock(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(terminal.time, "monotonic", lambda: now[0])
    return now


def test_without_a_terminal_a_long_step_says_how_long_it_will_take(clock, caplog):
    caplog.set_level(logging.INFO, logger="fedfs")
    with ProgressDisplay() as display:
        for done in range(0, 61, 20):
            display(Progress("train", done, 240, "iteration", metrics={"loss": -0.5}))
            clock[0] += 25
        for done in (0, 300_000_000, 500_000_000):
            display(Progress("upload", done, 600_000_000, "bytes"))
            clock[0] += 31
    assert [record.message for record in caplog.records] == [
        "train 40/240 iteration  4 min left  loss -0.5",
        "upload 300.0 MB of 600.0 MB  31 s left",
        "upload 500.0 MB of 600.0 MB  12 s left",
    ]


def test_a_step_that_went_on_after_a_restart_counts_from_there(clock, caplog):
    caplog.set_level(logging.INFO, logger="fedfs")
    display = ProgressDisplay()
    display(Progress("preprocess", 90, 100, "case"))
    clock[0] += 40
    display(Progress("preprocess", 94, 100, "case"))
    assert caplog.messages == ["preprocess 94/100 case  60 s left"]


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
        ("upload", 3_000_000, "bytes"), ("download", 3_000_000, "bytes"),
    }  # fmt: skip
    for step in ("upload", "download"):
        assert next(p.done for p in heard if p.step == step) == 0
        assert max(p.done for p in heard if p.step == step) == 3_000_000
    assert (tmp_path / "back").read_bytes() == path.read_bytes()
    with pytest.raises(SetupError):
        store.upload(key.replace("00000/", "00001/"), tmp_path / "absent")
    with pytest.raises(StoreError):
        store.download(key.replace("north", "east"), tmp_path / "back", max_bytes=1)


def test_the_log_file_holds_more_than_the_terminal_and_the_error(tmp_path):
    path = tmp_path / "fedfs" / "log.txt"
    log = logging.getLogger("fedfs.test")
    logging.getLogger("fedfs").setLevel(logging.DEBUG)

    def work() -> None:
        with logged_to(path):
            log.debug("what nnU-Net printed")
            log.info("a thing done")
            raise TrainingError("it broke", kind="crash")

    with pytest.raises(TrainingError):
        work()
    log.info("after the end")
    text = path.read_text()
    assert "DEBUG   what nnU-Net printed" in text
    assert "INFO    a thing done" in text
    assert "Traceback" in text
    assert "it broke" in text
    assert "after the end" not in text


def test_a_log_file_that_cannot_be_written_is_said(tmp_path):
    (tmp_path / "log.txt").mkdir()
    with pytest.raises(SetupError, match="cannot be written"), logged_to(tmp_path / "log.txt"):
        pass
