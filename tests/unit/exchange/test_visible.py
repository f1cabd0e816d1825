"""Commands that read, at a site from which a policy hides what other sites publish."""

from __future__ import annotations

import importlib
import json
import re

import pytest
from click.testing import CliRunner

from fedfs.cli import fedfs as cli
from fedfs.errors import StorePermissionError
from fedfs.protocol.messages import utc
from fedfs.roles.reader.report.publish import overview_publisher, report_publisher
from fedfs.store.memory import MemoryStore
from fedfs.store.prefix import TrackStore
from support.federation import Federation

HIDDEN = "published is hidden from it"
READERS = (
    "fedfs.cli.status", "fedfs.cli.reader", "fedfs.cli.report", "fedfs.cli.key",
    "fedfs.roles.coordinator.begin",
)  # fmt: skip


class Policy(MemoryStore):
    """What the site north may do under ``deploy/s3``."""

    own = r"(tracks/[^/]+/)?(sites/north/|aggregator/)|federation/"

    def _check(self, text):
        if not re.match(self.own, text):
            raise StorePermissionError(f"{text} is denied")

    def get(self, key, *, max_bytes):
        self._check(key)
        if key not in self.objects:
            raise StorePermissionError(f"{key} is denied")  # as S3 has it
        return super().get(key, max_bytes=max_bytes)

    def list(self, prefix, *, after=""):
        self._check(prefix)
        return super().list(prefix, after=after)


def under_policy(federation, monkeypatch, host="north"):
    store = Policy(clock=federation.clock)
    store.objects = federation.store.objects
    for module in READERS:
        monkeypatch.setattr(importlib.import_module(module), "open_store", lambda *_, **__: store)
    monkeypatch.setenv("FEDFS_HOME", str(federation.home(host)))
    return store


def call(*words):
    done = CliRunner().invoke(cli, [*words], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.output


@pytest.fixture
def finished(tmp_path, monkeypatch):
    federation = Federation(tmp_path / "hosts").start()
    federation.run()
    under_policy(federation, monkeypatch)
    return federation


def test_status_shows_what_a_site_may_read(finished):
    text = call("status", "s3://bucket")
    assert HIDDEN in text
    assert "site 'north'" in text
    assert re.search(r"east +active .* hidden", text)
    assert "finished" in text
    view = json.loads(call("status", "s3://bucket", "--json"))
    assert view["hidden"] == ["east", "south"]
    assert view["waiting_for"] == []
    assert {site["site"]: site["last_update"] for site in view["sites"]} == dict.fromkeys(
        ("east", "north", "south"), 2
    )


def test_nobody_is_wrongly_waited_for(tmp_path, monkeypatch):
    federation = Federation(tmp_path / "hosts").start()
    for name in ("east", "south", "aggregator"):
        federation.run_process(name)
    under_policy(federation, monkeypatch)
    assert json.loads(call("status", "s3://bucket", "--json"))["waiting_for"] == ["north"]
    federation.run_process("north")
    view = json.loads(call("status", "s3://bucket", "--json"))
    assert view["waiting_for"] == []
    assert "waiting for      hidden" in call("status", "s3://bucket")


def test_log_verify_and_keys_at_a_site(finished):
    text = call("log", "s3://bucket")
    assert "version 3" in text
    assert HIDDEN in text
    text = call("verify", "s3://bucket")
    assert "no problem found" in text
    assert HIDDEN in text
    assert "cannot be made again here: updates are hidden" in text
    assert "site-north" in call("key", "show", "s3://bucket")
    assert call("key", "export-public", "s3://bucket", "--site", "north")


def test_verify_still_finds_what_is_missing_of_the_site_itself(finished):
    for key in [key for key in finished.store.objects if "north/updates/00001/manifest" in key]:
        del finished.store.objects[key]
    done = CliRunner().invoke(cli, ["verify", "s3://bucket"])
    assert done.exit_code == 1
    assert "names an update of north that is not there" in done.output


def test_a_host_without_a_key_sees_what_all_may_read(finished, monkeypatch):
    under_policy(finished, monkeypatch, host="nobody")
    view = json.loads(call("status", "s3://bucket", "--json"))
    assert view["hidden"] == ["east", "north", "south"]
    assert "no key" in call("key", "show", "s3://bucket")


def test_a_store_of_which_nothing_may_be_read_is_an_error(finished, monkeypatch):
    under_policy(finished, monkeypatch).own = "nothing"
    for words in (
        ["status", "s3://bucket"],
        ["log", "s3://bucket"],
        ["key", "show", "s3://bucket"],
    ):
        assert isinstance(CliRunner().invoke(cli, words).exception, StorePermissionError)


def test_a_report_says_what_is_hidden(finished, tmp_path):
    page = tmp_path / "report.html"
    assert "--published" in call("report", "s3://bucket", "-o", str(page))
    assert "hidden from it" in page.read_text()


@pytest.mark.parametrize("fold", ["0", "0,1"])
def test_the_page_that_the_aggregator_published_is_fetched(tmp_path, monkeypatch, fold):
    federation = Federation(tmp_path / "hosts", fold=fold).start()
    federation.run()
    under_policy(federation, monkeypatch)
    page = tmp_path / "report.html"
    words = ["report", "s3://bucket", "--published", "-o", str(page)]
    assert "has published no report" in str(CliRunner().invoke(cli, words).exception)
    observers = {track: federation.observe(track=track) for track in federation.tracks}
    for observer in observers.values():
        is_one = len(observers) == 1
        store = federation.store if is_one else TrackStore(federation.store, observer.track)
        report_publisher(observer, store, clock=federation.clock).publish()
    if len(observers) > 1:
        overview_publisher(observers, [], federation.store, clock=federation.clock).publish()
    call(*words)
    text = page.read_text()
    assert utc(federation.now_s)[:10] in text
    if len(observers) > 1:
        for track in observers:
            assert f"report-{track}.html" in text
            assert "Dice" in (tmp_path / f"report-{track}.html").read_text()
        call(*words, "--track", federation.tracks[1])
        assert page.read_text() == (tmp_path / f"report-{federation.tracks[1]}.html").read_text()
