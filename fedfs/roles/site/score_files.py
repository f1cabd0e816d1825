"""Scores of single cases, kept in fedfs's own folder of a site, which nobody else reads.

Rules:
 * A file for each version and variant, complete or absent; scored again, it is written again.
 * The order in which cases are published is drawn once for a site and track, and kept here: it is
   the same in all evaluations, and nobody who knows names of cases can work it out.
"""

import hmac
import json
import logging
import secrets
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from fedfs.errors import MalformedError
from fedfs.learner import CaseScores
from fedfs.nnunet.system import files
from fedfs.protocol import codec

log = logging.getLogger(__name__)

_ORDER = "order.json"


@dataclass(frozen=True, kw_only=True)
class ScoredCases:
    """Scores of a variant's cases.

    Attributes:
        version: that was scored, or beside which the variant was.
        variant: see :class:`fedfs.protocol.messages.EvaluationMessage`.
        by_case: name of a case -> class -> metric.
        nsd_tolerance_mm: of ``nsd``.
        is_published: whether anything that is published may be made of them.
    """

    version: int
    variant: str
    by_case: CaseScores
    nsd_tolerance_mm: float | None = None
    is_published: bool = True

    def comparable_with(self, other: "ScoredCases") -> CaseScores:
        """Return the scores without those that mean something else than the other's."""
        if self.nsd_tolerance_mm == other.nsd_tolerance_mm:
            return self.by_case
        return {
            case: {
                name: {metric: value for metric, value in metrics.items() if metric != "nsd"}
                for name, metrics in classes.items()
            }
            for case, classes in self.by_case.items()
        }


def score_folder(folder: Path) -> Path:
    """Return where the scores of cases are kept in fedfs's folder of a site's track."""
    return folder / "scores"


class ScoreFiles:
    """The scores of a site's cases on a track.

    Args:
        folder: of the files; need not be there.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def keep(self, scored: ScoredCases) -> None:
        """Write the scores of a variant."""
        name = f"{scored.version:05d}-{scored.variant}.json"
        files.write_json(self._folder / name, codec.to_json(scored))

    def of_version(self, version: int) -> dict[str, ScoredCases]:
        """Return variant -> scores beside a version that are published: ``full`` comes first."""
        found = [one for one in self.all() if one.version == version]
        return {one.variant: one for one in found if one.is_published}

    def all(self) -> list[ScoredCases]:
        """Return all scores, by version; of a version ``full`` first, then by name."""
        found = []
        for path in sorted(self._folder.glob("[0-9]*-*.json")):
            try:
                content = json.loads(path.read_text(encoding="utf-8"))
                found.append(codec.from_json(ScoredCases, content))
            except (OSError, ValueError, MalformedError) as error:
                log.warning("%s cannot be read (%s): nothing is compared with it", path, error)
        return sorted(found, key=lambda one: (one.version, one.variant != "full", one.variant))

    def in_order(self, cases: Collection[str]) -> list[str]:
        """Return cases in the order in which they are published."""
        path = self._folder / _ORDER
        if not path.exists():
            files.write_json(path, {"secret": secrets.token_hex(32)})
        secret = bytes.fromhex(json.loads(path.read_text(encoding="utf-8"))["secret"])
        return sorted(cases, key=lambda case: hmac.digest(secret, case.encode(), "sha256"))
