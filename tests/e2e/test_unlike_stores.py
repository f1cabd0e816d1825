"""A study whose sites have a bucket, an SFTP server and a share: the same as on one store."""

import numpy as np
import pytest

from fedfs.exchange.read import open_study
from fedfs.roles.courier.sync import Sync
from fedfs.roles.site.join import join_study
from fedfs.store import open_store
from support.federation import Federation
from support.slow import slow

pytestmark = [slow, pytest.mark.xdist_group("ceph")]
ROUNDS = 3


def quiet(progress):
    pass


@pytest.fixture
def hub(ceph, monkeypatch):
    for name, value in ceph.environment().items():
        monkeypatch.setenv(name, value)
    return open_store(f"s3://{ceph.make_bucket()}/studies")


@pytest.fixture
def outposts(openssh, samba, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(openssh.home))
    monkeypatch.delenv("SSH_AUTH_SOCK", raising=False)
    monkeypatch.setenv("FEDFS_STORE_PASSWORD", samba.password)
    urls = {"north": openssh.url(tmp_path / "served"), "south": samba.url("organ")}
    return {site: open_store(url, must_exist=False) for site, url in urls.items()}


def test_unlike_stores_make_the_same_study(hub, outposts, tmp_path):
    alike = Federation(tmp_path / "alike", rounds=ROUNDS).start()
    alike.run()
    study = Federation(tmp_path / "unlike", store=hub, rounds=ROUNDS)
    syncs = {site: Sync(hub, place, [site], on_progress=quiet) for site, place in outposts.items()}
    study.join("east")
    for site, place in outposts.items():
        syncs[site].copy()
        publisher = study.publisher(f"site-{site}", site, place)
        observer = open_study(place, site=site)
        join_study(observer, publisher, site, study.learners[site], difference=[])
        syncs[site].copy()
    study.approve()
    for site, place in outposts.items():
        syncs[site].copy()
        study.processes[site] = study.make_site(site, place)
    for _ in range(20 * ROUNDS):
        for name in study.names:
            study.run_process(name)
        outcomes = [sync.step() for sync in syncs.values()]
        if all(outcome.finished for outcome in outcomes):
            break
    assert study.observe().state.finished is not None
    assert {(site, ROUNDS, "full") for site in study.targets} <= set(
        study.observe().state.evaluations
    )
    for version in range(ROUNDS + 1):
        theirs = alike.weights(version)
        for name, values in study.weights(version).items():
            np.testing.assert_array_equal(values, theirs[name])
    for site, place in outposts.items():
        others = set(study.targets) - {site}
        keys = [entry.key for entry in place.list("")]
        assert not [key for key in keys for other in others if f"sites/{other}/" in key]
