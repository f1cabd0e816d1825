"""Parts of evaluations that describe a site's cases, made of scores that stay at the site.

Rules:
 * A model is compared with those whose scores were published before beside the same version.
 * Names of cases are in no part; rows of cases are made only where the site publishes them.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fedfs.aggregation import case_statistics
from fedfs.learner import EvaluationResult
from fedfs.roles.site.score_files import ScoredCases, ScoreFiles, score_folder


class CaseSummaries:
    """Keeps the scores of cases, and says what is published of them.

    Args:
        folder: fedfs's own folder for this site and track.
        seed: of intervals.
        publish_cases: also make rows of single cases.
    """

    def __init__(self, folder: Path, *, seed: int, publish_cases: bool) -> None:
        self._kept = ScoreFiles(score_folder(folder))
        self._seed = seed
        self._publish_cases = publish_cases

    def keep(
        self, version: int, variant: str, result: EvaluationResult, *, is_published: bool
    ) -> ScoredCases:
        """Keep the scores of a variant's cases.

        Args:
            version: that was scored, or beside which the variant was.
            variant: see :class:`fedfs.protocol.messages.EvaluationMessage`.
            result: its scores.
            is_published: whether anything that is published may be made of them.
        """
        scored = ScoredCases(
            version=version,
            variant=variant,
            by_case=result.by_case,
            nsd_tolerance_mm=result.nsd_tolerance_mm,
            is_published=is_published,
        )
        self._kept.keep(scored)
        return scored

    def fields(
        self, version: int, variant: str, result: EvaluationResult, patients: Mapping[str, str]
    ) -> dict[str, Any]:
        """Keep the scores of cases; return the fields of an evaluation that are made of them.

        Scored again after a kill, a variant is compared with the same as before.

        Args:
            version: that was scored, or beside which the variant was.
            variant: see :class:`fedfs.protocol.messages.EvaluationMessage`.
            result: its scores.
            patients: case -> patient; a case that is not named is a patient of its own.
        """
        if not result.by_case:
            return {}
        scored = self.keep(version, variant, result, is_published=True)
        kept = self._kept.of_version(version)
        against = {
            other: case_statistics.differences(
                scored.by_case, one.comparable_with(scored), patients, self._seed
            )
            for other, one in kept.items()
            if other != variant
        }
        cases = self._kept.in_order(scored.by_case) if self._publish_cases else ()
        return {
            "metrics": case_statistics.distributions(scored.by_case),
            "metrics_by_class": case_statistics.distributions_by_class(scored.by_case),
            "against": {other: found for other, found in against.items() if found},
            "chosen": case_statistics.best(
                {name: one.by_case for name, one in kept.items()}, patients, self._seed
            ),
            "cases": case_statistics.rows(scored.by_case, cases),
            "nsd_tolerance_mm": scored.nsd_tolerance_mm,
        }
