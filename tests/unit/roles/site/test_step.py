"""A site's failures, its statuses, and what other people see of them."""

from __future__ import annotations

import base64
import re
import shutil
from dataclasses import replace

import pytest

from fedfs.errors import (
    DatasetError,
    KeyFileError,
    SetupError,
    StoreError,
    StudyError,
    TrainingError,
)
from fedfs.exchange.progress import StatusReporter
from fedfs.learner import Progress
from fedfs.protocol import layout
from fedfs.roles.reader.status import summarize
from fedfs.store import FolderStore
from fedfs.store.prefix import TrackStore
from fedfs.trust.signing import SigningKey
from support.federation import Federation


def until_training(federation: Federation) -> None:
    while federation.observe().state.newest < 0:
        for name in ("aggregator", *federation.targets):
            federation.step(name)


@pytest.mark.parametrize("kind", ["not-finite", "out-of-memory", "broken-case"])
def test_a_failed_training_is_a_failure_record_and_never_an_update(federation, kind):
    until_training(federation)
    learner = federation.learners["north"]

    def fail(*_):
        raise TrainingError("case patient_0815 in /data is broken", kind=kind)

    train, learner.train = learner.train, fail
    for _ in range(2):
        with pytest.raises(TrainingError):
            federation.run_process("north")
    state = federation.observe().state
    assert ("north", 0) not in state.updates
    assert [(f.site, f.version, f.step, f.kind) for f in state.failures] == [
        ("north", 0, "train", kind)
    ] * 2
    for key, found in federation.place.objects.items():
        assert b"patient" not in found.data, key  # details stay at the site
    north = next(site for site in summarize(state).sites if site.site == "north")
    assert (north.failures, north.activity) == (2, f"failed: train: {kind}")
    learner.train = train
    federation.run()
    assert sorted(federation.observe().state.models) == [0, 1, 2, 3]


def test_a_site_with_too_few_cases_publishes_no_fingerprint(tmp_path):
    federation = Federation(tmp_path, minimum_cases=15).start()
    with pytest.raises(DatasetError, match="has 10 cases; the charter asks for at least 15"):
        federation.step("east")
    assert "east" not in federation.observe().state.fingerprints


def test_a_fingerprint_that_would_be_refused_is_not_published(federation, monkeypatch):
    """What is on the store is not replaced: the site could never take part."""
    learner = federation.learners["east"]
    measured = learner.fingerprint(lambda _: None)
    bad = replace(measured, channels=(replace(measured.channels[0], m2=-1.0),))
    monkeypatch.setattr(learner, "fingerprint", lambda _: bad)
    with pytest.raises(DatasetError, match=r"would refuse the fingerprint .* channels\[0\].m2"):
        federation.step("east")
    assert "east" not in federation.observe().state.fingerprints


def test_a_host_with_another_key_than_the_roster_is_told(federation):
    federation.kill("north")
    keyring = federation.keyring("north")
    keyring.discard("site-north")
    keyring.create("site-north", SigningKey.generate())
    with pytest.raises(StudyError, match="another key for site 'north'"):
        federation.step("north")


def test_a_name_that_another_key_holds_cannot_be_joined_with(federation):
    federation.keyring("north").discard("site-north")
    with pytest.raises(StudyError, match="taken by another key"):
        federation.join("north")


def test_joining_and_approving_again_changes_nothing(federation):
    before = dict(federation.place.objects)
    federation.join()
    federation.approve()
    assert federation.place.objects == before


def test_statuses_are_few_and_the_newest_is_shown(federation):
    federation.run()
    for site in (*federation.targets, None):
        prefix = layout.status(site, 0).rpartition("/")[0] + "/"
        assert len(list(federation.place.list(prefix))) <= 2
    view = summarize(federation.observe().state)
    assert view.phase == "finished"
    assert [site.activity for site in view.sites] == ["finished"] * 3
    assert view.waiting_for == ()


def test_progress_is_published_seldom_with_an_estimate(federation):
    now_s = [0.0]
    reporter = StatusReporter(
        federation.publisher("site-north", "north"),
        "north",
        interval_s=10.0,
        clock=lambda: now_s[0],
    )
    for done in range(41):
        reporter.progress(Progress("train", done, 100, "iteration"))
        now_s[0] += 1.0
    federation.observe()
    prefix = layout.status("north", 0).rpartition("/")[0] + "/"
    numbers = [layout.parse(entry.key).number for entry in federation.place.list(prefix)]
    assert max(numbers) == 5  # at 0, 10, 20, 30 and 40 s
    status = federation.observe().state.statuses["north"]
    assert (status.done, status.total, status.eta_s) == (40, 100, 60.0)


@pytest.mark.parametrize("error", [StoreError("the share is gone"), KeyFileError("no token")])
def test_a_status_that_cannot_be_published_does_not_stop_the_work(federation, monkeypatch, error):
    publisher = federation.publisher("site-north", "north")
    reporter = StatusReporter(publisher, "north", interval_s=0, clock=federation.clock)

    def refuse(*_):
        raise error

    monkeypatch.setattr(federation.store, "create", refuse)
    reporter.say("train")
    reporter.progress(Progress("train", 1, 2, "iteration"))


def test_who_is_waited_for_is_said_since_when(federation):
    until_training(federation)
    view = summarize(federation.observe().state)
    assert view.phase == "training"
    assert view.waiting_for == ("east", "north", "south")
    assert view.waiting_since == federation.observe().state.models[0].created_at
    while ("north", 0) not in federation.observe().state.updates:
        federation.step("north")
    assert summarize(federation.observe().state).waiting_for == ("east", "south")


def test_the_mean_dice_of_a_version_is_weighted_by_cases(federation):
    federation.run()
    state = federation.observe().state
    scores = [state.evaluations[site, 3, "pseudo"] for site in federation.targets]
    expected = sum(s.mean_dice * s.n_cases for s in scores) / sum(s.n_cases for s in scores)
    assert summarize(state).mean_dice["3"] == pytest.approx(expected)


def test_what_stopped_a_site_is_told_without_its_paths(federation, monkeypatch):
    federation.run_process("north")
    for name in ("east", "south", "aggregator"):
        federation.run_process(name)

    def prepare(plans, fingerprint, report):
        raise SetupError("no trainer below /home/north/trainers")

    monkeypatch.setattr(federation.learners["north"], "prepare", prepare)
    with pytest.raises(SetupError):
        federation.run_process("north")
    (north,) = (s for s in summarize(federation.observe().state).sites if s.site == "north")
    assert north.activity == "failed: prepare: its log on that host says why"


def test_an_update_that_the_store_has_lost_is_published_again(federation):
    until_training(federation)
    federation.run_process("north")
    key = layout.update("north", 0)
    found = federation.place.objects.pop(key)
    assert not federation.step("north").worked  # it lists only where something new may be
    federation.process("north")._observer.refresh(everything=True)
    assert federation.step("north").worked
    assert federation.place.objects[key].data != found.data
    federation.run()
    assert "north" in {update.site for update in federation.observe().state.rounds[1].updates}


def test_a_fingerprint_that_the_store_has_lost_is_published_again(federation):
    for name in ("east", "north"):
        federation.run_process(name)
    del federation.place.objects[layout.fingerprint("north")]
    federation.process("north")._observer.refresh(everything=True)
    federation.run()
    assert federation.observe().state.finished


def test_an_update_that_is_listed_late_is_not_made_again(federation):
    until_training(federation)
    federation.run_process("north")
    site = federation.process("north")
    original, key = (
        federation.store.list,
        federation.place.track.on_store(layout.update("north", 0)),
    )
    federation.store.list = lambda *of, **options: iter(
        [entry for entry in original(*of, **options) if entry.key != key]
    )
    site._observer.refresh(everything=True)
    assert key not in site._observer.keys
    n_calls = len(federation.learners["north"].calls)
    assert not federation.step("north").worked
    assert len(federation.learners["north"].calls) == n_calls


def test_nothing_that_is_published_names_a_folder_of_a_host(tmp_path):
    (tmp_path / "share").mkdir()
    store = FolderStore(tmp_path / "share")
    federation = Federation(tmp_path / "hosts", store=store).start()
    until_training(federation)
    federation.run_process("north")
    update = federation.observe().state.updates["north", 0].payload
    version = federation.observe().state.models[0].payload
    on_track = TrackStore(store, federation.place.track)
    payloads = {key: on_track.get(key, max_bytes=1 << 20) for key in (update.key, version.key)}
    for key in payloads:
        on_track.delete(key)
    shutil.rmtree(federation.home("south") / "work/models", ignore_errors=True)
    for name in ("south", "aggregator"):
        federation.kill(name)
        outcome = federation.run_process(name)
        assert "not there" in outcome.text or "missing" in outcome.text
    for key, data in payloads.items():
        on_track.create(key, data)
    federation.run()
    statuses = [entry.key for entry in store.list("") if "status" in entry.key]
    assert statuses
    for entry in store.list(""):
        data = store.get(entry.key, max_bytes=1 << 20)
        signed = [base64.b64decode(part) for part in re.findall(rb'"payload":"([^"]+)"', data)]
        assert signed or "safetensors" in entry.key
        for text in (data, *signed):
            assert str(tmp_path).encode() not in text, entry.key


def test_more_cases_than_were_announced_are_noticed_before_the_training(federation):
    """The aggregator would refuse the update; a site whose list of cases is lost has to stop."""
    until_training(federation)
    federation.learners["north"].n_cases += 1
    federation.kill("north")
    with pytest.raises(SetupError, match="has 21 cases; it announced 20 to this study"):
        federation.run_process("north")
    assert ("north", 0) not in federation.observe().state.updates
