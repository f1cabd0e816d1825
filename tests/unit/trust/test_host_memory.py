"""Memory of a host that several processes write."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor

from fedfs.trust.host_memory import HostMemory


def test_processes_that_note_at_the_same_time_lose_nothing(tmp_path):
    memory, n_roles, n_versions = HostMemory(tmp_path), 4, 25

    def note(role: int) -> None:
        for version in range(n_versions):
            memory.note_version(f"site-{role}", "2d-0", version, f"{version}")

    with ThreadPoolExecutor(n_roles) as pool:
        list(pool.map(note, range(n_roles)))
    kept = json.loads((tmp_path / "seen.json").read_text())["versions"]
    assert kept == {f"site-{role} 2d-0": [24, "24"] for role in range(n_roles)}
