"""Arms of an experiment: the study that trains for them, and the models of it that they compare.

Rules:
 * Arms of the same study share its training: its folder is named after it, not after the arm.
 * Every study has the same number of rounds, and nnU-Net's schedule over all of them. With equal
   compute, a round has as many iterations as those of all sites of the federation together.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from fedfs.errors import UserError
from fedfs.protocol.messages import ASYM, FFE

ALONE, TOGETHER, POOLED = "alone", "together", "pooled"
"""A study for each site; one of all sites; one of a single site that has all cases."""

GLOBAL, OF_SITE, PERSONAL = "global", "site", "personal"
"""The version that ``fedfs export`` writes; that which it writes at a site; what the site made of
the version with ``--personal``."""


@dataclass(frozen=True, kw_only=True)
class Arm:
    """One arm.

    Attributes:
        study: name of the study, and of the folder's beginning.
        sites: :data:`ALONE`, :data:`TOGETHER` or :data:`POOLED`.
        model: :data:`GLOBAL`, :data:`OF_SITE` or :data:`PERSONAL`.
        is_equal: a round has the iterations of all sites of the federation.
        mode: of the study.
        init: further options of ``fedfs init``.
        run: options of ``fedfs site run``.
        is_ensemble: the model is the mean of the probabilities of all sites' models.
        last: number of last versions whose mean is the model; 1 for the last one itself.
    """

    study: str
    sites: str
    model: str = GLOBAL
    is_equal: bool = False
    mode: str = FFE
    init: tuple[str, ...] = ()
    run: tuple[str, ...] = ()
    is_ensemble: bool = False
    last: int = 1


ARMS: Mapping[str, Arm] = {
    "local": Arm(study="local", sites=ALONE),
    "local-equal": Arm(study="local-equal", sites=ALONE, is_equal=True),
    "ensemble": Arm(study="local", sites=ALONE, is_ensemble=True),
    "ffe": Arm(study="ffe", sites=TOGETHER),
    "personal": Arm(study="ffe", sites=TOGETHER, model=PERSONAL, run=("--personal",)),
    "average": Arm(study="ffe", sites=TOGETHER, last=3),
    "keep-local": Arm(
        study="keep-local", sites=TOGETHER, model=OF_SITE, init=("--keep-local", "norm")
    ),
    "asym": Arm(study="asym", sites=TOGETHER, model=OF_SITE, mode=ASYM),
    "central": Arm(study="central", sites=POOLED),
    "central-equal": Arm(study="central-equal", sites=POOLED, is_equal=True),
}
DEFAULT_ARMS = ("local", "ffe", "asym", "central")


def check_arms(names: Sequence[str]) -> None:
    """Check names of arms.

    Raises:
        UserError: there is no such arm, or none is named.
    """
    unknown = [name for name in names if name not in ARMS]
    if unknown or not names:
        raise UserError(
            f"Arm {unknown[0] if unknown else ''!r} is unknown.", hint=f"some of {', '.join(ARMS)}"
        )


@dataclass(frozen=True)
class Run:
    """One arm, configuration, fold and seed; ``root`` is the experiment's folder."""

    arm: str
    configuration: str
    fold: str
    seed: int
    root: Path

    @property
    def name(self) -> str:
        """Words for the log."""
        return f"{self.arm}, {self.configuration}, fold {self.fold}, seed {self.seed}"

    @property
    def folder(self) -> Path:
        """Scores and predictions of the arm."""
        return self._folder(self.arm)

    @property
    def studies(self) -> Path:
        """Studies that train for the arm, perhaps for others too."""
        return self._folder(ARMS[self.arm].study)

    @property
    def scores(self) -> Path:
        """File that is written when the run is done."""
        return self.folder / "scores.json"

    def _folder(self, arm: str) -> Path:
        return self.root / f"{arm}-{self.configuration}-fold{self.fold}-seed{self.seed}"
