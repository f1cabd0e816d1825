"""Messages of the coordinator: the charter, and how it reads for one track."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, ClassVar

from fedfs.errors import MalformedError, MisplacedError, UserError
from fedfs.protocol import codec
from fedfs.protocol.messages.base import Message, Named, PayloadRef
from fedfs.protocol.messages.given import GivenModel, check_given
from fedfs.protocol.messages.roster import ReadKey, RosterEntry
from fedfs.protocol.messages.specs import (
    ASYM,
    EVALUATE,
    FFE,
    MEAN,
    AsymSpec,
    Continued,
    DatasetSpec,
    NnUNetSpec,
    Schedule,
    SecureSums,
    Track,
    TrainOnly,
)
from fedfs.protocol.values import Count, Decay, Hash, HashOrNone, StudyName, TrackName, Version


def chooses(mode: str, tracks: Sequence[Track]) -> bool:
    """Return whether a configuration and its postprocessing are chosen in the end of a study.

    It takes several tracks, one plan, and cases that a model has not trained on: no fold ``all``.
    """
    return mode == FFE and len(tracks) > 1 and all(track.fold != "all" for track in tracks)


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
        mode: ``ffe`` (one plan for all sites), ``asym`` (every site plans for itself) or
            ``evaluate`` (the sites score given models).
        asym: how tensors are shared in the mode ``asym``; None in the other.
        model_encoding: how global versions travel; anything but ``fp32`` makes them deltas.
        keyframe_every: of versions that travel as deltas, each so-many-th is also there in full.
        aggregator_from_versions: of each track, the version from which on the aggregator has this
            key, 0 if absent.
        vouched: key on the store -> hash of the payload of a message about no version, which the
            aggregator signed with a key that has been replaced; others of such a key are refused.
        closed_rounds: track -> version whose round closes with the usable updates there are, even
            with none.
        aggregator_encryption_key, coordinator_encryption_key: public keys of age; "" if none.
        max_move_ratio: an update that moves the model more than so many times as far as the median
            of its round is refused; 0 for never.
        fingerprint_digits: significant digits of numbers in fingerprints; None for all.
        fingerprint_quantiles: quantiles of each axis in place of a line per case; None for lines.
        encryption: ``age``: updates can be read by the aggregator only, models and plans by the
            roster only; "" for nothing hidden.
        read_keys: key pairs of those who may read models and plans.
        continues: a finished study, with whose plan and last version this one begins.
        keep_local: tensors of which every site keeps values of its own, of :data:`KEPT_LOCAL`.
        keep_local_export: what others get of them, of :data:`LOCAL_EXPORTS`.
        average_last: sites also validate the mean of so many last versions; 0 for none.
        ema: decay of an exponential average of versions, which the aggregator publishes with each
            and sites validate; 0 for none.
        ensemble: after the only round each site publishes its model, and scores the ensemble of
            all.
        secure_sums: updates are masked, and only their sums can be seen; None where the aggregator
            sees each.
        train_only: the part of the network that is trained, and travels; None for all of it.
        given: models that the sites score, in the mode ``evaluate``; empty in the others.
        tracks: models that the study makes, one or several, in the order in which a site that may
            choose works on them.
    """

    TYPE: ClassVar[str] = "charter"
    number: int
    previous_sha256: HashOrNone
    name: StudyName
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
    tracks: tuple[Track, ...]
    asym: AsymSpec | None = None
    model_encoding: Named = field(default_factory=lambda: Named(name="fp32"))
    keyframe_every: int = 1
    aggregator_from_versions: Mapping[TrackName, Version] = field(default_factory=dict)
    vouched: Mapping[str, Hash] = field(default_factory=dict)
    closed_rounds: Mapping[TrackName, Version] = field(default_factory=dict)
    aggregator_encryption_key: str = ""
    coordinator_encryption_key: str = ""
    max_move_ratio: float = 0.0
    fingerprint_digits: int | None = None
    fingerprint_quantiles: int | None = None
    encryption: str = ""
    read_keys: tuple[ReadKey, ...] = ()
    continues: Continued | None = None
    keep_local: str = ""
    keep_local_export: str = ""
    average_last: Count = 0
    ema: Decay = 0.0
    ensemble: bool = False
    given: tuple[GivenModel, ...] = ()
    secure_sums: SecureSums | None = None
    train_only: TrainOnly | None = None

    def check(self) -> None:
        """See :meth:`Message.check`."""
        if self.evaluates != bool(self.given):
            raise MalformedError(f"has the mode {self.mode!r} and {len(self.given)} given models")
        check_given(self.given)
        if self.train_only is not None and (self.mode != FFE or self.pretrained is None):
            raise MalformedError("trains a part of a network, but names no weights for the rest")
        rules = self.secure_sums
        if rules is None:
            return
        if self.encryption != "age":
            raise MalformedError("asks for secure sums, but not for encryption")
        of_others = {self.aggregator_key, self.coordinator_key}
        of_others |= {self.aggregator_encryption_key, self.coordinator_encryption_key} - {""}
        if {rules.helper_key, rules.helper_encryption_key} & of_others:
            raise MalformedError("names a key of the aggregator or coordinator as the helper's")

    def on(self, name: str) -> TrackCharter:
        """Return the charter as it reads for one track.

        Raises:
            MisplacedError: there is no such track.
        """
        track = next((track for track in self.tracks if track.name == name), None)
        if track is None:
            raise MisplacedError(f"has no track {name!r}", about="the study")
        return TrackCharter(**_fields_of(self), track=track)

    @property
    def chooses(self) -> bool:
        """A configuration and its postprocessing are chosen in the end; see :func:`chooses`."""
        return chooses(self.mode, self.tracks)

    @property
    def cross_validates(self) -> bool:
        """Sites score all models together for that choice; else it is made of totals."""
        return self.chooses and not self.secure_scores

    @property
    def configurations(self) -> tuple[str, ...]:
        """nnU-Net configurations of the tracks, in order."""
        return tuple(dict.fromkeys(track.configuration for track in self.tracks))

    @property
    def folds(self) -> tuple[str, ...]:
        """Folds of the tracks, in order."""
        return tuple(dict.fromkeys(track.fold for track in self.tracks))

    def dataset_json(self) -> dict[str, Any]:
        """Return the study's ``dataset.json``, with ``label_order`` where there are regions."""
        content: dict[str, Any] = codec.to_json(self.dataset)
        content.pop("name")
        return content

    def entry(self, site: str) -> RosterEntry | None:
        """Return the roster entry of ``site``, if it has one."""
        return next((entry for entry in self.roster if entry.site == site), None)

    @property
    def has_site_models(self) -> bool:
        """Every site has a model of its own, part of which other sites do not use."""
        return self.mode == ASYM or bool(self.keep_local)

    @property
    def withholds(self) -> bool:
        """True where no update holds what sites keep local."""
        return bool(self.keep_local) and (self.mode == ASYM or self.keep_local_export != MEAN)

    @property
    def averages(self) -> tuple[str, ...]:
        """Variants of averages of versions that sites validate."""
        return (*(("average",) if self.average_last else ()), *(("ema",) if self.ema else ()))

    @property
    def evaluates(self) -> bool:
        """Nothing is trained: the sites score given models."""
        return self.mode == EVALUATE

    @property
    def cross_evaluates(self) -> bool:
        """Sites score each other's models in the end."""
        return self.asym is not None and self.asym.cross_evaluation

    @property
    def shares_models(self) -> bool:
        """Sites publish models of their own for others to score."""
        return self.cross_evaluates or self.ensemble

    @property
    def secure_scores(self) -> bool:
        """Scores are masked: only totals over sites can be seen."""
        return self.secure_sums is not None and self.secure_sums.scores

    @property
    def active_sites(self) -> tuple[str, ...]:
        """Names of the sites that take part, sorted."""
        return tuple(sorted(e.site for e in self.roster if e.state == "active"))


@dataclass(frozen=True, kw_only=True)
class TrackCharter(Charter):
    """A charter as it reads for one track; never written, see :meth:`whole`.

    Attributes:
        track: the track.
    """

    track: Track

    @property
    def configuration(self) -> str:
        """nnU-Net configuration of the track."""
        return self.track.configuration

    @property
    def fold(self) -> str:
        """Fold of the track: a number, or ``all``."""
        return self.track.fold

    @property
    def seed(self) -> int:
        """Seed of the track's initial weights.

        Folds begin with different weights, as in nnU-Net: the fold's number is added.
        """
        return self.schedule.seed + (0 if self.fold == "all" else int(self.fold))

    @property
    def aggregator_from_version(self) -> int:
        """The version from which on the aggregator has its key."""
        return self.aggregator_from_versions.get(self.track.name, 0)

    @property
    def closed_round(self) -> int:
        """The version whose round the coordinator has closed last; -1 if there is none."""
        return self.closed_rounds.get(self.track.name, -1)

    @property
    def given_up_sum(self) -> int:
        """The version whose secure sum nobody waits for any more; -1 if there is none."""
        return self.secure_sums.given_up.get(self.track.name, -1) if self.secure_sums else -1

    def from_version(self, entry: RosterEntry) -> int:
        """Return the version from which on a roster entry counts."""
        return entry.from_versions.get(self.track.name, 0)

    def whole(self) -> Charter:
        """Return the charter of all tracks, as it was signed."""
        return Charter(**_fields_of(self))


def _fields_of(charter: Charter) -> dict[str, Any]:
    return {item.name: getattr(charter, item.name) for item in fields(Charter)}


def track_names(charter: Charter) -> list[str]:
    """Return the names of a study's tracks, one or several."""
    return [track.name for track in charter.tracks]


def chosen_tracks(charter: Charter, tracks: Sequence[str]) -> list[str]:
    """Return the tracks that a person chose: those named, or all if none is.

    Raises:
        UserError: the study has no such track.
    """
    names = track_names(charter)
    unknown = [name for name in tracks if name not in names]
    if unknown:
        raise UserError(
            f"Study {charter.name!r} has no track {unknown[0]!r}.",
            hint=f"its tracks: {', '.join(names)}",
        )
    return [name for name in names if name in tracks or not tracks]
