"""Division of a site's cases into folds: by the site's file, by nnU-Net, or here if it cannot.

Rules:
 * ``splits_final.json`` in the raw dataset or in ``nnUNet_preprocessed`` decides, as in nnU-Net.
   Without one, nnU-Net makes five folds of five cases or more.
 * nnU-Net refuses to divide fewer. Then this module writes the file: fold f validates on case
   f mod n and trains on the others. A single case is both, as nnU-Net can neither train nor
   validate on nothing; :class:`~fedfs.nnunet.train.session.Session` says so of it.
 * Cases that the site goes on without (:mod:`fedfs.nnunet.data.broken_cases`) may be named in it:
   they are passed over.
 * A file made here is known by its content, and goes when it does not list the site's cases any
   more. Nobody else's file is changed.
"""

import logging
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

from fedfs.errors import SetupError
from fedfs.nnunet.data.dataset import RawDataset
from fedfs.nnunet.data.dataset_json import read_json
from fedfs.nnunet.system import files
from fedfs.nnunet.system.environment import NnUNetPaths

log = logging.getLogger(__name__)

FILE = "splits_final.json"
N_FOLDS = 5
"""nnU-Net's number of folds, and the fewest cases that it divides."""
_RANDOM_TRAINING_SHARE = 0.8


def settle(
    fold: int | str, dataset: RawDataset, paths: NnUNetPaths, left_out: Collection[str] = ()
) -> None:
    """See to it that nnU-Net can divide the cases for ``fold``.

    Args:
        fold: a number, or ``all``.
        dataset: without the cases that the site goes on without.
        paths: nnU-Net's folders.
        left_out: those cases; the file may name them, :func:`restrict_split` passes them over.

    Raises:
        SetupError: ``splits_final.json`` does not fit the dataset, or leaves nothing for the fold.
    """
    path, given = paths.preprocessed / dataset.name / FILE, dataset.folder / FILE
    if given.exists() and not path.exists():
        files.copy(given, path)  # as nnU-Net's planner does
    if fold == "all":
        return
    names = sorted(case.name for case in dataset.cases)
    if path.exists() and not given.exists() and _is_outdated(read_json(path), names):
        log.warning("%s was made of other cases than there are now and is made again", path)
        path.unlink()
    if not path.exists() and len(names) < N_FOLDS:
        log.info("nnU-Net cannot divide %d cases; fedfs has, in %s", len(names), path)
        files.write_json(path, of_few(names))
    if path.exists():
        _check(path, fold, dataset, left_out)
    elif len(set(dataset.patients.values())) < len(dataset.patients):
        log.warning(
            "nnU-Net divides the cases without asking whose they are, and some are of one patient: "
            "write %s, with each patient on one side",
            given,
        )


def restrict_split(trainer: Any, cases: Collection[str]) -> None:
    """Have a trainer divide no other cases than these, whatever ``splits_final.json`` names."""
    divide = trainer.do_split

    def do_split() -> tuple[list[str], list[str]]:
        training, validation = divide()
        return [c for c in training if c in cases], [c for c in validation if c in cases]

    trainer.do_split = do_split


def of_few(names: Sequence[str]) -> list[dict[str, list[str]]]:
    """Return nnU-Net's splits of fewer cases than it divides itself."""
    splits = []
    for fold in range(N_FOLDS):
        validation = names[fold % len(names)]
        training = [name for name in names if name != validation] or [validation]
        splits.append({"train": training, "val": [validation]})
    return splits


def _is_outdated(splits: Any, names: Sequence[str]) -> bool:
    """Return True for what :func:`of_few` makes of other cases."""
    try:
        named = sorted({case for split in splits for part in split.values() for case in part})
    except (TypeError, AttributeError):
        return False
    return 0 < len(named) < N_FOLDS and splits == of_few(named) and named != list(names)


def _check(path: Path, fold: int | str, dataset: RawDataset, left_out: Collection[str]) -> None:
    splits = read_json(path)
    try:
        # Beyond the last fold, nnU-Net divides at random.
        chosen = splits[int(fold)] if int(fold) < len(splits) else None
        parts = [] if chosen is None else [chosen["train"], chosen["val"]]
        parts = [[str(case) for case in part if case not in left_out] for part in parts]
        named = {case for part in parts for case in part}
    except (TypeError, KeyError, ValueError) as error:
        raise SetupError(
            f"{path} is not a list of train and val cases.",
            hint="correct or remove it: without it nnU-Net divides the cases itself",
        ) from error
    unknown = sorted(named - {case.name for case in dataset.cases})
    nothing = not all(parts) or (
        chosen is None and int(len(dataset.cases) * _RANDOM_TRAINING_SHARE) == 0
    )
    _warn_of_patients_on_both_sides(path, parts, dataset)
    if unknown or nothing:
        what = f"names {unknown[0]}, which is not in" if unknown else "leaves nothing to use of"
        raise SetupError(
            f"{path} {what} {dataset.name} for fold {fold}.",
            hint="it may be left from an earlier state of the dataset: correct or remove it",
        )


def _warn_of_patients_on_both_sides(
    path: Path, parts: Sequence[Sequence[str]], dataset: RawDataset
) -> None:
    training, validation = (
        {dataset.patients[case] for case in part if case in dataset.patients}
        for part in (parts or [[], []])
    )
    if both := training & validation:
        log.warning(
            "patients who have cases among those that are trained on and among those that are "
            "validated on: %d; scores will be too good. Keep each patient on one side in %s",
            len(both), path,
        )  # fmt: skip
