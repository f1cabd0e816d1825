"""The one gate: nothing of a site is published around it, and what it does not know stays."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import pytest

import fedfs
from fedfs.errors import PolicyError, TrainingError
from fedfs.exchange.gate import OTHER_ROLES
from fedfs.exchange.publish import Publisher
from fedfs.protocol import layout, messages
from fedfs.protocol.messages import Attendance, Message
from fedfs.protocol.track_place import parse_on_store
from fedfs.roles.site.policy.file import PolicyInForce
from fedfs.roles.site.policy.gate import SiteGate
from fedfs.roles.site.policy.rules import SitePolicy
from fedfs.store.memory import MemoryStore
from fedfs.trust.signing import SigningKey
from support.federation import Federation, reach
from support.four_tracks import OPTIONS as FOUR_TRACKS
from support.unlike_networks import NETWORKS, TARGETS

SITE_KINDS = {kind for kind, form in layout.FORMS.items() if form.startswith(layout.SITES)}
PAYLOADS = {kind for kind in SITE_KINDS if kind.endswith("-payload")}
STORES = ("store", "exchange/publish.py", "roles/courier", "roles/doctor/store_checks.py",
          "roles/reader/report/publish.py")  # fmt: skip
"""Where something is written to a store: stores, the publisher, copies of what is signed already,
probes, and the aggregator's pages."""


class Refusal:
    """A gate that lets nothing pass."""

    def admit(self, message, *, is_sealed):
        raise PolicyError(f"{message.key} may not leave.")

    def admit_payload(self, key, *, is_sealed):
        raise PolicyError(f"{key} may not leave.")


def key_of(kind: str) -> str:
    fields = {"site": "north", "number": 1, "version": 0, "variant": "pseudo", "sha256": "0" * 64}
    return layout.FORMS[kind].format(**fields)


def gate(policy: SitePolicy, federation: Federation) -> SiteGate:
    observer = federation.observe("north")
    return SiteGate(PolicyInForce(policy), "north", lambda: observer.state)


@pytest.fixture(scope="module")
def everything(tmp_path_factory) -> dict[str, Message]:
    """Every kind of object that sites publish, by kind; each has passed the gate."""
    passed: set[str] = set()
    found: dict[str, object] = {}
    with pytest.MonkeyPatch.context() as patch:
        admit, admit_payload = SiteGate.admit, SiteGate.admit_payload

        def note(self, message, *, is_sealed):
            passed.add(message.key)
            found[layout.parse(message.key).kind] = message
            return admit(self, message, is_sealed=is_sealed)

        def note_payload(self, key, *, is_sealed):
            passed.add(key)
            found[layout.parse(key).kind] = key
            return admit_payload(self, key, is_sealed=is_sealed)

        patch.setattr(SiteGate, "admit", note)
        patch.setattr(SiteGate, "admit_payload", note_payload)
        asym = {"mode": "asym", "min_coverage": 0.1, "cross_evaluation": True, "rounds": 1}
        folder = tmp_path_factory.mktemp
        studies = [
            Federation(folder("a"), targets=TARGETS, networks=NETWORKS, **asym),
            Federation(folder("b"), **FOUR_TRACKS),
        ]
        for federation in studies:
            federation.start()
            if federation is studies[0]:
                fail_and_pause(federation)
            federation.run()
            for key in federation.store.objects:
                parsed = parse_on_store(key)
                if parsed is not None and parsed.site:
                    assert parsed.text in passed, f"{key} was published past the gate"
    return found


def fail_and_pause(federation: Federation) -> None:
    reach(federation, 0)
    learner = federation.learners["north"]
    train, learner.train = learner.train, fail
    with pytest.raises(TrainingError):
        federation.run_process("north")
    learner.train = train
    federation.attendances["north"] = Attendance.wanted("north", "paused", "holiday")
    federation.run_process("north")
    del federation.attendances["north"]


def fail(*_):
    raise TrainingError("out of memory", kind="out-of-memory")


def test_every_kind_of_object_of_a_site_passes_the_gate(everything):
    assert everything.keys() == SITE_KINDS


def test_nothing_is_written_to_a_store_but_by_the_publisher():
    root = Path(fedfs.__file__).parent
    writes = re.compile(r"(?:store|_inner|place)\.(?:create|upload)\(")
    found = {
        str(path.relative_to(root))
        for path in root.rglob("*.py")
        if writes.search(path.read_text(encoding="utf-8"))
    }
    assert {name for name in found if not name.startswith(STORES)} == set()
    assert "exchange/publish.py" in found


def test_what_the_gate_refuses_is_not_written(everything, tmp_path):
    store = MemoryStore()
    study = Federation(tmp_path)
    publisher = Publisher(
        store, SigningKey.generate(), study.charter.study, clock=study.clock,
        track=study.place.track, gate=Refusal(),
    )  # fmt: skip
    payload = tmp_path / "payload"
    payload.write_bytes(b"tensors")
    for kind, message in everything.items():
        if kind in PAYLOADS:
            with pytest.raises(PolicyError):
                publisher.payload(payload, lambda _, key=message: key)
            continue
        for publish in (publisher.publish, publisher.publish_stamped):
            with pytest.raises(PolicyError):
                publish(message)
    assert not store.objects


def test_a_gate_has_a_rule_for_each_kind_and_refuses_any_other(federation):
    own = gate(SitePolicy(), federation)
    assert own.kinds == {messages.message_class(kind) for kind in SITE_KINDS - PAYLOADS}

    @dataclasses.dataclass(frozen=True, kw_only=True)
    class Novelty(Message):
        TYPE = "novelty"

    with pytest.raises(PolicyError, match="no rule for a novelty message"):
        own.admit(Novelty(key=key_of("update")), is_sealed=True)
    for kind in layout.FORMS.keys() - PAYLOADS:
        with pytest.raises(PolicyError, match="no rule for such a payload"):
            own.admit_payload(key_of(kind) if kind in SITE_KINDS else "x", is_sealed=True)


def test_other_roles_publish_nothing_of_a_site(everything):
    for kind in SITE_KINDS:
        with pytest.raises(PolicyError, match="past the policy of a site"):
            OTHER_ROLES.admit_payload(key_of(kind), is_sealed=True)
    for kind, message in everything.items():
        if kind not in PAYLOADS:
            with pytest.raises(PolicyError, match="past the policy of a site"):
                OTHER_ROLES.admit(message, is_sealed=True)
    OTHER_ROLES.admit_payload(layout.model_payload(1, "0" * 64), is_sealed=False)


@pytest.mark.parametrize(
    ("policy", "kind", "reason"),
    [
        ({"minimum_cases": 21}, "fingerprint", "20 cases, and the fewest are 21"),
        ({"minimum_cases": 21}, "join", "20 cases, and the fewest are 21"),
        ({"extremes": False}, "fingerprint", "the smallest and the largest voxel"),
        ({"extremes": True, "fingerprint_digits": 2}, "fingerprint", "more than 2 digits"),
        ({"encodings": ("int8",)}, "update", "encodings: the charter has fp32"),
        ({"models_elsewhere": False}, "site-model", "models of this site stay here"),
        ({"encryption": "required"}, "fingerprint", "the charter encrypts nothing"),
        ({"secure_sums": "required"}, "update", "has no secure sums"),
    ],
)
def test_what_the_policy_forbids_is_refused_with_the_reason(
    everything, tmp_path, policy, kind, reason
):
    federation = Federation(tmp_path)
    message = everything[kind]
    if kind == "fingerprint":
        measured = federation.learners["north"].fingerprint(lambda _: None)
        message = dataclasses.replace(message, channels=measured.channels, n_cases=20)
    if kind == "join":
        message = dataclasses.replace(message, n_cases=20)
    own = gate(SitePolicy(**policy), federation)
    with pytest.raises(PolicyError, match=reason):
        own.admit(message, is_sealed=False)


def test_unsealed_payloads_and_fingerprints_stay_where_encryption_is_required(everything, tmp_path):
    federation = Federation(tmp_path, encryption="age")
    own = gate(SitePolicy(encryption="required", models_elsewhere=True), federation)
    for kind in PAYLOADS:
        with pytest.raises(PolicyError, match="not encrypted"):
            own.admit_payload(key_of(kind), is_sealed=False)
        own.admit_payload(key_of(kind), is_sealed=True)
    for kind in ("fingerprint", "site-plan", "site-model", "update"):
        with pytest.raises(PolicyError, match="not encrypted"):
            own.admit(everything[kind], is_sealed=False)


@pytest.mark.parametrize("policy", [{"scores": "none"}, {"scores": "totals"}])
def test_suppressed_scores_are_not_zero_and_the_study_goes_on(tmp_path, policy, caplog):
    federation = Federation(tmp_path, policies={"north": SitePolicy(**policy)}).start()
    with caplog.at_level("INFO"):
        federation.run()
    state = federation.observe().state
    assert sorted(state.models) == [0, 1, 2, 3]
    own = [one for (site, _, _), one in state.evaluations.items() if site == "north"]
    assert own
    for one in own:
        assert one.suppressed
        assert (one.n_cases, one.mean_dice, one.loss, one.seconds) == (0, None, None, 0.0)
        assert not any((one.classes, one.metrics, one.cases, one.against))
    assert not any(u.metrics for (site, _), u in state.updates.items() if site == "north")
    assert any(u.metrics for (site, _), u in state.updates.items() if site == "south")
    assert not any(one.suppressed for one in state.evaluations.values() if one.site == "south")
    assert "suppressed by the site's policy" in caplog.text


def test_scores_over_too_few_cases_are_suppressed_and_others_are_not(tmp_path):
    policies = {"north": SitePolicy(minimum_scored_cases=11), "east": SitePolicy(
        minimum_scored_cases=10)}  # fmt: skip
    federation = Federation(tmp_path, policies=policies, rounds=1).start()
    federation.run()
    scored = federation.observe().state.evaluations.values()
    assert {one.site for one in scored if one.suppressed} == {"north"}


def test_the_choice_among_configurations_goes_on_without_suppressed_scores(tmp_path):
    federation = Federation(
        tmp_path, policies={"north": SitePolicy(scores="none")}, **FOUR_TRACKS
    ).start()
    federation.run()
    state = federation.observe().state
    assert state.cross_validations["north"].suppressed
    assert sorted(state.choice.sites) == ["east", "south"]
