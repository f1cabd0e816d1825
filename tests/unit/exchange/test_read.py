"""Messages of a study, read from a store."""

from __future__ import annotations

from fedfs.exchange.read import open_study
from fedfs.protocol import layout
from support.federation import Federation


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
