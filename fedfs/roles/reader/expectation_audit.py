"""Audit of how long sites were waited for: estimates of a record follow from the records before."""

from collections.abc import Iterator

from fedfs.protocol import layout
from fedfs.protocol.messages import RoundRecord
from fedfs.protocol.round_durations import RoundDurations
from fedfs.protocol.round_policies import expectation_factor
from fedfs.protocol.state import StudyState
from fedfs.roles.reader.finding import PROBLEM, Finding


def check_expectations(record: RoundRecord, state: StudyState) -> Iterator[Finding]:
    """Compare the estimates of a record with those that earlier records give."""
    factor = expectation_factor(record.policy)
    before = {version: state.rounds[version] for version in range(record.version)
              if version in state.rounds}  # fmt: skip
    if not record.expected_s or len(before) < record.version:
        return
    durations = RoundDurations()
    durations.read(before)
    expected = {} if factor is None else durations.estimates(record.expected_s, factor)
    for site, seconds in record.expected_s.items():
        if expected.get(site) != seconds:
            again = f"{expected[site]:g} s" if site in expected else "nothing"
            yield Finding(
                layout.round_record(record.version),
                PROBLEM,
                f"expected the update of {site} within {seconds:g} s; earlier records say {again}",
            )
