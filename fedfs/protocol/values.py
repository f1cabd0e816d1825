"""Forms of the names and ranges of the numbers that messages hold.

A field of a message whose annotation is one of these types is refused if it holds anything else
(:mod:`fedfs.protocol.codec`). Names and hashes become parts of keys, of paths on a host and of
pages for people; numbers are added up by whoever reads them. Bounds are far beyond what an honest
writer needs: they keep sums finite, and they are no judgement.
"""

import re
from dataclasses import dataclass
from typing import Annotated

from fedfs.errors import MalformedError, UserError
from fedfs.protocol.ranges import LEARNING_RATE, Range
from fedfs.protocol.times import from_utc


@dataclass(frozen=True)
class Form:
    """Texts that match a pattern as a whole.

    Attributes:
        pattern: a regular expression.
        name: of such a text, for errors.
    """

    pattern: str
    name: str

    def __contains__(self, value: object) -> bool:
        return isinstance(value, str) and re.fullmatch(self.pattern, value) is not None

    def __str__(self) -> str:
        return self.name


@dataclass(frozen=True)
class Moment:
    """UTC times as text.

    Attributes:
        or_never: the empty text is one of them.
    """

    or_never: bool = False

    def __contains__(self, value: object) -> bool:
        if not isinstance(value, str) or not value:
            return self.or_never and value == ""
        try:
            from_utc(value)
        except MalformedError:
            return False
        return True

    def __str__(self) -> str:
        return "a time like 2026-01-31T12:00:00Z"


STUDY = Form(r"[a-z0-9](?:[a-z0-9-]{0,38}[a-z0-9])?", "the name of a study")
STUDY_ID = Form(r"[a-z0-9][a-z0-9-]{0,63}-[0-9a-f]{32}", "the id of a study")
SITE = Form(r"[a-z0-9](?:[a-z0-9-]{0,30}[a-z0-9])?", "the name of a site")
TRACK = Form(r"[a-z0-9][a-z0-9_-]{0,63}", "the name of a track")

HELPER_SITE = "+helper"
"""In place of the name of a site, the helper of secure sums: no site can have this name."""

MAX_COUNT = 2**53
"""Largest whole number that every reader of JSON reads as the same number."""

StudyName = Annotated[str, STUDY]
StudyId = Annotated[str, STUDY_ID]
SiteName = Annotated[str, SITE]
Sender = Annotated[
    str,
    Form(
        rf"(?:{SITE.pattern})?|{re.escape(HELPER_SITE)}",
        f"{SITE}, {HELPER_SITE} for the helper, or empty for the aggregator",
    ),
]
TrackName = Annotated[str, TRACK]
Fold = Annotated[str, Form(r"[0-9]{1,3}|all", "the number of a fold, or all")]
DatasetName = Annotated[
    str, Form(r"Dataset[0-9]{3}_[A-Za-z0-9_-]{1,100}", "nnU-Net's DatasetXXX_NAME")
]
ClassName = Annotated[str, Form(r"[A-Za-z_][A-Za-z0-9_]{0,79}", "the name of a class")]
FileName = Annotated[str, Form(r"[A-Za-z0-9][A-Za-z0-9_-]{0,119}", "a name without dots and /")]
Ending = Annotated[str, Form(r"(?:\.[A-Za-z0-9_-]{1,20}){1,4}", "an ending of files")]

_HASH = r"[0-9a-f]{64}"
Hash = Annotated[str, Form(_HASH, "a SHA-256 in hexadecimal digits")]
HashOrNone = Annotated[str, Form(f"({_HASH})?", "a SHA-256 in hexadecimal digits, or empty")]

VARIANT = Form(
    f"pseudo|full|local|personal|average|ema|ensemble|of-{SITE.pattern}", "a variant of a score"
)
"""Models that a site scores: see :class:`fedfs.protocol.messages.EvaluationMessage`."""
VariantName = Annotated[str, VARIANT]

Time = Annotated[str, Moment()]
TimeOrNever = Annotated[str, Moment(or_never=True)]

COUNT = Range(low=0, high=MAX_COUNT, whole=True)
DICE = Range(low=0, high=1, high_is_open=False)
DISTANCE_MM = Range(low=0, high=1e10)

Count = Annotated[int, COUNT]
Version = Annotated[int, Range(low=-1, high=10**6, whole=True)]
Seconds = Annotated[float, Range(low=0, high=1e10)]
Positive = Annotated[float, Range(low=0, high=1e10, low_is_open=True)]
Dice = Annotated[float, DICE]
Decay = Annotated[float, Range(low=0, high=1)]
Share = Annotated[float, DICE]
LearningRate = Annotated[float, LEARNING_RATE]


def check_site(name: str) -> str:
    """Return a site's name if it has the form of one.

    Raises:
        UserError: with the rule it breaks.
    """
    if name not in SITE:
        raise UserError(
            f"Site name {name!r} is not usable.",
            hint="use 1 to 32 of a-z, 0-9 and -, starting and ending with a letter or digit",
        )
    return name


def check_party(name: str) -> str:
    """Return the name of a site, or of the helper in place of one, if it has the form of one.

    Raises:
        UserError: with the rule it breaks.
    """
    return name if name == HELPER_SITE else check_site(name)


def check_study(text: str) -> str:
    """Return the id of a study if it has the form of one.

    Raises:
        MalformedError: it is none.
    """
    if text not in STUDY_ID:
        raise MalformedError("is not an id of a study", about=f"the name {text[:80]!r}")
    return text
