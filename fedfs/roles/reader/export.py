"""A global version, fetched from the store and written as an nnU-Net results folder."""

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedfs.errors import StudyError, UserError
from fedfs.exchange.read import open_study
from fedfs.exchange.visible import open_visible
from fedfs.nnunet.allowed.names import CASCADE
from fedfs.nnunet.data.dataset_json import ordered, read_json
from fedfs.nnunet.score.inference_information import ChoiceRequest
from fedfs.nnunet.score.model_export import RECORD, ExportRequest, ExportRequests
from fedfs.nnunet.score.summary import class_names
from fedfs.nnunet.system.environment import DEFAULT_HOST, HostSettings
from fedfs.nnunet.system.isolated import run_isolated
from fedfs.protocol import layout, participation
from fedfs.protocol.areas import NO_SITE
from fedfs.protocol.messages import PlanMessage, chosen_tracks
from fedfs.protocol.state import StudyState
from fedfs.roles.reader.model_card import CardFold, model_card
from fedfs.roles.reader.model_kind import (
    NO_CHOICE,
    VERSION,
    Chosen,
    ModelKind,
    fetch_model,
    require_common_model,
)
from fedfs.roles.reader.training_log import training_log, validation_summary
from fedfs.store.base import ReadableStore
from fedfs.store.local_files import replacing
from fedfs.trust.recipients import Vault

CARD = "MODEL_CARD.md"
"""Model card in an exported model folder."""


@dataclass(frozen=True)
class Exported:
    """A model that was written: its folder, configuration and fold; ``model`` of another kind."""

    folder: Path
    configuration: str
    fold: str
    version: int
    weights_sha256: str
    model: str = ""


@dataclass(frozen=True)
class ModelToExport:
    """A model to be written.

    Attributes:
        state: accepted messages of its track.
        version: global version that it is, or was made of last.
        tensors: file of its canonical tensors.
        plans: nnU-Net plans that it was trained with.
        fingerprint: that these were made from.
        kind: what it is.
        n_epochs: nnU-Net epochs that went into it; None for those of the federation.
        output: its own results folder; None for that of all.
    """

    state: StudyState
    version: int
    tensors: Path
    plans: Mapping[str, Any]
    fingerprint: Mapping[str, Any]
    kind: ModelKind = VERSION
    n_epochs: int | None = None
    output: Path | None = None


def export_versions(
    store: ReadableStore,
    output: Path,
    *,
    version: int | None = None,
    chosen: Chosen = NO_CHOICE,
    track: str | None = None,
    dataset_name: str | None = None,
    home: Path | None = None,
    host: HostSettings = DEFAULT_HOST,
) -> tuple[Exported, ...]:
    """Write a global version of each track below ``output``, to be used as ``nnUNet_results``.

    Args:
        store: the study's store.
        output: results folder; made if absent.
        version: global version; None for the newest of each track.
        chosen: an average up to that version, instead of itself.
        track: only this one; None for all.
        dataset_name: ``DatasetXXX_NAME``; None for the charter's.
        home: the fedfs home of this host, with its keys; None for none.
        host: software of this host.

    Returns:
        The models, in the order of the tracks.

    Raises:
        SealedError: it is encrypted, and not for this host.
        StudyError: there is no such version yet, or every site has a model of its own.
        UserError: another model is there already, or the folder cannot be made.
    """
    vault = Vault(home)
    observers = open_visible(store, home, skip=layout.STATUS_KINDS, vault=vault)
    charter = next(iter(observers.values())).state.charter
    require_common_model(charter, store.url)
    names = chosen_tracks(charter, [track] if track else [])
    models = []
    with tempfile.TemporaryDirectory() as folder:
        for name in names:
            observer = observers[name]
            state = observer.state
            if participation.lacks_configuration(state) and track is None:
                continue
            number, plan = find_version(state, version, store)
            path, kind = fetch_model(observer, number, chosen, Path(folder, name))
            models.append(ModelToExport(state, number, path, plan.plans, plan.fingerprint, kind))
        exported = export_network(models, output, dataset_name, host=host, workdir=Path(folder))
    write_cards([observer.state for observer in observers.values()], exported)
    return exported


def export_choice(
    store: ReadableStore, exported: Sequence[Exported], *, vault: Vault | None = None
) -> Path | None:
    """Write nnU-Net's files for predicting with the chosen configuration or ensemble.

    Args:
        store: the study's store.
        exported: the last version of all tracks.
        vault: what this host can decrypt.

    Returns:
        nnU-Net's instructions; None if nothing has been chosen, or not of these versions.
    """
    observer = open_study(store, site=NO_SITE, vault=vault)
    choice, rounds = observer.state.choice, observer.state.charter.schedule.rounds
    if choice is None or {one.version for one in exported} != {rounds}:
        return None
    folder = exported[0].folder.parent
    request = ChoiceRequest(
        results=str(folder.parent.resolve()),
        dataset=folder.name,
        models={one.configuration: one.folder.name for one in exported},
        folds=choice.folds,
        candidate=choice.candidate,
        steps=choice.steps,
        dice=choice.dice,
        dice_after=choice.dice_after,
        classes=choice.classes,
    )
    with tempfile.TemporaryDirectory() as scratch:
        run_isolated("write_choice", request, workdir=Path(scratch))
    return folder / "inference_instructions.txt"


def find_version(
    state: StudyState, version: int | None, store: ReadableStore
) -> tuple[int, PlanMessage]:
    """Return the version to export, the newest unless one is named, and the plan.

    Raises:
        StudyError: there is no such version yet.
    """
    charter = state.charter
    chosen = state.newest if version is None else version
    if state.plan is None or chosen not in state.models:
        known = f"versions 0 to {state.newest}" if state.newest >= 0 else "no version yet"
        raise StudyError(
            f"There is no version {max(chosen, 0)} in study {charter.name!r}"
            + (f", track {charter.track.name}." if len(charter.tracks) > 1 else "."),
            hint=f"it has {known}; see: fedfs status {store.url}",
        )
    return chosen, state.plan


def export_network(
    models: Sequence[ModelToExport],
    output: Path,
    dataset_name: str | None,
    *,
    host: HostSettings,
    workdir: Path,
) -> tuple[Exported, ...]:
    """Write nnU-Net model folders beneath ``output``, in a process of its own.

    Raises:
        UserError: ``output`` cannot be made.
        SetupError: a trainer is not known on this host.
    """
    try:
        output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"Cannot make {output}: {error.strerror}.",
            hint="check the folder, its permissions and the free space",
        ) from error
    requests = []
    for model in models:
        charter = model.state.charter
        content = ordered(charter.dataset_json())
        request = ExportRequest(
            plans=model.plans,
            dataset_json=model.state.plan.dataset_json if model.state.plan else {},
            fingerprint=model.fingerprint,
            trainer=charter.nnunet.trainer,
            configuration=charter.configuration,
            fold=charter.fold,
            tensors=str(model.tensors),
            output=str((model.output or output).resolve()),
            dataset_name=dataset_name or charter.dataset.name,
            version=model.version,
            epochs=max(1, model.n_epochs or model.version * charter.schedule.local_epochs),
            kind=model.kind.in_record,
            log=training_log(model.state, model.version),
            summary=validation_summary(
                model.state, model.version, class_names(content), variant=model.kind.variant
            ),
            host=host,
        )
        requests.append(request)
    written = run_isolated("export", ExportRequests(tuple(requests)), workdir=workdir)
    return tuple(
        Exported(
            folder=Path(folder),
            configuration=request.configuration,
            fold=request.fold,
            version=model.version,
            weights_sha256=read_json(Path(folder, f"fold_{request.fold}", RECORD))[
                "weights_sha256"
            ],
            model=model.kind.text,
        )
        for folder, request, model in zip(written["models"], requests, models, strict=True)
    )


def write_cards(
    states: Sequence[StudyState], exported: Sequence[Exported], *, site: str | None = None
) -> None:
    """Write the model card of each exported folder, about all folds that are there.

    See :func:`write_card` for a card that is there.

    Args:
        states: of the tracks of the study.
        exported: what has been exported now.
        site: whose own model it is.
    """
    for folder, configuration in dict.fromkeys((one.folder, one.configuration) for one in exported):
        folds, models = [], []
        for state in states:
            fold = state.charter.fold
            path = folder / f"fold_{fold}" / RECORD
            if state.charter.configuration == configuration and path.exists():
                record = read_json(path)
                version, sha256 = record["version"], record["weights_sha256"]
                folds.append(CardFold(state, version, sha256, ModelKind.from_record(record)))
                models.append(Exported(folder, configuration, fold, version, sha256))
        commands = ["export nnUNet_results=RESULTS", *predict_commands(models)]
        text = model_card(folds, folder=folder.name, commands=commands, site=site)
        write_card(folder / CARD, text, folds)


def write_card(card: Path, text: str, folds: Sequence[CardFold]) -> None:
    """Write the model card of these folds, unless one that names their weights is there.

    Such a card stays, as people fill it in; another one is kept beside the new one.
    """
    if card.exists():
        before = card.read_text(encoding="utf-8")
        if all(fold.weights_sha256 in before for fold in folds):
            return
        card.replace(card.with_suffix(".md.old"))
    with replacing(card) as temporary:
        temporary.write_text(text, encoding="utf-8")


def predict_commands(exported: Sequence[Exported]) -> list[str]:
    """Return nnU-Net's commands: one for each configuration with all its folds, stages in order."""
    folds: dict[Path, list[Exported]] = {}
    for one in exported:
        folds.setdefault(one.folder, []).append(one)
    several, commands = len(folds) > 1, []
    for folder, models in folds.items():
        trainer, plans, configuration = folder.name.split("__")
        output = f"PREDICTIONS_{configuration}" if several else "PREDICTIONS"
        previous = " -prev_stage_predictions PREDICTIONS_3d_lowres"
        commands.append(
            f"nnUNetv2_predict -i IMAGES -o {output} -d {folder.parent.name} -p {plans} "
            f"-tr {trainer} -c {configuration} -f {' '.join(model.fold for model in models)}"
            + (previous if configuration == CASCADE[1] else "")
        )
    return commands
