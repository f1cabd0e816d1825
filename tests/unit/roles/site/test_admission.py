"""A site that has asked to join waits for the coordinator; any other is told what is wrong."""

from __future__ import annotations

from fedfs.roles.site.admission import Admission
from support.federation import Federation


def test_a_site_waits_until_it_is_approved(tmp_path):
    federation = Federation(tmp_path)
    federation.join("north")
    admission = Admission("north", federation.observe("north"), federation.keyring("north"))
    for _ in range(2):
        outcome = admission.step()
        assert not outcome.finished
        assert outcome.text.endswith("to approve north, by: fedfs approve STORE north")
    federation.approve("north")
    assert admission.step().finished


def test_nobody_waits_for_a_request_of_another_host(tmp_path):
    federation = Federation(tmp_path)
    federation.join("north")
    federation.keyring("south").create("site-north")
    observer = federation.observe("south")
    assert Admission("north", observer, federation.keyring("south")).step().finished
    assert Admission("east", observer, federation.keyring("east")).step().finished
