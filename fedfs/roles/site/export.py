"""A site's own model as an nnU-Net model folder."""

import os
import tempfile
from pathlib import Path

from fedfs.errors import StudyError, UserError
from fedfs.exchange.read import open_study
from fedfs.nnunet.system.environment import from_environment
from fedfs.protocol import layout
from fedfs.protocol.messages import ASYM, track_names
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
    """Write a site's own network as it is at the newest version; at the site (mode ``asym``).

    Args:
        config: of the site.
        output: results folder; made if absent.
        version: None, or the newest.
        track: the study's track; None where it has one.
        dataset_name: ``DatasetXXX_NAME``; None for the charter's.

    Raises:
        StudyError: there is no such version, or it is not kept at the site.
        UserError: no track is chosen of several, or the study is not of this mode; another model
            is there already, or the folder cannot be made.
        FedfsError: the study, the store or this host's data are not as they should be.
    """
    store = open_store(config.store)
    observer = open_study(
        store, site=config.site, skip=layout.STATUS_KINDS, vault=Vault(config.home), track=track
    )
    state, charter = observer.state, observer.state.charter
    tracks = track_names(charter)
    if track is None and len(tracks) > 1:
        raise UserError(
            f"This study has {len(tracks)} tracks, and the site a model on each.",
            hint=f"give --track, one of {', '.join(tracks)}",
        )
    if charter.mode != ASYM:
        raise UserError("In this study all sites have the same model.", hint="leave out --site")
    learner, folder = site_parts(config, store, charter, from_environment(os.environ))
    chosen, _ = find_version(state, version, observer.store)
    if chosen != state.newest:
        raise StudyError(
            f"This site's private tensors of version {chosen} are no longer here.",
            hint=f"a site keeps them for the newest version only, which is {state.newest}",
        )
    with tempfile.TemporaryDirectory() as scratch:
        networks = SiteNetworks(
            config.site,
            observer.store,
            learner,
            folder,
            cache=Path(scratch) / "models",
            vault=observer.vault,
        )
        network = networks.load(chosen, state)
        path = Path(scratch) / "network.safetensors"
        write_safetensors(path, network.tensors)
        plan = learner.plan(lambda _: None, is_published=True)
        model = ModelToExport(state, chosen, path, plan.plans, plan.fingerprint)
        exported = export_network(
            [model], output, dataset_name, host=config.host, workdir=Path(scratch)
        )
    write_cards([state], exported, site=config.site)
    return exported
