"""A site's own model as an nnU-Net model folder."""

import os
import tempfile
from pathlib import Path

from fedfs.errors import StudyError, UserError
from fedfs.exchange.observer import Observer
from fedfs.exchange.read import open_tracks
from fedfs.nnunet.score.finish import find_validation
from fedfs.nnunet.system.environment import from_environment
from fedfs.nnunet.system.isolated import run_isolated
from fedfs.protocol import layout, participation
from fedfs.protocol.messages import ASYM, PlanMessage
from fedfs.protocol.state import StudyState
from fedfs.roles.reader.export import (
    Exported,
    ModelToExport,
    export_network,
    find_version,
    write_cards,
)
from fedfs.roles.reader.model_kind import NO_CHOICE, VERSION, Chosen, ModelKind, fetch_model
from fedfs.roles.reader.units import format_count
from fedfs.roles.site.config import SiteConfig
from fedfs.roles.site.network import SiteNetworks
from fedfs.roles.site.own_model import read_personal
from fedfs.roles.site.training import PERSONAL, site_parts, training_folder
from fedfs.store import open_store
from fedfs.tensors.canonical import TensorFile, write_safetensors
from fedfs.trust.recipients import Vault


def export_own(
    config: SiteConfig,
    output: Path,
    *,
    version: int | None,
    track: str | None = None,
    dataset_name: str | None,
    chosen: Chosen = NO_CHOICE,
) -> tuple[Exported, ...]:
    """Write a site's own network as it is at the newest version, or its personal model; there.

    Args:
        config: of the site.
        output: results folder; made if absent.
        version: None, or the newest.
        track: only this one; None for all.
        dataset_name: ``DatasetXXX_NAME``; None for the charter's.
        chosen: another model than the version's.

    Returns:
        The models, in the order of the tracks.

    Raises:
        StudyError: there is no such version, or it is not kept at the site.
        UserError: all sites have the same model; another model is there already, or the folder
            cannot be made.
        FedfsError: the study, the store or this host's data are not as they should be.
    """
    observers = open_tracks(
        open_store(config.store),
        only=[track] if track else [],
        site=config.site,
        skip=layout.STATUS_KINDS,
        vault=Vault(config.home),
    )
    charter = next(iter(observers.values())).state.charter
    if not (charter.has_site_models or chosen.personal):
        raise UserError("In this study all sites have the same model.", hint="leave out --site")
    with tempfile.TemporaryDirectory() as scratch:
        models = [
            _compose(
                config,
                observer,
                find_version(observer.state, version, observer.store),
                chosen,
                Path(scratch, name),
            )
            for name, observer in observers.items()
            if track or not participation.lacks_configuration(observer.state)
        ]
        exported = export_network(
            models, output, dataset_name, host=config.host, workdir=Path(scratch)
        )
    write_cards([model.state for model in models], exported, site=config.site)
    return exported


def _compose(
    config: SiteConfig,
    observer: Observer,
    found: tuple[int, PlanMessage],
    chosen: Chosen,
    scratch: Path,
) -> ModelToExport:
    """Return one of the site's own models on a track, written into a folder."""
    state, charter, (version, plan) = observer.state, observer.state.charter, found
    if version != state.newest:
        raise StudyError(
            f"This site's private tensors of version {version} are no longer here.",
            hint=f"a site keeps them for the newest version only, which is {state.newest}",
        )
    scratch.mkdir()
    own_model = PERSONAL if chosen.personal else ""
    store, paths = open_store(config.store), from_environment(os.environ)
    learner, folder = site_parts(config, store, charter, paths, own_model=own_model)
    own = learner.plan(lambda _: None, is_published=True) if charter.mode == ASYM else plan
    if chosen.personal:
        path, kind, n_epochs = _personal(state, training_folder(folder, PERSONAL), scratch)
        return ModelToExport(state, version, path, own.plans, own.fingerprint, kind, n_epochs)
    networks = SiteNetworks(
        config.site, observer.store, learner, folder, cache=scratch / "models",
        vault=observer.vault,
    )  # fmt: skip
    network = networks.load(version, state)
    tensors, kind = network.tensors, VERSION
    if chosen != NO_CHOICE:
        average, kind = fetch_model(observer, version, chosen, scratch / "average")
        with TensorFile(average) as file:
            tensors = network.with_shared({n: file.read(n) for n in network.share.in_versions})
    path = scratch / "network.safetensors"
    write_safetensors(path, tensors)
    return ModelToExport(state, version, path, own.plans, own.fingerprint, kind)


def _personal(state: StudyState, folder: Path, scratch: Path) -> tuple[Path, ModelKind, int]:
    """Return a file of the tensors of the personal model, what it is, and its epochs."""
    made = read_personal(folder)
    validation = find_validation(folder)
    newest = state.models[state.newest].weights_sha256
    if made is None or validation is None or made.weights_sha256 != newest:
        raise StudyError(
            f"This site has no personal model of version {state.newest}.",
            hint="it makes one after the last version: fedfs site run --personal",
        )
    path = scratch / "personal.safetensors"
    checkpoint = validation.folder.with_name("checkpoint_final.pth")
    request = {"checkpoint": str(checkpoint), "output": str(path)}
    run_isolated("convert_checkpoint", request, workdir=scratch)
    schedule = state.charter.schedule
    before = state.newest * schedule.local_epochs
    n_epochs = made.tuning.n_epochs(schedule.rounds * schedule.local_epochs)
    text = (
        f"version {state.newest}, trained further for {format_count(n_epochs, 'epoch')} from "
        f"{made.tuning.schedule}"
    )
    return path, ModelKind("personal", text), before + n_epochs
