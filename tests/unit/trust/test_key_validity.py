"""The versions that each key of a site counts for."""

from __future__ import annotations

import dataclasses

from fedfs.trust import key_validity
from fedfs.trust.key_validity import Tenure

TRACK = "3d_fullres-0"


def test_tenures_of_a_site_follow_the_charters(federation):
    charter = federation.observe().state.charters[2]

    def amended(number, **changes):
        entry = dataclasses.replace(charter.entry("north"), **changes)
        return dataclasses.replace(charter, number=number, roster=(entry,))

    charters = {
        2: amended(2),
        3: amended(3, public_key="B", from_versions={TRACK: 4}),
        4: amended(4, public_key="B", from_versions={TRACK: 7}, state="paused"),
        5: amended(5, public_key="B", from_versions={TRACK: 9}, state="removed"),
        6: amended(6, public_key="C", from_versions={TRACK: 9}),
    }
    first = charter.entry("north").public_key
    found = key_validity.of_site(charters, "north")
    assert found == (Tenure(first, 0, 4), Tenure("B", 4, 8), Tenure("C", 9))
    assert [key_validity.in_force(found, version) for version in (3, 4, 8, 9)] == [
        first,
        "B",
        "B",
        "C",
    ]
    assert key_validity.in_force((), 0) == ""
