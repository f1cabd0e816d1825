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

from fedfs.protocol.messages.aggregator import (
    Admission,
    Choice,
    Excluded,
    FinishedMessage,
    LeftOut,
    ModelManifest,
    PlanMessage,
    RoundRecord,
    SecureRound,
    SummedUpdate,
    SumRequest,
    UsedUpdate,
)
from fedfs.protocol.messages.base import (
    FAILED,
    MAJOR,
    MAX_BYTES,
    SCHEMA,
    Message,
    Named,
    Participation,
    PayloadRef,
    StatusMessage,
    closed,
    decode,
    encode,
    opened,
    payload_type,
)
from fedfs.protocol.messages.coordinator import (
    Charter,
    TrackCharter,
    chooses,
    chosen_tracks,
    track_names,
)
from fedfs.protocol.messages.given import GivenFold, GivenModel
from fedfs.protocol.messages.helper import HelperJoin, MaskSum
from fedfs.protocol.messages.roster import (
    ACTIVE,
    ADMITTED,
    PAUSED,
    REMOVED,
    ROSTER_STATES,
    ReadKey,
    RosterEntry,
)
from fedfs.protocol.messages.scores import (
    ChosenModel,
    DiceSum,
    PairedDifference,
    ScoreTotal,
    Summaries,
    Summary,
    Totals,
)
from fedfs.protocol.messages.site import (
    SUPPRESSED,
    Attendance,
    CrossValidation,
    EvaluationMessage,
    FailureMessage,
    FingerprintMessage,
    JoinRequest,
    SiteModel,
    SitePlan,
    UpdateManifest,
)
from fedfs.protocol.messages.specs import (
    ASYM,
    EVALUATE,
    FFE,
    KEPT_LOCAL,
    LOCAL_EXPORTS,
    MEAN,
    MODES,
    NORM,
    TRAINING_MODES,
    AsymSpec,
    Continued,
    DatasetSpec,
    NnUNetSpec,
    Schedule,
    SecureSums,
    Track,
    TrainOnly,
)
from fedfs.protocol.times import from_utc, utc

_BY_TYPE: dict[str, type[Message]] = {
    cls.TYPE: cls
    for cls in (
        Charter, JoinRequest, FingerprintMessage, SitePlan, PlanMessage, Admission, ModelManifest,
        UpdateManifest, Attendance, RoundRecord, EvaluationMessage, SiteModel, CrossValidation,
        FailureMessage, StatusMessage, Choice, FinishedMessage, HelperJoin, SumRequest, MaskSum,
    )
}  # fmt: skip


def message_class(kind: str) -> type[Message] | None:
    """Return the message class that belongs under keys of ``kind``; None for payloads."""
    return _BY_TYPE.get("status" if kind.endswith("-status") else kind)
