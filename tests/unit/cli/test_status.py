"""``fedfs status --watch``: follows a study to its end."""

from __future__ import annotations

import dataclasses
import os
import pty
import subprocess
import sys
import threading

import pytest
from click.testing import CliRunner

from fedfs.cli import fedfs as cli
from fedfs.roles.reader.status import summarize
from fedfs.store import open_store
from support.federation import Federation


@pytest.fixture
def study(tmp_path):
    store = open_store(str(tmp_path / "store"), must_exist=False)
    return Federation(tmp_path / "hosts", store=store).start(), str(tmp_path / "store")


def watch(store: str, *more: str, **options) -> subprocess.Popen:
    command = [sys.executable, "-m", "fedfs", "status", store, "--watch", "--interval", "0.1"]
    command += more
    return subprocess.Popen(command, text=True, **options)


def test_without_a_terminal_each_change_is_a_line(study, tmp_path):
    federation, store = study
    metrics = tmp_path / "study.prom"
    process = watch(store, "--prometheus", str(metrics), stdout=subprocess.PIPE)
    first = process.stdout.readline()
    assert "planning, version -1 of 3, waits for east, north, south" in first
    federation.run()
    out, _ = process.communicate(timeout=60)
    lines = out.splitlines()
    assert process.returncode == 0
    assert "finished, version 3 of 3, mean Dice " in lines[-1]
    assert "(full validation of version 3)" in lines[-1]
    assert "waits" not in lines[-1]
    texts = [line.split("  ", 1)[1] for line in lines]
    assert len(texts) == len(set(texts))
    labels = f'study="{federation.charter.study}",track="{federation.tracks[0]}"'
    assert f"fedfs_finished{{{labels}}} 1.0" in metrics.read_text()


def test_it_goes_on_until_the_best_of_several_tracks_is_chosen(tmp_path):
    store = open_store(str(tmp_path / "store"), must_exist=False)
    options = {"configuration": "2d,3d_fullres", "rounds": 1}
    federation = Federation(tmp_path / "hosts", store=store, **options).start()
    process = watch(str(tmp_path / "store"), stdout=subprocess.PIPE)
    process.stdout.readline()
    federation.run()
    out, _ = process.communicate(timeout=60)
    assert "best: " in out.splitlines()[-1]


def test_in_a_terminal_there_is_one_page(study):
    federation, store = study
    parent, child = pty.openpty()
    environment = {**os.environ, "COLUMNS": "160", "LINES": "50", "TERM": "xterm"}
    process = watch(store, stdout=child, stderr=child, env=environment)
    os.close(child)
    federation.run()
    chunks = []

    def read():
        try:
            while piece := os.read(parent, 65536):
                chunks.append(piece)
        except OSError:
            pass  # the terminal is gone

    reader = threading.Thread(target=read)
    reader.start()
    assert process.wait(timeout=60) == 0
    reader.join(timeout=10)
    page = b"".join(chunks).decode()
    assert "waiting for" in page
    assert "nobody" in page
    assert "north" in page


def test_the_key_to_compare_is_shown_before_it_is_approved(tmp_path):
    store = open_store(str(tmp_path / "store"), must_exist=False)
    for options in ({}, {"fold": "0,1"}):
        folder = tmp_path / f"hosts{len(options)}"
        if options:
            store = open_store(str(tmp_path / "store2"), must_exist=False)
        federation = Federation(folder, store=store, **options)
        federation.join()
        done = CliRunner().invoke(cli, ["status", store.url])
        assert done.exit_code == 0, done.output
        for site in summarize(federation.observe(track=federation.tracks[0]).state).sites:
            assert f"{site.site} asks to join, with the key {site.key_fingerprint}" in done.output
        assert "waits for approval" not in done.output or not options


def test_scores_are_called_what_they_are(study):
    federation, store = study
    while federation.observe().state.newest < 1:
        for name in ("aggregator", *federation.targets):
            federation.step(name)
    during = CliRunner().invoke(cli, ["status", store]).output
    assert "(pseudo Dice of version " in during
    federation.run()
    state = federation.observe().state
    full = state.evaluations["north", 3, "full"].mean_dice
    monkey = dataclasses.replace(state.evaluations["north", 3, "full"], mean_dice=full / 2)
    state.evaluations["north", 3, "full"] = monkey
    view = summarize(state)
    (north,) = (site for site in view.sites if site.site == "north")
    assert north.validated_dice == full / 2 != north.mean_dice
    after = CliRunner().invoke(cli, ["status", store]).output
    assert "(full validation of version 3)" in after
    assert "full Dice" in after
    assert "pseudo" not in after


def test_the_folder_of_a_simulation_is_shown_as_its_studies(tmp_path):
    folder = tmp_path / "out"
    for arm in ("asym", "ffe"):
        place = folder / f"{arm}-2d-fold0-seed1" / "study" / "store"
        store = open_store(str(place), must_exist=False)
        Federation(tmp_path / arm, store=store).start()
    (folder / "options.json").write_text("{}")
    lines = CliRunner().invoke(cli, ["status", str(folder)]).output.splitlines()
    assert lines[0] == str(folder / "asym-2d-fold0-seed1" / "study" / "store")
    assert lines[1].startswith("  planning, version -1 of 3, waits for east")
    assert len(lines) == 4
