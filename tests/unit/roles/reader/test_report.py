"""The report: what it says, that it fetches nothing, and that nothing in it can run."""

from __future__ import annotations

import csv
import dataclasses
import html
import io
import json
import re

import pytest

from fedfs.errors import StoreError
from fedfs.exchange.read import open_study
from fedfs.protocol import layout
from fedfs.roles.reader.report.data import collect
from fedfs.roles.reader.report.html import render
from fedfs.roles.reader.report.publish import (
    ReportPublisher,
    report_publisher,
    sites_without_final_scores,
)
from fedfs.roles.reader.report.tables import write_csv
from fedfs.store.memory import MemoryStore
from support.browser import accessibility, browse, in_a_browser
from support.federation import Federation
from support.forwarding_store import ForwardingStore
from support.unlike_networks import NETWORKS, TARGETS


def report_of(federation: Federation):
    observer = federation.observe()
    observer.refresh(everything=True)
    return collect(observer.state, observer.sizes)


def page_of(federation: Federation) -> str:
    return render(report_of(federation), made_at="2027-01-15T08:00:00Z")


@pytest.fixture
def finished(federation):
    federation.run()
    return federation


def test_the_numbers_are_those_of_the_study(finished):
    report, state = report_of(finished), finished.observe().state
    assert report.versions == (0, 1, 2, 3)
    assert report.dice["north"][2] == pytest.approx(
        state.evaluations["north", 2, "pseudo"].mean_dice, rel=1e-4
    )
    assert report.weights["south"][1] == pytest.approx(state.rounds[1].updates[2].weight, rel=1e-4)
    assert report.weights["south"][0] is None
    assert sum(report.weights[site][3] for site in finished.targets) == pytest.approx(1, rel=1e-3)
    assert [row.site for row in report.sites] == ["east", "north", "south"]
    assert all(row.final_mean is not None and row.n_updates == 3 for row in report.sites)
    assert report.exclusions == ()
    assert report.facts["Phase"] == "finished"
    assert report.facts["Sites"] == "3 with 60 training cases"
    for column in (*report.dice.values(), *report.lags.values(), report.mean_dice):
        assert len(column) == len(report.versions)


def test_who_was_left_out_is_named_with_the_reason(tmp_path):
    options = {"policy": "quorum", "policy_options": {"sites": 2, "deadline_minutes": 1}}
    federation = Federation(tmp_path, **options).start()
    for _ in range(8):
        for name in ("east", "south", "aggregator"):
            federation.run_process(name)
    federation.now_s += 120
    federation.run_process("north")
    report = report_of(federation)
    if report.exclusions:
        assert {item.site for item in report.exclusions} == {"north"}
        assert "north" in page_of(federation)


def test_a_study_that_has_just_begun_has_a_report(federation):
    page = page_of(federation)
    assert "No version has been evaluated yet." in page
    assert "none yet" in page


def test_the_page_fetches_nothing(finished):
    page = page_of(finished)
    assert "default-src 'none'" in page
    for match in re.findall(r"(?:src|href|action)\s*=\s*\"([^\"]*)\"", page):
        assert match.startswith("#"), match
    assert not re.search(
        r"url\(|@import|fetch\(|XMLHttpRequest|https?://(?!www\.w3\.org/2000/svg)", page
    )


def test_text_from_the_store_cannot_become_markup(tmp_path):
    evil = "</script><script>alert(1)</script><img src=x onerror=alert(2)>"
    study = Federation(tmp_path).start()
    study.run()
    report = report_of(study)
    report = dataclasses.replace(
        report,
        facts={**report.facts, "Dataset": evil},
        plan={evil: evil},
        rejected={evil: evil},
        classes=(evil,),
        disclosures=((evil, evil, evil),),
        published=(evil,) * len(report.published),
        sites=tuple(dataclasses.replace(row, site=row.site, activity=evil) for row in report.sites),
    )
    page = render(report, made_at=evil)
    assert "<script>alert" not in page
    assert "<img src=x" not in page
    assert html.escape(evil) in page or "&lt;/script&gt;" in page
    assert page.count("<script") == 2


def test_the_csv_has_a_line_for_each_version_and_site(finished):
    file = io.StringIO()
    write_csv(report_of(finished), file)
    rows = list(csv.DictReader(io.StringIO(file.getvalue())))
    assert len(rows) == 4 * 3
    assert {row["weight"] for row in rows if row["version"] == "0"} == {""}
    assert all(0 <= float(row["dice"]) <= 1 for row in rows)


def test_an_encrypted_plan_is_not_told(tmp_path):
    federation = Federation(tmp_path, encryption="age").start()
    federation.run()
    stranger = federation.observe("stranger")
    report = collect(stranger.state, stranger.sizes)
    assert report.plan == {"Plan": "encrypted: this host cannot read it"}


def publisher_of(federation: Federation):
    observer = open_study(federation.store, scores=True)
    return observer, report_publisher(observer, federation.store, clock=federation.clock)


def pages(federation: Federation) -> list[str]:
    return [entry.key for entry in federation.store.list(layout.REPORTS)]


def test_only_the_newest_report_is_kept_and_nobody_takes_it_for_a_message(federation):
    observer, reports = publisher_of(federation)
    for name in (*federation.targets, "aggregator"):
        federation.run_process(name)
    assert reports.publish()
    (first,) = pages(federation)
    assert reports.publish()
    assert pages(federation) == [first]
    assert not sites_without_final_scores(observer.state)
    federation.run()
    assert reports.publish()
    assert not sites_without_final_scores(observer.state)
    (last,) = pages(federation)
    assert last > first
    state = federation.observe().state
    assert not state.rejected
    assert last not in state.digests
    assert layout.parse(last) is None
    assert b"<!doctype html>" in federation.store.objects[last].data


def test_what_a_report_costs_does_not_grow_with_the_study(tmp_path):
    """Neither requests nor listed objects: it looks behind what it knows."""
    federation = Federation(tmp_path, rounds=24).start()
    listed = []

    class Counting(ForwardingStore):
        def list(self, prefix, *, after=""):
            for entry in self.inner.list(prefix, after=after):
                listed.append(entry.key)
                yield entry

    store = Counting(federation.store)
    observer = open_study(store, scores=True)
    reports = report_publisher(observer, store, clock=federation.clock)
    costs = {}
    while federation.observe().state.finished is None:
        for name in (*federation.targets, "aggregator"):
            federation.run_process(name)
        listed.clear()
        reports.publish()
        costs[observer.state.newest] = len(listed)
    assert max(costs[v] for v in (18, 20, 22)) <= max(costs[v] for v in (4, 6, 8))
    federation.run()
    reports.publish()
    report = collect(observer.state, observer.sizes)
    assert None not in report.dice["north"]


def test_in_the_end_it_says_whose_validation_is_missing(federation):
    observer, reports = publisher_of(federation)
    while federation.observe().state.finished is None:
        for name in ("aggregator", *federation.targets):
            federation.step(name)
    federation.run_process("east")
    assert reports.publish()
    assert "east" not in sites_without_final_scores(observer.state)
    federation.run()
    assert reports.publish()
    assert not sites_without_final_scores(observer.state)


def test_a_publisher_that_did_not_follow_the_end_waits_for_scores_all_the_same(federation):
    observer, reports = publisher_of(federation)
    for _ in range(20):
        for name in ("aggregator", "east", "south"):
            federation.run_process(name)
        if federation.observe().state.newest < 3:
            federation.run_process("north")
    assert federation.observe().state.finished is not None
    assert reports.publish()
    assert sites_without_final_scores(observer.state) == ["north"]


def test_a_report_that_cannot_be_published_stops_nobody(finished, caplog):
    class Full(MemoryStore):
        def create(self, key, data):
            raise StoreError("no space is left")

    reports = report_publisher(finished.observe(), Full(), clock=finished.clock)
    assert not reports.publish()
    assert "the report was not published: no space is left" in caplog.text


def test_a_page_that_cannot_be_made_stops_nobody(finished, caplog):
    def fail(_states):
        return 1e308 * 10 // 1 / 0

    store = MemoryStore(clock=finished.clock)
    reports = ReportPublisher(store, lambda: [finished.observe().state], fail)
    assert not reports.publish()
    assert "the report was not published: " in caplog.text


@in_a_browser
def test_a_browser_draws_it(finished, tmp_path):
    path = tmp_path / "report.html"
    path.write_text(page_of(finished))
    done = browse(path, tmp_path)
    page = done.stdout
    assert re.search(r'data-drawn="\d+"', page)
    assert "Uncaught" not in done.stderr
    assert len(re.findall(r"<path d=\"M", page)) >= 4 + 2
    assert "<canvas" in page
    assert re.search(r"Version 3, [0-9T:Z-]+: east 0\.\d+", page)
    data = json.loads(re.search(r'id="data">(.*?)</script>', page, re.DOTALL)[1])
    assert data["sites"] == ["east", "north", "south"]


@in_a_browser
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_is_accessible(tmp_path, scheme):
    federation = Federation(
        tmp_path / "study", targets=TARGETS, networks=NETWORKS, mode="asym", min_coverage=0.1,
        cross_evaluation=True, alone=("north", "south"), policy="quorum",
        policy_options={"sites": 2},
    ).start()  # fmt: skip
    federation.run()
    page = page_of(federation)
    assert "Dice of each model at each site" in page
    assert "at south" in page
    found = accessibility(page, tmp_path, scheme)
    assert found["dark"] == (scheme == "dark")
    assert found["violations"] == []
    assert {"color-contrast", "button-name", "html-has-lang", "scrollable-region-focusable"} <= set(
        found["passes"]
    )
