"""Everything that a site or the aggregator may have to do next."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from fedfs.protocol.messages import Attendance


@dataclass(frozen=True)
class Wait:
    """Nothing to do now, nor before ``until_s``, by POSIX time, unless something is published."""

    reason: str
    until_s: float = field(default=math.inf, kw_only=True)


@dataclass(frozen=True)
class Done:
    """Nothing will ever be left to do; ``step`` is the status that says so."""

    reason: str
    step: str = "finished"


@dataclass(frozen=True)
class PublishFingerprint:
    """Site: read the dataset, publish its fingerprint."""


@dataclass(frozen=True)
class PublishPlan:
    """Site, mode ``asym``: plan for itself, publish which tensors its network has."""


@dataclass(frozen=True)
class Prepare:
    """Site: adopt the plan, preprocess."""


@dataclass(frozen=True)
class Evaluate:
    """Site: score a global version on own validation cases."""

    version: int


@dataclass(frozen=True)
class Train:
    """Site: train one local budget from a global version, publish the update."""

    version: int


@dataclass(frozen=True)
class SayAttendance:
    """Site: tell the aggregator that it pauses, leaves or is back."""

    attendance: Attendance


@dataclass(frozen=True)
class Finish:
    """Site: keep the last version as nnU-Net's final model and validate it in full."""

    version: int


@dataclass(frozen=True)
class ScoreAverage:
    """Site: keep an average of versions as a model too, and validate it in full."""

    version: int
    variant: str


@dataclass(frozen=True)
class PublishModel:
    """Site: publish its whole network for others to score."""

    version: int


@dataclass(frozen=True)
class CrossEvaluate:
    """Site: score the model of another site on own validation cases."""

    version: int
    of: str


@dataclass(frozen=True)
class ScoreGiven:
    """Site: score a model that the charter gives on all own cases."""

    model: str


@dataclass(frozen=True)
class ScoreEnsemble:
    """Site: score the ensemble of a closed study on own validation cases."""

    version: int


@dataclass(frozen=True)
class TrainAlone:
    """Site: train on own data only, with the budget of all rounds; validate in full."""

    version: int


@dataclass(frozen=True)
class FineTune:
    """Site: fine-tune the last version on own data, and keep it; publish its scores if wanted."""

    version: int


@dataclass(frozen=True)
class CrossValidate:
    """Site: score the final models of all tracks on own validation cases, and their ensembles."""

    weights: Mapping[str, str]
    """Track -> hash of the weights that are scored."""


@dataclass(frozen=True)
class MakePlan:
    """Aggregator: merge the fingerprints of these sites, plan once; or find what they share."""

    sites: tuple[str, ...]


@dataclass(frozen=True)
class PublishInitial:
    """Aggregator: publish version 0, the initial weights."""


@dataclass(frozen=True)
class Admit:
    """Aggregator: let a site take part that was approved after the plan was made."""

    site: str


@dataclass(frozen=True)
class CompleteVersion:
    """Aggregator: publish the manifest that the round record of ``version`` calls for."""

    version: int


@dataclass(frozen=True)
class CheckUpdates:
    """Aggregator: fetch the payloads of the updates under ``keys``, see whether they are usable."""

    keys: tuple[str, ...]


@dataclass(frozen=True)
class RequestSum:
    """Aggregator: ask the helper for the sum of the updates under ``keys``, for ``base + 1``."""

    base: int
    keys: tuple[str, ...]


@dataclass(frozen=True)
class AnswerRequest:
    """Helper: publish the sum of masks that the request for ``version`` asks for."""

    version: int


@dataclass(frozen=True)
class RefuseRequest(Wait):
    """Helper: wait for another request than the one there is, as it breaks a rule."""

    key: str
    fault: str


@dataclass(frozen=True)
class CloseRound:
    """Aggregator: make version ``base + 1`` from the updates under ``keys``."""

    base: int
    keys: tuple[str, ...]


@dataclass(frozen=True)
class CloseStudy:
    """Aggregator: say that ``version`` is the last."""

    version: int


@dataclass(frozen=True)
class ChooseConfiguration:
    """Aggregator: choose the best configuration from what the sites have scored."""


SiteAction = (
    PublishFingerprint
    | PublishPlan
    | Prepare
    | Evaluate
    | Train
    | SayAttendance
    | Finish
    | ScoreAverage
    | PublishModel
    | CrossEvaluate
    | ScoreGiven
    | ScoreEnsemble
    | TrainAlone
    | FineTune
    | Wait
    | Done
)


AggregatorAction = (
    MakePlan
    | PublishInitial
    | Admit
    | CompleteVersion
    | CheckUpdates
    | RequestSum
    | CloseRound
    | CloseStudy
    | Wait
    | Done
)
