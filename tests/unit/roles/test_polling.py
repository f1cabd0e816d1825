"""Waiting: back-off, jitter, waking early, and going on when nothing can be watched."""

import errno
import logging
import random
import signal
import threading

import pytest

from fedfs.errors import UserError
from fedfs.roles import polling as watch
from fedfs.roles.polling import Waiter, WaitSettings
from fedfs.store import FolderStore

LONG = WaitSettings(interval_s=60.0, max_interval_s=60.0, jitter=0.0)


class FakeWait:
    """Records the seconds asked for; the first ``n_wakes`` waits are woken, the others run out."""

    def __init__(self, *, n_wakes=0):
        self.n_wakes = n_wakes
        self.waits_s = []

    def __call__(self, seconds):
        self.waits_s.append(seconds)
        return len(self.waits_s) <= self.n_wakes


def polling(wait, **settings):
    return Waiter(None, WaitSettings(**settings), rng=random.Random(7), wait=wait)


def test_the_interval_grows_to_its_maximum():
    wait = FakeWait()
    waiter = polling(wait, interval_s=1.0, max_interval_s=4.0, factor=2.0, jitter=0.0)
    assert [waiter.wait() for _ in range(5)] == [False] * 5
    assert wait.waits_s == [1.0, 2.0, 4.0, 4.0, 4.0]


def test_reset_goes_back_to_the_minimum():
    wait = FakeWait()
    waiter = polling(wait, interval_s=1.0, max_interval_s=4.0, factor=2.0, jitter=0.0)
    waiter.wait()
    waiter.wait()
    waiter.reset()
    waiter.wait()
    assert wait.waits_s == [1.0, 2.0, 1.0]


def test_being_woken_does_not_make_the_next_wait_longer():
    wait = FakeWait(n_wakes=2)
    waiter = polling(wait, interval_s=1.0, max_interval_s=4.0, factor=2.0, jitter=0.0)
    assert [waiter.wait() for _ in range(4)] == [True, True, False, False]
    assert wait.waits_s == [1.0, 1.0, 1.0, 2.0]


def test_jitter_scatters_within_its_share_and_follows_the_given_randomness():
    runs = []
    for _ in range(2):
        wait = FakeWait()
        waiter = polling(wait, interval_s=1.0, max_interval_s=1.0, jitter=0.2)
        for _ in range(200):
            waiter.wait()
        runs.append(wait.waits_s)
    assert runs[0] == runs[1]
    assert 0.8 <= min(runs[0]) < 0.83
    assert 1.17 < max(runs[0]) <= 1.2


def test_after_stop_nothing_is_waited_for():
    wait = FakeWait()
    waiter = polling(wait)
    assert not waiter.stopped
    waiter.stop()
    assert waiter.stopped
    assert waiter.wait() is True
    assert wait.waits_s == []


def test_stop_ends_a_wait_in_another_thread():
    with Waiter(None, LONG, rng=random.Random(0)) as waiter:
        timer = threading.Timer(0.05, waiter.stop)
        timer.start()
        assert waiter.wait() is True
        timer.join(10)


def test_stop_may_be_called_from_a_signal_handler():
    before = signal.signal(signal.SIGALRM, lambda *_: waiter.stop())
    try:
        with Waiter(None, LONG, rng=random.Random(0)) as waiter:
            signal.setitimer(signal.ITIMER_REAL, 0.05)
            assert waiter.wait() is True
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def test_without_events_the_wait_runs_out(tmp_path):
    settings = WaitSettings(interval_s=0.01, max_interval_s=0.01)
    with Waiter(tmp_path, settings, rng=random.Random(0)) as waiter:
        assert waiter.wait() is False


@pytest.mark.parametrize("use_links", [True, False])
def test_a_published_object_wakes_the_wait(tmp_path, use_links):
    store = FolderStore(tmp_path, use_links=use_links)
    store.create("sites/a/one.json", b"1")
    woken = threading.Event()
    with Waiter(store.watch_path(), LONG, rng=random.Random(0)) as waiter:

        def run():
            if waiter.wait() and not waiter.stopped:
                woken.set()

        thread = threading.Thread(target=run)
        thread.start()
        store.create("sites/a/two.json", b"2")
        assert woken.wait(10)
        thread.join(10)


def test_a_file_that_is_still_written_wakes_nobody(tmp_path):
    seen = threading.Event()

    class Recorder(watch._Handler):
        def on_any_event(self, event):
            super().on_any_event(event)
            if "last" in str(event.src_path):
                seen.set()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(watch, "_Handler", Recorder)
        waiter = Waiter(tmp_path, LONG, rng=random.Random(0))
    with waiter:
        (tmp_path / ".fedfs-0.tmp").write_bytes(b"half")
        (tmp_path / ".fedfs-lock-0-a").mkdir()
        (tmp_path / ".last").write_bytes(b"")  # events keep their order
        assert seen.wait(10)
        assert waiter._wakes.empty()


def test_a_burst_wakes_once_and_is_let_settle(monkeypatch):
    settled_s = []
    monkeypatch.setattr("time.sleep", settled_s.append)
    settings = WaitSettings(interval_s=0.01, max_interval_s=0.01)
    waiter = Waiter(None, settings, rng=random.Random(0))
    for _ in range(1000):
        waiter._wakes.put(None)
    assert [waiter.wait(), waiter.wait()] == [True, False]
    assert settled_s == [watch._SETTLE_S]


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EMFILE])
def test_a_watch_that_cannot_start_is_logged_once_and_polling_goes_on(
    tmp_path, monkeypatch, caplog, code
):
    class NoObserver:
        def schedule(self, *args, **kwargs):
            raise OSError(code, "inotify watch limit reached")

        def stop(self):
            pass

    monkeypatch.setattr(watch, "Observer", NoObserver)
    wait = FakeWait()
    caplog.set_level(logging.INFO)
    with Waiter(tmp_path, WaitSettings(), rng=random.Random(0), wait=wait) as waiter:
        for _ in range(3):
            assert waiter.wait() is False
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "only polled" in caplog.text


def test_a_folder_that_is_not_there_yet_is_polled(tmp_path, caplog):
    settings = WaitSettings(interval_s=0.01, max_interval_s=0.01)
    with Waiter(tmp_path / "absent", settings, rng=random.Random(0)) as waiter:
        assert waiter.wait() is False
    assert "only polled" in caplog.text


def test_closing_ends_the_watching_threads(tmp_path):
    before = threading.active_count()
    with Waiter(tmp_path, LONG, rng=random.Random(0)) as waiter:
        assert threading.active_count() > before
        observer = waiter._observer
    assert not observer.is_alive()
    waiter.close()


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("interval_s", 0.0),
        ("interval_s", -1.0),
        ("interval_s", float("nan")),
        ("interval_s", float("inf")),
        ("max_interval_s", 0.1),
        ("max_interval_s", float("inf")),
        ("max_interval_s", float("nan")),
        ("jitter", -0.1),
        ("jitter", 1.0),
        ("factor", 0.5),
        ("factor", float("inf")),
    ],
)
def test_settings_that_make_no_sense_are_named(field, value):
    with pytest.raises(UserError, match=f"^{field} is"):
        WaitSettings(**{field: value})
