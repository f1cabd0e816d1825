"""``fedfs privacy``: everything of a site that is on the store is named, with its readers."""

from __future__ import annotations

import pytest

from fedfs.errors import StudyError
from fedfs.protocol import layout
from fedfs.protocol.messages import Attendance, FailureMessage
from fedfs.roles.reader.privacy import EVERYBODY, disclosures, never_left, readers
from support.federation import Federation


def of_north(federation: Federation):
    observer = federation.observe()
    observer.refresh(everything=True)
    return {d.what: d for d in disclosures(observer.state, "north", observer.sizes)}, observer


@pytest.mark.parametrize("options", [{}, {"encryption": "age"}], ids=["open", "encrypted"])
def test_every_byte_of_a_site_is_accounted_for(tmp_path, options):
    federation = Federation(tmp_path, **options).start()
    federation.run()
    found, observer = of_north(federation)
    own = {k: n for k, n in observer.sizes.items() if k.startswith(layout.site_prefix("north"))}
    assert sum(item.n_bytes for item in found.values()) == sum(own.values())
    assert found["join request"].readers == EVERYBODY
    expected = "the aggregator only (encrypted)" if options else EVERYBODY
    assert found["updates"].readers == expected
    assert found["fingerprint"].readers == expected
    assert found["in global models"].readers == (
        "the roster only (encrypted)" if options else EVERYBODY
    )
    assert "3, from version 0 to 2" in found["updates"].amount
    assert "15 iterations on 20 cases" in found["updates"].amount
    assert "each of 20 cases" in found["fingerprint"].amount
    assert found["scores"].amount == "5 times, of 10 validation cases together"
    text = " ".join(readers(observer.state.charter))
    assert ("east, north, south can decrypt models" in text) == bool(options)
    assert ("Nothing on the store is encrypted" in text) != bool(options)


def test_scores_of_single_cases_are_told_where_a_site_publishes_them(tmp_path):
    federation = Federation(tmp_path, publish_cases=("north",)).start()
    federation.run()
    found, observer = of_north(federation)
    assert found["distributions"].amount == "federated model: dice, hd95_mm, nsd"
    assert found["scores of single cases"].amount == "federated model: 10 cases"
    assert "scores of single cases" not in never_left(found.values())
    south = disclosures(observer.state, "south", observer.sizes)
    assert "scores of single cases" in never_left(south)
    assert "distributions" in {item.what for item in south}


def test_options_of_fingerprints_are_told(tmp_path):
    federation = Federation(tmp_path, fingerprint_digits=2, fingerprint_quantiles=4).start()
    federation.run_process("north")
    found, _ = of_north(federation)
    assert "4 quantiles of sizes and spacings, rounded to 2 digits" in found["fingerprint"].amount
    assert "real voxels" not in found["fingerprint"].tells
    assert "identify" not in found["fingerprint"].tells


def test_sites_of_the_mode_asym_tell_their_plan(tmp_path):
    shapes = {"a.weight": (2, 3), "b.bias": (4,)}
    targets = {"north": 1.0, "south": 2.0}
    federation = Federation(
        tmp_path, targets=targets, networks=dict.fromkeys(targets, shapes), mode="asym"
    ).start()
    federation.run()
    found, _ = of_north(federation)
    assert "fingerprint" not in found
    assert "2 tensors" in found["plan of its own"].amount
    assert "in the plan" not in found


def test_a_failure_and_an_absence_are_listed(federation):
    federation.run_process("north")
    federation.publisher("site-north", "north").publish(
        FailureMessage(
            key=layout.failure("north", 0, 1),
            site="north",
            version=0,
            step="train",
            kind="memory",
            message="train failed at north: memory",
        )
    )
    federation.attendances["north"] = Attendance.wanted("north", "paused", "moving house")
    federation.run_process("north")
    found, _ = of_north(federation)
    assert found["failures"].amount == "1: memory"
    assert found["attendance"].amount == "paused: moving house"


def test_a_site_that_nobody_knows_is_an_error(federation):
    observer = federation.observe()
    with pytest.raises(StudyError, match="Nothing of site 'west'"):
        disclosures(observer.state, "west", observer.sizes)
