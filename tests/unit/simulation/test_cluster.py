"""Jobs as processes of this machine."""

from __future__ import annotations

import os
import sys

import pytest
import submitit

from fedfs.errors import SetupError, UserError
from fedfs.simulation import cluster
from fedfs.simulation.cluster import Cluster
from fedfs.simulation.experiment import ExperimentOptions
from fedfs.simulation.hosts import Host
from support.jobs import Waits, has_begun, running, submitter
from support.servers import wait_for


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """Nothing here is slow, nor a file system over a network."""
    monkeypatch.setattr(cluster, "_LOOK_EVERY_S", 0.05)
    monkeypatch.setattr(submitit.Job, "_results_timeout_s", 0.5)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(sys.path))


@pytest.fixture
def hosts(tmp_path):
    return [Host(name, tmp_path / name).make() for name in ("east", "north", "south")]


def test_on_this_machine_two_jobs_of_a_host_never_work_at_the_same_time(hosts, monkeypatch):
    north = hosts[1]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,1")
    process = submitter("local", north)
    wait_for(lambda: has_begun(north))
    process.kill()  # its job goes on
    process.wait()
    with running(Cluster("local", {}), [Waits(north)]) as future:
        wait_for(lambda: len(list((north.folder / "jobs").glob("*_log.out"))) == 2)
        assert has_begun(north, times=1)
        (north.folder / "go").write_text("0")
        assert future.result(60) == [0]
    said = north.log_path.read_text().splitlines()
    assert said == ["begins, GPUs 3,1", "ends"] * 2


def test_options_that_do_not_go_together_are_refused(tmp_path):
    with pytest.raises(UserError, match="--slurm is for --cluster slurm"):
        ExperimentOptions(tmp_path, tmp_path, cluster="local", slurm=["partition=gpu"])
    with pytest.raises(UserError, match="SLURM gives its jobs their GPUs"):
        ExperimentOptions(tmp_path, tmp_path, cluster="slurm", gpus=["0"])


def test_without_slurm_or_the_library_it_says_what_to_do(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(SetupError, match="no SLURM: there is no command sbatch") as caught:
        Cluster("slurm", {})
    assert "--cluster local" in caught.value.hint
    monkeypatch.setitem(sys.modules, "submitit", None)
    with pytest.raises(SetupError, match="--cluster needs the package submitit") as caught:
        Cluster("local", {})
    assert caught.value.hint == "run: pip install 'fedfs[cluster]'"


@pytest.mark.parametrize(
    ("states", "how"),
    [
        (["PENDING", "FAILED"], ""),
        (["RUNNING", "COMPLETING", "PREEMPTED"], "was preempted"),
        (["PENDING", "OUT_OF_MEMORY"], "ended as OUT_OF_MEMORY"),
    ],
)
def test_slurms_accounting_may_come_late(monkeypatch, states, how):
    """The job has ended; its state is asked for until the accounting knows."""
    coming = iter(states)
    monkeypatch.setattr(cluster, "_state", lambda _: next(coming))
    assert cluster._end_by_slurm(None) == how
