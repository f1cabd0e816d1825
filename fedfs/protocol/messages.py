"""Every message that crosses the store, as a frozen dataclass.

Rules:
 * A message says what it is, which study it belongs to and which key it was written for; together
   with the signature that makes it worthless anywhere else.
 * The major number of ``schema`` changes when an old reader would misunderstand; it then refuses.
   Fields that an old reader may ignore are added without changing it, and survive in ``extra``.
 * Times are UTC, ISO 8601, for people only: no decision compares clocks of two hosts, except a
   deadline that the aggregator measures with its own.
 * Numbers about a site are aggregates. No case name, no path, no voxel.
"""

from __future__ import annotations

import datetime
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, TypeVar

from fedfs.errors import MalformedError, MisplacedError, UnsupportedVersionError
from fedfs.learner import CaseGeometry, ChannelSketch, ClassScore
from fedfs.protocol import codec
from fedfs.protocol.codec import JSON

SCHEMA = "fedfs/1.0"
MAJOR = 1
MAX_BYTES = 32 * 2**20
"""Largest message a reader accepts; a fingerprint of 10,000 cases takes 2 MB."""

Extra = Mapping[str, Any]
M = TypeVar("M", bound="Message")


@dataclass(frozen=True, kw_only=True)
class PayloadRef:
    """A tensor file on the store."""

    key: str
    sha256: str
    size: int
    extra: Extra = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Message:
    """What all messages share.

    Attributes:
        study: id of the study.
        key: the key that this message is published under.
        created_at: UTC time at the writer.
    """

    TYPE: ClassVar[str]
    study: str
    key: str
    created_at: str
    extra: Extra = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class DatasetSpec:
    """What every site's ``dataset.json`` has to agree with; names as nnU-Net uses them.

    ``label_order`` keeps the order of the labels, which matters to regions and which JSON objects
    do not promise to keep.
    """

    name: str
    channel_names: Mapping[str, str]
    labels: Mapping[str, Any]
    label_order: tuple[str, ...] = ()
    regions_class_order: tuple[int, ...] | None = None
    file_ending: str = ".nii.gz"
    extra: Extra = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class NnUNetSpec:
    """nnU-Net settings of the study; names and meanings are nnU-Net's.

    Attributes:
        planner_options: attributes set on nnU-Net's planner before it plans.
        versions: software the study was set up with (``nnunetv2``, ``torch``).
    """

    configuration: str
    planner: str
    plans_name: str
    trainer: str
    fold: str
    gpu_memory_target_gb: float | None = None
    target_spacing: tuple[float, ...] | None = None
    planner_options: Mapping[str, float] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)
    extra: Extra = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """Rounds, and the local budget of each in nnU-Net epochs.

    Attributes:
        local_minutes: minutes after which a site ends a round's training with what it has; None
            if it may take as long as it needs.
    """

    rounds: int
    local_epochs: int
    iterations_per_epoch: int
    val_iterations_per_epoch: int
    seed: int
    local_minutes: float | None = None
    extra: Extra = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Named:
    """A rule chosen by name, with its numbers: policy, strategy, weighting, encoding."""

    name: str
    options: Mapping[str, float] = field(default_factory=dict)
    extra: Extra = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class AsymSpec:
    """How sites with networks of their own share tensors; see :mod:`fedfs.aggregate.alignment`.

    Attributes:
        alignment: which tensors of unlike networks are the same.
        sharing: which of these are shared.
        min_coverage: smallest share of its parameters, 0 to 1, that every site must share.
    """

    alignment: str
    sharing: str
    min_coverage: float
    extra: Extra = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Participation:
    """Canonical tensors and the sites that share them, or that took part in them; ascending."""

    sites: tuple[str, ...]
    tensors: tuple[str, ...]
    extra: Extra = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class RosterEntry:
    """A site admitted to the study by the coordinator."""

    site: str
    public_key: str
    state: str = "active"
    extra: Extra = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Charter(Message):
    """The study: what is trained, how, by whom. Signed by the coordinator; amended by number.

    Attributes:
        number: 1 for the first, increasing by 1.
        previous_sha256: hash of the payload of the charter that this one amends; "" in the first.
        nonce: random hex; with the coordinator's key it makes the study's id.
        coordinator_key: base64 of the raw Ed25519 public key, as all keys in messages.
        min_sites: planning waits until so many sites are on the roster.
        minimum_cases: a site with fewer cases publishes no fingerprint.
        mode: ``ffe`` (one plan for all sites) or ``asym`` (every site plans for itself).
        asym: how tensors are shared in the mode ``asym``; None in the other.
        model_encoding: how global versions travel; anything but ``fp32`` makes them deltas.
        keyframe_every: of versions that travel as deltas, each so-many-th is also there in full.
    """

    TYPE: ClassVar[str] = "charter"
    number: int
    previous_sha256: str
    name: str
    nonce: str
    coordinator_key: str
    aggregator_key: str
    mode: str
    dataset: DatasetSpec
    nnunet: NnUNetSpec
    schedule: Schedule
    policy: Named
    weighting: Named
    strategy: Named
    encoding: Named
    min_sites: int
    minimum_cases: int
    pretrained: PayloadRef | None
    roster: tuple[RosterEntry, ...]
    asym: AsymSpec | None = None
    model_encoding: Named = field(default_factory=lambda: Named(name="fp32"))
    keyframe_every: int = 1

    def entry(self, site: str) -> RosterEntry | None:
        """Return the roster entry of ``site``, if it has one."""
        return next((entry for entry in self.roster if entry.site == site), None)

    @property
    def active_sites(self) -> tuple[str, ...]:
        """Names of the sites that take part, sorted."""
        return tuple(sorted(e.site for e in self.roster if e.state == "active"))


@dataclass(frozen=True, kw_only=True)
class JoinRequest(Message):
    """A site asks to be admitted; signed by the key it presents."""

    TYPE: ClassVar[str] = "join"
    site: str
    public_key: str
    n_cases: int
    file_ending: str
    versions: Mapping[str, str]


@dataclass(frozen=True, kw_only=True)
class FingerprintMessage(Message):
    """A site's dataset fingerprint in mergeable form."""

    TYPE: ClassVar[str] = "fingerprint"
    site: str
    n_cases: int
    channels: tuple[ChannelSketch, ...]
    geometry: tuple[CaseGeometry, ...]


@dataclass(frozen=True, kw_only=True)
class SitePlan(Message):
    """What a site that plans for itself tells of its plan (mode ``asym``).

    Attributes:
        configuration: of its nnU-Net plans, what it takes to build the network and to describe it.
        tensors: the site's own name of each of its network's tensors -> shape.
        plans_sha256: hash of the whole plans, by which the site knows its own again.
    """

    TYPE: ClassVar[str] = "site-plan"
    site: str
    n_cases: int
    configuration: Mapping[str, Any]
    tensors: Mapping[str, tuple[int, ...]]
    plans_sha256: str
    versions: Mapping[str, str]


@dataclass(frozen=True, kw_only=True)
class PlanMessage(Message):
    """What all sites train: one plan for all, or who shares what.

    Attributes:
        sites: site -> sha256 of the fingerprint message that was merged, or of its own plan.
        n_cases: sum over sites; nnU-Net's ``numTraining``.
        fingerprint: in nnU-Net's ``dataset_fingerprint.json`` form; empty in the mode ``asym``.
        plans: nnU-Net plans; empty in the mode ``asym``.
        dataset_json: nnU-Net ``dataset.json`` of the federation.
        shared: in the mode ``asym``, every shared tensor, by the sites that share it.
        coverage: in the mode ``asym``, site -> share of its parameters that it shares.
    """

    TYPE: ClassVar[str] = "plan"
    sites: Mapping[str, str]
    n_cases: int
    fingerprint: Mapping[str, Any]
    plans: Mapping[str, Any]
    dataset_json: Mapping[str, Any]
    versions: Mapping[str, str]
    shared: tuple[Participation, ...] = ()
    coverage: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Admission(Message):
    """A site takes part though the plan was made without it. The plan stays as it is.

    Attributes:
        announcement_sha256: hash of the site's fingerprint message, or of its own plan.
        tensors: in the mode ``asym``, the shared tensors that the site has, ascending.
        coverage: in the mode ``asym``, share of its parameters that it shares.
    """

    TYPE: ClassVar[str] = "admission"
    site: str
    announcement_sha256: str
    tensors: tuple[str, ...] = ()
    coverage: float = 1.0


@dataclass(frozen=True, kw_only=True)
class ModelManifest(Message):
    """A global version: which file, and which weights it decodes to.

    Attributes:
        payload: the weights (``fp32``), or the delta to the version before in ``encoding``.
        keyframe: the weights in full, where the payload is a delta and they are there too.
    """

    TYPE: ClassVar[str] = "model"
    version: int
    payload: PayloadRef
    weights_sha256: str
    n_tensors: int
    n_parameters: int
    encoding: str
    encoding_options: Mapping[str, float] = field(default_factory=dict)
    keyframe: PayloadRef | None = None

    @property
    def full(self) -> PayloadRef | None:
        """Where its weights are in full, if they are."""
        return self.payload if self.encoding == "fp32" else self.keyframe


@dataclass(frozen=True, kw_only=True)
class UpdateManifest(Message):
    """What a site trained from ``base_version``.

    Attributes:
        base_weights_sha256: hash of the weights that training started from.
        n_planned_iterations: the round's full budget; a site that ran out of time did fewer.
        metrics: aggregates of the local training.
        seconds: time per phase.
    """

    TYPE: ClassVar[str] = "update"
    site: str
    base_version: int
    base_weights_sha256: str
    payload: PayloadRef
    encoding: str
    n_training_cases: int
    n_epochs: int
    n_iterations: int
    n_planned_iterations: int
    metrics: Mapping[str, float]
    seconds: Mapping[str, float]


@dataclass(frozen=True, kw_only=True)
class Attendance(Message):
    """A site pauses, leaves or comes back; its newest word counts. At first it is present.

    Attributes:
        number: 1 for the first, increasing.
        word: ``present``, ``paused`` or ``left``.
        reason: for people.
    """

    TYPE: ClassVar[str] = "attendance"
    site: str
    number: int
    word: str
    reason: str


@dataclass(frozen=True, kw_only=True)
class UsedUpdate:
    """An update that went into a version, with the weight it had (weights sum to 1)."""

    site: str
    base_version: int
    manifest_sha256: str
    payload_sha256: str
    weight: float
    n_training_cases: int
    n_iterations: int
    size: int
    extra: Extra = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Excluded:
    """An object or site that did not go into a version, and why."""

    site: str
    key: str
    reason: str
    extra: Extra = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class LeftOut:
    """A site that takes part in the study but of which nothing went into a version.

    Attributes:
        since_version: the first version in a row that it is missing from.
        since: when the round of that version began.
        reason: in words.
    """

    site: str
    since_version: int
    since: str
    reason: str
    extra: Extra = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class RoundRecord(Message):
    """How a version was made. Creating this object is the decision; the manifest follows from it.

    Attributes:
        version: the version made; 0 holds the initial weights.
        model: where its tensors are.
        weights_sha256: hash of the decoded weights.
        state: memory of the aggregation (momentum, residual) after this version; None if none.
        keyframe: the weights in full, where ``model`` is a delta and they are there too.
        participation: in the mode ``asym``, who took part in each shared tensor.
        left_out: sites of which nothing went in, and since when.
        opened_at: when the version before was published; "" for version 0.
        seconds: time the aggregator spent per phase.
    """

    TYPE: ClassVar[str] = "round"
    version: int
    updates: tuple[UsedUpdate, ...]
    excluded: tuple[Excluded, ...]
    policy: Named
    weighting: Named
    strategy: Named
    model: PayloadRef
    weights_sha256: str
    n_tensors: int
    n_parameters: int
    encoding: str
    opened_at: str
    seconds: Mapping[str, float]
    state: PayloadRef | None = None
    encoding_options: Mapping[str, float] = field(default_factory=dict)
    keyframe: PayloadRef | None = None
    participation: tuple[Participation, ...] = ()
    left_out: tuple[LeftOut, ...] = ()


@dataclass(frozen=True, kw_only=True)
class EvaluationMessage(Message):
    """Scores of a global version at one site, after aggregation.

    ``variant`` is ``pseudo`` (nnU-Net's pseudo Dice on random patches) or ``full`` (nnU-Net's full
    validation: mean over cases, tp, fp and fn are 0).
    """

    TYPE: ClassVar[str] = "evaluation"
    site: str
    version: int
    variant: str
    n_cases: int
    mean_dice: float | None
    classes: Mapping[str, ClassScore]
    loss: float | None
    seconds: float


@dataclass(frozen=True, kw_only=True)
class FailureMessage(Message):
    """Something failed at a site; its details stay there.

    ``kind`` is one of the kinds of :class:`~fedfs.errors.TrainingError`; ``message`` a sentence
    that names no case and no path.
    """

    TYPE: ClassVar[str] = "failure"
    site: str
    version: int
    step: str
    kind: str
    message: str


@dataclass(frozen=True, kw_only=True)
class StatusMessage(Message):
    """What a process is doing now. Small; old ones are pruned by their writer.

    Attributes:
        site: the site, or "" for the aggregator.
        step: e.g. ``fingerprint``, ``preprocess``, ``train``, ``evaluate``, ``wait``, ``finished``.
        version: the global version it concerns, -1 before there is one.
        done: progress of the step, out of ``total`` ``unit``s.
        eta_s: estimated seconds to the end of the step, if known.
        waiting_for: who or what is waited for, in words.
        error: the last error, in words; "" if none.
        rejected: object -> reason, for what this process refused to accept.
        requests: kind of request -> how many this role has made of the store.
        counting_since: since when they are counted.
    """

    TYPE: ClassVar[str] = "status"
    site: str
    step: str
    version: int
    done: int
    total: int
    unit: str
    eta_s: float | None
    waiting_for: str
    error: str
    rejected: Mapping[str, str] = field(default_factory=dict)
    requests: Mapping[str, int] = field(default_factory=dict)
    counting_since: str = ""


@dataclass(frozen=True, kw_only=True)
class FinishedMessage(Message):
    """The last version has been made; nothing follows."""

    TYPE: ClassVar[str] = "finished"
    version: int
    weights_sha256: str


_BY_TYPE: dict[str, type[Message]] = {
    cls.TYPE: cls
    for cls in (
        Charter, JoinRequest, FingerprintMessage, SitePlan, PlanMessage, Admission, ModelManifest,
        UpdateManifest, Attendance, RoundRecord, EvaluationMessage, FailureMessage, StatusMessage,
        FinishedMessage,
    )
}  # fmt: skip


def utc(now_s: float) -> str:
    """Return a POSIX time in seconds as UTC text, to the second."""
    return datetime.datetime.fromtimestamp(now_s, datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def from_utc(text: str) -> float:
    """Return the POSIX time of UTC text as :func:`utc` writes it.

    Raises:
        MalformedError: it is not of that form.
    """
    try:
        return datetime.datetime.strptime(text, "%Y-%m-%dT%H:%M:%S%z").timestamp()
    except ValueError as error:
        raise MalformedError(f"{text!r} is no time in UTC") from error


def payload_type(cls: type[Message]) -> str:
    """DSSE payload type of a message class."""
    return f"application/vnd.fedfs.{cls.TYPE}+json"


def encode(message: Message) -> bytes:
    """Return the exact bytes that are signed."""
    return codec.dumps({**codec.to_json(message), "schema": SCHEMA, "type": message.TYPE})


def decode(cls: type[M], data: bytes, *, key: str, study: str | None) -> M:
    """Parse a payload whose signature has been verified.

    Args:
        cls: the message class that the key calls for.
        data: payload bytes.
        key: the key it was read from.
        study: the study it has to belong to; None where that is what is being found out.

    Raises:
        UnsupportedVersionError: the major version is newer than this software.
        MisplacedError: the message was written for another study or key.
        MalformedError: anything else that is wrong, by field.
    """
    value = codec.loads(data)
    if not isinstance(value, dict):
        raise MalformedError(f"{cls.TYPE}: expected an object")
    _check_schema(value.pop("schema", None))
    kind = value.pop("type", None)
    if kind != cls.TYPE:
        raise MisplacedError(f"holds a {kind!r} message where a {cls.TYPE!r} message belongs")
    message = codec.from_json(cls, value)
    if message.key != key:
        raise MisplacedError(f"was signed for the key {message.key!r}")
    if study is not None and message.study != study:
        raise MisplacedError(f"belongs to another study ({message.study!r})")
    return message


def _check_schema(schema: JSON) -> None:
    name, _, version = schema.partition("/") if isinstance(schema, str) else ("", "", "")
    major = version.split(".")[0]
    if name != "fedfs" or not major.isdecimal() or len(major) > 4:  # noqa: PLR2004  a sane bound
        raise MalformedError(f"schema {schema!r} is not a fedfs schema")
    if int(major) > MAJOR:
        raise UnsupportedVersionError(
            f"was written with protocol version {version}, this software reads up to {MAJOR}.x",
            hint="upgrade fedfs on this host",
        )
    if int(major) < MAJOR:
        raise UnsupportedVersionError(f"was written with the outdated protocol version {version}")


def message_class(kind: str) -> type[Message] | None:
    """Return the message class that belongs under keys of ``kind``; None for payloads."""
    return _BY_TYPE.get("status" if kind == "aggregator-status" else kind)
