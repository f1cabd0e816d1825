"""Validation cases of a site, with what each of its finished models predicts for them.

Rules:
 * Models are found by what fedfs notes when it finishes one, in the folder of its training.
 * Several folds of a configuration are shown together; of several configurations, one is chosen.
 * The page is for the hospital's eyes: only its user may read the file, and it never lies in the
   study's store.
"""

import logging
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedfs.errors import DatasetError, StudyError, UserError
from fedfs.exchange.read import open_tracks
from fedfs.learner import OnProgress
from fedfs.nnunet.data.dataset import RawDataset
from fedfs.nnunet.data.dataset_json import read_json
from fedfs.nnunet.score.case_scores import CaseView
from fedfs.nnunet.score.finish import Validation, find_validation
from fedfs.nnunet.score.summary import SUMMARY
from fedfs.nnunet.system.environment import NnUNetPaths, from_environment
from fedfs.protocol import layout
from fedfs.protocol.messages import TrackCharter, chosen_tracks, utc
from fedfs.roles.site.cases.page import FEDERATED, MODELS, N_SHOWN, STAYS, CasesPage, make_page
from fedfs.roles.site.config import SiteConfig
from fedfs.roles.site.training import (
    LOCAL,
    PERSONAL,
    joined_as,
    track_folder,
    training_folders,
)
from fedfs.store import Store, open_store
from fedfs.store.local_files import replacing
from fedfs.trust.recipients import Vault

log = logging.getLogger(__name__)

_OPTIONS = {LOCAL: "--local-model", PERSONAL: "--personal"}
"""Model -> the option of ``fedfs site run`` that makes it."""
_TRAINED_ON = (
    " The models were trained on these very cases: their scores say nothing about new patients."
)


@dataclass(frozen=True, kw_only=True)
class ShownCases:
    """The page of a site's cases, and what it lacks.

    Attributes:
        page: with its scores.
        models: that it shows.
        to_compare: model that this site could also show -> the option of ``fedfs site run``.
    """

    page: CasesPage
    models: tuple[str, ...]
    to_compare: Mapping[str, str]


def show_cases(
    config: SiteConfig,
    output: Path,
    *,
    channel: str | None = None,
    n_shown: int = N_SHOWN,
    on_progress: OnProgress = lambda _: None,
) -> ShownCases:
    """Write a page of a site's validation cases; at the site.

    Args:
        config: of the site, with the tracks to show.
        output: HTML file; only this user may read it.
        channel: name or number, from 0; None for the first.
        n_shown: show so many of the worst cases in pictures.
        on_progress: progress callback.

    Raises:
        StudyError: the federated model has not been validated here, or there is none.
        UserError: the file would lie in the store or cannot be written; there is no such channel;
            or the tracks are of several configurations.
        FedfsError: the study, the store or this host's data are not as they should be.
    """
    store = open_store(config.store)
    check_outside(output, store)
    observers = open_tracks(
        store, site=config.site, skip=layout.STATUS_KINDS, vault=Vault(config.home)
    )
    charter = next(iter(observers.values())).state.charter
    if charter.evaluates:
        raise StudyError(
            "This study trains nothing, and keeps no prediction that a page could show.",
            hint=f"the scores of its cases: fedfs site scores {store.url} --site {config.site}",
        )
    tracks = [charter.on(name) for name in chosen_tracks(charter, config.tracks)]
    configurations = dict.fromkeys(track.configuration for track in tracks)
    if len(configurations) > 1:
        raise UserError(
            f"This study has models of {len(configurations)} configurations: "
            f"{', '.join(configurations)}.",
            hint="choose with --track one of them, "
            f"for example {tracks[0].track.name}; repeated for several folds of one",
        )
    paths = from_environment(os.environ)
    dataset = RawDataset.listed(paths, str(joined_as(config, charter)["dataset"]))
    found = {track.track.name: _validations(paths, track, config.site) for track in tracks}
    views, is_scored = _views(found, dataset, config)
    page = make_page(
        views,
        dataset.dataset_json,
        title=f"Validation cases of {config.site} in study {charter.name}",
        ranked_by=FEDERATED,
        made_at=utc(time.time()),
        notice=STAYS if is_scored else STAYS + _TRAINED_ON,
        n_shown=n_shown,
        channel=channel_number(dataset.dataset_json, channel),
        num_processes=config.host.num_processes,
        on_progress=on_progress,
    )
    write_page(output, page.html)
    models = tuple(views[0].predictions)
    to_compare = {name: option for name, option in _OPTIONS.items() if name not in models}
    return ShownCases(page=page, models=models, to_compare=to_compare)


def check_outside(output: Path, store: Store, shown: str = "patients' images") -> None:
    """Refuse to write what stays here to where other hospitals read.

    Raises:
        UserError: the file would lie in the store's folder.
    """
    folder = store.watch_path()
    if folder is not None and output.parent.resolve().is_relative_to(folder.resolve()):
        raise UserError(
            f"{output} lies in the study's store, and would show {shown} to others.",
            hint="choose a folder of this host that only the hospital reads",
        )


def channel_number(dataset_json: Mapping[str, Any], channel: str | None) -> int:
    """Return the number of a channel that a person names or numbers.

    Raises:
        UserError: there is no such channel.
    """
    names = [str(name) for name in dataset_json["channel_names"].values()]
    if channel is None:
        return 0
    if channel in names:
        return names.index(channel)
    if channel.isdecimal() and int(channel) < len(names):
        return int(channel)
    raise UserError(
        f"There is no channel {channel!r}.",
        hint="channels are " + ", ".join(f"{n} {name}" for n, name in enumerate(names)),
    )


def write_page(path: Path, html: str) -> None:
    """Write a page that only this user may read.

    Raises:
        UserError: it cannot be written.
    """
    try:
        with replacing(path) as temporary:
            handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(handle, "w", encoding="utf-8") as file:
                file.write(html)
    except OSError as error:
        raise UserError(f"{path} cannot be written: {error.strerror or error}.") from error


def _validations(paths: NnUNetPaths, charter: TrackCharter, site: str) -> dict[str, Validation]:
    """Return name of a finished model on a track -> its validation; the federated one second."""
    trainings = training_folders(track_folder(paths, charter, site))
    folders = {name or FEDERATED: folder for name, folder in trainings.items()}
    order = [name for name in MODELS if name in folders]
    order += sorted(name for name in folders if name not in MODELS)
    found = {name: find_validation(folders[name]) for name in order}
    return {name: one for name, one in found.items() if one is not None}


def _views(
    found: Mapping[str, Mapping[str, Validation]], dataset: RawDataset, config: SiteConfig
) -> tuple[list[CaseView], bool]:
    """Return the cases, and whether no model was trained on them."""
    for track, validations in found.items():
        if FEDERATED not in validations:
            raise StudyError(
                f"The federated model of track {track} has not been validated at this site yet.",
                hint="nnU-Net validates the study's last version: fedfs site run "
                f"{config.store} --site {config.site}",
            )
    names = [n for n in next(iter(found.values())) if all(n in one for one in found.values())]
    by_name = {case.name: case for case in dataset.cases}
    ending = str(dataset.dataset_json["file_ending"])
    views: dict[str, CaseView] = {}
    for validations in found.values():
        for file in _predicted(validations[FEDERATED].folder):
            name = file.removesuffix(ending)
            if name in views:  # of an earlier fold
                continue
            if name not in by_name:
                raise DatasetError(
                    f"{dataset.name} does not hold the case {name}, which was validated.",
                    hint="is nnUNet_raw the folder that the site trained with?",
                )
            views[name] = CaseView(
                name=name,
                images=by_name[name].images,
                reference=by_name[name].label,
                predictions={model: validations[model].folder / file for model in names},
            )
    return list(views.values()), all(v[FEDERATED].is_scored for v in found.values())


def _predicted(folder: Path) -> Sequence[str]:
    """Return the names of the files that a validation predicted."""
    cases = read_json(folder / SUMMARY)["metric_per_case"]
    return [Path(case["prediction_file"]).name for case in cases]
