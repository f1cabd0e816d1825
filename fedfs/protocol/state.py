"""Everything accepted from the store so far: what all decisions are made from."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

from fedfs.protocol import layout
from fedfs.protocol.messages import (
    ASYM,
    Admission,
    Attendance,
    Choice,
    CrossValidation,
    EvaluationMessage,
    FailureMessage,
    FingerprintMessage,
    FinishedMessage,
    HelperJoin,
    JoinRequest,
    MaskSum,
    ModelManifest,
    PayloadRef,
    PlanMessage,
    RoundRecord,
    SiteModel,
    SitePlan,
    StatusMessage,
    SumRequest,
    TrackCharter,
    UpdateManifest,
)
from fedfs.protocol.round_durations import RoundDurations


@dataclass(frozen=True)
class Checked:
    """Findings of the aggregator's process about what sites announced; they are not on the store.

    Attributes:
        usable: keys of updates whose payload was fetched and can be used.
        absent: keys of updates whose payload is not there yet, and of what this host cannot
            decrypt.
        refused: key of an update, a fingerprint or a site's plan -> why it cannot be used.
        seen_s: key of an update that waits -> POSIX seconds at which this process first saw it.
        totals_elsewhere: variant of scores -> sets of sites whose totals are on other tracks.
    """

    usable: Collection[str] = ()
    absent: Collection[str] = ()
    refused: Mapping[str, str] = field(default_factory=dict)
    seen_s: Mapping[str, float] = field(default_factory=dict)
    totals_elsewhere: Mapping[str, Collection[frozenset[str]]] = field(default_factory=dict)


NOTHING_CHECKED = Checked()


@dataclass
class StudyState:
    """Accepted messages of one track of a study, by what they are about.

    A state begins with the study's first charter, so that it always has one.

    Attributes:
        charters: every charter by number, the first and its amendments.
        given_plans: of the study that this one continues; empty where it continues none, or this
            reader cannot decrypt them.
        joins: newest join request by site; not yet trusted, only self-consistent.
        admissions: by site.
        updates: by (site, base version).
        waiting: key -> update that no round record has used or refused yet.
        answered: newest base version by site.
        settled: keys of updates that a round record has used or refused.
        refused: key -> why it did not go into a version, from round records.
        attendances: newest attendance by site.
        evaluations: by (site, version, variant).
        site_models: by site.
        helper_join: newest request of a helper; not yet trusted, like those of sites.
        sum_requests, mask_sums: by the version that is made of the sum.
        cross_validations: by site.
        statuses: newest status by site; the aggregator's under "", the helper's under its name in
            place of a site's.
        digests: key -> sha256 of the accepted message's payload bytes.
        vouched: key -> that hash, where the aggregator named the message in a record or the plan.
        rejected: key -> why the object under it was not accepted.
        durations: of the sites' own rounds, in the records.
    """

    charters: dict[int, TrackCharter]
    given_plans: Mapping[str, Any] = field(default_factory=dict)
    joins: dict[str, JoinRequest] = field(default_factory=dict)
    fingerprints: dict[str, FingerprintMessage] = field(default_factory=dict)
    site_plans: dict[str, SitePlan] = field(default_factory=dict)
    plan: PlanMessage | None = None
    admissions: dict[str, Admission] = field(default_factory=dict)
    models: dict[int, ModelManifest] = field(default_factory=dict)
    rounds: dict[int, RoundRecord] = field(default_factory=dict)
    updates: dict[tuple[str, int], UpdateManifest] = field(default_factory=dict)
    waiting: dict[str, UpdateManifest] = field(default_factory=dict)
    answered: dict[str, int] = field(default_factory=dict)
    settled: set[str] = field(default_factory=set)
    refused: dict[str, str] = field(default_factory=dict)
    attendances: dict[str, Attendance] = field(default_factory=dict)
    evaluations: dict[tuple[str, int, str], EvaluationMessage] = field(default_factory=dict)
    site_models: dict[str, SiteModel] = field(default_factory=dict)
    helper_join: HelperJoin | None = None
    sum_requests: dict[int, SumRequest] = field(default_factory=dict)
    mask_sums: dict[int, MaskSum] = field(default_factory=dict)
    cross_validations: dict[str, CrossValidation] = field(default_factory=dict)
    choice: Choice | None = None
    failures: list[FailureMessage] = field(default_factory=list)
    statuses: dict[str, StatusMessage] = field(default_factory=dict)
    finished: FinishedMessage | None = None
    digests: dict[str, str] = field(default_factory=dict)
    vouched: dict[str, str] = field(default_factory=dict)
    rejected: dict[str, str] = field(default_factory=dict)
    durations: RoundDurations = field(default_factory=RoundDurations)

    @property
    def charter(self) -> TrackCharter:
        """The charter in force."""
        return self.charters[max(self.charters)]

    def n_cases(self, site: str) -> int | None:
        """Cases that a site announced: with its fingerprint, its own plan, or as it joined."""
        announced: FingerprintMessage | SitePlan | JoinRequest | None
        announced = self.fingerprints.get(site) or self.site_plans.get(site)
        if self.charter.evaluates:
            announced = self.joins.get(site)
        return announced.n_cases if announced else None

    def is_admitted(self, site: str) -> bool:
        """Return whether a site is in the plan, or was admitted to it later.

        Where nothing is planned, whether it is on the roster.
        """
        if self.charter.evaluates:
            return self.charter.entry(site) is not None
        return (self.plan is not None and site in self.plan.sites) or site in self.admissions

    def is_validated(self, site: str, version: int) -> bool:
        """Return whether a site has scored a version in nnU-Net's full validation."""
        return (site, version, "full") in self.evaluations

    def attendance(self, site: str) -> str:
        """Newest attendance of a site: ``present``, ``paused`` or ``left``."""
        newest = self.attendances.get(site)
        return newest.status if newest else "present"

    def is_away(self, site: str) -> bool:
        """Return whether a site has paused or left."""
        return self.attendance(site) != "present"

    def keep_update(self, update: UpdateManifest) -> None:
        """Note an accepted update."""
        self.updates[update.site, update.base_version] = update
        self.answered[update.site] = max(update.base_version, self.answered.get(update.site, -1))
        if update.key not in self.settled:
            self.waiting[update.key] = update

    def keep_round(self, record: RoundRecord) -> None:
        """Note an accepted round record: updates that it settles wait no longer."""
        self.rounds[record.version] = record
        used = [layout.update(update.site, update.base_version) for update in record.updates]
        hashes = (update.manifest_sha256 for update in record.updates)
        self.vouched.update(zip(used, hashes, strict=True))
        if record.secure is not None:
            self.vouched[layout.sum_request(record.version)] = record.secure.request_sha256
            self.vouched[layout.mask_sum(record.version)] = record.secure.sum_sha256
        self.refused.update({item.key: item.reason for item in record.excluded})
        for key in (*used, *(item.key for item in record.excluded)):
            self.settled.add(key)
            self.waiting.pop(key, None)

    def keep_sum_request(self, request: SumRequest) -> None:
        """Note which updates a version is made of: they stay believed, as their sum is fixed."""
        self.sum_requests[request.version] = request
        for update in request.updates:
            self.vouched[layout.update(update.site, update.base_version)] = update.manifest_sha256
        for variant, sites in request.scores.items():
            for site, sha256 in sites.items():
                self.vouched[layout.evaluation(site, request.version - 1, variant)] = sha256

    def keep_end(self, end: FinishedMessage) -> None:
        """Note that the study is closed, with which scores, and whose models are an ensemble."""
        self.finished = end
        self.vouched.update(end.scores)
        self.vouched.update({layout.site_model(site): h for site, h in end.members.items()})
        if end.sum_sha256:
            self.vouched[layout.mask_sum(end.version + 1)] = end.sum_sha256

    def keep_plan(self, plan: PlanMessage) -> None:
        """Note the accepted plan, and what it was made from."""
        self.plan = plan
        self._vouch_for_announcements(plan.sites)

    def keep_admission(self, admission: Admission) -> None:
        """Note the accepted admission of a site, and what the site had announced."""
        self.admissions[admission.site] = admission
        self._vouch_for_announcements({admission.site: admission.announcement_sha256})

    def _vouch_for_announcements(self, digests: Mapping[str, str]) -> None:
        announcement = layout.site_plan if self.charter.mode == ASYM else layout.fingerprint
        self.vouched.update({announcement(site): sha256 for site, sha256 in digests.items()})

    def payloads(self) -> dict[str, tuple[PayloadRef, int]]:
        """Return key -> payload and the version it belongs to, of all that messages name."""
        found: list[tuple[PayloadRef | None, int]] = []
        for record in self.rounds.values():
            found += (
                (ref, record.version)
                for ref in (record.model, record.keyframe, record.state, record.ema)
            )
        found += ((update.payload, update.base_version) for update in self.updates.values())
        found += ((model.payload, model.version) for model in self.site_models.values())
        found += ((answer.payload, answer.version) for answer in self.mask_sums.values())
        found.append((self.charter.pretrained, self.newest))
        found += ((one.payload, 0) for model in self.charter.given for one in model.folds)
        return {ref.key: (ref, version) for ref, version in found if ref is not None}

    @property
    def newest(self) -> int:
        """The newest published version; -1 before there is one."""
        return max(self.models, default=-1)
