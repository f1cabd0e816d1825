"""A site's policy as a value: its keys, their defaults, and what they may be."""

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from fedfs.protocol.codec import JSON

REQUIRED, OPTIONAL = "required", "optional"
SITE, TOTALS, NONE = "site", "totals", "none"
"""Scores: of the site's cases together, in masked totals over sites only, or none."""


@dataclass(frozen=True)
class SitePolicy:
    """Rules for what may leave a site; the defaults are in force where there is no file.

    Attributes:
        minimum_cases: of fewer cases no fingerprint, plan, update or score leaves.
        minimum_scored_cases: no score over fewer validation cases leaves.
        extremes: whether fingerprints and plans may hold the smallest and largest voxel.
        fingerprint_digits: most significant digits in a fingerprint; None for what the charter
            says.
        fingerprint_quantiles: most quantiles of sizes and spacings, in place of a line for each
            case; likewise.
        encryption: :data:`REQUIRED` where updates, fingerprints and models may leave encrypted
            only, or :data:`OPTIONAL`.
        secure_sums: :data:`REQUIRED` where an update may leave in a secure sum only.
        scores: :data:`SITE`, :data:`TOTALS` or :data:`NONE`.
        encodings, strategies, trainers: names that the charter may have; None for any.
        max_rounds: most rounds of a study; None for any number.
        max_round_hours: longest training of one round; None for as long as it takes.
        models_elsewhere: whether a model of this site may be published for others to score.
        coordinators: fingerprints of keys that may lead a study; None for any.
    """

    minimum_cases: int = 5
    minimum_scored_cases: int = 1
    extremes: bool = False
    fingerprint_digits: int | None = None
    fingerprint_quantiles: int | None = None
    encryption: str = OPTIONAL
    secure_sums: str = OPTIONAL
    scores: str = SITE
    encodings: tuple[str, ...] | None = None
    strategies: tuple[str, ...] | None = None
    trainers: tuple[str, ...] | None = None
    max_rounds: int | None = None
    max_round_hours: float | None = None
    models_elsewhere: bool = False
    coordinators: tuple[str, ...] | None = None

    def has_enough_scored(self, n_cases: int) -> bool:
        """Return whether scores over so many cases may leave; without a case there are none."""
        return n_cases >= self.minimum_scored_cases or not n_cases

    def to_json(self) -> dict[str, JSON]:
        """Return key -> value; None where anything is allowed."""
        return {
            name: list(value) if isinstance(value, tuple) else value
            for name, value in asdict(self).items()
        }


DEFAULT = SitePolicy()
"""The policy of a site without a file."""

KEYS = tuple(field.name for field in fields(SitePolicy))

_FINGERPRINT = re.compile(r"[0-9a-f]{32}")


def _whole(low: int) -> Callable[[Any], int]:
    """Return a reader of whole numbers from ``low`` on."""

    def read(value: Any) -> int:
        if type(value) is not int or value < low:
            raise ValueError(f"a whole number from {low} on")
        return value

    return read


def _positive(value: Any) -> float:
    if type(value) not in {int, float} or not 0 < value < math.inf:
        raise ValueError("a number above 0")
    return float(value)


def _flag(value: Any) -> bool:
    if value is not True and value is not False:
        raise ValueError("true or false")
    return bool(value)


def _one_of(*names: str) -> Callable[[Any], str]:
    def read(value: Any) -> str:
        if value not in names:
            raise ValueError(" or ".join(f'"{name}"' for name in names))
        return str(value)

    return read


def _names(value: Any) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(one, str) and one for one in value):
        raise ValueError('a list of names, such as ["int8", "topk"]')
    return tuple(value)


def _fingerprints(value: Any) -> tuple[str, ...]:
    found = tuple(one.replace(" ", "") if isinstance(one, str) else "" for one in _listed(value))
    if not all(_FINGERPRINT.fullmatch(one) for one in found):
        raise ValueError("a list of fingerprints of keys, 32 hexadecimal digits each")
    return found


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [None]


READERS: Mapping[str, Callable[[Any], Any]] = {
    "minimum_cases": _whole(1),
    "minimum_scored_cases": _whole(1),
    "extremes": _flag,
    "fingerprint_digits": _whole(1),
    "fingerprint_quantiles": _whole(1),
    "encryption": _one_of(REQUIRED, OPTIONAL),
    "secure_sums": _one_of(REQUIRED, OPTIONAL),
    "scores": _one_of(SITE, TOTALS, NONE),
    "encodings": _names,
    "strategies": _names,
    "trainers": _names,
    "max_rounds": _whole(1),
    "max_round_hours": _positive,
    "models_elsewhere": _flag,
    "coordinators": _fingerprints,
}
"""Key -> function that checks its value in a file; its ValueError says what it has to be."""
