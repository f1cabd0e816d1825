"""A site's learner, made as the charter and the host's settings say."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from fedfs.aggregation.shared_tensors import asym_spec
from fedfs.errors import StudyError
from fedfs.exchange.payloads import MAX_MODEL_BYTES, fetch_payload
from fedfs.nnunet.data import broken_cases
from fedfs.nnunet.nnunet_learner import NnUNetLearner
from fedfs.nnunet.settings import DEFAULT_SCORES, LearnerSettings, Planning, ScoreOptions
from fedfs.nnunet.system.environment import DEFAULT_HOST, HostSettings, NnUNetPaths
from fedfs.protocol.messages import ASYM, Charter, TrackCharter
from fedfs.roles.site.config import SiteConfig
from fedfs.store.base import ReadableStore
from fedfs.trust.keyring import Keyring
from fedfs.trust.recipients import Vault

LOCAL, PERSONAL = "local", "personal"
"""Models that a site trains by itself, see :mod:`fedfs.roles.site.own_model`."""

_TRAINING = "training"


def make_learner(
    charter: TrackCharter,
    site: str,
    dataset: str,
    paths: NnUNetPaths,
    *,
    host: HostSettings = DEFAULT_HOST,
    own_planning: Mapping[str, Any] | None = None,
    pretrained: Path | None = None,
    own_model: str = "",
    final_validation: bool = True,
    scores: ScoreOptions = DEFAULT_SCORES,
) -> NnUNetLearner:
    """Return a site's learner, set as the charter says.

    Args:
        charter: the study, as it reads for the track.
        site: the site's name.
        dataset: ``DatasetXXX_NAME`` or its number.
        paths: nnU-Net's folders.
        host: hardware and software of this host.
        own_planning: where the site's own plan is not as the charter says (mode ``asym``).
        pretrained: tensors that the site's own plan starts from.
        own_model: :data:`LOCAL` or :data:`PERSONAL`, where its models are not the federation's.
        final_validation: whether models are validated as nnU-Net does.
        scores: options of the metrics of single cases.
    """
    common, folder = site_folder(paths, charter.study, site), track_folder(paths, charter, site)
    if own_model:
        paths = replace(paths, results=own_results(paths, charter.study, site, own_model))
    spec = asym_spec(charter)
    planning = None
    if spec is not None:
        own = {
            "planner": charter.nnunet.planner,
            "gpu_memory_target_gb": charter.nnunet.gpu_memory_target_gb,
            "target_spacing": charter.nnunet.target_spacing,
            "planner_options": charter.nnunet.planner_options,
            **(own_planning or {}),
        }
        planning = Planning(
            dataset_json=charter.dataset_json(),
            dataset_name=charter.dataset.name,
            plans_name=charter.nnunet.plans_name,
            seed=charter.seed,
            pretrained=pretrained,
            alignment=spec.alignment,
            **own,
        )
    return NnUNetLearner(
        LearnerSettings(
            paths=paths,
            dataset=dataset,
            configuration=charter.configuration,
            trainer=charter.nnunet.trainer,
            fold=charter.fold,
            host=host,
            state_dir=training_folder(folder, own_model),
            planning=planning,
            broken_list=common / broken_cases.FILE,
            announced_list=(common if planning is None else folder) / broken_cases.ANNOUNCED_FILE,
            next_stages=tuple(
                other.configuration for other in charter.tracks if charter.track.name in other.after
            ),
            scores=scores,
            save_probabilities=charter.cross_validates and len(charter.configurations) > 1,
            full_validation=final_validation,
        )
    )


def site_folder(paths: NnUNetPaths, study: str, site: str) -> Path:
    """Return fedfs's own folder for a site, beside nnU-Net's models."""
    return paths.results / "fedfs" / study / site


def own_results(paths: NnUNetPaths, study: str, site: str, own_model: str) -> Path:
    """Return the folder of a site's own models of all tracks, to be used as ``nnUNet_results``.

    It is one for all tracks, as the second stage of a cascade continues the first.
    """
    return site_folder(paths, study, site) / f"{own_model}-model"


def track_folder(paths: NnUNetPaths, charter: TrackCharter, site: str) -> Path:
    """Return fedfs's own folder for a site on one track of a study."""
    return site_folder(paths, charter.study, site) / "tracks" / charter.track.name


def joined_as(config: SiteConfig, charter: Charter) -> Mapping[str, Any]:
    """Return what this host noted when the site asked to join: ``dataset``, and its planning.

    Raises:
        StudyError: nothing is noted, as on another host than that of the site.
    """
    remembered = Keyring(config.home, charter.study).memory.recall(f"site-{config.site}")
    if not remembered.get("dataset"):
        raise StudyError(
            f"This host does not know the dataset of site {config.site!r}.",
            hint="is this the host of that site? It remembers the dataset from: fedfs site join",
        )
    return remembered


def training_folder(folder: Path, own_model: str = "") -> Path:
    """Return the folder of a training's checkpoints, in the track's."""
    return folder / (f"{own_model}-{_TRAINING}" if own_model else _TRAINING)


def training_folders(folder: Path) -> dict[str, Path]:
    """Return own model -> the folder of its training, of all in a track's; "" is the federation."""
    found = folder.glob(f"*{_TRAINING}")
    return {path.name.removesuffix(_TRAINING).removesuffix("-"): path for path in found}


def site_parts(
    config: SiteConfig,
    store: ReadableStore,
    charter: TrackCharter,
    paths: NnUNetPaths,
    *,
    own_model: str = "",
) -> tuple[NnUNetLearner, Path]:
    """Return a site's learner, as it joined, and fedfs's folder for it."""
    remembered = joined_as(config, charter)
    folder = track_folder(paths, charter, config.site)
    folder.mkdir(parents=True, exist_ok=True)
    learner = make_learner(
        charter,
        config.site,
        str(remembered["dataset"]),
        paths,
        host=config.host,
        own_planning=remembered.get("planning"),
        pretrained=_pretrained(store, charter, folder, Vault(config.home)),
        own_model=own_model,
        final_validation=config.final_validation,
        scores=config.scores,
    )
    return learner, folder


def _pretrained(store: ReadableStore, charter: Charter, folder: Path, vault: Vault) -> Path | None:
    """Return the weights that a site's own plan starts from; None if there are none."""
    if charter.pretrained is None or charter.mode != ASYM:
        return None
    cache = folder / "pretrained"
    vault.learn(charter)
    return fetch_payload(store, charter.pretrained, cache, max_bytes=MAX_MODEL_BYTES, vault=vault)
