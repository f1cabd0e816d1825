"""A site of a real study as a job of a real SLURM, by the script of ``deploy/slurm``."""

from __future__ import annotations

import sys

import pytest

from fedfs.simulation.jobs import SUCCESS_CODES, Turn
from support.phantom_hosts import begin, check_study
from support.servers import wait_for
from support.site_job import SiteJob
from support.slow import slow

pytestmark = [pytest.mark.nnunet, pytest.mark.xdist_group("slurm"), slow]


def test_a_site_works_through_a_study_from_the_queue(slurm, tmp_path, hosts, phantom_images):
    """Its store is away once; the aggregator works whenever the job is back in the queue."""
    site = "east"
    store = tmp_path / "store"
    begin(hosts, str(store), phantom_images, site, rounds=1)
    variables = {**hosts[site].environment(), "FEDFS_STORE": str(store)}
    own = {k: v for k, v in variables.items() if k.startswith(("nnUNet_", "FEDFS_"))}
    text = "".join(f"{name}={value}\n" for name, value in own.items())
    (tmp_path / "job").mkdir()
    program = f'exec {sys.executable} -m fedfs "$@" --device cpu'
    job = SiteJob(slurm, tmp_path / "job", program, text)
    job.submit(site, "--time=60")
    try:
        wait_for(job.is_queued, at_most_s=300)
        store.rename(tmp_path / "away")
        job.begin_now()
        wait_for(lambda: job.is_queued_again(2))
        (tmp_path / "away").rename(store)
        for turn in range(3, 20):
            assert Turn(hosts["coordinator"], ("aggregate", str(store)))() in SUCCESS_CODES
            job.begin_now()
            wait_for(lambda turn=turn: job.has_ended() or job.is_queued_again(turn), at_most_s=300)
            if job.has_ended():
                break
    finally:
        job.cancel()
    assert "nothing is left to do" in job.log()
    check_study(str(store), rounds=1, sites=[site])
