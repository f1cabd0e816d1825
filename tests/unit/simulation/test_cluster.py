"""Jobs: on a stand-in for SLURM that really runs batch files, and as processes of this machine."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import submitit

from fedfs.errors import FedfsError, SetupError, UserError
from fedfs.simulation import cluster
from fedfs.simulation.cluster import Cluster, parse_parameters
from fedfs.simulation.experiment import ExperimentOptions
from fedfs.simulation.hosts import Host
from fedfs.simulation.jobs import Turn
from support.jobs import Waits

SUPPORT = Path(__file__).parents[2] / "support"


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """Nothing here is slow, nor a file system over a network."""
    monkeypatch.setattr(cluster, "_LOOK_EVERY_S", 0.05)
    monkeypatch.setattr(submitit.Job, "_results_timeout_s", 0.5)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(sys.path))


@pytest.fixture
def slurm(tmp_path, monkeypatch):
    """Where the stand-in remembers its jobs."""
    folder = tmp_path / "slurm"
    folder.mkdir()
    monkeypatch.setenv("FAKE_SLURM", str(folder))
    # What it remembers is of the stand-in of the test before, where numbers were the same.
    monkeypatch.setattr(submitit.SlurmJob, "watcher", type(submitit.SlurmJob.watcher)())
    monkeypatch.setenv("PATH", f"{SUPPORT / 'slurm'}{os.pathsep}{os.environ['PATH']}")
    yield folder
    for job in ids(folder):
        if state_of(folder, job) == "RUNNING":
            subprocess.run(["scancel", job], check=True)


def ids(folder):
    return sorted(path.name for path in folder.iterdir())


def state_of(folder, job):
    return (folder / job / "state").read_text().strip()


def directives(folder, job):
    lines = (folder / job / "batch").read_text().splitlines()
    return {line.removeprefix("#SBATCH --") for line in lines if line.startswith("#SBATCH")}


@pytest.fixture
def hosts(tmp_path):
    return [Host(name, tmp_path / name).make() for name in ("east", "north", "south")]


def wait_for(something):
    deadline_s = time.monotonic() + 60
    while not something():
        assert time.monotonic() < deadline_s
        time.sleep(0.02)


@contextlib.contextmanager
def running(jobs, tasks):
    """Tasks at work; whatever a test finds, none waits for ever."""
    with ThreadPoolExecutor() as pool:
        future = pool.submit(jobs.run, tasks)
        try:
            yield future
        finally:
            for task in tasks:
                (task.host.folder / "go").write_text("0")


def has_begun(host, times=1):
    return host.log_tail().count("begins") == times


def test_a_round_is_one_job_for_each_host_with_the_parameters_that_were_asked_for(slurm, hosts):
    asked = ["partition=gpu", "gres=gpu:1", "timeout_min=90", "mem_gb=24", "cpus_per_task=4"]
    jobs = Cluster("slurm", parse_parameters(asked))
    assert jobs.n_cpus == 4
    for host, code in zip(hosts, ("0", "10", "11"), strict=True):
        (host.folder / "go").write_text(code)
    assert jobs.run([Waits(host) for host in hosts]) == [0, 10, 11]
    assert ids(slurm) == ["1", "2", "3"]
    for job, host in zip(ids(slurm), hosts, strict=True):
        wanted = {
            f"job-name=fedfs-{host.name}", "partition=gpu", "gres=gpu:1", "time=90", "mem=24GB",
            "cpus-per-task=4", "nodes=1", "no-requeue",
        }  # fmt: skip
        assert wanted <= directives(slurm, job)
        assert "--cpus-per-task=4" in (slurm / job / "batch").read_text()  # srun's own
        kept = {path.name for path in (host.folder / "jobs").iterdir() if path.is_file()}
        assert f"{job}_0_log.out" in kept
        assert not any(name.endswith(".pkl") for name in kept)


def test_a_job_that_fails_is_an_error_when_those_beside_it_have_ended(slurm, hosts, caplog):
    east, north, south = hosts
    tasks = [Turn(east, ("status", "nowhere")), Waits(north), Waits(south)]
    with running(Cluster("slurm", {}, at_once=2), tasks) as future:
        wait_for(lambda: has_begun(north) and "Job 1 of east exited with 2" in caplog.text)
        assert not future.done()
        (north.folder / "go").write_text("10")
        with pytest.raises(FedfsError, match="Job 1 of east exited with 2:\n(.*\n)*.*--once") as e:
            future.result(60)
    assert f"{east.folder}/jobs/1_0_log.out" in e.value.hint
    assert north.log_tail().endswith("ends")
    assert ids(slurm) == ["1", "2"]  # two at once, and none after the failure


def test_killed_preempted_or_out_of_time_it_says_so(slurm, hosts, caplog):
    tasks = [Waits(host) for host in hosts]
    with running(Cluster("slurm", parse_parameters(["timeout_min=1"])), tasks) as future:
        wait_for(lambda: all(has_begun(host) for host in hosts))
        environ = {**os.environ, "STATE": "PREEMPTED"}
        subprocess.run(["scancel", "1"], env=environ, check=True)
        subprocess.run(["scancel", "2"], check=True)
        subprocess.run(["scancel", "--signal", "USR2", "3"], check=True)  # the end is near
        with pytest.raises(FedfsError) as caught:
            future.result(60)
    text = "\n".join([str(caught.value), *caplog.messages])
    assert "Job 1 of east was preempted:\nbegins" in text
    assert "Job 2 of north ended as CANCELLED by 0:\nbegins" in text
    assert "Job 3 of south ran out of time: give it more, --slurm timeout_min=MINUTES:" in text
    assert "the same command goes on from there" in caught.value.hint


def submitter(kind, host):
    """A process that submits a job and is at the mercy of the test."""
    command = [sys.executable, str(SUPPORT / "jobs.py"), kind, str(host.folder)]
    return subprocess.Popen(command, start_new_session=True)


def test_the_jobs_of_a_killed_process_are_taken_over(slurm, hosts):
    north = hosts[1]
    process = submitter("slurm", north)
    wait_for(lambda: has_begun(north))
    process.kill()
    process.wait()
    with running(Cluster("slurm", {}), [Waits(north)]) as future:
        (north.folder / "go").write_text("10")
        assert future.result(60) == [10]
    assert ids(slurm) == ["1"]
    assert has_begun(north, times=1)


def test_the_jobs_of_an_interrupted_process_are_cancelled(slurm, hosts):
    north = hosts[1]
    process = submitter("slurm", north)
    wait_for(lambda: has_begun(north))
    process.send_signal(signal.SIGINT)
    assert process.wait(60) != 0
    assert state_of(slurm, "1") == "CANCELLED by 0"


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


def test_a_refused_job_says_what_slurm_says(slurm, hosts):
    jobs = Cluster("slurm", parse_parameters(["partition=nowhere"]))
    with pytest.raises(FedfsError, match="SLURM refuses a job of east: .*invalid partition"):
        jobs.run([Waits(hosts[0])])


@pytest.mark.parametrize(
    ("pair", "says"),
    [
        ("partitoin=gpu", "there is no parameter 'partitoin'"),
        ("nodes=2", "there is no parameter 'nodes'"),  # a turn is one process
        ("mem_gb=lots", "'lots' is not a number"),
        ("timeout_min=1.5", "'1.5' is not a number"),
        ("partition", "is not NAME=VALUE"),
    ],
)
def test_parameters_that_cannot_be_are_refused(pair, says):
    with pytest.raises(UserError, match=says):
        parse_parameters([pair])


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
