"""Messages of a study, read from a store."""

from __future__ import annotations

from fedfs.exchange.read import open_study
from fedfs.protocol import layout
from fedfs.roles.aggregator.config import AggregatorConfig
from fedfs.roles.aggregator.run import run_aggregator
from fedfs.store import open_store
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
