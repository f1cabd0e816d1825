"""What the doctor says of a host, and that it leaves nothing behind."""

from __future__ import annotations

import dataclasses
import json
import time
from pathlib import Path

import pytest

from fedfs.errors import StorePermissionError, StudyError
from fedfs.nnunet.system.environment import NnUNetPaths
from fedfs.roles.doctor import examine as examination
from fedfs.roles.doctor import host_checks
from fedfs.roles.doctor.examine import examine
from fedfs.roles.doctor.mount_checks import check_mount
from fedfs.roles.doctor.store_checks import has_atomic_create, require_atomic_create
from fedfs.roles.reader.finding import NOTE, OK, PROBLEM, Finding
from fedfs.store import FolderStore, StorePlace
from fedfs.store.memory import MemoryStore
from support.federation import DATASET_JSON


class Careless(MemoryStore):
    """A server that ignores ``If-None-Match``."""

    def create(self, key, data):
        self.objects.pop(key, None)
        return super().create(key, data)


class Strict(MemoryStore):
    """A server under a policy: a role writes and lists what begins with ``own``."""

    own, readable = "aggregator/", ("",)

    def create(self, key, data):
        if not key.startswith(self.own):
            raise StorePermissionError("denied")
        return super().create(key, data)

    def list(self, prefix, *, after=""):
        if not prefix.startswith(self.readable):
            raise StorePermissionError("denied")
        return super().list(prefix, after=after)


@pytest.fixture
def checks(federation, monkeypatch):
    """Return a function that examines a host and returns what -> check."""
    monkeypatch.setattr(host_checks, "check_nnunet", lambda: ())

    def checks(site=None, kind=MemoryStore, clock=None):
        federation.store.__class__ = kind
        if clock is not None:
            federation.store._clock = clock
        monkeypatch.setattr(examination, "open_store", lambda _: federation.store)
        before = dict(federation.store.objects)
        home = federation.home(site or "coordinator")
        found = {check.subject: check for check in examine(StorePlace("x"), home, site=site)}
        assert federation.store.objects == before
        return found

    return checks


def levels(found):
    return {what: check.level for what, check in found.items()}


def test_an_aggregator_that_can_do_all_is_told_so(checks, federation):
    found = checks(clock=time.time)
    assert levels(found) == {
        "store": OK, "key": OK, "write and read": OK, "atomic create": OK, "listing": OK,
        "clock": OK, "delete": OK, "tracks": OK, "limits": NOTE, "speed": OK, "strategy": OK,
        "disk": OK,
    }  # fmt: skip
    assert "write federation/" in found["limits"].text
    assert "a policy for each role" in found["limits"].advice


def test_a_policy_is_seen_to_hold(checks):
    assert checks(kind=Strict)["limits"].level == OK


def test_a_clock_that_is_wrong_and_a_server_that_lets_all_win_are_problems(checks):
    found = checks(kind=Careless, clock=lambda: time.time() + 4000)
    assert (found["clock"].level, found["atomic create"].level) == (PROBLEM, PROBLEM)
    assert "+4000" in found["clock"].text
    assert "run one aggregator" in found["atomic create"].advice


def test_a_study_is_not_begun_where_two_aggregators_could_both_win():
    assert has_atomic_create(MemoryStore(), "federation/")[0]
    with pytest.raises(StudyError, match="8 of 8 writers"):
        require_atomic_create(Careless())


def test_a_site_without_its_key_or_approval_is_a_problem(checks, federation, tmp_path):
    assert checks("east")["key"].level == OK
    federation.keyring("east").folder.rename(tmp_path / "lost")
    assert checks("east")["key"].level == PROBLEM
    federation.publisher("site-late", "late")
    found = checks("late")
    assert "not approved" in found["key"].text
    assert found["dataset"].level == PROBLEM


def test_cases_that_were_added_in_the_middle_of_a_study_are_told(federation, tmp_path, monkeypatch):
    paths = NnUNetPaths(*(tmp_path / name for name in ("raw", "preprocessed", "results")))
    for name, folder in paths.variables().items():
        Path(folder).mkdir()
        monkeypatch.setenv(name, folder)
    charter = federation.observe().state.charter
    dataset = paths.raw / "Dataset001_Organ"
    for case in ("a", "b", "c"):
        for file in (f"imagesTr/{case}_0000.nii.gz", f"labelsTr/{case}.nii.gz"):
            (dataset / file).parent.mkdir(parents=True, exist_ok=True)
            (dataset / file).touch()
    (dataset / "dataset.json").write_text(json.dumps({**DATASET_JSON, "numTraining": 3}))
    remembered = {"dataset": dataset.name}
    for announced in (None, 3):
        assert host_checks.check_dataset(remembered, charter, announced).level == OK
    found = host_checks.check_dataset(remembered, charter, 2)
    assert found.level == NOTE
    assert "holds 3 cases; the study knows 2 of them" in found.text


def test_a_strategy_that_is_not_installed_is_a_problem_of_the_aggregator(checks, monkeypatch):
    monkeypatch.setattr("fedfs.aggregation.strategies.STRATEGIES", {})
    found = checks()["strategy"]
    assert found.level == PROBLEM
    assert "install the package that has the strategy" in found.advice
    assert "strategy" not in checks("east")


def test_a_trainer_that_is_not_nnunets_own_has_to_be_allowed(checks, federation, monkeypatch):
    assert checks("east")["trainer"] == Finding(
        "trainer", OK, "nnUNetTrainer is one of nnU-Net's own"
    )
    monkeypatch.setattr("fedfs.nnunet.allowed.classes._own", lambda *_: None)
    found = checks("east")["trainer"]
    assert found.level == NOTE
    assert "give --allow-trainer nnUNetTrainer" in found.advice


def test_a_store_that_is_not_there_ends_the_examination(tmp_path, monkeypatch):
    monkeypatch.setattr(host_checks, "check_nnunet", lambda: ())
    place = StorePlace(str(tmp_path / "nowhere"))
    (check,) = examine(place, tmp_path, site=None)
    assert check.level == PROBLEM
    assert "not there" in check.text
    assert dataclasses.asdict(check)["advice"]


def test_a_host_is_examined_before_it_joins_and_nothing_stays_of_a_mistyped_name(
    federation, tmp_path, monkeypatch
):
    monkeypatch.setattr(host_checks, "check_nnunet", lambda: ())
    root = tmp_path / "share"
    store = FolderStore(root, must_exist=False)
    for key, found in federation.store.objects.items():
        store.create(key, found.data)
    folders = sorted(path for path in root.glob("**/sites/*"))
    found = {
        check.subject: check for check in examine(StorePlace(str(root)), tmp_path, site="nort")
    }
    assert (found["key"].level, found["write and read"].level) == (NOTE, OK)
    assert "approved are: east, north, south" in found["key"].text
    assert "check the name" in found["key"].advice
    assert "dataset" not in found
    assert PROBLEM not in {check.level for what, check in found.items() if what != "clock"}
    assert sorted(path for path in root.glob("**/sites/*")) == folders


MOUNTS = """\
22 1 8:1 / / rw - ext4 /dev/sda1 rw
30 22 0:40 / /mnt/nfs rw,relatime shared:1 - nfs4 server:/share rw,vers=4.1
31 22 0:41 / /mnt/with\\040space rw - cifs //server/share rw
32 22 0:42 / /mnt/ssh rw - fuse.sshfs user@server:/ rw
33 22 0:43 / /mnt/cloud rw - fuse.rclone remote: rw
34 22 0:44 / /mnt/other rw - fuse.unheard x rw
35 22 0:45 / /mnt/memory rw - tmpfs x rw
"""


@pytest.mark.parametrize(
    ("path", "level", "text"),
    [
        ("/data/study", OK, "ext4, a disk of this host"),
        ("/mnt/nfs/study", OK, "NFS"),
        ("/mnt/with space", OK, "SMB"),
        ("/mnt/ssh/study", NOTE, "seen late"),
        ("/mnt/cloud", NOTE, "no links"),
        ("/mnt/other", NOTE, "fuse.unheard"),
        ("/mnt/memory", NOTE, "gone with the next start"),
    ],
)
def test_the_kind_of_mount_is_named_with_what_follows(tmp_path, path, level, text):
    (tmp_path / "mountinfo").write_text(MOUNTS)
    (found,) = check_mount(Path(path), tmp_path / "mountinfo")
    assert found.level == level
    assert text in found.text
    assert bool(found.advice) is (level == NOTE)


def test_nothing_is_said_of_a_mount_that_is_not_known(tmp_path):
    assert list(check_mount(None)) == []
    assert list(check_mount(tmp_path, tmp_path / "nowhere")) == []
