"""The batch script of a site on a real SLURM, unchanged; fedfs itself with the slow tests."""

from __future__ import annotations

import contextlib
import re
import shlex

import pytest

from fedfs.errors import EXIT_NOTHING, EXIT_WAITING
from support.command_lines import understood
from support.servers import wait_for
from support.site_job import EXAMPLE, SiteJob
from support.slow import slow

pytestmark = pytest.mark.xdist_group("slurm")

PROGRAM = """\
echo "$@" >> {folder}/calls
code=$(head -1 {folder}/codes); sed -i 1d {folder}/codes
trap 'echo ended >> {folder}/calls; exit 143' TERM
[ "$code" = works ] && {{ sleep 300 & wait; }}
exit $code
"""
"""A fedfs that ends with the codes of a file, or works until it is terminated."""


@pytest.fixture
def site_job(slurm, tmp_path, monkeypatch):
    monkeypatch.setenv("FEDFS_STORE", "/store")
    job = SiteJob(slurm, tmp_path, PROGRAM.format(folder=tmp_path), EXAMPLE.read_text())
    yield job
    job.cancel()


def give(site_job, *codes, limit="--time=10"):
    (site_job.folder / "codes").write_text("".join(f"{code}\n" for code in codes))
    site_job.submit("north", limit)


def calls_of(site_job):
    path = site_job.folder / "calls"
    return path.read_text().splitlines() if path.exists() else []


def wait_for_calls(site_job, number):
    wait_for(lambda: len(calls_of(site_job)) == number, explain=site_job.describe)


@slow
def test_a_chain_of_one_job_lasts_until_the_study_ends(slurm, site_job):
    """It worked, reaches its limit, waits for others, finds its store away, ends."""
    give(site_job, 0, "works", EXIT_WAITING, 4, EXIT_NOTHING)
    wait_for_calls(site_job, 1)
    wait_for(site_job.is_queued)
    wait_for(lambda: 8 < site_job.minutes_until_it_begins() <= 10)
    site_job.begin_now()
    wait_for_calls(site_job, 2)
    slurm.call("scancel", "--batch", "--signal=USR1", site_job.job)  # as at two minutes before
    wait_for_calls(site_job, 3)
    wait_for(site_job.is_queued)
    wait_for(lambda: site_job.minutes_until_it_begins() <= 1)
    for number in (4, 5, 6):
        site_job.begin_now()
        wait_for_calls(site_job, number)
    slurm.wait_for_state(site_job.job, "COMPLETED")
    calls = calls_of(site_job)
    assert calls[2] == "ended"
    assert {understood(shlex.split(line))["once"] for line in calls if line != "ended"} == {True}
    assert re.findall("nothing is left to do|the time limit is near", site_job.log()) == [
        "the time limit is near", "nothing is left to do",
    ]  # fmt: skip


def test_what_a_person_has_to_look_at_ends_the_chain(slurm, site_job):
    give(site_job, 7)
    slurm.wait_for_state(site_job.job, "FAILED")
    assert slurm.facts(site_job.job)["ExitCode"] == "7:0"
    assert "failed with 7" in site_job.log()


@slow
def test_at_its_limit_preempted_and_without_its_node_it_goes_on(slurm, site_job):
    give(site_job, "works", "works", "works", EXIT_NOTHING, limit="--time=1")
    wait_for_calls(site_job, 2)  # SLURM gives notice two minutes before: of one minute at once
    site_job.begin_now()
    wait_for_calls(site_job, 3)
    urgent = ("sbatch", "--parsable", "--partition=urgent", "--cpus-per-task=20")
    slurm.call(*urgent, "--output=/dev/null", "--wrap", "true")
    wait_for(site_job.is_queued)
    site_job.begin_now()
    wait_for(lambda: [one for one in calls_of(site_job) if one != "ended"][2:])
    slurm.wait_for_state(site_job.job, "RUNNING")
    node = ("scontrol", "update", "NodeName=localhost")
    slurm.call(*node, "State=DOWN", "Reason=test")
    wait_for(lambda: slurm.state(site_job.job).startswith("PENDING"))
    with contextlib.suppress(RuntimeError):  # it may have come back by itself
        slurm.call(*node, "State=RESUME")
    wait_for(lambda: site_job.is_queued() or site_job.has_ended(), explain=site_job.describe)
    if site_job.is_queued():
        site_job.begin_now()
    wait_for(site_job.has_ended, explain=site_job.describe)
    slurm.wait_for_state(site_job.job, "COMPLETED")
