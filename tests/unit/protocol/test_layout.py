from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedfs.errors import MalformedError, UserError
from fedfs.protocol import layout

SHA = "ab" * 32


@pytest.mark.parametrize(
    ("key", "kind", "facts"),
    [
        (layout.charter(1), "charter", {"number": 1}),
        (layout.pretrained(SHA), "pretrained", {"sha256": SHA}),
        (layout.join("north", 2), "join", {"site": "north", "number": 2}),
        (layout.fingerprint("north"), "fingerprint", {"site": "north", "number": 1}),
        (layout.update("north", 7), "update", {"site": "north", "version": 7}),
        (layout.update_payload("n-1", 7, SHA), "update-payload", {"version": 7, "sha256": SHA}),
        (layout.evaluation("n", 7, "full"), "evaluation", {"version": 7, "variant": "full"}),
        (layout.failure("n", 7, 3), "failure", {"version": 7, "number": 3}),
        (layout.status("n", 3), "status", {"site": "n", "number": 3}),
        (layout.status(None, 3), "aggregator-status", {"number": 3}),
        (layout.plan(), "plan", {"number": 1}),
        (layout.model(0), "model", {"version": 0}),
        (layout.model_payload(99999, SHA), "model-payload", {"version": 99999}),
        (layout.round_record(12), "round", {"version": 12}),
        (layout.FINISHED, "finished", {}),
    ],
)
def test_every_key_that_is_built_is_legal_and_parses_back(key, kind, facts):
    parsed = layout.parse(layout.check_key(key))
    assert parsed is not None
    assert (parsed.text, parsed.kind) == (key, kind)
    for name, value in facts.items():
        assert getattr(parsed, name) == value


@pytest.mark.parametrize(
    "key",
    ["", "/a", "a/", "a//b", "../a", "a/../b", "a/.hidden", ".a", "A", "a b", "ä", "a\\b", "a:b",
     "a" * 129, "/".join(["abc"] * 80), "a\n", "a\0"],
)  # fmt: skip
def test_keys_that_break_a_rule_are_refused(key):
    with pytest.raises(MalformedError):
        layout.check_key(key)


@given(st.text(max_size=60))
def test_nothing_parses_that_is_not_legal(text):
    parsed = layout.parse(text)
    if parsed is not None:
        layout.check_key(text)


@pytest.mark.parametrize("name", ["", "North", "-a", "a-", "a_b", "a/b", "..", "a" * 33, "ü"])
def test_site_names_that_do_not_fit_into_keys_are_refused(name):
    with pytest.raises(UserError, match="not usable"):
        layout.check_site(name)
