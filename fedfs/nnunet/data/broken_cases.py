"""Cases that a site goes on without, because they cannot be used (``--skip-broken-cases``).

Rules:
 * They count as if they were not in the dataset: not in the fingerprint, the splits, training or
   validation. ``nnUNet_raw`` stays as it is.
 * Which they are, and why, is in a file in fedfs's own folder for the site, never on the store.
 * The file is made anew whenever the cases are measured, which ends when the fingerprint, or the
   site's plan, is published. From then on it only grows, and every start heeds it, with the option
   or without: a case that is repaired later stays out of this study.
"""

import logging
from collections.abc import Callable, Mapping

from fedfs.errors import DatasetError
from fedfs.nnunet.data.dataset import Case, RawDataset
from fedfs.nnunet.data.dataset_json import read_json
from fedfs.nnunet.settings import LearnerSettings
from fedfs.nnunet.system import files

log = logging.getLogger(__name__)

OnBroken = Callable[[str, str], None]
"""Called with a case's name, and why it cannot be used."""

FILE = "broken-cases.json"
"""Name of the list, in fedfs's own folder for the site."""

_MEASURED, _LATER = "fingerprint", "later"


class BrokenCases:
    """Keeps the list, and opens the dataset without what is on it.

    Args:
        settings: of the site's learner.
    """

    def __init__(self, settings: LearnerSettings) -> None:
        self._settings = settings
        self._path = settings.broken_list or settings.state_dir / FILE

    def all_cases(self) -> RawDataset:
        """Return the dataset to be measured, whatever has been left out before.

        Raises:
            DatasetError: there is none, or a file is missing and this site does not go on then.
        """
        listed = RawDataset.listed(self._settings.paths, self._settings.dataset)
        return listed if self._settings.host.skip_broken else listed.checked()

    def measured(self) -> RawDataset:
        """Return the dataset as it was measured: also with cases that broke later."""
        listed = RawDataset.listed(self._settings.paths, self._settings.dataset)
        return listed.without([c for c, one in self._read().items() if one["step"] == _MEASURED])

    def usable(self) -> RawDataset:
        """Return the dataset without any case that is left out.

        Raises:
            DatasetError: nothing remains; or a file is missing and this site does not go on then.
        """
        listed = RawDataset.listed(self._settings.paths, self._settings.dataset)
        left_out = self.left_out()
        if left_out:
            log.info("site goes on without %s; see %s", ", ".join(sorted(left_out)), self._path)
            require_some(len(listed.cases) - len(left_out), listed)
        return listed.without(left_out).checked()

    def left_out(self) -> set[str]:
        """Return the cases of the dataset that this site goes on without."""
        listed = RawDataset.listed(self._settings.paths, self._settings.dataset)
        return {*self._read(), *self.incomplete(listed)} & {case.name for case in listed.cases}

    def incomplete(self, dataset: RawDataset) -> dict[str, str]:
        """Return the cases that lack a file, and which; none if this site stops at them."""
        if not self._settings.host.skip_broken:
            return {}
        found = {case.name: _lacks(case, dataset) for case in dataset.cases}
        return {case: reason for case, reason in found.items() if reason}

    def keep(self, found: Mapping[str, str]) -> None:
        """Keep what measuring found, in place of what was kept before."""
        if found or self._path.exists():
            self._write({}, found, _MEASURED)

    def add(self, found: Mapping[str, str]) -> None:
        """Keep also what broke after the cases were measured."""
        before = self._read()
        new = {case: reason for case, reason in found.items() if case not in before}
        if new:
            log.warning("the fingerprint of this site counts these cases; its training does not")
            self._write(before, new, _LATER)

    def _write(
        self, before: Mapping[str, Mapping[str, str]], found: Mapping[str, str], step: str
    ) -> None:
        for _, reason in sorted(found.items()):
            log.warning("left out: %s", reason)
        added = {case: {"step": step, "reason": reason} for case, reason in found.items()}
        files.write_json(self._path, dict(sorted({**before, **added}.items())))

    def _read(self) -> dict[str, dict[str, str]]:
        if not self._path.exists():
            return {}
        entries: dict[str, dict[str, str]] = read_json(self._path)
        return entries


def require_some(usable: int, dataset: RawDataset) -> None:
    """Refuse to go on with nothing.

    Raises:
        DatasetError: no case can be used.
    """
    if not usable:
        raise DatasetError(
            f"None of the {len(dataset.cases)} cases of {dataset.name} can be used.",
            hint="the log says why of each; is the folder mounted?",
        )


def _lacks(case: Case, dataset: RawDataset) -> str:
    if not dataset.holds_channels(case):
        n_channels = len(dataset.dataset_json["channel_names"])
        return (
            f"Case {case.name} has {len(case.images)} images, and dataset.json names "
            f"{n_channels} channels."
        )
    missing = [path.name for path in (*case.images, case.label) if not path.is_file()]
    return f"Case {case.name} lacks {', '.join(missing)}." if missing else ""
