"""What the coordinator signs: the charter and what it is made of."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

from fedfs.protocol.messages.base import Extra, Message, Named, PayloadRef


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
class AsymSpec:
    """How sites with networks of their own share tensors; see :mod:`fedfs.aggregate.alignment`.

    Attributes:
        alignment: which tensors of unlike networks are the same.
        sharing: which of these are shared.
        min_coverage: smallest share of its parameters, 0 to 1, that every site must share.
        cross_evaluation: in the end each site publishes its whole model, and scores the others'.
    """

    alignment: str
    sharing: str
    min_coverage: float
    cross_evaluation: bool = False
    extra: Extra = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class RosterEntry:
    """A site admitted to the study by the coordinator.

    Attributes:
        from_version: the version from which on this key and this state count; what the site said
            about earlier ones is believed as the charters before say.
        encryption_key: public key of age, to which others encrypt; "" if it has none.
    """

    site: str
    public_key: str
    state: str = "active"
    from_version: int = 0
    encryption_key: str = ""
    extra: Extra = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class ReadKey:
    """A key pair to whose public half models and plans are encrypted.

    Attributes:
        number: 1 for the first; the last one of a charter is in use.
        recipient: public half, of age.
        sealed_for: ``coordinator``, ``aggregator``, ``site-<name>`` -> base64 of the private half,
            encrypted for it.
    """

    number: int
    recipient: str
    sealed_for: Mapping[str, str]
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
        aggregator_from_version: the version from which on the aggregator has this key.
        aggregator_encryption_key, coordinator_encryption_key: public keys of age; "" if none.
        max_move_ratio: an update that moves the model more than so many times as far as the median
            of its round is refused; 0 for never.
        fingerprint_digits: significant digits of numbers in fingerprints; None for all.
        fingerprint_quantiles: quantiles of each axis in place of a line per case; None for lines.
        encryption: ``age``: updates can be read by the aggregator only, models and plans by the
            roster only; "" for nothing hidden.
        read_keys: key pairs of those who may read models and plans.
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
    aggregator_from_version: int = 0
    aggregator_encryption_key: str = ""
    coordinator_encryption_key: str = ""
    max_move_ratio: float = 0.0
    fingerprint_digits: int | None = None
    fingerprint_quantiles: int | None = None
    encryption: str = ""
    read_keys: tuple[ReadKey, ...] = ()

    def entry(self, site: str) -> RosterEntry | None:
        """Return the roster entry of ``site``, if it has one."""
        return next((entry for entry in self.roster if entry.site == site), None)

    @property
    def cross_evaluates(self) -> bool:
        """Whether sites score each other's models in the end."""
        return self.asym is not None and self.asym.cross_evaluation

    @property
    def active_sites(self) -> tuple[str, ...]:
        """Names of the sites that take part, sorted."""
        return tuple(sorted(e.site for e in self.roster if e.state == "active"))
