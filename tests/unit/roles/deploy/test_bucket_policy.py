"""Policies that are refused; what a policy allows is tried in ``tests/deploy``."""

from __future__ import annotations

import json

import pytest

from fedfs.errors import UserError
from fedfs.roles.deploy.bucket_policy import MAX_BYTES, Grant, Place, bucket_policy, lifecycle_rule

ARN = "arn:aws:iam:::user/{}".format
PLACE = Place("studies", "organ")
SITES = [Grant("site", ARN(f"fedfs-site-{n}"), f"site-{n}") for n in range(60)]


def test_statements_that_differ_in_the_user_only_are_one():
    policy = json.loads(bucket_policy(PLACE, SITES[:2]))
    (common,) = [s for s in policy["Statement"] if s["Sid"] == "SiteReadsWhatAllMayRead"]
    assert common["Principal"]["AWS"] == [ARN("fedfs-site-0"), ARN("fedfs-site-1")]
    names = [statement["Sid"] for statement in policy["Statement"]]
    assert len(names) == len(set(names))


def test_a_policy_for_one_user_names_none():
    assert "Principal" not in bucket_policy(PLACE, SITES[:1], identity=True)


@pytest.mark.parametrize("prefix", ["a/b", "/a/b/"])
def test_the_prefix_is_the_one_of_the_stores_address(prefix):
    (rule,) = json.loads(lifecycle_rule(Place("studies", prefix)))["Rules"]
    assert rule["Filter"] == {"Prefix": "a/b/"}


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: Place("Studies"), "'Studies' is not a name of a bucket"),
        (lambda: Place("studies", "a/../b"), "is not a prefix"),
        (lambda: Place("studies", "a*"), "is not a prefix"),
        (lambda: Grant("aggregator", "me"), "'me' of the aggregator is not an ARN"),
        (lambda: Grant("site", ARN("x"), "North"), "Site name 'North'"),
        (lambda: Grant("site", "", "north"), "'' of site north is not an ARN"),
        (lambda: bucket_policy(PLACE, []), "grants nobody"),
        (lambda: bucket_policy(PLACE, [SITES[0], SITES[0]]), "Site 'site-0' is named twice"),
        (lambda: bucket_policy(PLACE, SITES[:2], identity=True), "exactly one role"),
        (lambda: bucket_policy(PLACE, SITES[:1], identity=True, tls_only=True), "exactly one role"),
        (lambda: bucket_policy(PLACE, SITES), f"may have {MAX_BYTES}"),
    ],
)
def test_what_makes_no_policy_is_one_sentence(make, said):
    with pytest.raises(UserError, match=r"^[A-Z'-].*\.$") as caught:
        make()
    assert said in str(caught.value)
    assert caught.value.hint
