"""Messages that the helper of secure sums signs: its request to be one, and sums of masks."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar

from fedfs.protocol.messages.base import Message, PayloadRef
from fedfs.protocol.values import Hash, SiteName, VariantName, Version


@dataclass(frozen=True, kw_only=True)
class HelperJoin(Message):
    """A helper asks to be the study's, or to go on with other keys; signed by the one it presents.

    Attributes:
        endorsement: base64 signature by the helper's key before, which names this one as the next;
            "" if there was none, or another helper asks.
        encryption_key: public key of age, to which sites encrypt the seeds of masks.
    """

    TYPE: ClassVar[str] = "helper-join"
    public_key: str
    encryption_key: str
    versions: Mapping[str, str]
    endorsement: str = ""


@dataclass(frozen=True, kw_only=True)
class MaskSum(Message):
    """The weighted sum of the masks of updates that the aggregator has named.

    Attributes:
        version: the version that is made of these updates.
        request_sha256: hash of the request.
        payload: the sum, modulo 2**32; None where too few updates are left for one.
        left_out: site -> why its mask is not in the sum, so that its update cannot be used.
        scores: variant -> base64 of the sum of the masks of its scores.
        scores_left_out: site -> why its masks are in none of these.
        scores_refused: variant -> why there is no sum.
    """

    TYPE: ClassVar[str] = "mask-sum"
    version: Version
    request_sha256: Hash
    payload: PayloadRef | None
    left_out: Mapping[SiteName, str] = field(default_factory=dict)
    scores: Mapping[VariantName, str] = field(default_factory=dict)
    scores_left_out: Mapping[SiteName, str] = field(default_factory=dict)
    scores_refused: Mapping[VariantName, str] = field(default_factory=dict)
