"""Does the software of a host agree with the study's? By what the charter says of its own host.

Rules:
 * Another minor version of nnunetv2 is refused: nnU-Net changes planners, augmentation and trainers
   between them, so that one name in the charter means two things, and sites would average what
   they did not train alike. A host's operator may say otherwise (``--allow-versions``): software
   has to be renewed now and then in a study that takes months.
 * Other differences are told: patch versions, torch, the packages that nnU-Net's augmentation and
   networks come from. They move results by what rounding moves.
 * What the charter or the host does not say is not compared. How a package was built
   (``2.6.0+cu124``) is no difference.
"""

import logging
from collections.abc import Mapping
from dataclasses import dataclass

from fedfs.errors import SetupError

log = logging.getLogger(__name__)

_HAS_TO_AGREE = "nnunetv2"


@dataclass(frozen=True)
class Difference:
    """A package that a host has in another version than the study was set up with."""

    package: str
    here: str
    study: str

    @property
    def matters(self) -> bool:
        """True where results are not comparable."""
        return self.package == _HAS_TO_AGREE and _minor(self.here) != _minor(self.study)

    @property
    def advice(self) -> str:
        """Advice for the host's operator."""
        return f"pip install '{self.package}=={_minor(self.study)}.*'" if self.matters else ""

    def __str__(self) -> str:
        """Return one clause."""
        return f"{self.package} is {self.here} here, {self.study} in the charter"


def differences(study: Mapping[str, str], here: Mapping[str, str]) -> list[Difference]:
    """Return what differs, what matters first.

    Args:
        study: package -> version, as the charter says.
        here: package -> version of this host.
    """
    found = [
        Difference(package, here[package], version)
        for package, version in sorted(study.items())
        if package in here and _public(here[package]) != _public(version)
    ]
    return sorted(found, key=lambda difference: not difference.matters)


def check(study: Mapping[str, str], here: Mapping[str, str], *, allowed: bool = False) -> None:
    """Refuse software that cannot take part, and log what else differs.

    Args:
        study: package -> version, as the charter says.
        here: package -> version of this host.
        allowed: this host's operator wants to take part nevertheless.

    Raises:
        SetupError: another minor version of nnunetv2, and it is not allowed.
    """
    for difference in differences(study, here):
        if difference.matters and not allowed:
            raise SetupError(
                f"{difference}: sites would not train alike.",
                hint=f"{difference.advice}, in the environment of fedfs; or, if the coordinator "
                "agrees, give --allow-versions",
            )
        log.warning("%s", difference)


def _public(version: str) -> str:
    return version.partition("+")[0]


def _minor(version: str) -> str:
    return ".".join(_public(version).split(".")[:2])
