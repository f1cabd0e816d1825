"""Secure sums and scores with real nnU-Net and the real commands; the helper has a stick only.

Every command is a process of its own, and every party has a host of its own. The study has two
folds, so that the best configuration is chosen of totals.
"""

from __future__ import annotations

import json
import math
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from fedfs.exchange.read import open_study, open_tracks
from fedfs.protocol.state import StudyState
from fedfs.simulation import phantoms
from fedfs.simulation.cases import place_dataset, read_cases
from fedfs.simulation.hosts import LENIENT_POLICY, Host
from fedfs.store import open_store
from support.phantom_hosts import BUDGET, DATASET
from support.slow import slow

pytestmark = [slow, pytest.mark.nnunet, pytest.mark.xdist_group("secure-study")]

SITES = ("east", "north", "south")
TRACKS = ("2d-0", "2d-1")
N_CASES = {"east": 5, "north": 5, "south": 7}
N_VALIDATED = {"east": 1, "north": 1, "south": 2}
"""Of five folds, what the first two have each."""
UNIT = 2**14
"""Sums of Dice are published in whole numbers of 1 / UNIT."""
TIMEOUT_S = 420.0


class SecureStudy:
    """Three sites and a coordinator on one store, and a helper whose folder a stick reaches."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.n_trips = folder, 0
        self.store, self.outpost = str(folder / "store"), str(folder / "helper-store")
        images = folder / "images"
        phantoms.write_dataset(images, n_cases=N_CASES, seed=5)
        names = ("coordinator", "helper", *SITES)
        self.hosts = {name: Host(name, folder / name).make() for name in names}
        for site, cases in read_cases(images).items():
            self.hosts[site].write_policy(LENIENT_POLICY)
            place_dataset(images, self.hosts[site].raw / DATASET, cases)
        self.do(
            "coordinator", "init", self.store, "--name", "secure", "--rounds", "1",
            "--dataset-json", str(images / "dataset.json"), "--min-sites", "3", "--fold", "0,1",
            "--encryption", "age", "--secure-sums", "--secure-scores", *BUDGET,
        )  # fmt: skip

    def do(self, name: str, *command: str) -> str:
        """Run a command on a host, which may have to wait for others; return what it printed."""
        done = subprocess.run(
            [sys.executable, "-m", "fedfs", *command],
            env=self.hosts[name].environment(),
            capture_output=True,
            text=True,
            check=False,
            timeout=TIMEOUT_S,
        )
        assert done.returncode in (0, 10, 11), f"{name}$ {command}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    def carry(self, direction: str) -> None:
        """Carry what there is to the helper, or from it."""
        self.n_trips += 1
        file = str(self.folder / f"trip-{self.n_trips}-{direction}")
        there = ("coordinator", self.store), ("helper", self.outpost)
        (sender, source), (receiver, target) = there if direction == "for" else there[::-1]
        self.do(sender, "bundle", "export", source, f"--{direction}-helper", "-o", file)
        if Path(file).exists():
            self.do(receiver, "bundle", "import", file, target)

    def join(self) -> None:
        for site in SITES:
            self.do(site, "site", "join", self.store, "--site", site, "-d", DATASET)
        self.do("coordinator", "approve", self.store, "--all")
        self.carry("for")
        self.do("helper", "helper", "join", self.outpost)
        self.carry("from")
        self.do("coordinator", "helper", "approve", self.store)

    def turn(self) -> bool:
        """Everybody works once; return whether the study is finished."""
        for site in SITES:
            self.do(site, "site", "run", self.store, "--site", site, "-np", "1", "--once")
        self.do("coordinator", "aggregate", self.store, "--once")
        self.carry("for")
        self.do("helper", "helper", "run", self.outpost, "--once")
        self.carry("from")
        self.do("coordinator", "aggregate", self.store, "--once")
        return open_study(open_store(self.store)).state.choice is not None

    def states(self) -> list[StudyState]:
        """Return what anybody can read, of each track."""
        return [one.state for one in open_tracks(open_store(self.store)).values()]

    def cases_of(self, site: str) -> dict[str, list[dict[str, Any]]]:
        """Return what ``fedfs site scores`` says of the last version, by track."""
        out = self.do(site, "site", "scores", self.store, "--site", site, "--json")
        rows = [row for row in json.loads(out)["cases"] if row["variant"] == "full"]
        return {track: [row for row in rows if row["track"] == track] for track in TRACKS}


@pytest.fixture(scope="module")
def study(tmp_path_factory) -> SecureStudy:
    made = SecureStudy(tmp_path_factory.mktemp("secure"))
    made.join()
    for _ in range(4):
        if made.turn():
            return made
    raise AssertionError(made.do("coordinator", "status", made.store))


def in_units(cases: list[dict[str, Any]], label: str) -> tuple[int, int]:
    """Return a site's sum of Dice of a class in units, and the number of cases that it is over."""
    found = [case["classes"][label]["dice"] for case in cases if "dice" in case["classes"][label]]
    return round(math.fsum(found) * UNIT), len(found)


def mean_over_classes(cases: list[dict[str, Any]], labels: tuple[str, ...]) -> float:
    """Return what nnU-Net calls the foreground mean: over classes, of the means over cases."""
    of_class = [
        [case["classes"][label]["dice"] for case in cases if "dice" in case["classes"][label]]
        for label in labels
    ]
    means = [math.fsum(values) / len(values) for values in of_class if values]
    return math.fsum(means) / len(means)


def test_totals_are_what_the_sites_own_scores_add_up_to(study):
    cases = {site: study.cases_of(site) for site in SITES}
    for state in study.states():
        total = state.finished.totals["full"]
        own = {site: of[state.charter.track.name] for site, of in cases.items()}
        assert not total.fault
        assert total.sites == SITES
        assert {site: len(of) for site, of in own.items()} == N_VALIDATED
        assert total.n_cases == sum(N_VALIDATED.values())
        labels = tuple(sorted(total.classes))
        assert labels
        for label in labels:
            units, counts = zip(*(in_units(of, label) for of in own.values()), strict=True)
            found = total.classes[label]
            assert found.total == sum(units) / UNIT
            assert found.n == sum(counts)
        assert any(total.classes[label].total for label in labels)
        means = {site: mean_over_classes(of, labels) for site, of in own.items()}
        units = [round(mean * len(own[site]) * UNIT) for site, mean in means.items()]
        assert abs(total.mean.total * UNIT - sum(units)) <= len(SITES)  # each was rounded otherwise
        assert total.mean.n == total.n_cases


def test_the_choice_is_that_of_the_totals(study):
    states = study.states()
    totals, choice = [one.finished.totals["full"] for one in states], states[0].choice
    means = []
    for label in sorted({label for one in totals for label in one.classes}):
        parts = [one.classes[label] for one in totals if label in one.classes]
        means.append(sum(one.total for one in parts) / sum(one.n for one in parts))
    assert choice.dice == {"2d": pytest.approx(sum(means) / len(means))}
    assert (choice.candidate, choice.steps, choice.folds) == ("2d", (), ("0", "1"))
    assert not [entry.key for entry in open_store(study.store).list("") if "cross-v" in entry.key]


def test_nothing_on_the_store_tells_scores_of_a_site(study):
    for state in study.states():
        assert not state.rejected
        assert {variant for _, _, variant in state.evaluations} == {"pseudo", "full"}
        for message in state.evaluations.values():
            assert message.mean_dice is None
            assert not message.classes
        assert all(not update.metrics for update in state.updates.values())
        assert {update.site for update in state.rounds[1].updates} == set(SITES)
        pseudo = state.rounds[1].scores["pseudo"]
        assert (pseudo.sites, pseudo.fault) == (SITES, "")


def test_everybody_who_looks_sees_totals_and_choice(study):
    status = json.loads(study.do("coordinator", "status", study.store, "--json"))
    assert {one["phase"] for one in status["tracks"].values()} == {"finished"}
    choice = open_study(open_store(study.store)).state.choice
    assert choice.words in study.do("coordinator", "status", study.store)
    report = study.folder / "report.html"
    study.do("coordinator", "report", study.store, "-o", str(report))
    assert f"{choice.dice_after:.3f}" in report.read_text(encoding="utf-8")


def test_the_study_is_verified_and_its_models_exported(study):
    seen: Mapping[str, Any] = json.loads(study.do("coordinator", "verify", study.store, "--json"))
    assert seen["problems"] == 0
    texts = [found["text"] for found in seen["findings"]]
    assert sum("bit by bit the same" in text for text in texts) == len(TRACKS)
    assert "made again from the totals of all tracks: the same" in texts
    made = json.loads(
        study.do("coordinator", "export", study.store, "-o", str(study.folder / "model"), "--json")
    )
    folders = {Path(one["folder"]) for one in made["models"]}
    assert len(folders) == 1
    for fold in ("fold_0", "fold_1"):
        assert (folders.copy().pop() / fold / "checkpoint_final.pth").is_file()
    assert "-f 0 1" in " ".join(made["predict_commands"])


def test_the_helper_has_got_no_tensor(study):
    files = [path for path in Path(study.outpost).rglob("*.safetensors*") if path.is_file()]
    assert [path.name.partition("-")[0] for path in files] == ["sum"] * len(TRACKS)
