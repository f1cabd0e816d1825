"""A folder on two mounts of one share, against the contract: what the guest of the tests runs.

``test_kernel_mounts.py`` starts it there. ``FEDFS_TEST_MOUNTS`` has the two mount points, and then
the folder that the server shares, which is the oracle.
"""

import multiprocessing
import os
import shutil
import time
import uuid
from pathlib import Path

import pytest

pytest.register_assert_rewrite("store_contract")

from store_contract import (  # noqa: E402  rewritten only if imported afterwards
    N_WRITERS,
    MountContract,
    outcome,
)

from fedfs.store import FolderStore  # noqa: E402  as above
from support.servers import wait_for  # noqa: E402  as above

FIRST, SECOND, SERVED = map(Path, os.environ["FEDFS_TEST_MOUNTS"].split(":"))
START_S = 120.0
"""So long may a writer take to begin a race."""
SEEN_S = 90.0
"""So long may a client believe what it knows of a folder; acdirmax of NFS is 60 s."""


def race_of_processes(roots, n_races):
    """Return race -> the outcome of each writer, who is a process and takes the roots in turn."""
    context = multiprocessing.get_context("fork")
    start, told = context.Barrier(N_WRITERS), context.Queue()

    def write(number):
        store = FolderStore(roots[number % len(roots)])
        for race in range(n_races):
            start.wait(START_S)
            try:
                told.put((race, number, outcome(store, f"race/{race:03d}", b"%d" % number)))
            except Exception as error:
                told.put((race, number, repr(error)))

    writers = [context.Process(target=write, args=(number,)) for number in range(N_WRITERS)]
    for writer in writers:
        writer.start()
    found = [[""] * N_WRITERS for _ in range(n_races)]
    for _ in range(n_races * N_WRITERS):
        race, number, how = told.get(timeout=2 * START_S)
        found[race][number] = how
    for writer in writers:
        writer.join()
    return found


class TestOnMounts(MountContract):
    @pytest.fixture
    def store(self):
        name = uuid.uuid4().hex
        self.root, self.other = SERVED / name, SECOND / name
        (FIRST / name).mkdir()
        yield FolderStore(FIRST / name)
        shutil.rmtree(self.root)

    def test_of_processes_on_two_mounts_one_wins(self, store):
        wait_for(self.other.exists, at_most_s=SEEN_S)
        roots = [FIRST / self.root.name, self.other]
        for race, outcomes in enumerate(race_of_processes(roots, self.n_races)):
            assert sorted(outcomes) == ["lost"] * (N_WRITERS - 1) + ["won"]
            assert (self.root / f"race/{race:03d}").read_bytes() == b"%d" % outcomes.index("won")

    def test_what_the_other_mount_writes_is_found(self, store, record_property):
        """Also where this one has looked before, and remembers that there was nothing."""
        wait_for(self.other.exists, at_most_s=SEEN_S)
        other = FolderStore(self.other)
        store.create("a/first", b"1")
        assert len(list(store.list("a/"))) == 1
        wait_for(lambda: list(other.list("a/")), at_most_s=SEEN_S)
        other.create("a/second", b"2")
        began_s = time.monotonic()
        wait_for(lambda: len(list(store.list("a/"))) == 2, at_most_s=SEEN_S)
        record_property("listed_after_s", round(time.monotonic() - began_s, 1))
        assert store.get("a/second", max_bytes=1) == b"2"
