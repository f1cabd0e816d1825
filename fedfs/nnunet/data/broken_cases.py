"""Cases that a site goes on without: broken ones (``--skip-broken-cases``), and those added later.

Rules:
 * They count as if they were not in the dataset: not in the fingerprint, the splits, training or
   validation. ``nnUNet_raw`` stays as it is.
 * Which are broken, and why, is in a file in fedfs's own folder for the site, never on the store;
   so are the names of all cases that there were when the site announced its data.
 * The files are made anew whenever the cases are measured, which ends when the fingerprint, or the
   site's plan, is published. From then on the list of broken cases only grows, and every start
   heeds both: a case that is repaired or added later stays out of this study, whose aggregator
   refuses an update of more cases than were announced.
"""

import logging
from collections.abc import Callable, Collection, Mapping
from pathlib import Path

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

ANNOUNCED_FILE = "announced-cases.json"
"""Name of the list of the cases that the site announced, in one of fedfs's own folders."""

_MEASURED, _LATER = "fingerprint", "later"


class BrokenCases:
    """Keeps the list, and opens the dataset without what is on it.

    Args:
        settings: of the site's learner.
    """

    def __init__(self, settings: LearnerSettings) -> None:
        self._settings = settings
        self._path = settings.broken_list or settings.state_dir / FILE
        self._announced = settings.announced_list or settings.state_dir / ANNOUNCED_FILE

    def all_cases(self, *, is_published: bool) -> RawDataset:
        """Return the dataset to be measured, whatever has been left out before.

        Raises:
            DatasetError: there is none, or a file is missing and this site does not go on then.
        """
        found = self.known() if is_published else self._listed()
        return found if self._settings.host.skip_broken else found.checked()

    def known(self) -> RawDataset:
        """Return the dataset without cases that were added after the site announced its data."""
        listed = self._listed()
        return listed.without(added_later(listed, self._announced))

    def measured(self, *, is_published: bool) -> RawDataset:
        """Return the dataset as it was measured: also with cases that broke later."""
        dataset = self.known() if is_published else self._listed()
        return dataset.without([c for c, one in self._read().items() if one["step"] == _MEASURED])

    def usable(self) -> RawDataset:
        """Return the dataset without any case that is left out.

        Raises:
            DatasetError: nothing remains; or a file is missing and this site does not go on then.
        """
        listed = self._listed()
        added = added_later(listed, self._announced)
        left_out = self.left_out()
        if added:
            log.warning(
                "site goes on without %s, added after it announced its data: a study keeps the "
                "cases that it began with",
                ", ".join(sorted(added)),
            )
        if left_out > added:
            broken = ", ".join(sorted(left_out - added))
            log.info("site goes on without %s; see %s", broken, self._path)
            require_some(len(listed.cases) - len(left_out), listed)
        return listed.without(left_out).checked()

    def left_out(self) -> set[str]:
        """Return the cases of the dataset that this site goes on without."""
        listed = self._listed()
        added = added_later(listed, self._announced)
        broken = {*self._read(), *self.incomplete(listed.without(added))}
        return added | (broken & {case.name for case in listed.cases})

    def keep_to_these_cases(self) -> None:
        """Note which cases there are now, unless that is noted: what comes later is left out."""
        if not self._announced.exists():
            files.write_json(self._announced, [case.name for case in self._listed().cases])

    def incomplete(self, dataset: RawDataset) -> dict[str, str]:
        """Return the cases that lack a file, and which; none if this site stops at them."""
        if not self._settings.host.skip_broken:
            return {}
        found = {case.name: missing_files(case, dataset) for case in dataset.cases}
        return {case: reason for case, reason in found.items() if reason}

    def keep(self, found: Mapping[str, str], measured: RawDataset) -> None:
        """Keep what measuring found, and in which cases, in place of what was kept before."""
        if found or self._path.exists():
            self._write({}, found, _MEASURED)
        files.write_json(self._announced, [case.name for case in measured.cases])

    def add(self, found: Mapping[str, str]) -> None:
        """Keep also what broke after the cases were measured."""
        before = self._read()
        new = {case: reason for case, reason in found.items() if case not in before}
        if new:
            log.warning("the fingerprint of this site counts these cases; its training does not")
            self._write(before, new, _LATER)

    def _listed(self) -> RawDataset:
        return RawDataset.listed(self._settings.paths, self._settings.dataset)

    def _write(
        self, before: Mapping[str, Mapping[str, str]], found: Mapping[str, str], step: str
    ) -> None:
        for _, reason in sorted(found.items()):
            log.warning("left out: %s", reason)
        added = {case: {"step": step, "reason": reason} for case, reason in found.items()}
        files.write_json(self._path, dict(sorted({**before, **added}.items())))

    def _read(self) -> dict[str, dict[str, str]]:
        return _entries(self._path)


def added_later(dataset: RawDataset, announced_list: Path) -> set[str]:
    """Return the cases of the dataset that are not on a site's list of announced ones."""
    if not announced_list.exists():
        return set()
    announced: Collection[str] = read_json(announced_list)
    return {case.name for case in dataset.cases} - set(announced)


def cases_of_study(dataset: RawDataset, folder: Path) -> set[str]:
    """Return the cases that a site takes part with, as the two lists in ``folder`` say."""
    broken = _entries(folder / FILE)
    late = added_later(dataset, folder / ANNOUNCED_FILE)
    return {case.name for case in dataset.cases} - late - set(broken)


def _entries(path: Path) -> dict[str, dict[str, str]]:
    if not path.exists():
        return {}
    entries: dict[str, dict[str, str]] = read_json(path)
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


def missing_files(case: Case, dataset: RawDataset) -> str:
    """Return the files that a case lacks, as a sentence; "" if it has all."""
    if not dataset.holds_channels(case):
        n_channels = len(dataset.dataset_json["channel_names"])
        return (
            f"Case {case.name} has {len(case.images)} images, and dataset.json names "
            f"{n_channels} channels."
        )
    missing = [path.name for path in (*case.images, case.label) if not path.is_file()]
    return f"Case {case.name} lacks {', '.join(missing)}." if missing else ""
