"""Messages that the aggregator signs: plan, admissions, versions, round records, the end."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

from fedfs.errors import MalformedError
from fedfs.protocol.messages.base import Extra, Message, Named, Participation, PayloadRef
from fedfs.protocol.messages.scores import Totals
from fedfs.protocol.values import (
    Count,
    Dice,
    Hash,
    HashOrNone,
    Seconds,
    Share,
    SiteName,
    TimeOrNever,
    VariantName,
    Version,
)


@dataclass(frozen=True, kw_only=True)
class PlanMessage(Message):
    """The plan of the study: one for all sites, or the tensors that sites share.

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
    HIDDEN: ClassVar[Mapping[str, Any]] = {"fingerprint": {}, "plans": {}, "dataset_json": {}}
    sites: Mapping[SiteName, Hash]
    n_cases: Count
    fingerprint: Mapping[str, Any]
    plans: Mapping[str, Any]
    dataset_json: Mapping[str, Any]
    versions: Mapping[str, str]
    shared: tuple[Participation, ...] = ()
    coverage: Mapping[SiteName, Share] = field(default_factory=dict)

    def check(self) -> None:
        """See :meth:`Message.check`: configurations of the plans have names."""
        if not isinstance(self.plans.get("configurations", {}), Mapping):
            raise MalformedError(
                "is not an object", about="the field 'configurations' of the plans"
            )


@dataclass(frozen=True, kw_only=True)
class Admission(Message):
    """A site takes part though the plan was made without it. The plan stays as it is.

    Attributes:
        announcement_sha256: hash of the site's fingerprint message, or of its own plan.
        tensors: in the mode ``asym``, the shared tensors that the site has, ascending.
        coverage: in the mode ``asym``, share of its parameters that it shares.
    """

    TYPE: ClassVar[str] = "admission"
    site: SiteName
    announcement_sha256: Hash
    tensors: tuple[str, ...] = ()
    coverage: Share = 1.0


@dataclass(frozen=True, kw_only=True)
class ModelManifest(Message):
    """A global version: which file, and which weights it decodes to.

    Attributes:
        payload: the weights (``fp32``), or the delta to the version before in ``encoding``.
        keyframe: the weights in full, where the payload is a delta and they are there too.
        ema: exponential average of the versions up to this one; None if there is none.
    """

    TYPE: ClassVar[str] = "model"
    version: Version
    payload: PayloadRef
    weights_sha256: Hash
    n_tensors: Count
    n_parameters: Count
    encoding: str
    encoding_options: Mapping[str, float] = field(default_factory=dict)
    keyframe: PayloadRef | None = None
    ema: PayloadRef | None = None

    @property
    def full(self) -> PayloadRef | None:
        """The payload that holds its weights in full, if there is one."""
        return self.payload if self.encoding == "fp32" else self.keyframe


@dataclass(frozen=True, kw_only=True)
class UsedUpdate:
    """An update that went into a version, with the weight it had (weights sum to 1).

    Attributes:
        arrived_s: seconds from the publication of its base version until the aggregator saw it, by
            the aggregator's clock; None where that is not known.
    """

    site: SiteName
    base_version: Version
    manifest_sha256: Hash
    payload_sha256: Hash
    weight: Share
    n_training_cases: Count
    n_iterations: Count
    size: Count
    arrived_s: Seconds | None = None
    extra: Extra = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Excluded:
    """An object or site that did not go into a version, and why."""

    site: SiteName
    key: str
    reason: str
    extra: Extra = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class LeftOut:
    """A site that takes part in the study but of which nothing went into a version.

    Attributes:
        since_version: the first version in a row that it is missing from.
        since: when the round of that version began.
        reason: for people.
    """

    site: SiteName
    since_version: Version
    since: TimeOrNever
    reason: str
    extra: Extra = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class SummedUpdate:
    """An update whose mask is part of a sum, times ``coefficient``."""

    site: SiteName
    base_version: Version
    manifest_sha256: Hash
    coefficient: Count
    extra: Extra = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class SumRequest(Message):
    """The aggregator asks the helper for the sum of masks of a fixed set of updates.

    Creating this object decides which updates go into the version.

    Attributes:
        version: the version to be made.
        updates: the set, ascending by site; empty of the request for scores of the last version.
        tensors: canonical name of each tensor to be summed -> shape of its values in a payload.
        shared: in the mode ``asym``, which sites have each of these tensors; else empty.
        scores: with secure scores, variant -> site -> hash of its evaluation of the version before,
            each of which counts once.
    """

    TYPE: ClassVar[str] = "sum-request"
    version: Version
    updates: tuple[SummedUpdate, ...]
    tensors: Mapping[str, tuple[Count, ...]]
    shared: tuple[Participation, ...] = ()
    scores: Mapping[VariantName, Mapping[SiteName, Hash]] = field(default_factory=dict)

    def check(self) -> None:
        """See :meth:`Message.check`."""
        sites = [update.site for update in self.updates]
        if not (sites or self.scores) or sites != sorted(set(sites)):
            raise MalformedError("names no update, or its sites are not in order, each once")
        if self.tensors and not sites:
            raise MalformedError("asks for tensors of no update")
        named = [name for group in self.shared for name in group.tensors]
        if self.shared and sorted(named) != sorted(self.tensors):
            raise MalformedError("does not say once of each tensor which sites have it")
        if any(
            group.sites != tuple(sorted(set(group.sites) & set(sites))) for group in self.shared
        ):
            raise MalformedError("shares tensors among sites that it names no update of")

    @property
    def sharing(self) -> dict[str, tuple[str, ...]]:
        """Tensor -> sites that have it, ascending."""
        shared = {name: group.sites for group in self.shared for name in group.tensors}
        return shared or dict.fromkeys(self.tensors, tuple(one.site for one in self.updates))


@dataclass(frozen=True, kw_only=True)
class SecureRound:
    """The sum that a version is made from, where the charter asks for secure sums.

    Attributes:
        request_sha256: hash of the request for it.
        sum_sha256: hash of the helper's answer; "" if it was given up, and the version is equal to
            the one before.
    """

    request_sha256: Hash
    sum_sha256: HashOrNone
    extra: Extra = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class RoundRecord(Message):
    """The record of a round. Creating this object is the decision; the manifest follows from it.

    Attributes:
        version: the version made; 0 holds the initial weights.
        model: where its tensors are.
        weights_sha256: hash of the decoded weights.
        state: memory of the aggregation (momentum, residual) after this version; None if there is
            none, or if it is made again from what followed an earlier one.
        state_sha256: hash of the memory, wherever it is; "" if there is none.
        keyframe: the weights in full, where ``model`` is a delta and they are there too.
        ema: exponential average of the versions up to this one; None if there is none.
        participation: in the mode ``asym``, who took part in each shared tensor.
        left_out: sites of which nothing went in, and since when.
        expected_s: site -> seconds within which its update was expected, where the policy asks;
            see :mod:`fedfs.protocol.round_durations`.
        secure: the sum that it was made from; None without secure sums, or if none was asked for.
        scores: with secure scores, totals of the version before.
        opened_at: when the version before was published; "" for version 0.
        seconds: time the aggregator spent per phase.
    """

    TYPE: ClassVar[str] = "round"
    version: Version
    updates: tuple[UsedUpdate, ...]
    excluded: tuple[Excluded, ...]
    policy: Named
    weighting: Named
    strategy: Named
    model: PayloadRef
    weights_sha256: Hash
    n_tensors: Count
    n_parameters: Count
    encoding: str
    opened_at: TimeOrNever
    seconds: Mapping[str, Seconds]
    state: PayloadRef | None = None
    state_sha256: HashOrNone = ""
    encoding_options: Mapping[str, float] = field(default_factory=dict)
    keyframe: PayloadRef | None = None
    ema: PayloadRef | None = None
    participation: tuple[Participation, ...] = ()
    left_out: tuple[LeftOut, ...] = ()
    expected_s: Mapping[SiteName, Seconds] = field(default_factory=dict)
    secure: SecureRound | None = None
    scores: Totals = field(default_factory=dict)

    def check(self) -> None:
        """See :meth:`Message.check`: a memory that is there has the hash that the record says."""
        if self.state and self.state_sha256 not in ("", self.state.tensors_sha256):
            raise MalformedError("names a memory of another hash than it says")
        for total in self.scores.values():
            total.check()

    @property
    def memory_sha256(self) -> str:
        """Hash of the memory after this version; "" if there is none."""
        return self.state_sha256 or (self.state.tensors_sha256 if self.state else "")


@dataclass(frozen=True, kw_only=True)
class Choice(Message):
    """The best configuration or ensemble of a study, and its postprocessing.

    Attributes:
        candidate: a configuration, or two joined by ``+`` whose probabilities are averaged.
        steps: of postprocessing, in order: ``foreground`` or a class, whose largest component is
            kept.
        folds: of each configuration.
        dice: candidate -> mean Dice of the foreground before postprocessing.
        dice_after: that of the chosen one after it.
        classes: of the chosen one, class -> mean Dice before and after.
        n_cases: cases that were scored.
        sites: site -> hash of the cross-validation that went in.
    """

    TYPE: ClassVar[str] = "choice"
    candidate: str
    steps: tuple[str, ...]
    folds: tuple[str, ...]
    dice: Mapping[str, Dice | None]
    dice_after: Dice
    classes: Mapping[str, tuple[Dice | None, ...]]
    n_cases: Count
    sites: Mapping[SiteName, Hash]

    @property
    def words(self) -> str:
        """A sentence about the choice, for people."""
        steps = f", then the largest component of {', '.join(self.steps)}" if self.steps else ""
        return f"{self.candidate}: Dice {self.dice_after:.4f} on {self.n_cases} cases{steps}"


@dataclass(frozen=True, kw_only=True)
class FinishedMessage(Message):
    """The last version has been made; nothing follows.

    Attributes:
        weights_sha256: of the last version; "" in the mode ``evaluate``, which makes none.
        away: sites that were away then: nobody waits for their models (mode ``asym``).
        members: of a study with an ensemble, site -> hash of its site-model.
        scores: in the mode ``evaluate``, key of an evaluation -> hash of its payload.
        totals: with secure scores, totals of the last version.
        sum_sha256: hash of the helper's answer that these totals are made with; "" without any.
    """

    TYPE: ClassVar[str] = "finished"
    version: Version
    weights_sha256: HashOrNone
    away: tuple[str, ...] = ()
    scores: Mapping[str, Hash] = field(default_factory=dict)
    members: Mapping[SiteName, Hash] = field(default_factory=dict)
    totals: Totals = field(default_factory=dict)
    sum_sha256: HashOrNone = ""

    def check(self) -> None:
        """See :meth:`Message.check`."""
        for total in self.totals.values():
            total.check()
