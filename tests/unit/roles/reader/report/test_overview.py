"""The page over all tracks: its numbers, its links, who publishes it, and that it can be read."""

from __future__ import annotations

import dataclasses
import itertools
import json
import re

import pytest
from click.testing import CliRunner

from fedfs.cli import fedfs as cli
from fedfs.exchange.read import open_tracks
from fedfs.protocol import layout
from fedfs.roles.reader.report.data import collect
from fedfs.roles.reader.report.html import render_overview
from fedfs.roles.reader.report.overview import overview
from fedfs.roles.reader.report.publish import overview_publisher
from fedfs.store import open_store
from support.browser import accessibility, browse, in_a_browser
from support.federation import Federation
from support.four_tracks import OPTIONS, TRACKS

MADE_AT = "2027-01-15T08:00:00Z"


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    federation = Federation(tmp_path_factory.mktemp("study"), **OPTIONS).start()
    federation.run()
    return federation


def overview_of(federation):
    observers = {name: federation.observe(track=name) for name in federation.tracks}
    for observer in observers.values():
        observer.refresh(everything=True)
    reports = {name: collect(one.state, one.sizes) for name, one in observers.items()}
    return overview(reports, observers[federation.tracks[0]].state), reports


def test_the_numbers_are_those_of_the_tracks(finished):
    view, reports = overview_of(finished)
    assert [row.track for row in view.tracks] == TRACKS
    assert view.sites == ("east", "north", "south")
    assert view.versions == (0, 1, 2)
    for row in view.tracks:
        report = reports[row.track]
        assert view.dice[row.track] == report.mean_dice
        assert row.last_dice == report.mean_dice[-1]
        assert row.final == {site.site: site.final_mean for site in report.sites}
        mean = sum(s.final_mean * s.n_validation_cases for s in report.sites)
        assert row.final_mean == pytest.approx(
            mean / sum(s.n_validation_cases for s in report.sites)
        )
        assert row.phase == "finished"
    assert view.facts["Tracks"] == "4, of which 4 finished"
    assert "Version" not in view.facts


def test_a_track_that_is_behind_has_no_numbers_for_later_versions(tmp_path):
    federation = Federation(tmp_path, **OPTIONS).start()
    hosts = itertools.cycle(("aggregator", *federation.targets))
    while all(federation.observe(track=name).state.newest < 2 for name in federation.tracks):
        federation.step(next(hosts))
    view, reports = overview_of(federation)
    behind = [name for name, report in reports.items() if len(report.versions) < 3]
    assert behind
    for name in behind:
        assert len(view.dice[name]) == len(view.versions) == 3
        assert view.dice[name][-1] is None
    assert view.choice is None
    page = render_overview(view, {}, made_at=MADE_AT)
    assert 'id="choice"' not in page
    assert "The highest mean pseudo Dice so far is" in page


def test_it_says_what_was_chosen_from_what_by_the_names_of_classes(finished):
    view, _ = overview_of(finished)
    assert view.classes == {"foreground": "the foreground", "1": "organ"}
    assert [d for _, d in view.compared] == sorted(view.choice.dice.values(), reverse=True)
    page = render_overview(view, {}, made_at=MADE_AT)
    for candidate, dice in view.choice.dice.items():
        words = candidate if "+" not in candidate else "the ensemble of 2d and 3d_fullres"
        assert re.search(rf"<th scope=\"row\">{words}</th><td[^>]*>{dice:.3f}", page)
    assert '<th scope="row">organ</th>' in page
    both = dataclasses.replace(
        view,
        choice=dataclasses.replace(
            view.choice, candidate="2d+3d_fullres", steps=("foreground", "1")
        ),
    )
    page = render_overview(both, {}, made_at=MADE_AT)
    assert "The best model is the ensemble of 2d and 3d_fullres, after which" in page
    assert "component of the foreground and organ is kept" in page


def test_text_from_the_store_cannot_become_markup(finished):
    evil = "</script><script>alert(1)</script><img src=x onerror=alert(2)>"
    view, _ = overview_of(finished)
    view = dataclasses.replace(
        view,
        facts={**view.facts, "Dataset": evil},
        classes={"1": evil},
        tracks=tuple(dataclasses.replace(row, phase=evil) for row in view.tracks),
    )
    page = render_overview(view, {TRACKS[0]: evil}, made_at=evil)
    assert "<script>alert" not in page
    assert "<img src=x" not in page
    assert page.count("<script") == 2


def publisher_of(federation, foreign=()):
    observers = open_tracks(federation.store, scores=True)
    for name in observers.keys() - set(foreign):
        observers[name].refresh()
    return observers, overview_publisher(
        observers, foreign, federation.store, clock=federation.clock
    )


def pages(federation):
    return [entry.key for entry in federation.store.list(layout.REPORTS)]


def test_only_the_newest_is_kept_beside_the_messages_of_the_study(tmp_path):
    federation = Federation(tmp_path, **OPTIONS).start()
    _, publisher = publisher_of(federation, foreign=TRACKS)
    publisher.publish()
    (first,) = pages(federation)
    publisher.publish()
    assert pages(federation) == [first]
    federation.run()
    publisher.publish()
    (last,) = pages(federation)
    assert last > first
    page = federation.store.objects[last].data.decode()
    for name in TRACKS:
        assert f'href="../../tracks/{name}/aggregator/reports/"' in page
        state = federation.observe(track=name).state
        assert not state.rejected
        assert last not in state.digests
    assert 'id="choice"' in page


def test_it_looks_only_where_nobody_else_of_its_process_does(tmp_path):
    federation = Federation(tmp_path, **OPTIONS).start()
    observers, publisher = publisher_of(federation, foreign=TRACKS[1:])
    federation.run()
    publisher.publish()
    assert observers[TRACKS[0]].state.finished is None
    assert observers[TRACKS[1]].state.finished is not None


def test_the_command_writes_it_with_a_page_for_each_track_that_it_links(tmp_path):
    store = open_store(str(tmp_path / "store"), must_exist=False)
    federation = Federation(tmp_path / "study", store=store, **OPTIONS).start()
    federation.run()
    output = tmp_path / "my report.html"
    done = CliRunner().invoke(cli, ["report", str(tmp_path / "store"), "-o", str(output)])
    assert done.exit_code == 0, done.output
    links = re.findall(r'<a href="([^#"]+)">', output.read_text())
    assert links == [f"my%20report-{name}.html" for name in TRACKS]
    for name in TRACKS:
        assert "Who contributed" in (tmp_path / f"my report-{name}.html").read_text()
    done = CliRunner().invoke(cli, ["report", str(tmp_path / "store"), "--json"])
    found = json.loads(done.output)
    assert found["overview"]["choice"]["candidate"]
    assert sorted(found["tracks"]) == TRACKS


@in_a_browser
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_browser_draws_a_line_for_each_track_and_it_is_accessible(finished, tmp_path, scheme):
    view, _ = overview_of(finished)
    page = render_overview(view, {name: f"{name}.html" for name in TRACKS}, made_at=MADE_AT)
    path = tmp_path / "overview.html"
    path.write_text(page)
    done = browse(path, tmp_path)
    assert "Uncaught" not in done.stderr
    assert re.search(r'data-drawn="\d+"', done.stdout)
    assert len(re.findall(r"<path d=\"M", done.stdout)) == len(TRACKS)
    assert re.search(r"Version 2: 2d-0 0\.\d+", done.stdout)
    found = accessibility(page, tmp_path, scheme)
    assert found["violations"] == []
    assert {"color-contrast", "link-name", "scrollable-region-focusable"} <= set(found["passes"])
