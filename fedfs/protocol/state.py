"""Everything accepted from the store so far: what all decisions are made from."""

from __future__ import annotations

from dataclasses import dataclass, field

from fedfs.protocol.messages import (
    Charter,
    EvaluationMessage,
    FailureMessage,
    FingerprintMessage,
    FinishedMessage,
    JoinRequest,
    ModelManifest,
    PlanMessage,
    RoundRecord,
    SitePlan,
    StatusMessage,
    UpdateManifest,
)


@dataclass
class StudyState:
    """Accepted messages of one study, by what they are about.

    Attributes:
        charter: the newest charter; every amendment is in ``charters`` by number.
        joins: newest join request by site; not yet trusted, only self-consistent.
        updates: by (site, base version).
        evaluations: by (site, version, variant).
        statuses: newest status by site; the aggregator's under "".
        digests: key -> sha256 of the accepted message's payload bytes.
        rejected: key -> why the object under it was not accepted.
        unusable: key of an accepted update -> why its payload cannot be used.
    """

    charters: dict[int, Charter] = field(default_factory=dict)
    joins: dict[str, JoinRequest] = field(default_factory=dict)
    fingerprints: dict[str, FingerprintMessage] = field(default_factory=dict)
    site_plans: dict[str, SitePlan] = field(default_factory=dict)
    plan: PlanMessage | None = None
    models: dict[int, ModelManifest] = field(default_factory=dict)
    rounds: dict[int, RoundRecord] = field(default_factory=dict)
    updates: dict[tuple[str, int], UpdateManifest] = field(default_factory=dict)
    evaluations: dict[tuple[str, int, str], EvaluationMessage] = field(default_factory=dict)
    failures: list[FailureMessage] = field(default_factory=list)
    statuses: dict[str, StatusMessage] = field(default_factory=dict)
    finished: FinishedMessage | None = None
    digests: dict[str, str] = field(default_factory=dict)
    rejected: dict[str, str] = field(default_factory=dict)
    unusable: dict[str, str] = field(default_factory=dict)

    @property
    def charter(self) -> Charter | None:
        """The charter in force."""
        return self.charters[max(self.charters)] if self.charters else None

    def n_cases(self, site: str) -> int | None:
        """Training cases that a site announced with its fingerprint or its own plan."""
        said = self.fingerprints.get(site) or self.site_plans.get(site)
        return said.n_cases if said else None

    @property
    def newest(self) -> int:
        """The newest published version; -1 before there is one."""
        return max(self.models, default=-1)
