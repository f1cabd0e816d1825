"""Traces: those that come with fedfs can be read, and what is wrong in one is named by its line."""

from __future__ import annotations

import pytest

from fedfs.errors import UserError
from fedfs.roles.toml_file import TomlFile
from fedfs.simulation.virtual.forecast import TRACES
from fedfs.simulation.virtual.trace import parse_trace

SITE = "[sites.north]\ncases = 10\nseconds_per_iteration = 2\n"


def parsed(tmp_path, text):
    path = tmp_path / "consortium.toml"
    path.write_text(text, encoding="utf-8")
    file = TomlFile.read(path)
    return parse_trace(file.table, file.at)


@pytest.mark.parametrize("path", sorted(TRACES.glob("*.toml")), ids=lambda path: path.stem)
def test_traces_that_come_with_fedfs_have_sites_and_a_source(path):
    file = TomlFile.read(path)
    trace = parse_trace(file.table, file.at)
    assert len(trace.sites) > 1
    assert trace.title
    assert trace.source


@pytest.mark.parametrize(
    ("text", "place", "complaint", "hint"),
    [
        ("rounds = 3\n" + SITE, "line 1", "names 'rounds'", "title, source, study"),
        ("title = 1\n" + SITE, "line 1", "title cannot be 1", "in quotes"),
        ("[study]\nrounds = 3\n", "", "has no sites", "[sites.north]"),
        ("[sites.North]\ncases = 1\n", "line 1", "'North' is not usable", "a-z"),
        ("[sites.north]\ncases = 10\n", "line 1", "has no seconds_per_iteration", ""),
        (SITE + "cases_ = 1\n", "line 4", "names 'cases_'", "it has"),
        (SITE.replace("10", "0.5"), "line 2", "cases cannot be 0.5", "a whole number"),
        (SITE + "up_mb_per_s = 0\n", "line 4", "cannot be 0", "above 0"),
        (SITE + 'compute_hours = ["8-9"]\n', "line 4", "['8-9']", "20:00-06:00"),
        (SITE + "compute_hours = 8\n", "line 4", "cannot be 8", "a list"),
        (SITE + 'courier_days = ["friday"]\n', "line 4", "['friday']", "mon, tue"),
        (SITE + "outages = [{hours = 3}]\n", "line 4", "{'hours': 3}", "after_hours"),
        (SITE + "minutes_between_drops = [9, 3]\n", "line 4", "[9, 3]", "least and the most"),
        ("[study]\nstart = 3\n" + SITE, "line 2", "start cannot be 3", "2026-01-05T08:00:00"),
        ("study = 3\n" + SITE, "line 1", "study is not a table", "[study]"),
    ],
)
def test_what_is_wrong_is_named_with_file_line_and_key(tmp_path, text, place, complaint, hint):
    with pytest.raises(UserError) as caught:
        parsed(tmp_path, text)
    assert "consortium.toml" in str(caught.value)
    assert place in str(caught.value)
    assert complaint in str(caught.value)
    assert hint in caught.value.hint
