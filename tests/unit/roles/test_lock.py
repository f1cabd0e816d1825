"""One process per role and host."""

from __future__ import annotations

import subprocess
import sys

from fedfs.roles.lock import hold_lock


def test_a_lock_is_held_by_one_process_and_ends_with_it(tmp_path):
    path = tmp_path / "deep" / "lock"
    script = (
        "import sys, time\nfrom pathlib import Path\nfrom fedfs.roles.lock import hold_lock\n"
        "with hold_lock(Path(sys.argv[1])) as holder:\n"
        "    print(holder or 'mine', flush=True)\n    sys.stdin.read()\n"
    )
    other = subprocess.Popen(
        [sys.executable, "-c", script, str(path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert other.stdout.readline() == "mine\n"
    with hold_lock(path) as holder:
        assert holder == f"process {other.pid}"
    other.kill()
    other.wait()
    with hold_lock(path) as holder:
        assert holder == ""
