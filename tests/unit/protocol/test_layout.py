from __future__ import annotations

from functools import partial

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedfs.errors import MalformedError
from fedfs.protocol import layout
from fedfs.protocol.track_place import TrackPlace, parse_on_store, split_track
from fedfs.protocol.values import HELPER_SITE

SITE = st.from_regex(r"[a-z0-9]([a-z0-9-]{0,30}[a-z0-9])?", fullmatch=True)
VERSION = st.integers(0, 99_999)
NUMBER = st.integers(1, 9_999)
DIGEST = st.from_regex("[0-9a-f]{64}", fullmatch=True)
VARIANT = st.sampled_from(["pseudo", "full", "local"]) | SITE.map(layout.score_of)
MAKERS = [
    (layout.charter, "charter", {"number": NUMBER}),
    (layout.pretrained, "pretrained", {"sha256": DIGEST}),
    (layout.given_model, "given-model", {"sha256": DIGEST}),
    (layout.join, "join", {"site": SITE, "number": NUMBER}),
    (layout.fingerprint, "fingerprint", {"site": SITE, "number": NUMBER}),
    (layout.site_plan, "site-plan", {"site": SITE, "number": NUMBER}),
    (layout.update, "update", {"site": SITE, "version": VERSION}),
    (layout.update_payload, "update-payload", {"site": SITE, "version": VERSION, "sha256": DIGEST}),
    (layout.attendance, "attendance", {"site": SITE, "number": NUMBER}),
    (layout.evaluation, "evaluation", {"site": SITE, "version": VERSION, "variant": VARIANT}),
    (layout.cross_validation, "cross-validation", {"site": SITE}),
    (layout.site_model, "site-model", {"site": SITE}),
    (layout.site_model_payload, "site-model-payload", {"site": SITE, "sha256": DIGEST}),
    (layout.failure, "failure", {"site": SITE, "version": VERSION, "number": NUMBER}),
    (layout.status, "status", {"site": SITE, "number": NUMBER}),
    (layout.status, "aggregator-status", {"site": st.none(), "number": NUMBER}),
    (layout.status, "helper-status", {"site": st.just(HELPER_SITE), "number": NUMBER}),
    (layout.join, "helper-join", {"site": st.just(HELPER_SITE), "number": NUMBER}),
    (layout.sum_request, "sum-request", {"version": VERSION}),
    (layout.mask_sum, "mask-sum", {"version": VERSION}),
    (layout.plan, "plan", {"number": NUMBER}),
    (layout.admission, "admission", {"site": SITE}),
    (layout.model, "model", {"version": VERSION}),
    (layout.model_payload, "model-payload", {"version": VERSION, "sha256": DIGEST}),
    *(
        (
            partial(layout.payload_of_version, kind),
            f"{kind}-payload",
            {"version": VERSION, "sha256": DIGEST},
        )
        for kind in ("keyframe", "ema", "state", "mask-sum")
    ),
    (layout.round_record, "round", {"version": VERSION}),
    (layout.choice, "choice", {}),
    (lambda: layout.FINISHED, "finished", {}),
]


def test_every_form_has_a_function():
    assert {kind for _, kind, _ in MAKERS} == layout.FORMS.keys()


@pytest.mark.parametrize(("make", "kind", "fields"), MAKERS, ids=[kind for _, kind, _ in MAKERS])
@given(data=st.data())
def test_every_key_that_is_built_is_legal_and_parses_back_to_its_arguments(
    make, kind, fields, data
):
    arguments = {name: data.draw(values) for name, values in fields.items()}
    key = make(**arguments)
    parsed = layout.parse(layout.check_key(key))
    assert parsed is not None
    assert (parsed.text, parsed.kind) == (key, kind)
    if kind == "admission":  # its site is not its writer
        assert parsed.site is None
        return
    if arguments.get("site") == HELPER_SITE:
        assert (parsed.site, parsed.writer) == (None, arguments.pop("site"))
    for name, value in arguments.items():
        assert getattr(parsed, name) == value


@pytest.mark.parametrize(("make", "kind", "fields"), MAKERS, ids=[kind for _, kind, _ in MAKERS])
@given(data=st.data(), own_plan=st.booleans())
def test_every_key_of_a_track_has_one_place_on_the_store(make, kind, fields, data, own_plan):
    place = TrackPlace("2d-0", own_plan=own_plan)
    key = make(**{name: data.draw(values) for name, values in fields.items()})
    on_store = layout.check_key(place.on_store(key))
    assert parse_on_store(on_store) == layout.parse(key)
    track, within = split_track(on_store)
    assert within == key
    assert track == (None if place.is_shared(key) else "2d-0")
    assert place.study("organ", key) == ("organ" if track is None else "organ/2d-0")
    if kind != "plan":  # the store alone does not say whose a plan is
        elsewhere = key if track else f"tracks/2d-0/{key}"
        assert parse_on_store(elsewhere) is None


@pytest.mark.parametrize(
    "text",
    ["tracks/A/x", "tracks//aggregator/finished.json", "tracks/", "x", "tracks/2d-0/x.json",
     "tracks/../aggregator/finished.json"],
)  # fmt: skip
def test_what_is_no_key_of_a_track_does_not_parse(text):
    assert parse_on_store(text) is None


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


@pytest.mark.parametrize("name", ["--all", "-a", "a-", "-", "a" * 33])
def test_names_that_no_site_may_have_are_no_keys(name):
    for key in ("sites/{}/join-0001.json", "aggregator/admissions/{}.json"):
        assert layout.parse(key.format(name)) is None
        assert layout.parse(key.format("north")) is not None
