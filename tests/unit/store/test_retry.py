"""Trying again, with pauses that a test passes in."""

import random

import pytest

from fedfs.errors import ObjectExistsError, StorePermissionError, StoreUnavailableError
from fedfs.store import MemoryStore, RetryingStore
from fedfs.store.retry import Attempts, Patience


class BadStore(MemoryStore):
    """Fails as often as ``faults`` says, before or after the effect."""

    def __init__(self):
        super().__init__()
        self.faults = []

    def _fault(self, when):
        if self.faults and self.faults[0] == when:
            self.faults.pop(0)
            raise StoreUnavailableError(f"{self.url} is gone")

    def get(self, key, *, max_bytes):
        self._fault("before")
        return super().get(key, max_bytes=max_bytes)

    def create(self, key, data):
        self._fault("before")
        made = super().create(key, data)
        self._fault("after")
        return made

    def delete(self, key):
        self._fault("before")
        super().delete(key)

    def list(self, prefix, *, after=""):
        for entry in super().list(prefix, after=after):
            self._fault("before")
            yield entry
            self._fault("after")


@pytest.fixture
def inner():
    return BadStore()


@pytest.fixture
def pauses():
    return []


@pytest.fixture
def store(inner, pauses):
    return RetryingStore(inner, Patience(4, pause=pauses.append, rng=random.Random(1)))


def test_every_verb_is_repeated(store, inner, pauses, tmp_path):
    (tmp_path / "up").write_bytes(b"2")
    for verb in (
        lambda: store.create("a", b"1"),
        lambda: store.upload("b", tmp_path / "up"),
        lambda: store.get("a", max_bytes=1),
        lambda: store.download("b", tmp_path / "down", max_bytes=1),
        lambda: list(store.list("")),
        lambda: store.delete("a"),
    ):
        inner.faults = ["before", "before"]
        pauses.clear()
        verb()
        assert len(pauses) == 2
    assert (tmp_path / "down").read_bytes() == b"2"
    assert list(inner.objects) == ["b"]


def test_a_lost_acknowledgement_is_no_rival(store, inner):
    inner.faults = ["after"]
    assert store.create("a", b"1") is False
    inner.faults = ["before"]
    with pytest.raises(ObjectExistsError):
        store.create("a", b"2")


def test_the_last_error_is_raised_after_pauses_that_double(store, inner, pauses, caplog):
    inner.faults = ["before"] * 9
    with pytest.raises(StoreUnavailableError, match="is gone"):
        store.get("a", max_bytes=1)
    assert len(inner.faults) == 5
    assert [0.25 <= pauses[0] <= 0.5, 0.5 <= pauses[1] <= 1, 1 <= pauses[2] <= 2] == [True] * 3
    assert len(caplog.messages) == 3


def test_what_will_not_pass_is_not_repeated(inner, pauses, monkeypatch):
    def denied(key, data):
        raise StorePermissionError("denied")

    monkeypatch.setattr(inner, "create", denied)
    with pytest.raises(StorePermissionError):
        RetryingStore(inner, Patience(pause=pauses.append)).create("a", b"")
    assert pauses == []


def test_a_listing_goes_on_where_it_broke(store, inner, pauses):
    for number in range(9):
        inner.create(f"a/{number}", b"")
    inner.faults = ["before", "after", "after", "after", "after", "before"]
    assert [entry.key for entry in store.list("a/")] == [f"a/{number}" for number in range(9)]
    assert len(pauses) == 6
    inner.faults = ["before"] * 4
    with pytest.raises(StoreUnavailableError):
        list(store.list("a/"))


def test_progress_starts_the_count_anew():
    steps = []

    def action():
        steps.append(1)
        if len(steps) < 20:
            raise StoreUnavailableError("broken")
        return "done"

    patience = Patience(2, pause=lambda _: None)
    assert patience.repeat(action, progress=lambda: len(steps)) == "done"
    steps.clear()
    with pytest.raises(StoreUnavailableError):
        patience.repeat(action)
    assert len(steps) == 2


def test_what_takes_long_is_tried_less_often():
    """Of attempts that last 8 s each, the third is the last that begins within 20 s."""
    ends_s = [0.0]

    def fails():
        ends_s.append(ends_s[-1] + 8)
        raise StoreUnavailableError("silent")

    patience = Patience(pause=lambda _: None, clock=lambda: ends_s[-1])
    for progress, attempts in ((lambda: 0, 3), (lambda: min(len(ends_s), 4), 6)):
        del ends_s[1:]
        with pytest.raises(StoreUnavailableError):
            patience.repeat(fails, progress=progress)
        assert len(ends_s) == 1 + attempts


def test_pauses_are_bounded():
    pauses = []
    attempts = Attempts(Patience(50, most_s=3, pause=pauses.append))
    for _ in range(1, 50):
        attempts.wait_after(StoreUnavailableError(""))
    assert max(pauses) <= 3


def test_the_wrapper_is_known_by_what_it_wraps(store, inner, tmp_path):
    assert (store.url, store.watch_path(), store.request_counts) == (inner.url, None, {})
