"""Metrics of a study, read by Prometheus's own parser."""

from __future__ import annotations

import stat

import pytest
from click.testing import CliRunner
from prometheus_client.parser import text_string_to_metric_families

from fedfs.cli import fedfs as cli
from fedfs.protocol.messages import FAILED, from_utc
from fedfs.roles.reader.metrics import METRICS, failure_text, metrics_text
from fedfs.roles.reader.status import summarize
from fedfs.store import open_store
from support.federation import Federation


def view_of(federation, track=None, **options):
    observer = federation.observe(track=track)
    observer.refresh(everything=True)
    return summarize(observer.state, observer.sizes, **options)


def parse(text):
    """Name -> labels -> value; each metric has a type and a meaning, and no sample comes twice."""
    found = {}
    for family in text_string_to_metric_families(text):
        assert family.type in {"gauge", "counter"}
        assert family.documentation
        for sample in family.samples:
            values = found.setdefault(sample.name.removeprefix("fedfs_"), {})
            labels = tuple(sorted(sample.labels.items()))
            assert labels not in values, sample
            values[labels] = sample.value
    assert found.keys() <= METRICS.keys()
    return found


def metrics_of(federation):
    views = {name: view_of(federation, name) for name in federation.tracks}
    return parse(metrics_text(views, store="/mnt/study", now_s=1.8e9))


def by_site(values):
    return {
        dict(labels)["site"]: value for labels, value in values.items() if "site" in dict(labels)
    }


def by_role(values):
    found = ((dict(labels), value) for labels, value in values.items())
    return {labels.get("site", labels["role"]): value for labels, value in found}


def test_they_say_who_is_waited_for(tmp_path):
    federation = Federation(tmp_path)
    federation.join()
    asking = metrics_of(federation)
    assert list(asking["asking_to_join"].values()) == [3]
    assert by_role(asking["waited_for"]) == {"coordinator": 1, "aggregator": 0}
    federation.approve()
    for name in (*federation.targets, "aggregator", "north"):
        federation.run_process(name)
    view, found = view_of(federation), metrics_of(federation)
    assert by_role(found["waited_for"]) == {
        "coordinator": 0, "aggregator": 0, "east": 1, "north": 0, "south": 1,
    }  # fmt: skip
    assert list(found["waiting_since_timestamp_seconds"].values()) == [from_utc(view.waiting_since)]
    assert list(found["round_updates"].values()) == [1]
    assert by_site(found["update_base_version"]) == {"north": 0}
    assert by_site(found["cases"]) == {"east": 10, "north": 20, "south": 30}
    seen = {site.site: from_utc(site.since) for site in view.sites}
    seen["aggregator"] = from_utc(view.aggregator_since)
    assert by_role(found["last_seen_timestamp_seconds"]) == seen
    assert list(found["finished"].values()) == [0]
    assert {dict(labels)["kind"]: n for labels, n in found["store_bytes"].items()} == view.n_bytes


def test_a_process_that_stopped_with_an_error_is_told(federation):
    federation.process("south")._status.say(FAILED, error="its log on that host says why")
    failed = by_role(metrics_of(federation)["failed"])
    assert failed == {"aggregator": 0, "east": 0, "north": 0, "south": 1}


def test_several_tracks_are_told_apart_and_a_finished_study_waits_for_nobody(tmp_path):
    federation = Federation(tmp_path, configuration="2d", fold="0,1", rounds=1).start()
    federation.run()
    found = metrics_of(federation)
    assert {dict(labels)["track"]: n for labels, n in found["version"].items()} == {
        "2d-0": 1,
        "2d-1": 1,
    }
    assert set(found["finished"].values()) == {1}
    assert set(found["waited_for"].values()) == {0}
    assert "waiting_since_timestamp_seconds" not in found
    assert set(found["pseudo_dice"].values()) != {0}


def test_hidden_sites_have_no_samples(federation):
    views = {"2d": view_of(federation, seen_by="north")}
    found = parse(metrics_text(views, store="s3://b", now_s=1.8e9))
    assert by_role(found["waited_for"]).keys() == {"coordinator", "aggregator", "north"}
    assert "round_updates" not in found


def test_a_failed_look_says_only_that():
    store = 'C:\\share "a"\nb'
    found = parse(failure_text(store=store, now_s=1.8e9, exit_code=4))
    assert found == {
        "status_timestamp_seconds": {(("store", store),): 1.8e9},
        "status_exit_code": {(("store", store),): 4},
    }


@pytest.fixture
def call(tmp_path, monkeypatch):
    monkeypatch.setenv("FEDFS_HOME", str(tmp_path / "home"))
    return lambda *words: CliRunner().invoke(cli, ["status", *words])


def test_the_command_writes_a_file_that_node_exporter_may_read(tmp_path, call):
    place, path = str(tmp_path / "store"), tmp_path / "fedfs.prom"
    store = open_store(place, must_exist=False)
    Federation(tmp_path / "hosts", store=store, name="organ").start()
    done = call(place, "--prometheus", str(path))
    assert (done.exit_code, done.output) == (0, "")
    found = parse(path.read_text())
    assert found["status_exit_code"] == {(("store", place),): 0}
    assert by_site(found["waited_for"]) == {"east": 1, "north": 1, "south": 1}
    assert stat.S_IMODE(path.stat().st_mode) & 0o044 == 0o044
    assert [one.name for one in tmp_path.glob("*prom*")] == ["fedfs.prom"]

    (tmp_path / "store").rename(tmp_path / "away")
    assert call(place, "--prometheus", str(path)).exception.exit_code == 4
    assert set(parse(path.read_text())["status_exit_code"].values()) == {4}


def test_a_file_that_node_exporter_would_not_read_is_refused(tmp_path, call):
    done = call(str(tmp_path), "--prometheus", str(tmp_path / "fedfs.txt"))
    assert done.exit_code == 2
    assert "end in .prom" in done.output
