"""``fedfs simulate --trace FILE --forecast``: what it prints, and what it refuses."""

from __future__ import annotations

import json

import pytest
from click.testing import CliRunner

from fedfs.cli import fedfs
from fedfs.cli.options import read_number

TRACE = """
title = "Two sites"
[study]
rounds = 2
local_iterations = 100
[sites.north]
cases = 30
seconds_per_iteration = 36
[sites.south]
cases = 10
seconds_per_iteration = 3.6
"""


@pytest.fixture
def trace(tmp_path):
    path = tmp_path / "consortium.toml"
    path.write_text(TRACE, encoding="utf-8")
    return str(path)


def simulate(*words: str):
    return CliRunner().invoke(fedfs, ["simulate", *words])


def test_each_policy_is_forecast_with_each_encoding(trace):
    said = simulate(
        "--trace", trace, "--forecast", "--rounds", "1", "--policy", "all",
        "--policy", "quorum,sites=1,grace=adaptive", "--encoding", "fp32",
        "--encoding", "int8/int8", "--json",
    )  # fmt: skip
    found = json.loads(said.output)
    assert [one["rules"] for one in found["forecasts"]] == [
        "all fp32",
        "all int8/int8",
        "quorum,sites=1,grace=adaptive fp32",
        "quorum,sites=1,grace=adaptive int8/int8",
    ]
    assert {one["rounds"] for one in found["forecasts"]} == {1}


def test_tables_name_the_sites_and_who_holds_up_the_others(trace):
    said = simulate("--trace", trace, "--forecast").output
    assert "Two sites" in said
    lines = {line.split()[0]: line for line in reversed(said.splitlines()) if line}
    assert "75 %" in lines["north"]
    assert "0.0 h" in lines["south"]
    assert "2026-01-05T" in lines["all"]


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["--forecast"], "--forecast is of a --trace"),
        (["--trace", "eight-hospitals"], "a --trace is for --forecast"),
        (["--trace", "nine-hospitals", "--forecast"], "There is no trace nine-hospitals"),
        (["--trace", "slow-and-large", "--forecast", "--policy", "quorum,sites=x"], "NAME=NUMBER"),
        (["--trace", "slow-and-large", "--forecast", "--policy", "some"], "'some' is unknown"),
        ([], "Missing argument 'FOLDER'"),
        (["out"], "Missing option '--data'"),
    ],
)
def test_what_cannot_be_forecast_is_refused(words, complaint):
    said = simulate(*words)
    assert said.exit_code != 0
    assert complaint in said.output + str(said.exception)


def test_adaptive_grace_is_a_factor():
    assert read_number("grace=adaptive") == ("adaptive_grace", 1.25)
    assert read_number("sites=3") == ("sites", 3.0)
