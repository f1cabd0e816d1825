"""STORE can be left out where it is known, and what is meant stays plain."""

from __future__ import annotations

import pytest
from click.testing import CliRunner

from fedfs.cli import fedfs as cli
from support.command_lines import understood

KNOWN = "/mnt/known"


@pytest.fixture
def known(monkeypatch):
    monkeypatch.setenv("FEDFS_STORE", KNOWN)


@pytest.mark.parametrize(
    ("line", "store", "others"),
    [
        ("status", KNOWN, {}),
        ("status north", "north", {}),
        ("status --watch /mnt/x", "/mnt/x", {}),
        ("approve north south", KNOWN, {"sites": ("north", "south")}),
        ("approve --all", KNOWN, {"sites": (), "everybody": True}),
        ("approve /mnt/x north", "/mnt/x", {"sites": ("north",)}),
        ("approve ./north north", "./north", {"sites": ("north",)}),
        ("approve --json s3://bucket/x north", "s3://bucket/x", {"sites": ("north",)}),
        ("approve --s3-region eu/1 north", KNOWN, {"sites": ("north",), "region": "eu/1"}),
        ("remove north", KNOWN, {"sites": ("north",)}),
        ("bundle import x.bundle", KNOWN, {}),
        ("bundle import x.bundle y", "y", {}),
        ("sync /mnt/outpost --site a", KNOWN, {"outpost": "/mnt/outpost"}),
        ("sync /mnt/x /mnt/outpost --site a", "/mnt/x", {"outpost": "/mnt/outpost"}),
        ("key rotate --site north", KNOWN, {"name": "north"}),
    ],
)
def test_the_store_is_the_one_that_is_meant(known, line, store, others):
    found = understood(line.split())
    assert found["store"] == store
    assert {name: found[name] for name in others} == others


@pytest.mark.parametrize("line", ["approve x north", "approve north"])
def test_without_a_known_store_the_first_word_is_it(line):
    assert understood(line.split())["store"] == line.split()[1]


def test_the_site_of_a_host_gives_way_to_another_role(federation, known, monkeypatch, tmp_path):
    monkeypatch.setenv("FEDFS_SITE", "north")
    monkeypatch.setenv("FEDFS_STORE", str(tmp_path / "nowhere"))
    for line in (
        "doctor --aggregator",
        "key export-public --coordinator",
        "key rotate --aggregator",
    ):
        done = CliRunner().invoke(cli, line.split())
        assert "--site NAME" not in done.output, line
        both = CliRunner().invoke(cli, [*line.split(), "--site", "north"])
        assert "--site NAME" in both.output, line
