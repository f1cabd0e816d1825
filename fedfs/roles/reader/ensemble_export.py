"""The members of a study's ensemble as nnU-Net results folders, and how to predict with all."""

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from fedfs.errors import StudyError, UserError
from fedfs.exchange.observer import Observer
from fedfs.exchange.payloads import MAX_MODEL_BYTES, fetch_payload
from fedfs.exchange.visible import open_visible
from fedfs.nnunet.system.environment import DEFAULT_HOST, HostSettings
from fedfs.protocol import layout
from fedfs.protocol.messages import FinishedMessage, PlanMessage, chosen_tracks
from fedfs.roles.reader.export import (
    CARD,
    Exported,
    ModelToExport,
    export_network,
    predict_commands,
    write_card,
)
from fedfs.roles.reader.model_card import CardFold, model_card
from fedfs.roles.reader.model_kind import ModelKind
from fedfs.store.base import ReadableStore
from fedfs.trust.recipients import Vault


@dataclass(frozen=True)
class ExportedEnsemble:
    """The members of an ensemble that were written, by site, and nnU-Net's commands for them."""

    members: dict[str, Exported]
    commands: tuple[str, ...]
    card: Path


def export_ensemble(
    store: ReadableStore,
    output: Path,
    *,
    track: str | None = None,
    dataset_name: str | None = None,
    home: Path | None = None,
    host: HostSettings = DEFAULT_HOST,
) -> ExportedEnsemble:
    """Write each member below ``output/<site>``, and one model card of all.

    Args:
        store: the study's store.
        output: made if absent.
        track: of a study of several.
        dataset_name: ``DatasetXXX_NAME``; None for the charter's.
        home: the fedfs home of this host, with its keys; None for none.
        host: software of this host.

    Raises:
        SealedError: it is encrypted, and not for this host.
        StudyError: the study has no ensemble, or is not closed.
        UserError: no track is chosen of several; another model is there already, or a folder
            cannot be made.
    """
    observers = open_visible(store, home, skip=layout.STATUS_KINDS, vault=Vault(home))
    charter = next(iter(observers.values())).state.charter
    names = chosen_tracks(charter, [track] if track else [])
    if len(names) > 1:
        hint = f"give --track, one of {', '.join(names)}"
        raise UserError(f"Each of {len(names)} tracks has an ensemble.", hint=hint)
    observer = observers[names[0]]
    end, plan = _closed(observer, store.url)
    members = sorted(end.members)
    kind = ModelKind(
        "ensemble", f"the mean of the probabilities of the models of {', '.join(members)}"
    )
    with tempfile.TemporaryDirectory() as folder:
        models = [
            ModelToExport(
                observer.state,
                end.version,
                _fetch(observer, site, Path(folder)),
                plan.plans,
                plan.fingerprint,
                ModelKind(f"member-{site}", f"the model of {site}, a member of an ensemble"),
                output=output / site,
            )
            for site in members
        ]
        exported = export_network(models, output, dataset_name, host=host, workdir=Path(folder))
    written = dict(zip(members, exported, strict=True))
    commands = ensemble_commands(written)
    card, fold = output / CARD, CardFold(observer.state, end.version, _weights(written), kind)
    write_card(card, _card(fold, commands), [fold])
    return ExportedEnsemble(written, tuple(commands), card)


def ensemble_commands(members: dict[str, Exported]) -> list[str]:
    """Return nnU-Net's commands: a prediction by each member, and the mean of probabilities."""
    commands, folders = [], []
    for site, one in members.items():
        (command,) = predict_commands([one])
        own = f"PREDICTIONS_{site}"
        folders.append(own)
        command = command.replace(" -o PREDICTIONS ", f" -o {own} ")
        commands.append(f"nnUNet_results=RESULTS/{site} {command} --save_probabilities")
    return [*commands, _average(folders)]


def _weights(members: dict[str, Exported]) -> str:
    return ", ".join(f"{site} {one.weights_sha256}" for site, one in members.items())


def _card(fold: CardFold, commands: Sequence[str]) -> str:
    """Return the card of all members."""
    charter = fold.state.charter
    folder = f"{charter.nnunet.trainer}__{charter.nnunet.plans_name}__{charter.configuration}"
    return model_card([fold], folder=f"{folder} of each member", commands=commands)


def _average(folders: Sequence[str]) -> str:
    return f"nnUNetv2_ensemble -i {' '.join(folders)} -o PREDICTIONS"


def _closed(observer: Observer, url: str) -> tuple[FinishedMessage, PlanMessage]:
    state = observer.state
    if not state.charter.ensemble:
        raise StudyError(
            f"Study {state.charter.name!r} has no ensemble.",
            hint="fedfs export without --ensemble takes its model",
        )
    if state.finished is None or state.plan is None or not state.finished.members:
        raise StudyError(
            "The ensemble of this study has no members yet.", hint=f"see: fedfs status {url}"
        )
    return state.finished, state.plan


def _fetch(observer: Observer, site: str, folder: Path) -> Path:
    model = observer.state.site_models.get(site)
    if model is None:
        raise StudyError(
            f"The model of {site} cannot be seen on this host.",
            hint="export it on the aggregator's host, or where the store shows all sites",
        )
    return fetch_payload(
        observer.store, model.payload, folder, max_bytes=MAX_MODEL_BYTES, vault=observer.vault
    )
