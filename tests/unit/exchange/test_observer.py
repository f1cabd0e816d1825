"""Messages of a study, read from a store."""

from __future__ import annotations

from fedfs.errors import MisplacedError
from fedfs.exchange import refusals
from fedfs.exchange.read import open_study
from fedfs.protocol import layout, messages
from fedfs.protocol.state import StudyState
from fedfs.roles.aggregator.config import AggregatorConfig
from fedfs.roles.aggregator.run import run_aggregator
from fedfs.roles.coordinator.amend import Coordinator
from fedfs.roles.coordinator.roster import set_state
from fedfs.store import open_store
from fedfs.store.base import Entry
from fedfs.trust.signing import SigningKey
from support.federation import Federation, forge
from support.forgery import sign_value
from support.forwarding_store import ForwardingStore


class Counting(ForwardingStore):
    """Remembers what is read."""

    def __init__(self, inner):
        super().__init__(inner)
        self.read: list[str] = []

    def get(self, key, *, max_bytes):
        self.read.append(key)
        return super().get(key, max_bytes=max_bytes)


def test_messages_fetched_once_are_not_fetched_again_by_the_next_process(tmp_path):
    federation = Federation(tmp_path).start()
    federation.run()
    asked: list[str] = []
    original = federation.store.get

    def counting(key, *, max_bytes):
        asked.append(key)
        return original(key, max_bytes=max_bytes)

    federation.store.get = counting
    numbers = []
    for _ in range(2):
        asked.clear()
        observer = open_study(
            federation.store, skip=("status", "aggregator-status"), cache=lambda _: tmp_path / "c"
        )
        numbers.append(len(asked))
        assert observer.state.finished is not None
    assert numbers[0] > 20
    assert asked == [layout.charter(1)]


def test_a_wrong_copy_is_read_again_from_the_store(tmp_path):
    federation = Federation(tmp_path).start()
    federation.run()
    for _ in range(2):
        observer = open_study(federation.store, cache=lambda _: tmp_path / "c")
        assert observer.state.finished is not None
        assert not observer.state.rejected
        for copy in (tmp_path / "c").rglob("*"):
            if copy.is_file():
                copy.write_bytes(b"of another study")
    copies = [copy for copy in (tmp_path / "c").rglob("*") if copy.is_file()]
    open_study(federation.store, cache=lambda _: tmp_path / "c")
    assert copies
    assert all(copy.read_bytes() != b"of another study" for copy in copies)


def test_studies_with_one_work_dir_have_folders_of_their_own(tmp_path):
    for name in ("one", "two"):
        federation = Federation(
            tmp_path / name,
            name=name,
            store=open_store(str(tmp_path / f"{name}-store"), must_exist=False),
        )
        config = AggregatorConfig(
            federation.store.url,
            federation.home("coordinator"),
            tmp_path / "work",
            once=True,
            report=False,
        )
        assert "approve" in run_aggregator(config, lambda _: None).text
        assert (tmp_path / "work" / federation.charter.study / "log.txt").exists()
    assert len(list((tmp_path / "work").iterdir())) == 2


def garbage(federation: Federation) -> dict[str, bytes]:
    """Objects that anybody may have put there: no JSON, no envelope, and signed by nobody known."""
    stranger = sign_value(SigningKey.generate(), messages.UpdateManifest, {"any": "thing"})
    place = federation.place.track.on_store
    return {
        layout.join("mallory", 1): b"\x00" * 100,
        layout.join("mallory", 2): b'"' + b'\\"' * 100,
        layout.join("mallory", 3): sign_value(SigningKey.generate(), messages.JoinRequest, {}),
        layout.charter(500): stranger,
        place(layout.update("north", 2)): stranger,
        place(layout.update("mallory", 0)): stranger,
        place(layout.evaluation("north", 1, "pseudo")): b"{}",
        place(layout.round_record(3)): b"[]",
    }


def test_a_flood_of_garbage_is_downloaded_once(tmp_path):
    federation = Federation(tmp_path, rounds=3).start()
    objects = garbage(federation)
    for key, data in objects.items():
        forge(federation.store, key, data)
    store = Counting(federation.store)
    observer = open_study(store, scores=True)
    assert set(objects) <= set(store.read)
    store.read.clear()
    for name in (*federation.targets, "aggregator", *federation.targets):
        federation.run_process(name)
        observer.refresh()
        observer.refresh(everything=True)
    assert observer.state.newest == 0
    assert not set(objects) & set(store.read)
    store.read.clear()
    coordinator = Coordinator(
        federation.store, federation.home("coordinator"), clock=federation.clock
    )
    set_state(coordinator, ["south"], "paused")  # another charter could know their keys
    for _ in range(3):
        observer.refresh(everything=True)
    again = sorted(key for key in store.read if key in objects)
    assert again == sorted(key for key, data in objects.items() if b"fedfs.update" in data)
    refused = {observer.track.on_store(key) for key in observer.state.rejected}
    assert set(objects) <= refused


def test_what_is_larger_than_a_message_is_asked_for_once(tmp_path, monkeypatch):
    federation = Federation(tmp_path).start()
    monkeypatch.setattr("fedfs.exchange.observer.MAX_ENVELOPE_BYTES", 20_000)
    key = layout.join("mallory", 1)
    forge(federation.store, key, b" " * 20_001)
    store = Counting(federation.store)
    observer = open_study(store)
    for _ in range(3):
        observer.refresh(everything=True)
    assert observer.state.rejected[key] == "the message is larger than any message may be"
    assert store.read.count(key) == 1


def test_what_another_message_explains_is_accepted_without_another_download(tmp_path):
    federation = Federation(tmp_path, rounds=1).start()
    federation.run()
    store = Counting(federation.store)
    manifest = federation.place.track.on_store(layout.model(0))
    model = federation.store.objects.pop(manifest)
    observer = open_study(store)
    update = layout.update("north", 0)
    assert "which is not there" in observer.state.rejected[update]
    federation.store.objects[manifest] = model
    store.read.clear()
    observer.refresh(everything=True)
    observer.refresh(everything=True)
    assert ("north", 0) in observer.state.updates
    assert federation.place.track.on_store(update) not in store.read
    assert not observer.state.rejected


def test_a_refused_object_that_is_replaced_is_read_again(tmp_path):
    federation = Federation(tmp_path, rounds=1).start()
    federation.run()
    place = federation.place.track.on_store(layout.update("north", 0))
    good = federation.store.objects[place]
    forge(federation.store, place, b"garbage")
    observer = open_study(federation.store)
    assert ("north", 0) not in observer.state.updates
    federation.store.objects[place] = good
    observer.refresh(everything=True)
    assert ("north", 0) in observer.state.updates
    assert not observer.state.rejected


def test_more_than_may_be_kept_is_downloaded_again(monkeypatch):
    monkeypatch.setattr(refusals, "MAX_KEPT_BYTES", 10)
    known, state = refusals.Refusals(), StudyState({}, digests={})
    for name, n_bytes in (("a", 8), ("b", 8), ("c", 2)):
        error = MisplacedError("amends what is not there")
        known.add(Entry(name, n_bytes, 0.0), error, state, b"x" * n_bytes)
    assert [known.data(Entry(n, s, 0.0)) for n, s in (("a", 8), ("b", 8), ("c", 2))] == [
        b"x" * 8, None, b"x" * 2,
    ]  # fmt: skip
    known.forget("a")
    known.add(Entry("b", 8, 0.0), MisplacedError("amends what is not there"), state, b"x" * 8)
    assert known.data(Entry("b", 8, 0.0)) == b"x" * 8
    assert known.data(Entry("b", 8, 1.0)) is None
