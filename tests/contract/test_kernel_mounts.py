"""A folder that the kernel mounts, by NFS 4.1 and by SMB 3.1.1, against the contract.

This machine's kernel may have no client of either, so Debian's mounts them, in a small guest.
"""

import json
import xml.etree.ElementTree as ET

import pytest

from fedfs.store import FolderStore
from support import guest, guest_line, nfs_server, smb_server
from support.federation import Federation
from support.servers import skip_without
from support.slow import slow

pytestmark = [slow, pytest.mark.xdist_group("guest")]

MOUNTS = ("/mnt/first", "/mnt/second")
SUITE = guest.ROOT / "tests" / "contract" / "mounted_folder.py"
LIMIT_S = 3600.0
SERVERS = {
    "NFS": (nfs_server, nfs_server.NfsServer),
    "SMB": (smb_server, smb_server.SmbServer),
}


@pytest.fixture(scope="module", params=SERVERS)
def kind(request):
    module, _ = SERVERS[request.param]
    what = f"A MOUNT OF {request.param}"
    skip_without(module.missing_programs(), on=what, packages=module.PACKAGES)
    skip_without(guest.missing_programs(), on=what, packages=guest.PACKAGES)
    return request.param


@pytest.fixture(scope="module")
def server(kind):
    with SERVERS[kind][1]() as one:
        yield one


@pytest.fixture(scope="module")
def machine(server):
    with guest_line.GuestLine([server.port]) as line:
        fstab = "".join(server.fstab(line.host, point) for point in MOUNTS)
        with guest.Guest({"etc/fstab": fstab}, server.data, line) as one:
            one.wait_for(" && ".join(f"(mountpoint -q {p} || mount {p})" for p in MOUNTS))
            yield one


def test_a_mounted_folder_keeps_the_contract(machine, record_property):
    """Also 10,000 reads, and 100 races of 16 writers on one mount and on two."""
    places = ":".join([*MOUNTS, "/guest/served"])
    options = (
        "-q",
        "-p",
        "no:cacheprovider",
        "--noconftest",
        "--junit-xml=/guest/report.xml",
        "-o",
        "junit_family=xunit1",
    )
    variables = f"FEDFS_SLOW_TESTS=1 FEDFS_TEST_MOUNTS={places}"
    suite = guest.python_command("-m", "pytest", *options, str(SUITE))
    done = machine.call(f"cd {guest.ROOT} && {variables} {suite}", timeout_s=LIMIT_S)
    assert done.returncode == 0, done.stdout
    report = ET.parse(machine.folder / "report.xml").getroot()
    names = {case.get("name", "").partition("[")[0] for case in report.iter("testcase")}
    assert not list(report.iter("skipped"))
    assert {name for name in names if "one_wins" in name} == {
        "test_of_many_threads_one_wins",
        "test_of_processes_on_two_mounts_one_wins",
    }
    for found in report.iter("property"):
        record_property(found.get("name"), found.get("value"))


def test_doctor_finds_nothing_wrong(kind, server, machine):
    store = FolderStore(server.data / "organ", must_exist=False)
    Federation(machine.folder / "hosts", store=store).start()
    environment = "env FEDFS_HOME=/guest/hosts/coordinator FEDFS_SYSTEM_CONFIG="
    command = guest.python_command(
        "-m", "fedfs", "doctor", f"{MOUNTS[0]}/organ", "--aggregator", "--json"
    )
    found = json.loads(machine.run(f"{environment} {command}"))  # which fails with a problem
    texts = {finding["subject"]: finding["text"] for finding in found["findings"]}
    assert texts["atomic create"] == "one winner in each of 4 races of 8 writers"
    assert texts["mount"].startswith(f"{kind};")
