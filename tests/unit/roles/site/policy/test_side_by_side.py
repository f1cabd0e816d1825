"""Everything that ``fedfs privacy`` lists has a word of the policy beside it."""

from __future__ import annotations

import re

import pytest

from fedfs.roles.reader.privacy import disclosures
from fedfs.roles.site.policy.rules import SitePolicy
from fedfs.roles.site.policy.side_by_side import rule_on
from support.federation import Federation

STRICT = SitePolicy(
    minimum_cases=9,
    encryption="required",
    secure_sums="required",
    scores="none",
    encodings=("int8",),
    max_rounds=3,
    fingerprint_digits=3,
    fingerprint_quantiles=5,
)


def listed(federation: Federation, site: str) -> set[str]:
    observer = federation.observe()
    observer.refresh(everything=True)
    return {item.what for item in disclosures(observer.state, site, observer.sizes)}


def test_each_kind_of_disclosure_is_named(tmp_path):
    federation = Federation(
        tmp_path, rounds=1, policies={"north": SitePolicy(scores="none")}, publish_cases=("south",)
    ).start()
    federation.run()
    kinds = listed(federation, "north") | listed(federation, "south")
    assert "no scores" in kinds
    assert "scores of single cases" in kinds
    for policy in (SitePolicy(), STRICT):
        for what in kinds:
            assert rule_on(what, policy) != "not named in the policy", what


@pytest.mark.parametrize(
    ("what", "said"),
    [
        ("fingerprint", "9 cases.*encrypted only.*no extremes, at most 3 digits, at most 5 lines"),
        ("updates", "as int8, .*at most 3 rounds, in secure sums only, encrypted only"),
        ("scores", "^suppressed by the site's policy$"),
        ("its model", "^forbidden$"),
        ("statuses", "says nothing about the data"),
    ],
)
def test_a_strict_policy_is_told(what, said):
    assert re.search(said, rule_on(what, STRICT))
