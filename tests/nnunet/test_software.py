"""A host whose software is not the charter's: refused, told, or allowed by its operator."""

from __future__ import annotations

import time

import pytest
from synthetic import DATASET, Reports, dataset_json, write_dataset

from fedfs.errors import SetupError
from fedfs.nnunet.allowed.classes import versions
from fedfs.nnunet.system.environment import HostSettings
from fedfs.protocol import software
from fedfs.roles.coordinator.begin import init_study
from fedfs.roles.coordinator.options import StudyOptions
from fedfs.roles.doctor.examine import examine
from fedfs.roles.reader.finding import NOTE, OK, PROBLEM
from fedfs.roles.site.config import JoinConfig, SiteConfig
from fedfs.roles.site.join import join
from fedfs.roles.site.run import run_site
from fedfs.store import StorePlace, open_store

HERE = {"nnunetv2": "2.8.1", "torch": "2.14.1+cu130"}


@pytest.mark.parametrize(
    ("study", "matters"),
    [
        ({}, []),
        ({"nnunetv2": "2.8.1", "torch": "2.14.1+cpu", "a-strategy": "1.0"}, []),
        ({"nnunetv2": "2.8.0"}, [False]),
        ({"torch": "2.6.0", "nnunetv2": "2.7.0"}, [True, False]),
        ({"nnunetv2": "3.8.1"}, [True]),
        ({"nnunetv2": "2.80.1"}, [True]),
    ],
)
def test_only_another_minor_version_of_nnunet_matters(study, matters):
    assert [found.matters for found in software.differences(study, HERE)] == matters


def test_what_differs_is_logged_and_what_matters_refused_unless_allowed(caplog):
    study = {"nnunetv2": "2.7.0", "torch": "2.6.0"}
    with pytest.raises(SetupError, match=r"nnunetv2 is 2\.8\.1 here, 2\.7\.0 in the") as caught:
        software.check(study, HERE)
    assert "nnunetv2==2.7.*" in caught.value.hint
    assert "--allow-versions" in caught.value.hint
    software.check(study, HERE, allowed=True)
    assert [record.message for record in caplog.records] == [
        "nnunetv2 is 2.8.1 here, 2.7.0 in the charter",
        "torch is 2.14.1+cu130 here, 2.6.0 in the charter",
    ]


def test_join_and_run_refuse_and_the_doctor_says_so(tmp_path, paths, monkeypatch):
    write_dataset(paths.raw, 3, shape=(4, 8, 8))
    for name, value in paths.variables().items():
        monkeypatch.setenv(name, value)
    options = StudyOptions("x", {**dataset_json(3)}, configuration="2d", min_sites=1)
    stores = {"same": versions(), "other": {**versions(), "nnunetv2": "1.9.0", "torch": "2.0.0"}}
    for name, said in stores.items():
        place = open_store(str(tmp_path / name), must_exist=False)
        init_study(place, tmp_path, options, clock=time.time, versions=said)

    def levels(store, site="north"):
        place = StorePlace(str(tmp_path / store))
        return [c.level for c in examine(place, tmp_path, site=site) if c.subject == "versions"]

    store, listener = str(tmp_path / "other"), Reports()
    allowing = HostSettings(num_processes=1, allow_versions=True)
    with pytest.raises(SetupError, match=r"nnunetv2 is .* here, 1\.9\.0 in the charter"):
        join(JoinConfig(store, "north", DATASET, tmp_path), listener)
    assert not list((tmp_path / "other" / "sites").glob("*"))
    join(JoinConfig(store, "north", DATASET, tmp_path, host=allowing), listener)
    run = {"store": store, "site": "north", "home": tmp_path, "once": True}
    with pytest.raises(SetupError, match="sites would not train"):
        run_site(SiteConfig(**run), listener)
    assert "to approve north" in run_site(SiteConfig(**run, host=allowing), listener).text
    assert levels("other") == [PROBLEM, NOTE]
    assert levels("other", None) == [NOTE, NOTE]
    assert levels("same") == [OK]
