"""Options that several commands share."""

from __future__ import annotations

import pytest

from fedfs.nnunet.system import environment
from fedfs.nnunet.system.environment import HostSettings
from support.command_lines import understood


@pytest.mark.parametrize(
    ("cores", "given", "used"),
    [(2, "64", 2), (64, "16", 16), (64, None, 8), (4, None, 4)],
)
def test_there_are_never_more_processes_than_cores(monkeypatch, capsys, cores, given, used):
    monkeypatch.setattr(environment.os, "sched_getaffinity", lambda _: set(range(cores)))
    words = ["site", "run", "x", "--site", "north", *(["-np", given] if given else [])]
    assert understood(words)["num_processes"] == used
    said = capsys.readouterr().err
    assert ("more than this host has cores" in said) == (given is not None and int(given) > cores)
    assert HostSettings().num_processes == min(8, cores)
