"""``fedfs report`` and ``fedfs status`` tell in words which model is best where."""

from __future__ import annotations

import csv

import pytest
from click.testing import CliRunner

from fedfs.cli import fedfs as cli
from fedfs.store import open_store
from support.federation import Federation
from support.scored_models import FOUR_SITES, evaluations


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """A finished study in a folder, of two sites that have scored two more models."""
    folder = tmp_path_factory.mktemp("study")
    place = open_store(str(folder / "store"), must_exist=False)
    targets = {"north": 1.0, "south": 2.0}
    federation = Federation(folder / "hosts", store=place, targets=targets, rounds=1).start()
    federation.run()
    scored = {
        site: {model: FOUR_SITES[site][model] for model in ("local", "personal")}
        for site in targets
    }
    for (site, _, _), message in evaluations(scored, version=1).items():
        federation.publisher(f"site-{site}", site).publish(message)
    return str(folder / "store")


def test_the_report_prints_what_it_shows(store, tmp_path):
    page, table = tmp_path / "r.html", tmp_path / "r.csv"
    done = CliRunner().invoke(cli, ["report", store, "-o", str(page), "--csv", str(table)])
    assert done.exit_code == 0, done.output
    text = "The personal model is better than the local model at all 2 sites."
    assert f"\n\n{text}" in done.output
    assert text in page.read_text()
    with (tmp_path / "r-models.csv").open(newline="") as file:
        pairs = {(row["site"], row["model"], row["minus"]) for row in csv.DictReader(file)}
    assert {("north", "personal", "local"), ("south", "personal", "local")} <= pairs


def test_the_status_says_which_model_is_best_where(store):
    done = CliRunner().invoke(cli, ["status", store])
    assert "best at north: personal model, Dice 0.875 (0.850 to 0.900, 6 cases)" in done.output
    assert "best at south: personal model" in done.output
    assert '"model": "personal"' in CliRunner().invoke(cli, ["status", store, "--json"]).output
