"""Jobs on a real SLURM of one node."""

from __future__ import annotations

import os
import signal
import sys

import pytest
import submitit

from fedfs.errors import FedfsError
from fedfs.simulation import cluster
from fedfs.simulation.cluster import Cluster
from fedfs.simulation.hosts import Host
from fedfs.simulation.jobs import Turn
from fedfs.simulation.slurm_parameters import parse_parameters
from support.jobs import Waits, has_begun, running, submitter
from support.servers import wait_for
from support.slow import slow

pytestmark = [pytest.mark.xdist_group("slurm"), pytest.mark.usefixtures("slurm")]


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """Look often: nothing here is slow, nor a file system over a network."""
    monkeypatch.setattr(cluster, "_LOOK_EVERY_S", 0.2)
    monkeypatch.setattr(submitit.Job, "_results_timeout_s", 1)
    monkeypatch.setattr(submitit.SlurmJob, "watcher", None)  # set by each Cluster
    monkeypatch.setattr(cluster, "_ASK_EVERY_S", 1)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(sys.path))


@pytest.fixture
def hosts(tmp_path):
    return [Host(name, tmp_path / name).make() for name in ("east", "north", "south")]


def jobs_of(host):
    """Return the numbers of a host's jobs so far."""
    logs = (host.folder / "jobs").glob("*_log.out")
    return sorted((path.name.partition("_")[0] for path in logs), key=int)


def submitted(host):
    """Return the number of the job that is under way."""
    (path,) = (host.folder / "jobs").glob("*_submitted.pkl")
    return path.name.partition("_")[0]


def test_a_round_is_one_job_for_each_host_with_the_parameters_that_were_asked_for(slurm, hosts):
    asked = ["partition=main", "gres=gpu:1", "timeout_min=90", "mem_gb=24", "cpus_per_task=4"]
    jobs = Cluster("slurm", parse_parameters(asked))
    assert jobs.n_cpus == 4
    two = hosts[:2]
    for host, code in zip(two, ("0", "10"), strict=True):
        (host.folder / "go").write_text(code)
    assert jobs.run([Waits(host) for host in two]) == [0, 10]
    for host in two:
        (job,) = jobs_of(host)
        facts = slurm.facts(job)
        wanted = {
            "JobName": f"fedfs-{host.name}", "Partition": "main", "TimeLimit": "01:30:00",
            "Requeue": "0", "TresPerNode": "gres:gpu:1", "NumCPUs": "4", "MinMemoryNode": "24G",
        }  # fmt: skip
        assert {name: facts[name] for name in wanted} == wanted
        assert not list((host.folder / "jobs").glob("*.pkl"))


def test_a_refused_job_says_what_slurm_says(hosts):
    jobs = Cluster("slurm", parse_parameters(["partition=nowhere"]))
    with pytest.raises(FedfsError, match="SLURM refuses a job of east: .*invalid partition"):
        jobs.run([Waits(hosts[0])])


def test_the_jobs_of_a_killed_process_are_taken_over(hosts):
    north = hosts[1]
    process = submitter("slurm", north)
    wait_for(lambda: has_begun(north))
    process.kill()
    process.wait()
    with running(Cluster("slurm", {}), [Waits(north)]) as future:
        (north.folder / "go").write_text("10")
        assert future.result(60) == [10]
    assert len(jobs_of(north)) == 1
    assert has_begun(north, times=1)


@slow
def test_the_jobs_of_an_interrupted_process_are_cancelled(slurm, hosts):
    north = hosts[1]
    process = submitter("slurm", north)
    wait_for(lambda: has_begun(north))
    process.send_signal(signal.SIGINT)
    assert process.wait(60) != 0
    slurm.wait_for_state(jobs_of(north)[0], "CANCELLED")


@slow
def test_a_suspended_job_is_waited_for(slurm, hosts):
    north = hosts[1]
    with running(Cluster("slurm", {}), [Waits(north)]) as future:
        wait_for(lambda: has_begun(north))
        job = submitted(north)
        slurm.call("scontrol", "suspend", job)
        try:
            watcher = submitit.SlurmJob.watcher
            wait_for(lambda: watcher.get_state(job, "cache") == "SUSPENDED" or future.done())
            assert not future.done()
        finally:
            slurm.call("scontrol", "resume", job)
        (north.folder / "go").write_text("10")
        assert future.result(60) == [10]
    assert len(jobs_of(north)) == 1


@slow
def test_a_job_that_fails_is_an_error_when_those_beside_it_have_ended(hosts, caplog):
    east, north, south = hosts
    tasks = [Turn(east, ("status", "nowhere")), Waits(north), Waits(south)]
    with running(Cluster("slurm", {}, at_once=2), tasks) as future:
        wait_for(lambda: has_begun(north) and "of east exited with 2" in caplog.text)
        assert not future.done()
        (north.folder / "go").write_text("10")
        with pytest.raises(FedfsError, match="of east exited with 2:\n(.*\n)*.*--once") as e:
            future.result(60)
    (job,) = jobs_of(east)
    assert f"{east.folder}/jobs/{job}_0_log.out" in e.value.hint
    assert north.log_tail().endswith("ends")
    assert not (south.folder / "jobs").exists()  # two at once, and none after the failure


@slow
def test_killed_preempted_or_out_of_time_it_says_so(slurm, hosts, caplog):
    east, north, south = hosts
    parameters = {
        east: parse_parameters(["cpus_per_task=20"]),
        north: parse_parameters(["cpus_per_task=1"]),
        south: parse_parameters(["timeout_min=1"]),  # the warning comes 90 s before, so at once
    }
    said = {}
    for host in hosts:
        with running(Cluster("slurm", parameters[host]), [Waits(host)]) as future:
            wait_for(lambda host=host: has_begun(host))
            if host is east:
                urgent = ("sbatch", "--partition=urgent", "--cpus-per-task=20", "--wrap", "true")
                slurm.call(*urgent, "--output=/dev/null")
            if host is north:
                slurm.call("scancel", submitted(north))
            with pytest.raises(FedfsError) as caught:
                future.result(150)
            said[host.name] = str(caught.value)
    assert f"Job {jobs_of(east)[0]} of east was preempted:\nbegins" in said["east"]
    assert f"Job {jobs_of(north)[0]} of north ended as CANCELLED by 0:\nbegins" in said["north"]
    assert "of south ran out of time: give it more, --slurm timeout_min=MINUTES:" in said["south"]
    assert "the same command goes on from there" in caught.value.hint
