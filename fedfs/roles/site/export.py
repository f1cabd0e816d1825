"""A site's own model as an nnU-Net model folder."""

import os
import tempfile
from pathlib import Path

from fedfs.errors import StudyError, UserError
from fedfs.exchange.read import Observer, open_tracks
from fedfs.nnunet.system.environment import from_environment
from fedfs.protocol import layout, participation
from fedfs.protocol.messages import ASYM
from fedfs.roles.reader.export import (
    Exported,
    ModelToExport,
    export_network,
    find_version,
    write_cards,
)
from fedfs.roles.site.config import SiteConfig
from fedfs.roles.site.network import SiteNetworks
from fedfs.roles.site.training import site_parts
from fedfs.store import open_store
from fedfs.tensors.canonical import write_safetensors
from fedfs.trust.recipients import Vault


def export_own(
    config: SiteConfig,
    output: Path,
    *,
    version: int | None,
    track: str | None = None,
    dataset_name: str | None,
) -> tuple[Exported, ...]:
    """Write a site's own network as it is at the newest version; at the site.

    Args:
        config: of the site.
        output: results folder; made if absent.
        version: None, or the newest.
        track: only this one; None for all.
        dataset_name: ``DatasetXXX_NAME``; None for the charter's.

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
    if not next(iter(observers.values())).state.charter.has_site_models:
        raise UserError("In this study all sites have the same model.", hint="leave out --site")
    with tempfile.TemporaryDirectory() as scratch:
        models = [
            _compose(config, observer, version, Path(scratch, name))
            for name, observer in observers.items()
            if track or not participation.lacks_configuration(observer.state)
        ]
        exported = export_network(
            models, output, dataset_name, host=config.host, workdir=Path(scratch)
        )
    write_cards([model.state for model in models], exported, site=config.site)
    return exported


def _compose(
    config: SiteConfig, observer: Observer, version: int | None, scratch: Path
) -> ModelToExport:
    """Return the site's network on a track, written into a folder."""
    state, charter = observer.state, observer.state.charter
    chosen, plan = find_version(state, version, observer.store)
    if chosen != state.newest:
        raise StudyError(
            f"This site's private tensors of version {chosen} are no longer here.",
            hint=f"a site keeps them for the newest version only, which is {state.newest}",
        )
    store = open_store(config.store)
    learner, folder = site_parts(config, store, charter, from_environment(os.environ))
    networks = SiteNetworks(
        config.site, observer.store, learner, folder, cache=scratch / "models",
        vault=observer.vault,
    )  # fmt: skip
    path = scratch / "network.safetensors"
    scratch.mkdir()
    write_safetensors(path, networks.load(chosen, state).tensors)
    own = learner.plan(lambda _: None, is_published=True) if charter.mode == ASYM else plan
    return ModelToExport(state, chosen, path, own.plans, own.fingerprint)
