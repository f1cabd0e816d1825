"""The log as JSON: one object on each line, whatever happens."""

from __future__ import annotations

import datetime
import io
import json
import logging
import os
import subprocess
import sys

import pytest

from fedfs.roles.log_format import JsonFormatter, set_log_fields
from fedfs.store import open_store
from support.federation import Federation


@pytest.fixture
def lines():
    """A function that returns the objects logged so far."""
    set_log_fields(study="", site="", track="")  # as in a new process
    stream, root = io.StringIO(), logging.getLogger("fedfs")
    handler, level = logging.StreamHandler(stream), root.level
    handler.setFormatter(JsonFormatter())
    root.addHandler(handler)
    root.setLevel(logging.INFO)
    yield lambda: [json.loads(line) for line in stream.getvalue().splitlines()]
    root.removeHandler(handler)
    root.setLevel(level)
    set_log_fields(study="", site="", track="")


def test_a_record_is_one_line_of_ascii_with_time_and_traceback(lines):
    set_log_fields(study="organ-1", site="north")
    before = datetime.datetime.now(datetime.UTC)
    try:
        int("x")
    except ValueError:
        logging.getLogger("fedfs.test").exception("two\nlines \x1b[2J é")
    (line,) = lines()
    assert datetime.datetime.fromisoformat(line.pop("time")) >= before
    assert "ValueError: invalid literal" in line.pop("traceback")
    assert line == {
        "level": "error", "logger": "fedfs.test", "study": "organ-1", "site": "north",
        "event": "two\nlines \x1b[2J é",
    }  # fmt: skip


def test_lines_about_a_track_name_it(tmp_path, lines):
    federation = Federation(tmp_path, fold="0,1", rounds=1).start()
    federation.run()
    found = {(line["event"], line.get("track")) for line in lines()}
    text = "published version 1 from 3 updates (east, north, south)"
    assert {track for event, track in found if event == text} == set(federation.tracks)
    assert {track for event, track in found if event.startswith("chose ")} == {None}


def run(*words, home):
    """Exit code, objects on standard error, text on standard output."""
    done = subprocess.run(
        [sys.executable, "-m", "fedfs", *words, "--log-format", "json"],
        env={**os.environ, "FEDFS_HOME": str(home)}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    return done.returncode, [json.loads(line) for line in done.stderr.splitlines()], done.stdout


def test_processes_say_everything_in_json(tmp_path):
    place, outpost = str(tmp_path / "store"), str(tmp_path / "outpost")
    store = open_store(place, must_exist=False)
    federation = Federation(tmp_path / "hosts", store=store).start()
    study, home = federation.charter.study, federation.home("coordinator")

    code, found, out = run("sync", place, outpost, "--site", "north", home=home)
    assert (code, out) == (0, "")
    assert {line["study"] for line in found} == {study}
    assert found[0]["event"].startswith("copied ")

    code, (last,), out = run("aggregate", place, "--once", home=home)
    assert (code, out) == (10, "")
    assert last["event"].startswith("waiting for the fingerprint")
    assert (last["study"], last["track"]) == (study, federation.tracks[0])

    code, (last,), _ = run("aggregate", str(tmp_path / "nowhere"), "--once", home=home)
    assert (code, last["level"]) == (4, "error")
    assert "nowhere" in last["event"]
    assert last["hint"]
