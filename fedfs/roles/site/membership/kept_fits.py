"""Fits of models to cases: measured once, and kept in files of the site's track.

A file is believed where it is of the same weights and has the same cases; else the model is
measured again.
"""

from collections.abc import Callable, Collection
from dataclasses import asdict
from pathlib import Path

from fedfs.aggregation.membership import CaseFit, Fits
from fedfs.errors import DatasetError
from fedfs.learner import OnProgress, Progress, Tensors
from fedfs.nnunet.data.dataset_json import read_json
from fedfs.nnunet.membership.case_fits import CaseFits
from fedfs.nnunet.system import files


class KeptFits:
    """Measures models, and keeps what it measured.

    Args:
        meter: of the site's cases.
        folder: for the files.
        n_total: cases to measure, over all models; for the progress.
        on_progress: progress callback.
    """

    def __init__(
        self, meter: CaseFits, folder: Path, n_total: int, on_progress: OnProgress
    ) -> None:
        self._meter, self._folder = meter, folder
        self._total, self._done, self._on_progress = n_total, 0, on_progress

    def of(
        self, name: str, sha256: str, cases: Collection[str], tensors: Callable[[], Tensors]
    ) -> Fits:
        """Return how well a model fits cases.

        Args:
            name: of the model's file.
            sha256: of what the model is made from.
            cases: names of the cases.
            tensors: returns its weights; called where it has not been measured.
        """
        path = self._folder / f"{name}.json"
        found = _read(path, sha256, cases)
        if found is None:
            self._meter.load(tensors())
            found = {}
            for case in cases:
                found[case] = self._meter.fit(case)
                self._report(self._done + len(found))
            content = {case: asdict(fit) for case, fit in found.items()}
            files.write_json(path, {"sha256": sha256, "cases": content})
        self._done += len(cases)
        self._report(self._done)
        return found

    def skip(self, n_cases: int) -> None:
        """Count cases as done that cannot be measured."""
        self._done += n_cases

    def _report(self, done: int) -> None:
        self._on_progress(Progress("membership", done, self._total, "case"))


def _read(path: Path, sha256: str, cases: Collection[str]) -> dict[str, CaseFit] | None:
    try:
        content = read_json(path) if path.exists() else {}
    except DatasetError:  # damaged
        return None
    kept = content.get("cases", {})
    if content.get("sha256") != sha256 or not set(cases) <= set(kept):
        return None
    return {case: CaseFit(**kept[case]) for case in cases}
