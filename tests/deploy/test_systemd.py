"""The units of ``deploy/systemd`` where systemd is the first process, with made-up learning.

Aggregator and site of a study work in a guest, over a share that its kernel mounts. In the middle
of rounds the machine loses its power, the share its server, and the disk its space.
"""

from __future__ import annotations

import contextlib

import numpy as np
import pytest

from support import guest, nfs_server, smb_server
from support.federation import Federation
from support.guest_hospital import HOME, SERVICES, SITE, TIMERS, Hospital
from support.guest_line import GuestLine
from support.made_up_fedfs import TARGET
from support.servers import skip_without, wait_for
from support.slow import slow

pytestmark = [slow, pytest.mark.xdist_group("guest")]

ROUNDS = 4
SERVERS = {
    "NFS": (nfs_server, nfs_server.NfsServer),
    "SMB": (smb_server, smb_server.SmbServer),
}
AWAY = {
    "NFS": "grep -qs '^State:.D' $(printf '/proc/%s/task/*/status ' $(pgrep -f made_up_fedfs))",
    "SMB": "journalctl -u {unit} | grep -q 'Trying again'",
}
"""How it shows that a service waits for the share: the kernel waits for it, or fedfs does."""


@contextlib.contextmanager
def working(share, folder, units):
    """A hospital's machine, switched on."""
    module, kind = SERVERS[share]
    what = f"SYSTEMD AND {share}"
    skip_without(module.missing_programs(), on=what, packages=module.PACKAGES)
    skip_without(guest.missing_programs(), on=what, packages=guest.PACKAGES)
    with kind() as server, GuestLine([server.port]) as line:
        hospital = Hospital(folder, server, line, rounds=ROUNDS, units=units)
        with hospital.machine:
            yield hospital


@pytest.fixture(params=SERVERS)
def hospital(request, tmp_path):
    with working(request.param, tmp_path, SERVICES) as hospital:
        hospital.away = AWAY[request.param].format(unit=SERVICES[1])
        yield hospital


def test_a_study_lives_through_what_happens_to_machines(hospital, tmp_path):
    machine = hospital.machine
    hospital.wait_for_training(0)
    machine.kill()
    hospital.server.stop()
    machine.start()
    machine.wait_for(f'[ "$(systemctl show -P NRestarts {SERVICES[1]})" -gt 0 ]')
    hospital.server.start()
    hospital.wait_for_training(0, times=2)

    before = [hospital.property(unit, "NRestarts") for unit in SERVICES]
    hospital.server.stop()
    hospital.hold(1)
    machine.wait_for(hospital.away)
    hospital.server.start()
    hospital.wait_for_training(1)
    assert [hospital.property(unit, "NRestarts") for unit in SERVICES] == before

    machine.call(f"dd if=/dev/zero of={HOME}/filling bs=1M; sync")
    hospital.hold(2)
    machine.wait_for("journalctl -b | grep -q 'No space left'")
    machine.run(f"rm {HOME}/filling")
    hospital.wait_for_training(2)

    hospital.hold(-1)
    for unit in SERVICES:
        machine.wait_for(f"! systemctl is-active {unit}")
        assert hospital.property(unit, "Result") == "success"
    for unit in ("fedfs-aggregate-once", f"fedfs-site-once@{SITE}"):
        machine.run("systemctl", "start", unit)  # nothing is left to do, which is no failure
    check_study(hospital, tmp_path)


def test_timers_alone_bring_a_study_to_its_end(tmp_path):
    with working("NFS", tmp_path, TIMERS) as hospital:
        hospital.wait_for_training(0)
        hospital.machine.kill()
        hospital.machine.start()
        hospital.wait_for_training(0, times=2)
        hospital.hold(-1)
        state = hospital.study.observe
        wait_for(
            lambda: state().state.finished is not None, at_most_s=600, explain=hospital.describe
        )
        for unit in TIMERS:
            assert hospital.property(unit, "ActiveState") == "active"
            assert hospital.property(unit.replace(".timer", ".service"), "Result") == "success"
        check_study(hospital, tmp_path)


def check_study(hospital, folder):
    """The study is the one that nothing has happened to."""
    state = hospital.study.observe().state
    assert state.finished is not None
    assert not state.rejected
    used = [(u.site, u.base_version) for r in state.rounds.values() for u in r.updates]
    assert sorted(used) == [(SITE, version) for version in range(ROUNDS)]
    alike = Federation(folder / "alike", targets={SITE: TARGET}, rounds=ROUNDS).start()
    alike.run()
    for version in range(ROUNDS + 1):
        theirs = alike.weights(version)
        for name, values in hospital.study.weights(version).items():
            np.testing.assert_array_equal(values, theirs[name])
