"""A charter that asks for what a site's policy forbids: every clash is named at once."""

from __future__ import annotations

import dataclasses

import pytest

from fedfs.errors import PolicyError
from fedfs.roles.site.policy.comparison import clashes, compare, keys_of, require_no_clash
from fedfs.roles.site.policy.rules import KEYS, SitePolicy
from fedfs.trust.signing import key_fingerprint
from support.federation import Federation


@pytest.fixture(scope="module")
def charter(shared_federation):
    return shared_federation.charter


@pytest.fixture(scope="module")
def shared_federation(tmp_path_factory):
    return Federation(tmp_path_factory.mktemp("study"), local_minutes=90)


STRICT = {
    "minimum_cases": 11,
    "encryption": "required",
    "secure_sums": "required",
    "encodings": ("int8", "topk"),
    "strategies": ("FedMedian",),
    "trainers": ("nnUNetTrainerNoMirroring",),
    "max_rounds": 2,
    "coordinators": ("0" * 32,),
}


@pytest.mark.parametrize("key", STRICT)
def test_each_key_can_clash_alone(charter, key):
    assert keys_of(clashes(charter, SitePolicy(**{key: STRICT[key]}), 10)) == key


def test_all_clashes_are_told_at_once(charter):
    policy = SitePolicy(**STRICT)
    with pytest.raises(PolicyError) as caught:
        require_no_clash(charter, policy, source="/etc/fedfs/site-policy.toml", n_cases=10)
    told = str(caught.value)
    assert all(f"\n  {key}: " in told for key in STRICT)
    assert "/etc/fedfs/site-policy.toml" in told
    assert "the charter has 3 rounds" in told


def test_the_defaults_let_an_ordinary_study_pass_and_every_key_is_compared(charter):
    assert not clashes(charter, SitePolicy(), 10)
    assert {one.key for one in compare(charter, SitePolicy(), 10)} == set(KEYS)


def test_the_right_coordinator_is_recognised(charter):
    key = key_fingerprint(charter.coordinator_key).replace(" ", "")
    assert not clashes(charter, SitePolicy(coordinators=("0" * 32, key)))


def test_models_that_others_score_take_a_policy_that_allows_it(charter):
    shared = dataclasses.replace(charter, ensemble=True)
    assert keys_of(clashes(shared, SitePolicy())) == "models_elsewhere"
    assert not clashes(shared, SitePolicy(models_elsewhere=True))


def test_what_a_site_can_leave_out_is_no_clash(charter):
    policy = SitePolicy(scores="none", fingerprint_digits=3, max_round_hours=1)
    effects = {one.key: one.effect for one in compare(charter, policy, 10) if one.effect}
    assert effects == {
        "scores": "suppressed", "fingerprint_digits": "less", "max_round_hours": "less"
    }  # fmt: skip
    assert not clashes(charter, policy)


def test_cases_that_are_not_known_yet_are_not_said_to_agree(charter):
    (found,) = (c for c in compare(charter, SitePolicy()) if c.key == "minimum_cases")
    assert (found.effect, found.text) == (
        "unknown", "the number of cases is compared when the site joins"
    )  # fmt: skip


def test_a_study_of_scores_alone_clashes_with_a_policy_without_any(charter):
    scoring = dataclasses.replace(charter, mode="evaluate")
    assert keys_of(clashes(scoring, SitePolicy(scores="none"))) == "scores"
    assert not clashes(scoring, SitePolicy(max_rounds=1, encodings=()))
