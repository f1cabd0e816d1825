"""A whole federation in a bucket of a real S3 server, over a good and over a bad line."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest

from fedfs.roles.reader.status import summarize
from fedfs.store import RetryingStore, S3Options
from fedfs.store.retry import Patience
from fedfs.store.s3.store import S3Store
from support import invariants
from support.faulty_proxy import Faults, FaultyProxy
from support.federation import DATASET_JSON, Federation

pytestmark = pytest.mark.xdist_group("ceph")

TWO = {"east": 1.0, "north": 2.0}


@pytest.fixture
def url(ceph, monkeypatch):
    for name, value in ceph.environment().items():
        monkeypatch.setenv(name, value)
    return f"s3://{ceph.make_bucket()}/studies/organ"


def check_against_memory(federation: Federation, folder) -> None:
    federation.run()
    state = federation.observe().state
    invariants.check(state)
    assert not state.rejected
    expected = Federation(folder, targets=TWO, rounds=2).start()
    expected.run()
    for name, value in expected.weights(2).items():
        np.testing.assert_array_equal(federation.weights(2)[name], value)


def test_a_federation_in_a_bucket_is_that_in_memory_and_counts_its_requests(url, tmp_path):
    store = RetryingStore(S3Store(url))
    federation = Federation(tmp_path / "s3", targets=TWO, rounds=2, store=store).start()
    check_against_memory(federation, tmp_path / "memory")
    summary = summarize(federation.observe().state)
    assert summary.requests.keys() == {"aggregator", "east", "north"}
    assert all(counts["PUT"] > 0 and counts["LIST"] > 0 for counts in summary.requests.values())


def test_a_federation_over_a_line_that_drops_delays_and_truncates(ceph, url, tmp_path):
    faults = Faults(seed=5, refused=0.05, life_bytes=60_000, delay_s=0.002)
    with FaultyProxy(ceph.port, faults) as line:
        options = S3Options(endpoint_url=line.endpoint)
        inner = S3Store(url, options, silence_s=2.0, patience=Patience(8, pause=lambda _: None))
        store = RetryingStore(inner, Patience(30, pause=lambda _: None))
        federation = Federation(tmp_path / "s3", targets=TWO, rounds=2, store=store).start()
        check_against_memory(federation, tmp_path / "memory")
        assert line.dropped > 3


def test_a_site_and_the_aggregator_are_run_from_the_command_line(url, tmp_path, monkeypatch):
    """What people type: a bucket wherever a folder may stand."""
    monkeypatch.setenv("FEDFS_HOME", str(tmp_path / "home"))
    (tmp_path / "dataset.json").write_text(json.dumps(DATASET_JSON))

    def fedfs(*words: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "fedfs", *words]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    begun = fedfs("init", url, "--name", "organ", "--dataset-json", str(tmp_path / "dataset.json"))
    assert begun.returncode == 0, begun.stderr
    again = fedfs("init", url, "--name", "organ", "--dataset-json", str(tmp_path / "dataset.json"))
    assert (again.returncode, "holds a federation already" in again.stderr) == (6, True)
    waiting = fedfs("aggregate", url, "--once")
    assert waiting.returncode == 10, waiting.stderr
    assert "waiting for the coordinator to approve sites" in waiting.stdout
    status = fedfs("status", url)
    assert status.returncode == 0, status.stderr
    assert "requests" in status.stdout
    healthy = fedfs("doctor", url, "--aggregator")
    assert healthy.returncode == 0, healthy.stdout
    assert "one winner in each of" in healthy.stdout
    wrong = fedfs("status", url, "--s3-endpoint", "http://127.0.0.1:9")
    assert (wrong.returncode, "Traceback" in wrong.stderr) == (4, False)
